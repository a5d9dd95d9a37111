"""Counts of which most are zero, as compiled loops take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stored:
    """The counts of B cells that are not zero, a cell after the other, by column."""

    start: Tensor  # (B + 1,) where the counts of a cell begin, and the last ones end
    columns: Tensor  # (m,) of the genes
    values: Tensor  # (m,)

    def rows(self) -> Tensor:
        """Cells of the counts, (m,)."""
        return torch.repeat_interleave(self.start.diff(), output_size=len(self.columns))

    def at(self, n_genes: int) -> Tensor:
        """Positions in the flattened (B, G), (m,), cell after cell."""
        return self.rows().long() * n_genes + self.columns


# stamp 456042f69ed8b8fe
