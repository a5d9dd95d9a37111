"""Batch norm, ReLU and dropout of hidden units, B cells by H units, and their gradients; units are shared out.

centred = (h - mean) / sqrt(variance + eps),    out = max(0, weight centred + bias) kept / (1 - p)
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ONE, ZERO
from .team import compiled, floats, kernel, shorts


@compiled
def shared(n, part, parts):
    """The first of a part of ``n`` units, and the one after its last."""
    return part * n // parts, (part + 1) * n // parts


@kernel
def forward(record, part, parts):
    """Out, with mean and 1 / sqrt(variance + eps) of the cells, and what has been seen of both so far brought up to date.

    Arrays: out and h (B, H); weight, bias, running mean, running variance, mean and 1 / sqrt(variance + eps) (H); eps,
    momentum and 1 / (1 - p); random numbers (B, H) of which those from a threshold on keep a unit, and the threshold,
    or none of both.
    """
    out, h = floats(record, 0), floats(record, 1)
    weight, bias = floats(record, 2)[0], floats(record, 3)[0]
    running_mean, running_variance = floats(record, 4)[0], floats(record, 5)[0]
    means, inverses, numbers = floats(record, 6)[0], floats(record, 7)[0], floats(record, 8)[0]
    noise, threshold = shorts(record, 9), shorts(record, 10)
    eps, momentum, factor = numbers[0], numbers[1], numbers[2]
    n_cells = np.float32(len(h))
    first, last = shared(h.shape[1], part, parts)
    mean, inverse = means[first:last], inverses[first:last]
    mean[:], inverse[:] = ZERO, ZERO
    for b in range(len(h)):
        row = h[b, first:last]
        for j in range(row.size):
            mean[j] += row[j]
    mean /= n_cells
    for b in range(len(h)):
        row = h[b, first:last]
        for j in range(row.size):
            inverse[j] += (row[j] - mean[j]) ** 2
    for j in range(mean.size):
        seen, variance = first + j, inverse[j] / n_cells
        running_mean[seen] += momentum * (mean[j] - running_mean[seen])
        running_variance[seen] += momentum * (inverse[j] / (n_cells - ONE) - running_variance[seen])
        inverse[j] = ONE / np.sqrt(variance + eps)
    for b in range(len(h)):
        row, to = h[b, first:last], out[b, first:last]
        for j in range(row.size):
            centred = (row[j] - mean[j]) * inverse[j]
            to[j] = max(weight[first + j] * centred + bias[first + j], ZERO)
        if noise.size > 0:
            random = noise[b, first:last]
            for j in range(row.size):
                to[j] = to[j] * factor if random[j] >= threshold[0, 0] else ZERO


@kernel
def backward(record, part, parts):
    """Gradients by h (B, H), weight and bias (H).

    Arrays: these; gradient by out, out and h (B, H); weight, mean and 1 / sqrt(variance + eps) (H); 1 / (1 - p).
    """
    by_h, by_weights, by_biases = floats(record, 0), floats(record, 1)[0], floats(record, 2)[0]
    grad, out, h = floats(record, 3), floats(record, 4), floats(record, 5)
    weight, means, inverses = floats(record, 6)[0], floats(record, 7)[0], floats(record, 8)[0]
    factor, n_cells = floats(record, 9)[0, 0], np.float32(len(h))
    first, last = shared(h.shape[1], part, parts)
    mean, inverse = means[first:last], inverses[first:last]
    by_weight, by_bias = by_weights[first:last], by_biases[first:last]
    by_weight[:], by_bias[:] = ZERO, ZERO
    for b in range(len(h)):
        to = by_h[b, first:last]
        through(grad[b, first:last], out[b, first:last], factor, to)
        add(to, h[b, first:last], mean, inverse, by_weight, by_bias)
    for b in range(len(h)):
        to, row = by_h[b, first:last], h[b, first:last]
        for j in range(to.size):
            centred = (row[j] - mean[j]) * inverse[j]
            rest = to[j] - (by_bias[j] + centred * by_weight[j]) / n_cells
            to[j] = weight[first + j] * inverse[j] * rest


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


# stamp 947a3f2af9f2fc3e
