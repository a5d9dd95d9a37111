"""Expression that a model decodes from latent states: normalised, as parameters, as new counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import softmax

from .draws import decode, draw, spread
from .engine import noise, stream
from .importance import MAX_CELLS, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells


@torch.inference_mode()
def expression_blocks(
    model: VAE,
    data: CellData,
    *,
    batches: Sequence[int | None] = (None,),
    genes: np.ndarray | None = None,
    library_size: float | str = 1.0,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
    into: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Normalised expression of block after block of cells, (S, B, g), averaged over the ``batches`` decoded from.

    ``library_size`` multiplies the shares of the genes; "latent" takes that of each cell. ``give_mean`` decodes the
    posterior mean in place of draws. Blocks of a single sample may be made in ``into`` (n, g).
    """
    generator = noise(data, random_state)
    genes = positions(genes, data)
    for cells, posterior in stream(model, data, n_samples=n_samples, batch_size=batch_size):
        if give_mean:
            z, library = posterior.mean[None], posterior.library[None]
        else:
            z, library = posterior.draw(n_samples, generator)
        total, room = None, None
        if into is not None and data.device.type == "cpu":
            room, into = torch.from_numpy(into[None, : z.shape[1]]), into[z.shape[1] :]
        for batch in batches:
            scale = model.decoder.scale(model.decode(z, cells, constant(batch, cells)), genes, room)
            total, room = scale if total is None else total.add_(scale), None
        factor = (torch.exp(library) if library_size == "latent" else library_size) / len(batches)
        # a pass over all entries that would change nothing takes as long as any other
        yield (total if isinstance(factor, float) and factor == 1 else total.mul_(factor)).cpu().numpy()


def normalized_expression(
    model: VAE, data: CellData, *, n_samples: int = 1, return_mean: bool = True, **options
) -> np.ndarray:
    """Normalised expression, (n, g); or (S, n, g) for several samples that are not averaged."""
    several = n_samples > 1 and not return_mean
    n_genes = data.n_genes if options.get("genes") is None else len(options["genes"])
    out = np.empty((n_samples, data.n_cells, n_genes) if several else (data.n_cells, n_genes), np.float32)
    start = 0
    into = out if n_samples == 1 else None
    for block in expression_blocks(model, data, n_samples=n_samples, into=into, **options):
        stop = start + block.shape[1]
        if not np.may_share_memory(block, out):
            out[..., start:stop, :] = block if several else block[0] if n_samples == 1 else block.mean(0)
        start = stop
    return out


@torch.inference_mode()
def expression_draws(
    model: VAE,
    data: CellData,
    n_draws: int,
    *,
    batches: Sequence[int | None] = (None,),
    genes: np.ndarray | None = None,
    library_size: float | str = 1.0,
    weights: dict[str, Any] | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Normalised expression of ``n_draws`` draws from the cells together, (N, g).

    Cells are drawn first and only they are decoded. With importance ``weights`` (options of `weigh`), the draws are
    weighed by how well they explain the cells, and drawn again by weight.
    """
    rng = np.random.default_rng(random_state)
    cells = np.arange(data.n_cells)
    if weights is not None:
        # Draws are held against anchors, so they come from these alone.
        cells = rng.permutation(cells)[: weights.get("max_cells", MAX_CELLS)]
    index = torch.from_numpy(cells[spread(len(cells), n_draws, rng)])
    draws = draw(model, data, index, noise(data, random_state))
    if weights is not None:
        w = softmax(weigh(model, data, draws, cells, random_state=random_state, **weights))
        draws = draws.take(torch.from_numpy(rng.choice(n_draws, n_draws, p=w)).to(data.device))
    genes = positions(genes, data)
    total = sum(decode(model, draws, batch).scale(genes) for batch in batches).T
    factor = torch.exp(draws.library) if library_size == "latent" else library_size
    return (total * (factor / len(batches))).cpu().numpy()


@torch.inference_mode()
def likelihood_parameters(
    model: VAE,
    data: CellData,
    names: Sequence[str],
    *,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
) -> dict[str, np.ndarray]:
    """Parameters of the counts of every cell, (n, G) each, or (S, n, G) for several samples that are not averaged."""
    generator = noise(data, random_state)
    several = n_samples > 1 and not give_mean
    shape = (n_samples, data.n_cells, data.n_genes) if several else (data.n_cells, data.n_genes)
    out, start = {name: np.empty(shape, np.float32) for name in names}, 0
    for cells, posterior in stream(model, data, n_samples=n_samples, batch_size=batch_size):
        p = model.generative(*posterior.draw(n_samples, generator), cells)
        stop = start + p.rate.shape[1]
        for name in names:
            block = parameter(name, p)
            out[name][..., start:stop, :] = (block if several else block.mean(0)).cpu().numpy()
        start = stop
    return out


def parameter(name: str, p) -> Tensor:
    """One of ``mean``, ``native``, ``dispersions``, ``dropout`` (as a probability) or ``sd``, (S, B, G)."""
    if name in {"mean", "native"}:
        return p.rate if name == "mean" else p.native
    return torch.sigmoid(p.dropout) if name == "dropout" else p.theta.expand_as(p.rate)


@torch.inference_mode()
def posterior_predictive(
    model: VAE,
    data: CellData,
    *,
    batches: Sequence[int | None] = (None,),
    genes: np.ndarray | None = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    random_state: int = 0,
) -> list[sp.csr_matrix]:
    """Counts drawn from the model for every cell: as many (n, g) matrices as samples."""
    generator = noise(data, random_state)
    genes = positions(genes, data)
    parts = [[] for _ in range(n_samples)]
    for cells, posterior in stream(model, data, n_samples=n_samples, batch_size=batch_size):
        z, library = posterior.draw(n_samples, generator)
        total = 0
        for batch in batches:
            p = model.generative(z, library, cells, batch=constant(batch, cells), genes=genes)
            total = total + model.sample(p, generator)
        for matrices, block in zip(parts, (total / len(batches)).cpu().numpy(), strict=True):
            matrices.append(sp.csr_matrix(block))
    return [sp.vstack(matrices, format="csr") for matrices in parts]


def positions(genes: np.ndarray | None, data: CellData) -> Tensor | None:
    """Positions of genes on the device."""
    return None if genes is None else torch.as_tensor(genes, device=data.device)


def constant(batch: int | None, cells: Cells) -> Tensor | None:
    """The same batch for all cells."""
    return None if batch is None else torch.full_like(cells.batch, batch)
