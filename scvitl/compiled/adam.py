"""Adam (Kingma & Ba 2015) on weights in whatever order their entries have in memory."""

from __future__ import annotations

import numpy as np

from .team import compiled, floats, integers, team


def step(record, part, parts):
    """One step of every weight; entries are shared out.

    Arrays: numbers (rate corrected for the bias of the first moment, root of the correction of the second, beta1, beta2, eps,
    weight decay); then of every weight its entries, gradient, first and second moment, all in the same order.
    """
    numbers = floats(record, 0)[0]
    n_weights = integers(record, 1)[0]
    for i in range(n_weights):
        weight, grad = floats(record, 4 * i + 2)[0], floats(record, 4 * i + 3)[0]
        first, second = floats(record, 4 * i + 4)[0], floats(record, 4 * i + 5)[0]
        start, stop = part * weight.size // parts, (part + 1) * weight.size // parts
        move(numbers, weight[start:stop], grad[start:stop], first[start:stop], second[start:stop])


@compiled
def move(numbers, weight, grad, first, second):
    """Some of the entries of a weight."""
    rate, root, beta1, beta2, eps, decay = numbers
    a, b = np.float32(1) - beta1, np.float32(1) - beta2
    for k in range(weight.size):
        w = weight[k]
        g = grad[k] + decay * w
        m = first[k] + a * (g - first[k])
        v = beta2 * second[k] + b * g * g
        first[k], second[k] = m, v
        weight[k] = w - rate * m / (np.sqrt(v) / root + eps)


run = team(step)
