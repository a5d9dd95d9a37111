"""Batch norm, ReLU and dropout of hidden units, B cells by H units, and their gradients.

    centred = (h - mean) / sqrt(variance + eps),    out = max(0, weight centred + bias) kept / (1 - p)

So little work that to share it would take longer than to do it: these kernels run alone.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ONE, ZERO
from .team import compiled, floats, kernel, shorts


@kernel("fffffffffss", alone=True)
def forward(record, part, parts):
    """Out, with mean and 1 / sqrt(variance + eps) of the cells, and what has been seen of both so far brought up to date.

    Arrays: out and h (B, H); weight, bias, running mean, running variance, mean and 1 / sqrt(variance + eps) (H); eps,
    momentum and 1 / (1 - p); random numbers (B, H) of which those from a threshold on keep a unit, and the threshold,
    or none of both.
    """
    out, h = floats(record, 0), floats(record, 1)
    weight, bias = floats(record, 2)[0], floats(record, 3)[0]
    running_mean, running_variance = floats(record, 4)[0], floats(record, 5)[0]
    mean, inverse, numbers = floats(record, 6)[0], floats(record, 7)[0], floats(record, 8)[0]
    noise, threshold = shorts(record, 9), shorts(record, 10)
    eps, momentum, factor = numbers[0], numbers[1], numbers[2]
    n_cells = np.float32(len(h))
    mean[:], inverse[:] = ZERO, ZERO
    for b in range(len(h)):
        row = h[b]
        for j in range(row.size):
            mean[j] += row[j]
    mean /= n_cells
    for b in range(len(h)):
        row = h[b]
        for j in range(row.size):
            inverse[j] += (row[j] - mean[j]) ** 2
    for j in range(mean.size):
        running_mean[j] += momentum * (mean[j] - running_mean[j])
        running_variance[j] += momentum * (inverse[j] / (n_cells - ONE) - running_variance[j])
        inverse[j] = ONE / np.sqrt(inverse[j] / n_cells + eps)
    for b in range(len(h)):
        row, to = h[b], out[b]
        for j in range(row.size):
            to[j] = max(weight[j] * ((row[j] - mean[j]) * inverse[j]) + bias[j], ZERO)
        if noise.size > 0:
            random = noise[b]
            for j in range(row.size):
                to[j] = to[j] * factor if random[j] >= threshold[0, 0] else ZERO


@kernel("ffffffffff", alone=True)
def backward(record, part, parts):
    """Gradients by h (B, H), weight and bias (H).

    Arrays: these; gradient by out, out and h (B, H); weight, mean and 1 / sqrt(variance + eps) (H); 1 / (1 - p).
    """
    by_h, by_weight, by_bias = floats(record, 0), floats(record, 1)[0], floats(record, 2)[0]
    grad, out, h = floats(record, 3), floats(record, 4), floats(record, 5)
    weight, mean, inverse = floats(record, 6)[0], floats(record, 7)[0], floats(record, 8)[0]
    factor, n_cells = floats(record, 9)[0, 0], np.float32(len(h))
    by_weight[:], by_bias[:] = ZERO, ZERO
    for b in range(len(h)):
        through(grad[b], out[b], factor, by_h[b])
        add(by_h[b], h[b], mean, inverse, by_weight, by_bias)
    for b in range(len(h)):
        to, row = by_h[b], h[b]
        for j in range(to.size):
            centred = (row[j] - mean[j]) * inverse[j]
            rest = to[j] - (by_bias[j] + centred * by_weight[j]) / n_cells
            to[j] = weight[j] * inverse[j] * rest


@compiled
def through(grad, out, factor, to):
    """Back through dropout and ReLU, both of which leave zeros where they let nothing through."""
    for j in range(to.size):
        to[j] = grad[j] * factor if out[j] > ZERO else ZERO


@compiled
def add(grad, h, mean, inverse, by_weight, by_bias):
    """What a cell adds to the gradients by weight and bias."""
    for j in range(h.size):
        by_weight[j] += grad[j] * (h[j] - mean[j]) * inverse[j]
        by_bias[j] += grad[j]


# stamp a7a9bea6615e666d
