r"""Negative binomial with mean mu and inverse dispersion theta (variance mu + mu^2 / theta).

log p(x) = theta (log theta - log(theta + mu)) + x (log mu - log(theta + mu))
           + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)

Most counts are zero, and there all but the first term vanish. So that term is computed densely and the others,
with their costly lgamma (and digamma in the gradient), at the non-zero counts only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..compiled.limits import EPS

if TYPE_CHECKING:
    from torch import Tensor

MAX_RATE = 1e8  # beyond it a Poisson draw loses digits of float32


def log_likelihood(x: Tensor, mu: Tensor, theta: Tensor, at: Tensor | None = None) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes, for ``mu`` (..., B, G) and ``theta`` (G) or (..., B, G).

    ``at`` (n,) are the positions of those that are not zero in the flattened ``x``, if known: a GPU that has to look for
    them is waited for.
    """
    return _NegativeBinomial.apply(x, mu, theta, at)


def sample(mu: Tensor, theta: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Counts with mean ``mu`` (..., B, G): Poisson draws whose rates are Gamma draws."""
    return torch.poisson(gamma(mu, theta, generator=generator), generator=generator)


def gamma(mu: Tensor, theta: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Rates of the counts, (..., B, G): Gamma with mean ``mu`` and variance ``mu``^2 / ``theta``."""
    shape = theta.expand_as(mu).contiguous()
    rate = torch._standard_gamma(shape, generator=generator) * (mu / theta)
    return rate.clamp_(max=MAX_RATE)


class Nonzeros:
    """The non-zero entries of ``x``, repeated over the sample dimensions of the parameters.

    Positions are flat, which indexes several times faster than a tuple per dimension.
    """

    def __init__(self, x: Tensor, mu: Tensor, theta: Tensor, at: Tensor | None) -> None:
        if at is None:
            at = x.reshape(-1).nonzero().squeeze(-1)
        draws = torch.arange(0, mu.numel(), x.numel(), device=x.device)
        x = x.expand_as(mu).reshape(-1)
        self.at = (draws[:, None] + at).view(-1)  # (n,)
        self.x = x[self.at]
        self.mu = mu.reshape(-1)[self.at]
        # Terms of theta alone are computed once per gene where it is (G), then looked up.
        shared = theta.shape != mu.shape
        self.theta_at = self.at % theta.numel() if shared else self.at
        self.by_theta = theta.reshape(-1) if shared else theta.reshape(-1)[self.at]
        self.shared = shared
        self.theta = self.look_up(self.by_theta)

    def look_up(self, values: Tensor) -> Tensor:
        """Terms of theta at the non-zero entries, (n,)."""
        return values[self.theta_at] if self.shared else values

    def log_likelihood(self) -> Tensor:
        """Terms of log p(x) beyond log p(0), (n,)."""
        return (
            self.x * (torch.log(self.mu + EPS) - torch.log(self.theta + self.mu + EPS))
            + torch.lgamma(self.x + self.theta)
            - self.look_up(torch.lgamma(self.by_theta))
            - torch.lgamma(self.x + 1)
        )

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Gradients of these terms by mu and theta, each (n,)."""
        per_total = self.x / (self.theta + self.mu + EPS)
        by_theta = torch.digamma(self.x + self.theta) - self.look_up(torch.digamma(self.by_theta)) - per_total
        return self.x / (self.mu + EPS) - per_total, by_theta

    def add(self, dense: Tensor, values: Tensor) -> None:
        """Add ``values`` (n,) to the non-zero entries of ``dense``, in place."""
        dense.view(-1).index_add_(0, self.at, values)


class _NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mu: Tensor, theta: Tensor, at: Tensor | None) -> Tensor:
        log_ratio = torch.log(theta + EPS) - torch.log(theta + mu + EPS)  # (..., B, G)
        dense = theta * log_ratio  # log p(0)
        ctx.nonzeros = Nonzeros(x, mu, theta, at)
        ctx.nonzeros.add(dense, ctx.nonzeros.log_likelihood())
        ctx.save_for_backward(mu, theta, log_ratio)
        return dense.sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        mu, theta, log_ratio = ctx.saved_tensors
        share = theta / (theta + mu + EPS)
        by_theta = log_ratio + theta / (theta + EPS) - share
        by_mu = share.neg_()
        for dense, values in zip((by_mu, by_theta), ctx.nonzeros.gradients(), strict=True):
            ctx.nonzeros.add(dense, values)
        grad = grad.unsqueeze(-1)
        return None, by_mu.mul_(grad), by_theta.mul_(grad).sum_to_size(theta.shape), None
