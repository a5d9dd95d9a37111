"""How well posterior draws explain a set of cells together: importance weights (Boyeau et al. 2023).

Draws z_i of a set of cells follow the mixture of their approximate posteriors. To make them follow the mixture of
the true posteriors, draw i gets the weight

    w_i ~ sum_a p(z_i) p(x_a | z_i) / p(x_a) / sum_c q(z_i | x_c)

where a runs over some of the cells, the anchors, and c over all that draws were made from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax

from ..likelihoods import binomial
from ..models.blocks import log_normal
from ..models.records import Expression
from .draws import draw
from .engine import noise, stream
from .scores import marginal_ll_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells
    from ..models.records import Posterior
    from .draws import Draws

MAX_CELLS = 1024  # anchors
ENTRIES = 2**21  # draws × entries looked at together; small blocks stay in the cache
NODES = 32  # of the polynomial in the library size


@torch.inference_mode()
def weigh(
    model: VAE,
    data: CellData,
    draws: Draws,
    cells: np.ndarray | None = None,
    *,
    max_cells: int = MAX_CELLS,
    truncation: bool = False,
    n_mc_samples: int = 500,
    random_state: int = 0,
) -> np.ndarray:
    """Logarithms of the weights of ``draws`` (N,) from the set ``cells`` of ``data`` (all, if `None`).

    ``max_cells`` of the cells are anchors; their marginal likelihoods take ``n_mc_samples`` draws each.
    ``truncation`` caps weights at the mean weight times the square root of N.
    """
    cells = np.arange(data.n_cells) if cells is None else cells
    anchors = np.random.default_rng(random_state).permutation(cells)[:max_cells]
    log_ratio = []
    for x, posterior in stream(model, data, index=torch.from_numpy(anchors)):
        evidence = marginal_ll_of(model, x, posterior, n_mc_samples, noise(data, random_state))  # (a,)
        log_ratio.append(_log_likelihoods(model, draws, x) - evidence)  # (N, a)
    generator = noise(data, random_state)
    prior = [model.log_prior(z, generator) for z in draws.z.split(max(1, ENTRIES // model.width))]
    log_w = torch.cat(prior) + torch.logsumexp(torch.cat(log_ratio, 1), 1)
    made_from = [
        torch.logsumexp(_log_posteriors(draws.z, posterior), 1)
        for _, posterior in stream(model, data, index=torch.from_numpy(cells))
    ]
    log_w = log_w - torch.logsumexp(torch.stack(made_from), 0)
    if truncation:
        # The mean weight is the sum over N.
        log_w = log_w.clamp(max=torch.logsumexp(log_w, 0) - 0.5 * math.log(len(log_w)))
    return log_w.double().cpu().numpy()


def importance_weights(
    model: VAE, data: CellData, *, n_samples: int = 1, random_state: int = 0, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of posterior draws of all cells, (S, n), and the draws, (S, n, D)."""
    index = torch.arange(data.n_cells).repeat(n_samples)
    draws = draw(model, data, index, noise(data, random_state))
    weights = softmax(weigh(model, data, draws, random_state=random_state, **options))
    shape = n_samples, data.n_cells
    return weights.reshape(shape), draws.z.reshape(*shape, -1).cpu().numpy()


def _log_likelihoods(model: VAE, draws: Draws, x: Cells) -> Tensor:
    """Log p(x_a | z_i) with the library size of a, (N, a).

    Most counts are zero. So this is the log-probability that all are, a smooth function of the library size that a
    polynomial through a few sizes gives for every anchor; and then what the counts above zero change. A binomial has the
    total counts of a in the place of its library size, and is simpler.
    """
    if model.gene_likelihood == "b":
        return _log_likelihoods_of_trials(model, draws, x)
    anchor, gene = x.x.nonzero(as_tuple=True)  # (n,)
    counts, library = x.x[anchor, gene, None], torch.exp(x.library)
    sizes, polynomial = _interpolation(x.library[:, 0])
    parts, width = [], max(len(anchor), len(sizes) * x.x.shape[1])
    for rows in torch.arange(len(draws.z), device=x.x.device).split(max(1, ENTRIES // width)):
        block = draws.take(rows)
        p = model.generative(block.z, torch.zeros_like(block.library), block.cells)  # of one count
        at_sizes = _scaled(p, sizes[:, None], slice(None), 1)  # (b, K, G)
        empty = model.log_likelihood(torch.zeros_like(at_sizes.rate[0]), at_sizes) @ polynomial.T  # (b, a)
        above = _scaled(p, library[anchor, 0], gene, 2)  # (b, n, 1)
        change = model.log_likelihood(counts, above) - model.log_likelihood(torch.zeros_like(counts), above)
        parts.append(empty.index_add_(1, anchor, change))
    return torch.cat(parts)


def _log_likelihoods_of_trials(model: VAE, draws: Draws, x: Cells) -> Tensor:
    """The same where every count of a cell falls on one of the genes."""
    parts = []
    for rows in torch.arange(len(draws.z), device=x.x.device).split(max(1, ENTRIES // x.x.shape[1])):
        block = draws.take(rows)
        p = model.generative(block.z, torch.zeros_like(block.library), block.cells)
        parts.append(binomial.log_likelihood_of_pairs(x.x, p.rate))
    return torch.cat(parts)


def _scaled(p: Expression, library: Tensor, genes: slice | Tensor, dim: int) -> Expression:
    """Expression of draws, decoded for one count, at library sizes and some genes, with a dimension put in at ``dim``."""

    def of(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        if values.ndim == 1:
            return values[genes] if dim == 1 else values[genes, None]
        return values[:, genes].unsqueeze(dim)

    rate = of(p.rate) * (library if dim == 1 else library[:, None])
    theta, dropout = (
        values if values is None or values.ndim < 3 else values.expand_as(rate).contiguous()
        for values in (of(p.theta), of(p.dropout))
    )
    return Expression(rate, rate, theta, dropout)


def _interpolation(log_library: Tensor) -> tuple[Tensor, Tensor]:
    """Library sizes (K,) and the matrix (a, K) that takes a function there to its values at ``log_library`` (a,)."""
    at = log_library.double().cpu().numpy()
    middle, half = (at.max() + at.min()) / 2, max((at.max() - at.min()) / 2, 1e-6)
    nodes = np.polynomial.chebyshev.chebpts1(NODES)
    coefficients = np.polynomial.chebyshev.chebvander(nodes, NODES - 1).T * (2 / NODES)
    coefficients[0] /= 2
    matrix = np.polynomial.chebyshev.chebvander((at - middle) / half, NODES - 1) @ coefficients
    return tuple(
        torch.from_numpy(values).to(log_library) for values in (np.exp(middle + half * nodes), matrix)
    )


def _log_posteriors(z: Tensor, posterior: Posterior) -> Tensor:
    """Log q(z_i | x_a), (N, a)."""
    blocks = z.split(max(1, ENTRIES // posterior.mean.numel()))
    return torch.cat([log_normal(block[:, None], posterior.mean, posterior.variance) for block in blocks])
