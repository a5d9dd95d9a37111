"""Which of the counts that were seen are native: loops over the stored counts of cells, compiled.

Arrays without a shape of their own are those of a CSR matrix, with ``indptr`` for its rows. ``native`` and ``ambient`` are the
shares of the genes at the stored counts.
"""

from __future__ import annotations

import math

import numba
import numpy as np

compiled = numba.njit(nogil=True, cache=True)

PRIOR_COUNTS = 10.0  # that the decoder's share of ambient counts weighs in that of a cell
N_STEPS = 40  # of the search for it, at most; a few are usual
PLAUSIBLE = 0.9999
PRECISE = 1e-6
SPREAD = 10.0  # standard deviations within which the number of ambient counts is not certain
NEGLIGIBLE = 1e-4  # probability of being ambient with which no count is taken away


@compiled
def explain(counts, native, ambient, indptr, shares):
    """Raise ``native``, in place, where more was seen than it and the ambient profile can account for.

    A gene that few cells have may be absent from all native profiles that the decoder knows. Ambient counts are next to never
    more than the quantile `PLAUSIBLE` of a Poisson, given the ``shares`` (n,) of ambient counts; what is beyond it is native.
    """
    for i in range(indptr.size - 1):
        first, last = indptr[i], indptr[i + 1]
        total = 0.0
        for j in range(first, last):
            total += counts[j]
        for j in range(first, last):
            rate = total * shares[i] * ambient[j]
            if counts[j] > 1 and counts[j] > rate + total * native[j]:
                beyond = (counts[j] - _poisson_quantile(rate)) / total
                native[j] = max(native[j], beyond)


@compiled
def _poisson_quantile(rate):
    if rate > 500:
        return rate + 4 * math.sqrt(rate)
    k, pmf = 0, math.exp(-rate)
    below = pmf
    while below < PLAUSIBLE:
        k += 1
        pmf *= rate / k
        below += pmf
    return float(k)


@compiled
def settle(counts, native, ambient, indptr, decoded, out):  # noqa: PLR0917
    """The share of ambient counts of every cell that is most likely; ``decoded`` and ``out`` are (n,).

    The log-likelihood of the counts is concave in the share, and so is the logarithm of the Beta prior around the decoded
    share; Newton's method finds the maximum, and halving where it leaves the bracket.
    """
    for i in range(out.size):
        low, high = PRECISE, 1 - PRECISE
        prior = min(max(float(decoded[i]), low), high)
        share = prior
        for _ in range(N_STEPS):
            slope = PRIOR_COUNTS * (prior / share - (1 - prior) / (1 - share))
            curvature = -PRIOR_COUNTS * (prior / share**2 + (1 - prior) / (1 - share) ** 2)
            for j in range(indptr[i], indptr[i + 1]):
                difference = float(ambient[j]) - float(native[j])
                p = float(native[j]) + share * difference
                if p > 0:
                    slope += counts[j] * difference / p
                    curvature -= counts[j] * (difference / p) ** 2
            if slope > 0:
                low = share
            else:
                high = share
            step = share - slope / curvature
            step = step if low < step < high else (low + high) / 2
            done = abs(step - share) < PRECISE
            share = step
            if done:
                break
        out[i] = share


@compiled
def probabilities(native, ambient, indptr, shares, out):
    """Probability of every count to be native, given the ``shares`` (n,) of ambient counts."""
    for i in range(shares.size):
        for j in range(indptr[i], indptr[i + 1]):
            inside = (1 - shares[i]) * float(native[j])
            total = inside + shares[i] * float(ambient[j])
            # what neither explains was seen in the cell
            out[j] = inside / total if total > 0 else 1.0


@compiled
def kept(counts, probability, indptr, excess, out):
    """Native counts: what is most probably ambient is taken away, until a cell has lost as much as is expected.

    Of x counts of a gene, Binomial(x, 1 - probability) are ambient; the k-th that is taken away is ambient with the
    probability that at least k are. The expected number of ambient counts, and ``excess`` of the others, are taken.
    """
    for i in range(indptr.size - 1):
        first, last = indptr[i], indptr[i + 1]
        expected, total, most = 0.0, 0.0, 0
        for j in range(first, last):
            x, u = float(counts[j]), 1 - probability[j]
            expected += x * u
            total += x
            most += int(min(x, 2 * SPREAD * math.sqrt(x * u * (1 - u)) + 2 * SPREAD))
        left = round(expected + excess * (total - expected))
        sure, gene = np.empty(most), np.empty(most, np.int64)
        n = 0
        for j in range(first, last):
            certain, n = _candidates(float(counts[j]), probability[j], j, sure, gene, n)
            out[j] = counts[j] - certain
            left -= certain
        for k in np.argsort(-sure[:n], kind="mergesort")[: max(left, 0)]:
            out[gene[k]] -= 1


@compiled
def _candidates(x, w, j, sure, gene, n):  # noqa: PLR0917
    """How many of ``x`` counts are ambient for certain; and from ``n`` on in ``sure`` the probabilities of further ones."""
    u = 1 - w
    if u <= 0:
        return 0, n
    if u >= 1:
        return int(x), n
    low = int(max(0.0, math.floor(x * u - SPREAD * math.sqrt(x * u * w))))
    log_pmf = x * math.log(w)
    if low > 0:
        log_pmf += (
            math.lgamma(x + 1) - math.lgamma(low + 1) - math.lgamma(x - low + 1) + low * math.log(u / w)
        )
    pmf = math.exp(log_pmf)
    above, k = 1 - pmf, low
    while k < x and above > NEGLIGIBLE and n < sure.size:
        sure[n], gene[n] = above, j
        n += 1
        k += 1
        pmf *= (x - k + 1) / k * u / w
        above -= pmf
    return low, n


def sampled(counts: np.ndarray, probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Native counts drawn at random."""
    return rng.binomial(counts.astype(np.int64), np.clip(probability, 0, 1)).astype(np.float32)
