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

from .arithmetic import ONE, ZERO, exp, f4, harmonic, log, log1p, log_rising
from .team import compiled, floats, integers, kernel

EPS = f4(1e-8)  # keeps logarithms finite where the softmax underflows to a mean of zero
LANES = 32
MAX_LOGIT = f4(60)  # beyond it counts are lost, or kept, with certainty anyway


@compiled
def highest(x, lanes):
    """The largest number. ``lanes`` (L) hold the largest of every L-th, since a single maximum is not vectorised."""
    n, size = x.size // lanes.size, lanes.size
    lanes[:] = x[0]
    for i in range(n):
        for j in range(size):
            lanes[j] = max(lanes[j], x[i * size + j])
    top = lanes[0]
    for j in range(size):
        top = max(top, lanes[j])
    for g in range(n * size, x.size):
        top = max(top, x[g])
    return top


@compiled
def exponentials(logits, top, mean):
    """E to the logits less the highest, and their sum."""
    total = ZERO
    for g in range(logits.size):
        e = exp(logits[g] - top)
        mean[g] = e
        total += e
    return total


@compiled
def scale(x, factor):
    """Times a factor, in place."""
    for g in range(x.size):
        x[g] *= factor


@compiled
def softplus(logits, size, mean):
    """Means where shares need not sum to one."""
    for g in range(logits.size):
        mean[g] = size * (max(logits[g], ZERO) + log1p(exp(-abs(logits[g]))))


@compiled
def ratios(mean, theta, share, log_share):
    """Share and its logarithm, log theta - log(theta + mu)."""
    for g in range(mean.size):
        t = theta[g] + EPS
        share[g] = theta[g] / (t + mean[g])
        log_share[g] = -log1p(mean[g] / t)


@compiled
def zeros(log_share, theta):
    """Log p(0) without dropout, summed."""
    total = ZERO
    for g in range(theta.size):
        total += theta[g] * log_share[g]
    return total


@compiled
def inflated_zeros(log_share, theta, dropout, by_a, by_dropout):
    """Log p(0), summed, and its gradients by a and by the logits of dropout."""
    total = ZERO
    for g in range(theta.size):
        kept = exp(-min(max(dropout[g], -MAX_LOGIT), MAX_LOGIT))
        zero = exp(theta[g] * log_share[g]) * kept
        above, below = ONE + zero, ONE + kept
        of_zero, of_kept = zero / above, kept / below
        total += log(above / below)
        by_a[g] = of_zero
        by_dropout[g] = of_kept - of_zero
    return total


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
def counted_by_mean(x, mean, theta):
    """Gradient of what counts add by the logarithm of the mean, into ``mean``, and x / (theta + mu), into ``x``."""
    for k in range(x.size):
        mu = mean[k]
        per_total = x[k] / (theta[k] + mu + EPS)
        mean[k] = mu * (x[k] / (mu + EPS) - per_total)
        x[k] = per_total


@compiled
def counted_by_theta(x, theta, out):
    """Gradient of the gamma functions in what counts add."""
    for k in range(x.size):
        out[k] = harmonic(x[k], theta[k])


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


@compiled
def total_of(x):
    """The sum."""
    total = ZERO
    for g in range(x.size):
        total += x[g]
    return total


@compiled
def through_softmax(weight, ratio, mean, by_logits):
    """From the gradient by the logarithm of the mean, with its sum in ``ratio`` to the sum of the means."""
    for g in range(mean.size):
        by_logits[g] = weight * (by_logits[g] - ratio * mean[g])


@compiled
def through_softplus(weight, size, logits, mean, by_logits):
    """From the gradient by the logarithm of the mean."""
    for g in range(mean.size):
        by_logits[g] *= weight * size / (mean[g] + EPS) / (ONE + exp(-logits[g]))


@kernel
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
    dense, few = np.empty((5, n_genes), np.float32), np.empty((6, n_genes), np.float32)
    lanes = np.empty(LANES, np.float32)
    mean, share, log_share, by_a = dense[0], dense[1], dense[2], dense[3]
    by_a[:] = ONE
    for b in range(part * n_cells // parts, (part + 1) * n_cells // parts):
        t = theta[0 if shared else b]
        out[b] = means(logits[b], size[b], softmax, mean, lanes)
        ratios(mean, t, share, log_share)
        cell = b % (start.size - 1)
        at = columns[start[cell] : start[cell + 1]]
        n = at.size
        x, mu, th, ls = few[0, :n], few[1, :n], few[2, :n], few[3, :n]
        x[:] = values[start[cell] : start[cell + 1]]
        pick(mean, at, mu)
        pick(t, at, th)
        pick(log_share, at, ls)
        out[b] += counted(x, mu, th, ls)
        if inflated:
            q = by_dropout[b] if wanted else dense[4]
            out[b] += inflated_zeros(log_share, t, dropout[b], by_a, q)
            pick(dropout[b], at, few[4, :n])
            out[b] += not_zeros(th, ls, few[4, :n])
            for k in range(n):  # a count is certainly not lost
                q[at[k]] += by_a[at[k]] - ONE
                by_a[at[k]] = ONE
        else:
            out[b] += zeros(log_share, t)
        if wanted:
            if inflated:
                scale(by_dropout[b], weight[b])
            total = by_log_mean(mean, share, by_a, by_logits[b])
            add_by_theta(weight[b], share, log_share, by_a, by_theta[part if shared else b])
            counted_by_theta(x, th, few[5, :n])
            counted_by_mean(x, mu, th)
            for k in range(n):
                by_logits[b, at[k]] += mu[k]
                total += mu[k]
                by_theta[part if shared else b, at[k]] += weight[b] * (few[5, k] - x[k])
            by_size[b] = weight[b] * total
            if softmax:
                through_softmax(weight[b], total / size[b], mean, by_logits[b])
            else:
                through_softplus(weight[b], size[b], logits[b], mean, by_logits[b])


@compiled
def means(logits, size, softmax, mean, lanes):
    """Expected counts; zero, or NaN where a logit is not finite."""
    if softmax:
        total = exponentials(logits, highest(logits, lanes), mean)
        scale(mean, size / total)
    else:
        softplus(logits, size, mean)
    return total_of(logits) * ZERO


# stamp 456042f69ed8b8fe
