"""Loops over draws that NumPy would take many passes for, compiled.

``shares`` are (g, N) in C order, so that the draws of a gene lie side by side. Where draws are compared, ``stretches``
(k, 3) say which: from column stretches[:, 0] and from column stretches[:, 1] on, as many as stretches[:, 2]. The loops
release the GIL and use one thread.
"""

from __future__ import annotations

import numba
import numpy as np

# Sums may be taken in any order, which lets the processor add many numbers at once; nothing is NaN.
compiled = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})


@compiled
def levels(shares, cuts, top, total):
    """Highest and sum of the columns between one of the ``cuts`` (k + 1,) and the next; top, total (g, k)."""
    for j in range(shares.shape[0]):
        for s in range(cuts.size - 1):
            x = shares[j][cuts[s] : cuts[s + 1]]
            highest, sum_ = np.float32(0), np.float32(0)
            for i in range(x.size):
                highest = max(highest, x[i])
                sum_ += x[i]
            top[j, s], total[j, s] = highest, sum_


@compiled
def compare(shares, stretches, offsets, factor, counts, ratios):  # noqa: PLR0917
    """In how many draws a gene is up, and down, by ``factor``, counts (g, 2); ratios of the sides, (g, draws).

    To both sides, offsets[0] is added before the former, offsets[1] before the latter.
    """
    for j in range(shares.shape[0]):
        up, down, at = 0, 0, 0
        for s in range(stretches.shape[0]):
            n = stretches[s, 2]
            x = shares[j][stretches[s, 0] : stretches[s, 0] + n]
            y = shares[j][stretches[s, 1] : stretches[s, 1] + n]
            r = ratios[j][at : at + n]
            for i in range(n):
                p, q = x[i] + offsets[0], y[i] + offsets[0]
                up += p >= factor * q
                down += factor * p < q
            for i in range(n):
                r[i] = (x[i] + offsets[1]) / (y[i] + offsets[1])
            at += n
        counts[j, 0], counts[j, 1] = up, down


@compiled
def moments(values, out):
    """Mean and standard deviation of every row; out (g, 2)."""
    for j in range(values.shape[0]):
        x = values[j]
        total = np.float32(0)
        for i in range(x.size):
            total += x[i]
        mean = total / x.size
        square = np.float32(0)
        for i in range(x.size):
            d = x[i] - mean
            square += d * d
        out[j, 0], out[j, 1] = mean, np.sqrt(square / x.size)


@compiled
def order(bits, out):
    """Smallest, largest and the two middle values of every row (the same twice, if N is odd); out (g, 4).

    ``bits`` are positive float32 read as int32, which sort alike. The middle is found by counting the values below a
    limit, which is moved by interpolation and, every third time, by bisection: about nine counts for 5,000 values.
    """
    for j in range(bits.shape[0]):
        x = bits[j]
        n, k = x.size, x.size // 2
        first, last = x[0], x[0]
        for i in range(n):
            first, last = min(first, x[i]), max(last, x[i])
        # As many as `below` (at most k) are smaller than `low`, as many as `until` (more than k) than `high`.
        low, high, below, until = np.int64(first), np.int64(last) + 1, 0, n
        step = 0
        while high - low > 1:
            share = 0.5 if step % 3 == 2 else (k + 0.5 - below) / (until - below)
            limit = low + np.int64((high - low) * share)
            limit = min(max(limit, low + 1), high - 1)
            at = np.int32(limit)
            count = 0
            for i in range(n):
                count += x[i] < at
            step += 1
            if count <= k:
                low, below = limit, count
            else:
                high, until = limit, count
            if count == k:
                break
        # Value k (from 0) is the smallest from `low` on; value k - 1 lies below it, or is tied with it.
        at = np.int32(low)
        left, right = first, last
        for i in range(n):
            left = max(left, x[i] if x[i] < at else first)
            right = min(right, x[i] if x[i] >= at else last)
        out[j, 0], out[j, 1] = first, last
        out[j, 2] = left if below == k and n % 2 == 0 else right
        out[j, 3] = right
