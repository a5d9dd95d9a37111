"""Posterior draws of many cells at once, and what the decoder makes of them, gene block by gene block.

Decoding a draw costs a product with all genes; keeping the result of thousands of draws costs memory. So the hidden
units are kept, a hundred numbers a draw, from which the expression of any block of genes is one small product away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .engine import BLOCK_ENTRIES, posterior

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells


@dataclass(frozen=True)
class Draws:
    """N draws of latent variables with the covariates of their cells."""

    z: Tensor  # (N, D)
    library: Tensor  # (N, 1), log
    cells: Cells  # without counts

    def take(self, rows: Tensor) -> Draws:
        """The draws at ``rows``."""
        return Draws(self.z[rows], self.library[rows], self.cells.take(rows))


@dataclass(frozen=True)
class Decoded:
    """N draws as hidden units of the decoder."""

    model: VAE
    hidden: Tensor  # (N, H)
    log_total: Tensor | None  # (N, 1), of the softmax over genes
    batch: Tensor  # (N,), decoded from
    labels: Tensor  # (N,)

    def scale(self, genes: Tensor | None = None) -> Tensor:
        """Share of each gene, (N, g)."""
        return self.model.decoder.scale(self.hidden, genes, self.log_total)

    def theta(self, genes: Tensor | None = None) -> Tensor:
        """Inverse dispersions, (g) or (N, g)."""
        return self.model.theta(self.hidden, self.batch, self.labels, genes)


@torch.inference_mode()
def draw(model: VAE, data: CellData, index: Tensor, generator: torch.Generator) -> Draws:
    """One draw for each entry of ``index`` (N,), which may name cells several times; each is encoded once."""
    unique, at = torch.unique(index, return_inverse=True)
    z, library = posterior(model, data, index=unique).take(at.to(data.device)).draw(generator=generator)
    return Draws(z, library, data.gather(index, counts=False))


@torch.inference_mode()
def decode(model: VAE, draws: Draws, batch: Tensor | int | None = None) -> Decoded:
    """Decode ``draws`` from their own batches, or from those in ``batch``, (N,) or the same for all."""
    own = draws.cells.batch
    batch = own if batch is None else torch.as_tensor(batch, device=own.device).expand_as(own)
    n_genes = model.decoder.heads["scale"].out_features
    hidden, totals = [], []
    for rows in torch.arange(len(own), device=own.device).split(max(1, BLOCK_ENTRIES // n_genes)):
        hidden.append(model.decode(draws.z[rows], draws.cells.take(rows), batch[rows]))
        totals.append(model.decoder.log_total(hidden[-1]))
    log_total = None if totals[0] is None else torch.cat(totals)
    return Decoded(model, torch.cat(hidden), log_total, batch, draws.cells.labels)


def spread(n_cells: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """``n_draws`` of the cells, at random and as evenly as can be: none a second time before all came once."""
    rounds = [rng.permutation(n_cells) for _ in range(-(-n_draws // n_cells))]
    return np.concatenate(rounds)[:n_draws]
