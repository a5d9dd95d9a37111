"""Adam (Kingma & Ba 2015) on weights in whatever order their entries have in memory."""

from __future__ import annotations

import numpy as np

from .team import compiled, floats, kernel


@kernel("f")
def step(record, part, parts):
    """One step of every weight; entries are shared out.

    Arrays: beta1, beta2, eps, weight decay; of every weight (W, 2) the rate, corrected for the bias of the first moment, and
    the root of the correction of the second; then of every weight its entries, gradient, first and second moment, all
    in the same order.
    """
    numbers, rates = floats(record, 0)[0], floats(record, 1)
    for i in range(len(rates)):
        at = 4 * i + 2
        weight, grad = floats(record, at)[0], floats(record, at + 1)[0]
        first, second = floats(record, at + 2)[0], floats(record, at + 3)[0]
        start, stop = part * weight.size // parts, (part + 1) * weight.size // parts
        move(numbers, rates[i], weight[start:stop], grad[start:stop], first[start:stop], second[start:stop])


@compiled
def move(numbers, rates, weight, grad, first, second):
    """Some of the entries of a weight."""
    beta1, beta2, eps, decay = numbers[0], numbers[1], numbers[2], numbers[3]
    rate, root = rates[0], rates[1]
    a, b = np.float32(1) - beta1, np.float32(1) - beta2
    for k in range(weight.size):
        w = weight[k]
        g = grad[k] + decay * w
        m = first[k] + a * (g - first[k])
        v = beta2 * second[k] + b * g * g
        first[k], second[k] = m, v
        weight[k] = w - rate * m / (np.sqrt(v) / root + eps)


# stamp a7a9bea6615e666d
