"""From the logits of a cell to its expected counts, by softmax or softplus, and back."""

from __future__ import annotations

import numpy as np

from . import limits
from .arithmetic import ONE, ZERO, exp, f4, i4, log1p
from .team import compiled

EPS = f4(limits.EPS)
SIGN, ALL_BUT_SIGN, LOWEST_INTEGER = i4(31), i4(0x7FFFFFFF), i4(-(2**31))


@compiled
def highest(x):
    """The largest number, found among integers in the same order, since only of these a maximum is vectorised."""
    bits, top = x.view(np.int32), LOWEST_INTEGER
    for g in range(bits.size):
        top = max(top, i4(bits[g] ^ i4(i4(bits[g] >> SIGN) & ALL_BUT_SIGN)))
    return i4(top ^ i4(i4(top >> SIGN) & ALL_BUT_SIGN)).view(f4)


@compiled
def exponentials(logits, top, mean):
    """E to the logits less the highest, and their sum, NaN if a logit is not finite."""
    total = ZERO
    for g in range(logits.size):
        e = exp(logits[g] - top)
        mean[g] = e
        total += e + ZERO * logits[g]
    return total


@compiled
def scale(x, factor):
    """Times a factor, in place."""
    for g in range(x.size):
        x[g] *= factor


@compiled
def softplus(logits, mean):
    """Means of a size of one where shares need not sum to one; returns zero, or NaN if a logit is not finite."""
    total = ZERO
    for g in range(logits.size):
        mean[g] = max(logits[g], ZERO) + log1p(exp(-abs(logits[g])))
        total += ZERO * logits[g]
    return total


@compiled
def means(logits, size, softmax, mean):
    """Expected counts, up to the factor that is returned; it is NaN where a logit is not finite."""
    if softmax:
        return size / exponentials(logits, highest(logits), mean)
    return size * (ONE + softplus(logits, mean))


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


# stamp a7a9bea6615e666d
