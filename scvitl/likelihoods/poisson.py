"""Poisson: log p(x) = x log rate - rate - lgamma(x + 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .nb import MAX_RATE

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(x: Tensor, rate: Tensor) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes, for ``rate`` (..., B, G)."""
    # The softmax can underflow to a rate of zero; the smallest normal number keeps the logarithm finite there.
    rate = rate.clamp_min(torch.finfo(rate.dtype).tiny)
    return (x * torch.log(rate) - rate - torch.lgamma(x + 1)).sum(-1)


def sample(rate: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Counts with mean ``rate`` (..., B, G)."""
    return torch.poisson(rate.clamp(max=MAX_RATE), generator=generator)
