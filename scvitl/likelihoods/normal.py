"""Normal with mean mu and standard deviation sigma, for values that are not counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(x: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Log-likelihood of values ``x`` (B, G), summed over genes, for ``mu`` (..., B, G) and ``sigma`` (G) or (..., B, G)."""
    return (-0.5 * ((x - mu) / sigma) ** 2 - torch.log(sigma) - 0.5 * math.log(2 * math.pi)).sum(-1)


def sample(mu: Tensor, sigma: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Values with mean ``mu`` (..., B, G)."""
    return mu + sigma * torch.randn(mu.shape, generator=generator, device=mu.device)
