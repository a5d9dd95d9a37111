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
    read = _thinned if output == "posterior" else _generated
    parts, shares = [], []
    for cells, posterior in stream(model, data, n_samples=n_samples or 1, batch_size=batch_size):
        z = posterior.mean[None] if n_samples is None else posterior.draw(n_samples, generator)[0]
        h = model.decode(z, cells)
        native, ambient = model.decoder.scale(h), model.profile(cells.batch)
        found = [
            read(cells, *sample, excess=excess, rng=rng)
            for sample in zip(native, [ambient] * len(native), model.decoder.noise(h)[..., 0], strict=True)
        ]
        counts = [matrix for matrix, _ in found]
        parts.append(counts[0] if len(counts) == 1 else _median(counts))
        shares.append(np.mean([share for _, share in found], 0))
    return sp.vstack(parts, format="csr"), np.concatenate(shares).astype(np.float32)


def _thinned(
    cells: Cells,
    native: Tensor,
    ambient: Tensor,
    decoded: Tensor,
    *,
    excess: float | None,
    rng: np.random.Generator,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """How many of the counts of cells are native."""
    n_cells, n_genes = cells.x.shape
    row, gene = cells.stored // n_genes, cells.stored % n_genes
    batch = row if len(ambient) > 1 else torch.zeros_like(row)
    values = (cells.x.view(-1)[cells.stored], native.reshape(-1)[cells.stored], ambient[batch, gene])
    counts, native, ambient = (part.cpu().numpy() for part in values)
    row, gene = row.cpu().numpy(), gene.cpu().numpy().astype(np.int32)
    indptr = np.searchsorted(row, np.arange(n_cells + 1)).astype(np.int32)
    shares, probability, kept = np.empty(n_cells), np.empty(len(counts)), np.empty(len(counts), np.float32)
    decoded = decoded.double().cpu().numpy()
    thinning.settle(counts, native, ambient, indptr, decoded, shares)
    thinning.explain(counts, native, ambient, indptr, shares)
    thinning.settle(counts, native, ambient, indptr, decoded, shares)
    thinning.probabilities(native, ambient, indptr, shares, probability)
    if excess is None:
        kept = thinning.sampled(counts, probability, rng)
    else:
        thinning.kept(counts, probability, indptr, excess, kept)
    matrix = sp.csr_matrix((kept, gene, indptr), shape=(n_cells, n_genes))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix, shares


def _generated(
    cells: Cells,
    native: Tensor,
    ambient: Tensor,
    decoded: Tensor,
    *,
    excess: float | None,
    rng: np.random.Generator,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Means of native counts, rounded up with a probability of what is beyond the whole number."""
    total = cells.x.sum(1, keepdim=True)
    mean = (total * (1 - decoded[:, None]) * native).cpu().numpy()
    whole = np.floor(mean)
    return sp.csr_matrix(whole + (rng.random(mean.shape, np.float32) < mean - whole)), decoded.cpu().numpy()


def _median(counts: list[sp.csr_matrix]) -> sp.csr_matrix:
    """The lower median of every entry."""
    stacked = np.sort(np.stack([matrix.toarray() for matrix in counts]), 0)
    return sp.csr_matrix(stacked[(len(counts) - 1) // 2])
