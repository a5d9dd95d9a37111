"""Log-likelihood of counts under a (zero-inflated) negative binomial, straight from the logits of the decoder.

    mu = size softmax(l) or size softplus(l),    a = theta log(theta / (theta + mu)),    share = theta / (theta + mu)
    log p(0) = a,  or with logits pi of dropout  log((1 + e^(a - pi)) / (1 + e^-pi))

and at the counts x that are not zero, beside a or a - pi - log(1 + e^-pi),

    x log(mu / (theta + mu)) + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1).

A cell at a time, so that everything between stays in the cache: passes over all genes for what a zero needs, and over the
counts of the cell, put side by side, for the rest. Every pass takes few arrays, since the compiler vectorises none of many.
"""

from __future__ import annotations

import numpy as np

from . import limits
from .arithmetic import (
    LOWEST,
    ONE,
    ZERO,
    exp,
    exp_within,
    f4,
    harmonic,
    log,
    log1p_and_inverse,
    log_rising,
)
from .shares import EPS, means, scale, through_softmax, through_softplus
from .team import compiled, floats, integers, kernel

TILE = 512  # genes at a time, so that what is kept of them stays in the first cache
MAX_LOGIT = f4(limits.MAX_LOGIT)


@compiled
def invert(theta, inverse):
    """1 / (theta + EPS)."""
    for g in range(theta.size):
        inverse[g] = ONE / (theta[g] + EPS)


@compiled
def ratios(mean, theta, inverse, share, log_share):
    """Share and its logarithm, log theta - log(theta + mu)."""
    for g in range(mean.size):
        logarithm, part = log1p_and_inverse(mean[g] * inverse[g])
        share[g] = theta[g] * inverse[g] * part
        log_share[g] = -logarithm


@compiled
def zeros(log_share, theta):
    """Log p(0) without dropout, summed."""
    total = ZERO
    for g in range(theta.size):
        total += theta[g] * log_share[g]
    return total


@compiled
def inflated_zeros(log_share, theta, dropout, weight, by_a, by_dropout, p):
    """Log p(0), summed, and its gradients by a and, for a cell with a weight, by the logits of dropout; p(0) is left in ``p``."""
    bad = ZERO  # or NaN, which logarithms and clamps make a number of
    for g in range(theta.size):
        bad += ZERO * (log_share[g] + dropout[g])
        kept = exp_within(-min(max(dropout[g], -MAX_LOGIT), MAX_LOGIT))
        zero = exp_within(max(theta[g] * log_share[g], LOWEST)) * kept
        above, below = ONE + zero, ONE + kept
        inverse = ONE / (above * below)  # divisions take longer than all else
        of_zero, of_kept = zero * below * inverse, kept * above * inverse
        by_a[g] = of_zero
        by_dropout[g] = weight * (of_kept - of_zero)
        p[g] = above * above * inverse
    return sum_of_logarithms(p) + bad


@compiled
def sum_of_logarithms(p):
    """Of numbers of which no two have a product too small for float32, by pairs."""
    total, n = ZERO, p.size // 2
    first, second = p[:n], p[n : 2 * n]
    for g in range(n):
        total += log(first[g] * second[g])
    return total + (log(p[2 * n]) if 2 * n < p.size else ZERO)


@compiled
def pick(values, at, out):
    """The values at some places."""
    for k in range(at.size):
        out[k] = values[at[k]]


@compiled
def counted(x, mean, theta, log_share):
    """What counts add to a, summed."""
    total = ZERO
    for k in range(x.size):
        # log(mu / (theta + mu)) = log(mu / theta) + log share
        ratio = log((mean[k] + EPS) / (theta[k] + EPS)) + log_share[k]
        total += x[k] * ratio + log_rising(x[k], theta[k])
    return total


@compiled
def not_zeros(theta, log_share, dropout):
    """Log-probability that a count was not lost in place of log p(0), summed, where 1 + e^-pi is in both."""
    total = ZERO
    for k in range(theta.size):
        a = theta[k] * log_share[k] - min(max(dropout[k], -MAX_LOGIT), MAX_LOGIT)
        total += a - log(ONE + exp(a))
    return total


@compiled
def counted_by_mean(x, mean, theta, share, lost):
    """Gradient of what counts add by the logarithm of the mean, into ``mean``, and x / (theta + mu), into ``x``.

    With it comes the share that was ``lost`` of the gradient of log p(0).
    """
    for k in range(x.size):
        mu = mean[k]
        per_total = x[k] / (theta[k] + mu + EPS)
        mean[k] = mu * (x[k] / (mu + EPS) - per_total - share[k] * lost[k])
        x[k] = per_total


@compiled
def counted_by_theta(x, theta, share, log_share, lost, out):
    """Gradient of the gamma functions in what counts add, with what was lost of that of log p(0)."""
    for k in range(x.size):
        out[k] = harmonic(x[k], theta[k]) + (log_share[k] + ONE - share[k]) * lost[k]


@compiled
def by_log_mean(mean, share, by_a, out):
    """Gradient of log p(0) by the logarithm of the mean, and its sum."""
    total = ZERO
    for g in range(mean.size):
        out[g] = -mean[g] * share[g] * by_a[g]
        total += out[g]
    return total


@compiled
def add_by_theta(weight, share, log_share, by_a, out):
    """Gradient of log p(0)."""
    for g in range(out.size):
        out[g] += weight * (log_share[g] + ONE - share[g]) * by_a[g]


@kernel("fffffffffffiii")
def log_likelihood(record, part, parts):
    """Of every cell, and, if wanted, its gradients, those by theta summed over the cells of a part where it is shared.

    Arrays, where draws of cells may stand for cells: logits (B, G), logits of dropout (B, G) or none, theta (1, G) or
    (B, G), size (B), weight of every cell in the gradients (B); log-likelihood (B); gradients by the logits (B, G), by those of dropout (B, G), by theta (parts, G) or
    (B, G) and by log size (B), none if not wanted; values of the counts; row pointers and columns of these; whether
    shares come by softmax.
    """
    logits, dropout, theta = floats(record, 0), floats(record, 1), floats(record, 2)
    size, weight, out = floats(record, 3)[0], floats(record, 4)[0], floats(record, 5)[0]
    by_logits, by_dropout, by_theta = floats(record, 6), floats(record, 7), floats(record, 8)
    by_size, values = floats(record, 9)[0], floats(record, 10)[0]
    start, columns, softmax = integers(record, 11), integers(record, 12), integers(record, 13)[0]
    n_cells, n_genes = logits.shape
    inflated, wanted, shared = dropout.size > 0, by_logits.size > 0, len(theta) == 1
    # of all genes: mean, share and its logarithm, gradient by a, 1 / theta, p(0); of the counts, what `of_counts` takes
    dense, few = np.empty((6, n_genes), np.float32), np.empty((8, n_genes), np.float32)
    nothing = np.empty(n_genes if inflated else 0, np.float32)
    mean, by_a, inverse = dense[0], dense[3], dense[4]
    by_a[:] = ONE
    if shared:
        invert(theta[0], inverse)
    for b in range(part * n_cells // parts, (part + 1) * n_cells // parts):
        t, w, cell = theta[0 if shared else b], weight[b], b % (start.size - 1)
        if not shared:
            invert(t, inverse)
        pi = dropout[b] if inflated else nothing
        by_pi = by_dropout[b] if inflated and wanted else nothing
        by_l, by_t = (by_logits[b], by_theta[part if shared else b]) if wanted else (nothing[:0], nothing[:0])
        factor = means(logits[b], size[b], softmax, mean)
        value, total = of_genes(factor, w, t, pi, dense, by_l, by_t, by_pi)
        at, n = columns[start[cell] : start[cell + 1]], start[cell + 1] - start[cell]
        few[0][:n] = values[start[cell] : start[cell + 1]]
        more, change = of_counts(w, at, t, pi, dense, few, by_l, by_t, by_pi)
        out[b] = value + more
        if wanted:
            total += change
            by_size[b] = w * total
            if softmax:
                through_softmax(w, total / size[b], mean, by_l)
            else:
                through_softplus(w, size[b], logits[b], mean, by_l)


@compiled
def of_genes(factor, weight, theta, dropout, dense, by_logits, by_theta, by_dropout):
    """Log-probability that no gene has counts, and its gradient by log size; other gradients are left where they belong."""
    value, total = factor * ZERO, ZERO
    for first in range(0, theta.size, TILE):
        last = min(first + TILE, theta.size)
        mean, share, log_share = dense[0][first:last], dense[1][first:last], dense[2][first:last]
        by_a, t = dense[3][first:last], theta[first:last]
        scale(mean, factor)
        ratios(mean, t, dense[4][first:last], share, log_share)
        if dropout.size > 0:
            value += inflated_zeros(
                log_share, t, dropout[first:last], weight, by_a, by_dropout[first:last], dense[5][first:last]
            )
        else:
            value += zeros(log_share, t)
        if by_logits.size > 0:
            total += by_log_mean(mean, share, by_a, by_logits[first:last])
            add_by_theta(weight, share, log_share, by_a, by_theta[first:last])
    return value, total


@compiled
def of_counts(weight, at, theta, dropout, dense, few, by_logits, by_theta, by_dropout):
    """What the counts ``few[0]``, of the genes ``at``, change in all this."""
    n = at.size
    x, mean, t, log_share = few[0][:n], few[1][:n], few[2][:n], few[3][:n]
    share, lost, pi, by_t = few[4][:n], few[5][:n], few[6][:n], few[7][:n]
    pick(dense[0], at, mean)
    pick(theta, at, t)
    pick(dense[2], at, log_share)
    value, total = counted(x, mean, t, log_share), ZERO
    if dropout.size > 0:
        pick(dropout, at, pi)
        value += not_zeros(t, log_share, pi)
    if by_logits.size == 0:
        return value, total
    pick(dense[1], at, share)
    lost[:] = ZERO
    if dropout.size > 0:
        for k in range(at.size):  # a count is no zero, of which dropout takes some of the gradient
            lost[k] = ONE - dense[3][at[k]]
            by_dropout[at[k]] -= weight * lost[k]
    counted_by_theta(x, t, share, log_share, lost, by_t)
    counted_by_mean(x, mean, t, share, lost)
    for k in range(at.size):
        by_logits[at[k]] += mean[k]
        total += mean[k]
        by_theta[at[k]] += weight * (by_t[k] - x[k])
    return value, total


# stamp a7a9bea6615e666d
