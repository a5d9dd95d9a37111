"""Which droplets are empty, and what they hold together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

from .counts import BLOCK
from .raw import RAW

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

    from .droplets import Droplets

SMALLEST = float(np.finfo(np.float32).eps)  # share of a gene in a logarithm, at least
FEW = 50  # empty droplets that are not enough
TAIL = 0.05  # share of the cells, and of the droplets, that may be unlike the others
CLASSES = ("cell", "empty", "other")


@dataclass(frozen=True)
class Ambient:
    """What empty droplets hold."""

    counts: np.ndarray  # (G,), of all empty droplets together
    totals: np.ndarray  # (m,), counts of every droplet
    classes: np.ndarray  # (m,), positions in `CLASSES`
    prob: float  # the threshold that was used


def ambient(
    found: Droplets,
    *,
    prob: float | None,
    iterations: int,
    sample: int | None,
    cells_may_be_empty: bool,
    rng: np.random.Generator,
    title: str = "raw",
) -> Ambient:
    """Tell empty droplets by how likely their counts are as draws from the ambient profile, and sum their counts.

    The profile starts as that of all droplets. A droplet is empty if the logarithm of the multinomial probability of its
    counts is at least log(prob) for each gene. Without ``prob``, droplets with fewer counts than nearly all cells are empty,
    but for the least likely ones.
    """
    totals = np.asarray(found.counts.sum(1), np.float64).ravel()
    maybe = np.ones(len(totals), bool) if cells_may_be_empty else ~found.is_cell
    if maybe.sum() < FEW:
        msg = (
            f"{title} has only {int(maybe.sum())} droplets that are not cells of adata, too few for a profile: pass {RAW}, or "
            "give tl.scar the profile with ambient."
        )
        raise ValueError(msg)
    if prob is None:
        maybe &= totals <= _bound(totals[found.is_cell], totals[maybe], len(found.lost))
    tested = np.flatnonzero(maybe)
    if sample is not None and sample < len(tested):
        tested = np.sort(rng.choice(tested, sample, replace=False))
    multinomial = _Multinomial(found.counts[tested].astype(np.float64), totals[tested])
    limit = _typical if prob is None else lambda _: np.log(prob) * found.n_shared
    empty, used = _told(multinomial, iterations, limit)
    if empty.sum() < FEW:
        most = _workable(multinomial, iterations, found.n_shared)
        hint = f"the largest prob that works is {most:g}" if most else "leave prob out"
        msg = f"{int(empty.sum())} empty droplets are found in {title} with prob={prob:g}, fewer than {FEW}, too few for a profile: {hint}."
        raise ValueError(msg)
    classes = np.where(found.is_cell, CLASSES.index("cell"), CLASSES.index("other")).astype(np.int8)
    classes[tested[empty]] = CLASSES.index("empty")
    prob = float(np.exp(used / found.n_shared)) if prob is None else prob
    return Ambient(multinomial.summed(empty), totals, classes, prob)


class _Multinomial:
    """How likely the counts of m droplets are as draws from a profile."""

    def __init__(self, counts: sp.csr_matrix, totals: np.ndarray) -> None:
        self.counts, self.constant = counts, _log_coefficients(counts, totals)

    def summed(self, chosen: np.ndarray) -> np.ndarray:
        """Counts of the droplets of a mask (m,) together, (G,)."""
        return self.counts.T @ chosen.astype(np.float64)

    def log_likelihoods(self, summed: np.ndarray) -> np.ndarray:
        """Of every droplet, (m,), where the profile is that of the counts ``summed`` (G,)."""
        return self.constant + self.counts @ np.log(np.clip(summed / summed.sum(), SMALLEST, 1 - SMALLEST))


def _log_coefficients(counts: sp.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Logarithms of the multinomial coefficients, (m,); factorials of 0 and 1 are 1, so that few counts matter."""
    found = gammaln(totals + 1)
    rows = np.repeat(np.arange(len(totals)), np.diff(counts.indptr))
    for start in range(0, counts.nnz, BLOCK):
        block = slice(start, start + BLOCK)
        several = counts.data[block] > 1
        weights = gammaln(counts.data[block][several] + 1)
        found -= np.bincount(rows[block][several], weights, minlength=len(totals))
    return found


def _told(
    multinomial: _Multinomial, iterations: int, limit: Callable[[np.ndarray], float]
) -> tuple[np.ndarray, float]:
    """Which droplets are empty, (m,), and how likely each has to be; ends early where too few are."""
    empty = np.ones(len(multinomial.constant), bool)
    for _ in range(iterations):
        likely = multinomial.log_likelihoods(multinomial.summed(empty))
        least = limit(likely)
        empty = likely >= least
        if empty.sum() < FEW:
            break
    return empty, least


def _bound(of_cells: np.ndarray, of_others: np.ndarray, n_lost: int) -> float:
    """How many counts an empty droplet may have: fewer than nearly all cells.

    Cells that are not found by name are taken for the droplets with the most counts. There are fewer cells that were not
    called than empty droplets, so that half of the droplets are never too large.
    """
    bounds = [np.quantile(of_cells, TAIL)] if len(of_cells) else []
    bounds.append(np.quantile(of_others, max(1 - n_lost / len(of_others), 0)))
    return max(min(bounds), np.median(of_others), np.sort(of_others)[FEW - 1])


def _typical(likely: np.ndarray) -> float:
    """How likely droplets are, but for the least likely ones."""
    n_typical = max(int(np.ceil((1 - TAIL) * len(likely))), FEW)
    return np.sort(likely)[-n_typical]


def _workable(multinomial: _Multinomial, iterations: int, n_genes: int) -> float:
    """The largest ``prob`` of six digits that finds enough empty droplets, by halving; zero where none does."""
    low, high, one = 0, 10**6, 10**6
    while high - low > 1:
        middle = (low + high) // 2
        limit = np.log(middle / one) * n_genes
        empty, _ = _told(multinomial, iterations, lambda _, limit=limit: limit)
        low, high = (middle, high) if empty.sum() >= FEW else (low, middle)
    return low / one
