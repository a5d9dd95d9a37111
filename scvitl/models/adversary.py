"""A classifier that finds the batch in the latent state, and an encoder that learns to hide it.

With proteins missing in a batch, what is missing would tell batches apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .blocks import FullyConnected

N_HIDDEN = 32


class Adversary(nn.Module):
    """Logits of the batches from the latent state."""

    def __init__(self, n_latent: int, n_batch: int, weight: float | None) -> None:
        super().__init__()
        self.weight, self.n_batch = weight, n_batch  # `None`: as much as the KL term is not yet weighed
        self.hidden = FullyConnected(n_latent, N_HIDDEN, n_hidden=N_HIDDEN, n_layers=2)
        self.batches = nn.Linear(N_HIDDEN, n_batch)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.batches(self.hidden(z, z[..., :0], generator))  # (B, K)

    def loss(
        self, z: Tensor, batch: Tensor, *, kl_weight: float, generator: torch.Generator | None = None
    ) -> Tensor | float:
        """What the encoder pays for states ``z`` (B, D) that give ``batch`` (B,) away, and the classifier for its errors.

        The encoder wants every wrong batch to look as likely as the others. Either learns from its own part only.
        """
        weight = 1 - kl_weight if self.weight is None else self.weight
        if weight <= 0:
            return 0.0
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        log_p = functional_call(self, fixed, (z, generator)).log_softmax(-1)  # (B, K)
        wrong = (1 - F.one_hot(batch, self.n_batch)) / (self.n_batch - 1)
        fooled = -(log_p * wrong).sum(-1).mean()
        return weight * (fooled + F.cross_entropy(self(z.detach(), generator), batch))
