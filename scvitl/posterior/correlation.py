"""Correlation of genes over denoised expression with the noise of the model's dispersion put back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..likelihoods import nb
from .draws import Decoded, decode, draw
from .engine import noise
from .expression import positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..data.batches import CellData
    from ..models import VAE

BLOCK_ENTRIES = 2**27  # draws × genes of a block: 512 MB of float32; two blocks are held at once
RANKED_TOGETHER = 64  # genes


@torch.inference_mode()
def feature_correlation(
    model: VAE,
    data: CellData,
    *,
    method: str = "spearman",
    n_samples: int = 10,
    size_factor: float = 1000.0,
    batches: Sequence[int | None] = (None,),
    genes: np.ndarray | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Correlation of genes, (g, g), over ``n_samples`` draws of every cell; the mean over ``batches``.

    Draws are Gamma(mean = size_factor × share, shape = theta): the rates from which a cell of that depth would get
    its Poisson counts.
    """
    generator = noise(data, random_state)
    draws = draw(model, data, torch.arange(data.n_cells).repeat_interleave(n_samples), generator)
    genes = np.arange(data.n_genes) if genes is None else genes
    total = 0
    for batch in batches:
        decoded = decode(model, draws, batch)
        total = total + _correlation(decoded, positions(genes, data), method, size_factor, generator)
    return total / len(batches)


def _correlation(
    decoded: Decoded, genes: torch.Tensor, method: str, size_factor: float, generator: torch.Generator
) -> np.ndarray:
    """Correlation for one way of decoding. Blocks of genes wait in files where not all fit together."""
    out = np.empty((len(genes), len(genes)))
    parts = genes.split(max(1, BLOCK_ENTRIES // len(decoded.hidden)))
    bounds = np.cumsum([0, *map(len, parts)])
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.npy") for i in range(len(parts))]
        for i, part in enumerate(parts):
            block = _standardised(_rates(decoded, part, size_factor, generator), ranked=method == "spearman")
            rows = slice(bounds[i], bounds[i + 1])
            for j in range(i):
                other = np.load(files[j])
                out[rows, bounds[j] : bounds[j + 1]] = block @ other.T
            out[rows, rows] = block @ block.T
            if i + 1 < len(parts):
                np.save(files[i], block)
    lower = np.tril(out, -1)
    return np.clip(lower + lower.T + np.eye(len(genes)), -1, 1)


def _rates(
    decoded: Decoded, genes: torch.Tensor, size_factor: float, generator: torch.Generator
) -> Iterator[np.ndarray]:
    """Rates drawn for a few genes at a time, each (g, N)."""
    for few in genes.split(RANKED_TOGETHER):
        mean = decoded.scale(few) * size_factor
        yield nb.gamma(mean, decoded.theta(few), generator=generator).T.contiguous().cpu().numpy()


def _standardised(blocks: Iterator[np.ndarray], *, ranked: bool) -> np.ndarray:
    """Values, or their ranks, less the mean and divided by their norm, (g, N): dot products are correlations."""
    rows = []
    for block in blocks:
        values = np.argsort(np.argsort(block, axis=1), axis=1) if ranked else block
        values = values - values.mean(1, keepdims=True, dtype=np.float64)
        norm = np.sqrt(np.square(values).sum(1, keepdims=True))
        rows.append((values / np.where(norm > 0, norm, 1.0)).astype(np.float32))
    return np.concatenate(rows)
