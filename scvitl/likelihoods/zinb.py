r"""Zero-inflated negative binomial: with probability sigmoid(pi) a count is lost and reads zero.

With a = theta (log theta - log(theta + mu)), the log-probability of a zero under the negative binomial:

log p(0)     = log(1 + e^(a - pi)) - log(1 + e^-pi)
log p(x > 0) = -pi - log(1 + e^-pi) + log NB(x; mu, theta)

Both logarithms and both sigmoids of the gradient come out of e = e^-pi and p = e^a, which is cheaper than softplus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .nb import EPS, at_nonzeros, nonzero_gradients, nonzero_terms

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOGIT = (
    60.0  # e^60 fits float32 with room for sums; beyond it counts are lost, or kept, with certainty anyway
)


def log_likelihood(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes; ``mu`` and logits ``pi`` (..., B, G), ``theta`` (G) or (..., B, G)."""
    return _ZeroInflated.apply(x, mu, theta, pi)


class _ZeroInflated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor) -> Tensor:
        log_ratio = torch.log(theta + EPS) - torch.log(theta + mu + EPS)  # (..., B, G)
        a = theta * log_ratio
        pi = pi.clamp(-MAX_LOGIT, MAX_LOGIT)
        kept = torch.exp(-pi)  # e
        zero = kept * torch.exp(a)  # e p
        dense = torch.log((1 + zero) / (1 + kept))
        at, counts = at_nonzeros(x, dense)
        theta_at = theta.expand_as(dense)[at]
        dense[at] += a[at] - pi[at] - torch.log1p(zero[at]) + nonzero_terms(counts, mu[at], theta_at)
        ctx.save_for_backward(mu, theta, log_ratio, kept, zero, counts, theta_at, *at)
        return dense.sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        mu, theta, log_ratio, kept, zero, counts, theta_at, *at = ctx.saved_tensors
        at = tuple(at)
        by_a = zero / (1 + zero)  # sigmoid(a - pi); a non-zero count is certainly not lost
        by_a[at] = 1
        share = theta / (theta + mu + EPS)
        by_mu = -share * by_a
        by_theta = (log_ratio + theta / (theta + EPS) - share) * by_a
        mu_at, shape_at = nonzero_gradients(counts, mu[at], theta_at)
        by_mu[at] += mu_at
        by_theta[at] += shape_at
        by_pi = kept / (1 + kept) - by_a
        grad = grad.unsqueeze(-1)
        return None, by_mu.mul_(grad), by_theta.mul_(grad).sum_to_size(theta.shape), by_pi.mul_(grad)
