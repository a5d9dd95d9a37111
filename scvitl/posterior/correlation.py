"""Correlation of genes over denoised expression with the noise of the model's dispersion put back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata

from ..likelihoods import nb
from .draws import Decoded, decode, draw
from .engine import noise
from .expression import positions
from .proteins import incomplete, protein_draws

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..data.batches import CellData
    from ..models import VAE
    from ..models.records import ProteinExpression

BLOCK_ENTRIES = 2**26  # draws × genes of a block: 256 MB of float32; two blocks are held at once
DRAWN_TOGETHER = 2**22  # draws × genes of which ranks are taken, in float64


@torch.inference_mode()
def feature_correlation(
    model: VAE,
    data: CellData,
    *,
    method: str = "spearman",
    n_samples: int = 10,
    batches: Sequence[int | None] = (None,),
    genes: np.ndarray | None = None,
    proteins: np.ndarray | None = None,
    in_batch: np.ndarray | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Correlation of genes and after them proteins, (g + p, g + p), over ``n_samples`` draws of every cell.

    It is the mean over ``batches``. Proteins that some batches lack, by ``in_batch`` (K, P), are decoded as of one that has
    them.

    Draws are Gamma(mean = share, shape = theta): the rates, up to the depth of the cell, of its Poisson counts. Where the
    likelihood has no dispersion, theta is infinite and they are the shares. Those of proteins are zero where the count is
    background.
    """
    generator = noise(data, random_state)
    draws = draw(model, data, torch.arange(data.n_cells).repeat_interleave(n_samples), generator)
    genes = np.arange(data.n_genes) if genes is None else genes
    shares = None if in_batch is None else incomplete(in_batch, first=True)
    total = 0
    for batch in batches:
        decoded, others = decode(model, draws, batch), None
        if proteins is not None:
            rates = protein_draws(model, draws, _protein_rates, generator, batch=batch, shares=shares)
            others = rates[positions(proteins, data)].cpu().numpy()
        total = total + _correlation(decoded, positions(genes, data), others, method, generator)
    return total / len(batches)


def _correlation(
    decoded: Decoded,
    genes: torch.Tensor,
    others: np.ndarray | None,
    method: str,
    generator: torch.Generator,
) -> np.ndarray:
    """Correlation for one way of decoding, with ``others`` (p, N) after the genes.

    Blocks of genes wait in files where not all fit together.
    """
    parts = [*genes.split(max(1, BLOCK_ENTRIES // len(decoded.hidden)))] if len(genes) else []
    parts += [] if others is None else [others]
    bounds = np.cumsum([0, *map(len, parts)])
    out = np.empty((bounds[-1], bounds[-1]))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.npy") for i in range(len(parts))]
        for i, part in enumerate(parts):
            rates = _few(part) if part is others else _rates(decoded, part, generator)
            block = _standardised(rates, (len(part), len(decoded.hidden)), ranked=method == "spearman")
            rows = slice(bounds[i], bounds[i + 1])
            for j in range(i):
                out[rows, bounds[j] : bounds[j + 1]] = block @ np.load(files[j]).T
            out[rows, rows] = block @ block.T
            if i + 1 < len(parts):
                np.save(files[i], block)
    lower = np.tril(out, -1)
    return np.clip(lower + lower.T + np.eye(len(out)), -1, 1)


def _protein_rates(p: ProteinExpression, generator: torch.Generator) -> torch.Tensor:
    """Rates of foreground counts, drawn, and zero where the count is background, (N, P)."""
    there = torch.bernoulli(torch.sigmoid(-p.mixing), generator=generator)
    return nb.gamma(p.foreground, p.theta, generator=generator) * there


def _rates(decoded: Decoded, genes: torch.Tensor, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Rates drawn for a few genes at a time, each (g, N)."""
    for few in genes.split(max(1, DRAWN_TOGETHER // len(decoded.hidden))):
        rates, theta = decoded.scale(few), decoded.theta(few)
        if theta is not None:
            rates = nb.gamma(rates, theta, generator=generator)
        yield rates.cpu().numpy()


def _few(values: np.ndarray) -> Iterator[np.ndarray]:
    """A few rows of ``values`` (p, N) at a time."""
    step = max(1, DRAWN_TOGETHER // values.shape[1])
    yield from (values[start : start + step] for start in range(0, len(values), step))


def _standardised(blocks: Iterator[np.ndarray], shape: tuple[int, int], *, ranked: bool) -> np.ndarray:
    """Values, or their ranks, less the mean and divided by their norm, (g, N): dot products are correlations."""
    out, stop = np.empty(shape, np.float32), 0
    for block in blocks:
        start, stop = stop, stop + len(block)
        # Draws of a gene that is next to absent tie at zero.
        values = rankdata(block, axis=1) if ranked else block.astype(np.float64)
        values -= values.mean(1, keepdims=True)
        norm = np.linalg.norm(values, axis=1, keepdims=True)
        out[start:stop] = values / np.where(norm > 0, norm, 1.0)
    return out
