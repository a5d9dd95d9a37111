"""The best weights seen so far, kept in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

# Held-out losses closer than this are equally good: a few hundred cells do not tell them apart. Of equally good weights
# the latest are kept, since batches go on mixing when the loss has long levelled off.
TOLERANCE = 0.005


class BestWeights:
    """Keeps a copy of the latest weights whose score (lower is better) is the best so far, up to `TOLERANCE`."""

    def __init__(self) -> None:
        self.epoch: int | None = None  # of the weights that are kept
        self.improved: int = -1  # epoch of the best score
        self.score = math.inf
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, score: float, module: nn.Module) -> None:
        """Look at the weights after ``epoch`` and keep them if none before were clearly better."""
        if score < self.score:
            self.improved, self.score = epoch, score
        if score - self.score <= TOLERANCE * abs(self.score):  # never true of NaN
            self.epoch = epoch
            self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def stale(self, epoch: int, patience: int) -> bool:
        """Whether the ``patience`` epochs up to ``epoch`` have all passed without a better score."""
        return epoch - self.improved >= patience

    def restore(self, module: nn.Module) -> None:
        """Put the best weights back, if any were kept."""
        if self.weights:
            module.load_state_dict(self.weights)
