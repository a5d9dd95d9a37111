"""The one function that streams cells through a fitted model; every estimate draws from what it yields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.batches import minibatches
from ..models.records import Posterior

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells

BLOCK_ENTRIES = 2**21  # samples × cells × width of a block: 8 MB of float32, which stay in the cache


@torch.inference_mode()
def stream(
    model: VAE,
    data: CellData,
    *,
    index: Tensor | None = None,
    n_samples: int = 1,
    batch_size: int | None = None,
) -> Iterator[tuple[Cells, Posterior]]:
    """Blocks of cells with their posteriors: all cells in order, or those at ``index``, which may repeat cells.

    The size of a block follows from the width of the model and the number of samples alone, so that the same cells
    always give the same bits.
    """
    model.eval()
    size = batch_size or max(1, BLOCK_ENTRIES // (model.width * n_samples))
    for block in minibatches(torch.arange(data.n_cells) if index is None else index, size):
        cells = data.gather(block)
        yield cells, model.encode(cells)


@torch.inference_mode()
def posterior(
    model: VAE, data: CellData, *, index: Tensor | None = None, batch_size: int | None = None
) -> Posterior:
    """Posterior of all cells, or of those at ``index``, in one piece."""
    parts = [part for _, part in stream(model, data, index=index, batch_size=batch_size)]

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return Posterior(*map(joined, ("mean", "variance", "library", "library_variance")))


def noise(data: CellData, random_state: int) -> torch.Generator:
    """A source of random numbers of its own, on the device of ``data``."""
    return torch.Generator(data.device).manual_seed(random_state)
