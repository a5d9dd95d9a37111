"""How exactly products of matrices are computed while a model is trained."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# As torch names them. On processors that have no such products, they stay in float32.
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}


@contextmanager
def products_in(precision: str | None) -> Iterator[None]:
    """Within, factors of matrix products have this ``precision``; sums, and all else, have float32. `None` leaves it as it is."""
    if precision is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
