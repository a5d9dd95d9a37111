"""The one function that streams cells through a fitted model and yields its posterior draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.batches import minibatches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..data.batches import CellData
    from ..models import VAE, Cells
    from ..models.vae import Latent

BLOCK_ENTRIES = 2**24  # cells × genes of a block: 64 MB of float32, whatever the number of genes


@torch.inference_mode()
def stream(
    model: VAE,
    data: CellData,
    *,
    n_samples: int | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Cells, Latent]]:
    """Blocks of cells in order, each with its posterior and ``n_samples`` draws (one, without a dimension, for `None`).

    The size of a block follows from the number of genes alone, so that the same cells always give the same bits.
    """
    model.eval()
    size = batch_size or max(128, BLOCK_ENTRIES // data.n_genes)
    for index in minibatches(torch.arange(data.n_cells), size):
        cells = data.gather(index)
        yield cells, model.inference(cells, n_samples, generator)
