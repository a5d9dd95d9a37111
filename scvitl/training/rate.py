"""The learning rate while training goes on: one cycle, or smaller steps where the loss stays as it is.

What torch has for both needs its optimisers, and these load its compiler, which takes seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from .adam import Adam

RISE = 0.3  # share of the steps until the peak
FIRST, LAST = 1 / 25, 1 / 250_000  # rates at both ends, by the peak
MOMENTUM, LEAST_MOMENTUM = 0.95, 0.85  # of the first moment of Adam, at both ends and at the peak


@dataclass(frozen=True)
class OneCycle:
    """Up to a peak and down to nothing, both along a cosine (Smith & Topin 2019, arXiv 1708.07120); momentum the other way."""

    peak: float
    n_steps: int

    def at(self, step: int) -> tuple[float, float]:
        """Rate and momentum of a step, counted from 0."""
        top = RISE * (self.n_steps + 1) - 1
        if step <= top:
            share = step / top if top > 0 else 1.0
            return _between(FIRST, 1.0, share) * self.peak, _between(MOMENTUM, LEAST_MOMENTUM, share)
        share = (step - top) / (self.n_steps - top)
        return _between(1.0, LAST, share) * self.peak, _between(LEAST_MOMENTUM, MOMENTUM, share)

    def set(self, optimizer: Adam | Optimizer, step: int) -> None:
        """Give the optimiser what it steps with."""
        rate, momentum = self.at(step)
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = rate, (momentum, group["betas"][1])


@dataclass
class Plateau:
    """Steps smaller by a factor after more epochs than ``patience`` without a better loss."""

    factor: float
    patience: int
    best: float = math.inf
    n_waited: int = 0

    def step(self, loss: float, optimizer: Adam | Optimizer) -> None:
        """Look at the loss of an epoch."""
        if loss < self.best:
            self.best, self.n_waited = loss, 0
            return
        self.n_waited += 1
        if self.n_waited > self.patience:
            self.n_waited = 0
            for group in optimizer.param_groups:
                group["lr"] *= self.factor


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
