"""Which features a cell has, guides or tags, by how unlikely its counts are if all of them are ambient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln, pdtr, xlogy
from scipy.stats import poisson

from .denoise import ambient_shares

if TYPE_CHECKING:
    from ..data.batches import CellData
    from ..models import SCARVAE

LEAST = 1e-12  # ambient counts expected where the profile has none, so that logarithms are finite
UNDERFLOW = 1e-290  # of a probability in float64


def log_bayes_factors(
    model: SCARVAE, data: CellData, *, adjust: str | None = "micro", batch_size: int | None = None
) -> sp.csr_matrix:
    """Log of P(X <= x) / P(X = x) for every count x above zero, where X is Poisson with the ambient counts expected, (n, F).

    It is zero for a count of zero. To what is expected of every feature, "micro" adds the other counts of the cell, spread
    evenly over the features; "global" their mean over the cells.
    """
    noise = ambient_shares(model, data, batch_size=batch_size)
    counts, profiles = data.counts, model.ambient.cpu().double().numpy()
    batch = data.batch.cpu().numpy() if len(profiles) > 1 else np.zeros(data.n_cells, int)
    total = np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    ambient = total * noise
    added = (total - ambient) / data.n_genes
    if adjust != "micro":
        added[:] = added.mean() if adjust == "global" else 0
    row = np.repeat(np.arange(data.n_cells), np.diff(counts.indptr))
    rate = ambient[row] * profiles[batch[row], counts.indices] + added[row]
    factors = log_tail_ratio(counts.data.astype(np.float64), rate)
    return sp.csr_matrix((factors, counts.indices, counts.indptr), shape=counts.shape)


def log_tail_ratio(x: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Log of P(X <= x) / P(X = x) for X ~ Poisson(rate), elementwise; never below zero."""
    rate = np.maximum(rate, LEAST)
    below = pdtr(x, rate)
    far = below < UNDERFLOW
    ratio = np.log(np.where(far, 1, below)) - (xlogy(x, rate) - gammaln(x + 1) - rate)
    # Far below the rate, P(X = x - 1) / P(X = x) = x / rate and so on down fall quickly.
    x, rate = x[far], rate[far]
    term, total, step = np.ones_like(x), np.ones_like(x), 0
    while (term > np.finfo(float).eps * total).any():
        term = term * (x - step) / rate
        total, step = total + term, step + 1
    ratio[far] = np.log(total)
    return np.maximum(ratio, 0)


def assigned(log_factors: sp.csr_matrix, *, cutoff: float, moi: float | None = None) -> sp.csr_matrix:
    """The features of every cell, (n, F), among those whose Bayes factor is at least ``cutoff``.

    They are the one with the highest, or those that share it. With ``moi``, the mean number of features of a cell, they are
    the k with the highest, where k makes their set most probable: every set of k has the prior Poisson(k; moi) / (F over k).
    """
    n_features = log_factors.shape[1]
    row = np.repeat(np.arange(log_factors.shape[0]), np.diff(log_factors.indptr))
    order = np.lexsort((-log_factors.data, row))
    order = order[log_factors.data[order] >= np.log(cutoff)]
    row, column, value = row[order], log_factors.indices[order], log_factors.data[order]
    first = np.searchsorted(row, row)  # where the entries of a row begin
    if moi is None:
        chosen = value == value[first]
    else:
        k = np.arange(len(row)) - first + 1
        sums = np.cumsum(value)
        sums -= (sums - value)[first]
        n_sets = gammaln(n_features + 1) - gammaln(k + 1) - gammaln(n_features - k + 1)
        score = sums + poisson.logpmf(k, moi) - n_sets
        best = np.full(log_factors.shape[0], poisson.logpmf(0, moi))
        np.maximum.at(best, row, score)
        size = np.zeros(len(best), int)
        at_best = score == best[row]
        np.maximum.at(size, row[at_best], k[at_best])
        chosen = k <= size[row]
    found = np.ones(int(chosen.sum()), bool), (row[chosen], column[chosen])
    return sp.csr_matrix(found, shape=log_factors.shape)
