"""Counts without what is ambient, and how much of a cell's counts that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from . import thinning
from .engine import noise, stream

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import SCARVAE, Cells


@torch.inference_mode()
def denoise(
    model: SCARVAE,
    data: CellData,
    *,
    output: str = "posterior",
    excess: float | None = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Native counts of all cells, (n, G), and the share of their counts that is ambient, (n,).

    "posterior" says how many of the counts that were seen are native, with an ``excess`` taken away, or drawn at random.
    "generative" draws anew what native counts would be: their mean, rounded up or down at random. Both are read at the
    posterior mean of the latent state, or with ``n_samples`` at draws of it, of which the (lower) median is taken.
    """
    generator, rng = noise(data, random_state), np.random.default_rng(random_state)
    parts, shares = [], []
    for cells, posterior in stream(model, data, n_samples=n_samples or 1, batch_size=batch_size):
        z = posterior.mean[None] if n_samples is None else posterior.draw(n_samples, generator)[0]
        h = model.decode(z, cells)
        counts, settled = [], []
        for native, decoded in zip(model.decoder.scale(h), model.decoder.noise(h)[..., 0], strict=True):
            seen = _Seen(cells, native, model.profile(cells.batch), decoded)
            settled.append(seen.shares)
            counts.append(
                seen.kept(excess, rng) if output == "posterior" else _drawn(cells, native, decoded, rng)
            )
        parts.append(counts[0] if len(counts) == 1 else _median(counts))
        shares.append(np.mean(settled, 0))
    return sp.vstack(parts, format="csr"), np.concatenate(shares).astype(np.float32)


@torch.inference_mode()
def ambient_shares(model: SCARVAE, data: CellData, *, batch_size: int | None = None) -> np.ndarray:
    """The share of the counts of every cell that is ambient, (n,), at the posterior mean of its latent state."""
    shares = []
    for cells, posterior in stream(model, data, batch_size=batch_size):
        h = model.decode(posterior.mean, cells)
        decoded = model.decoder.noise(h)[:, 0]
        shares.append(_Seen(cells, model.decoder.scale(h), model.profile(cells.batch), decoded).shares)
    return np.concatenate(shares).astype(np.float32)


class _Seen:
    """The counts above zero of some cells, with native and ambient shares of their genes, and ambient shares of the cells."""

    def __init__(self, cells: Cells, native: Tensor, ambient: Tensor, decoded: Tensor) -> None:
        row, gene, self.shape = cells.stored.rows(), cells.stored.columns, native.shape
        batch = row if len(ambient) > 1 else torch.zeros_like(row)
        values = (cells.stored.values, native[row, gene], ambient[batch, gene])
        self.counts, self.native, self.ambient = (part.cpu().numpy() for part in values)
        self.gene, self.indptr = gene.cpu().numpy(), cells.stored.start.cpu().numpy()
        self.shares, decoded = np.empty(len(decoded)), decoded.cpu().double().numpy()
        where = (self.counts, self.native, self.ambient, self.indptr)
        # What is beyond explaining depends on the shares, which settle anew without it.
        thinning.settle(*where, decoded, self.shares)
        thinning.explain(*where, self.shares)
        thinning.settle(*where, decoded, self.shares)

    def kept(self, excess: float | None, rng: np.random.Generator) -> sp.csr_matrix:
        """Those of the counts that are native."""
        probability = np.empty(len(self.counts))
        thinning.probabilities(self.native, self.ambient, self.indptr, self.shares, probability)
        if excess is None:
            kept = thinning.sampled(self.counts, probability, rng)
        else:
            kept = np.empty(len(self.counts), np.float32)
            thinning.kept(self.counts, probability, self.indptr, excess, kept)
        matrix = sp.csr_matrix((kept, self.gene, self.indptr), shape=self.shape, copy=True)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return matrix


def _drawn(cells: Cells, native: Tensor, decoded: Tensor, rng: np.random.Generator) -> sp.csr_matrix:
    """Means of native counts, rounded up with a probability of what is beyond the whole number."""
    total = cells.x.sum(1, keepdim=True)
    mean = (total * (1 - decoded[:, None]) * native).cpu().numpy()
    whole = np.floor(mean)
    return sp.csr_matrix(whole + (rng.random(mean.shape, np.float32) < mean - whole))


def _median(counts: list[sp.csr_matrix]) -> sp.csr_matrix:
    """The lower median of every entry."""
    stacked = np.sort(np.stack([matrix.toarray() for matrix in counts]), 0)
    return sp.csr_matrix(stacked[(len(counts) - 1) // 2])
