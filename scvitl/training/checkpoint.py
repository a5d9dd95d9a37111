"""The best weights seen so far, kept in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class BestWeights:
    """Keeps a copy of the weights whenever the score (lower is better) improves."""

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.score = math.inf
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, score: float, module: nn.Module) -> None:
        """Look at the weights after ``epoch`` and keep them if ``score`` is the best so far."""
        if score < self.score:
            self.epoch, self.score = epoch, score
            self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def stale(self, epoch: int, patience: int) -> bool:
        """Whether the ``patience`` epochs up to ``epoch`` have all passed without a better score."""
        return epoch - (-1 if self.epoch is None else self.epoch) >= patience

    def restore(self, module: nn.Module) -> None:
        """Put the best weights back, if any were kept."""
        if self.weights:
            module.load_state_dict(self.weights)
