"""Posterior draws of many cells at once, and what the decoder makes of them, gene block by gene block.

The expression of many draws takes much memory. So the hidden units are kept, a hundred numbers a draw, from which the
expression of any block of genes is one matrix product away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..models import SCARVAE
from .engine import BLOCK_ENTRIES, posterior

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells

ROWS_TOGETHER = 2**14  # draws of which hidden units are computed together
CACHED_ROWS = 256  # draws of which all genes are, so that they stay in the cache on the way


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
    batch: Tensor  # (N,), decoded from
    labels: Tensor  # (N,)

    @property
    def n_genes(self) -> int:
        """Genes that there are."""
        return self.model.decoder.n_genes

    @cached_property
    def log_total(self) -> Tensor | None:
        """What the softmax over genes divides by, (N, 1)."""
        if not self.model.decoder.softmax:
            return None
        # Filled in place: small results that outlive large temporaries would keep their memory from being used again.
        out, size = self.hidden.new_empty(len(self.hidden), 1), max(1, BLOCK_ENTRIES // self.n_genes)
        for start in range(0, len(out), size):
            rows = slice(start, start + size)
            out[rows] = self.model.decoder.log_total(self.hidden[rows])
        return out

    def scale(self, genes: slice | Tensor | None = None) -> Tensor:
        """Shares of all genes, or of some, (g, N)."""
        if genes is not None:
            return self.model.decoder.scale_by_gene(self.hidden, genes, self.log_total)
        out = self._empty()
        for start in range(0, len(self.hidden), CACHED_ROWS):
            rows = slice(start, start + CACHED_ROWS)
            self.model.decoder.scale_by_gene(self.hidden[rows], out=out[:, rows])
        return out

    def _empty(self) -> Tensor:
        shape = self.n_genes, len(self.hidden)
        if self.hidden.device.type == "cpu":
            # NumPy asks the system for large pages, which makes a large array much faster to fill.
            return torch.from_numpy(np.empty(shape, np.float32))
        return self.hidden.new_empty(shape)

    def mean_counts(self, shares: np.ndarray, library: Tensor, rows: Tensor) -> np.ndarray:
        """Mean counts of the genes, (G,), over the draws at ``rows``, of which these are the mean ``shares`` (G,).

        ``library`` (N, 1) are logarithms. Some of the counts of a model that tells them apart are ambient.
        """
        total = torch.exp(library[rows])
        if not isinstance(self.model, SCARVAE):
            return shares * float(total.mean())
        ambient = total * self.model.decoder.noise(self.hidden[rows])
        profiles = self.model.ambient
        batch = self.batch[rows] if len(profiles) > 1 else torch.zeros_like(rows)
        by_batch = ambient.new_zeros(len(profiles)).index_add_(0, batch, ambient[:, 0])
        return shares * float((total - ambient).mean()) + (by_batch @ profiles / len(rows)).cpu().numpy()

    def theta(self, genes: Tensor) -> Tensor | None:
        """Their inverse dispersions, (g, 1) or (g, N); `None` where the likelihood has none."""
        theta = self.model.theta(self.hidden, self.batch, self.labels, genes)
        if theta is None:
            return None
        return theta[:, None] if theta.ndim == 1 else theta.T


@torch.inference_mode()
def draw(model: VAE, data: CellData, index: Tensor, generator: torch.Generator) -> Draws:
    """One draw for each entry of ``index`` (N,), which may name cells several times; each is encoded once."""
    unique, at = torch.unique(index, return_inverse=True)
    z, library = posterior(model, data, index=unique).take(at.to(data.device)).draw(generator=generator)
    return Draws(z, library, data.gather(index, counts=False))


@torch.inference_mode()
def decode(model: VAE, draws: Draws, batch: np.ndarray | int | None = None) -> Decoded:
    """Decode ``draws`` from their own batches, or from those in ``batch``, (N,) or the same for all."""
    own = draws.cells.batch
    batch = own if batch is None else torch.as_tensor(batch, device=own.device).expand_as(own)
    blocks = torch.arange(len(own), device=own.device).split(ROWS_TOGETHER)
    hidden = [model.decode(draws.z[rows], draws.cells.take(rows), batch[rows]) for rows in blocks]
    return Decoded(model, torch.cat(hidden), batch, draws.cells.labels)


def spread(n_cells: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """``n_draws`` of the cells, at random and as evenly as can be: none a second time before all came once."""
    rounds = [rng.permutation(n_cells) for _ in range(-(-n_draws // n_cells))]
    return np.concatenate(rounds)[:n_draws]
