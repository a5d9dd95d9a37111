r"""Negative binomial with mean mu and inverse dispersion theta (variance mu + mu^2 / theta).

log p(x) = theta (log theta - log(theta + mu)) + x (log mu - log(theta + mu))
           + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)

Most counts are zero, and there all but the first term vanish. So that term is computed densely and the others,
with their costly lgamma (and digamma in the gradient), at the non-zero counts only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8  # keeps logarithms finite where the softmax underflows to a mean of zero


def log_likelihood(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes, for ``mu`` (..., B, G) and ``theta`` (G) or (..., B, G)."""
    return _NegativeBinomial.apply(x, mu, theta)


def at_nonzeros(x: Tensor, like: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Positions and values of the non-zero counts, repeated over the sample dimensions of ``like``."""
    x = x.expand_as(like)
    at = x.nonzero(as_tuple=True)
    return at, x[at]


def nonzero_terms(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    """Terms of log p(x) beyond log p(0); all arguments hold the non-zero entries alone, shape (n,)."""
    return (
        x * (torch.log(mu + EPS) - torch.log(theta + mu + EPS))
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )


def nonzero_gradients(x: Tensor, mu: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `nonzero_terms` by mu and theta."""
    per_total = x / (theta + mu + EPS)
    return x / (mu + EPS) - per_total, torch.digamma(x + theta) - torch.digamma(theta) - per_total


class _NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
        log_ratio = torch.log(theta + EPS) - torch.log(theta + mu + EPS)  # (..., B, G)
        dense = theta * log_ratio  # log p(0)
        at, counts = at_nonzeros(x, dense)
        theta_at = theta.expand_as(dense)[at]
        dense[at] += nonzero_terms(counts, mu[at], theta_at)
        ctx.save_for_backward(mu, theta, log_ratio, counts, theta_at, *at)
        return dense.sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        mu, theta, log_ratio, counts, theta_at, *at = ctx.saved_tensors
        at = tuple(at)
        share = theta / (theta + mu + EPS)
        by_mu = -share
        by_theta = log_ratio + theta / (theta + EPS) - share
        mu_at, shape_at = nonzero_gradients(counts, mu[at], theta_at)
        by_mu[at] += mu_at
        by_theta[at] += shape_at
        grad = grad.unsqueeze(-1)
        return None, by_mu.mul_(grad), by_theta.mul_(grad).sum_to_size(theta.shape)
