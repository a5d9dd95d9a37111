r"""Zero-inflated negative binomial: with probability sigmoid(pi) a count is lost and reads zero.

With a = theta (log theta - log(theta + mu)), the log-probability of a zero under the negative binomial:

log p(0)     = log(1 + e^(a - pi)) - log(1 + e^-pi)
log p(x > 0) = -pi - log(1 + e^-pi) + log NB(x; mu, theta)

Both logarithms and both sigmoids of the gradient come out of e = e^-pi and p = e^a, which is cheaper than softplus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..compiled.limits import EPS, MAX_LOGIT
from . import nb
from .nb import Nonzeros

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor, at: Tensor | None = None) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes; ``mu`` and logits ``pi`` (..., B, G), ``theta`` (G) or (..., B, G).

    ``at`` as in `nb.log_likelihood`.
    """
    return _ZeroInflated.apply(x, mu, theta, pi, at)


def sample(mu: Tensor, theta: Tensor, pi: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Counts of which a share sigmoid(``pi``) is lost, (..., B, G)."""
    kept = torch.rand(pi.shape, generator=generator, device=pi.device) >= torch.sigmoid(pi)
    return nb.sample(mu, theta, generator=generator) * kept


class _ZeroInflated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor, at: Tensor | None) -> Tensor:
        log_ratio = torch.log(theta + EPS) - torch.log(theta + mu + EPS)  # (..., B, G)
        a = theta * log_ratio
        pi = pi.clamp(-MAX_LOGIT, MAX_LOGIT)
        kept = torch.exp(-pi)  # e
        zero = torch.exp(a).mul_(kept)  # e p
        dense = torch.log((1 + zero).div_(1 + kept))
        ctx.nonzeros = Nonzeros(x, mu, theta, at)
        a, pi, zero_at = (values.view(-1)[ctx.nonzeros.at] for values in (a, pi, zero))
        ctx.nonzeros.add(dense, a - pi - torch.log1p(zero_at) + ctx.nonzeros.log_likelihood())
        ctx.save_for_backward(mu, theta, log_ratio, kept, zero)
        return dense.sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        mu, theta, log_ratio, kept, zero = ctx.saved_tensors
        by_a = zero / (1 + zero)  # sigmoid(a - pi)
        by_a.view(-1)[ctx.nonzeros.at] = 1  # a non-zero count is certainly not lost
        share = theta / (theta + mu + EPS)
        by_theta = (log_ratio + theta / (theta + EPS)).sub_(share).mul_(by_a)
        by_mu = share.neg_().mul_(by_a)
        for dense, values in zip((by_mu, by_theta), ctx.nonzeros.gradients(), strict=True):
            ctx.nonzeros.add(dense, values)
        by_pi = (kept / (1 + kept)).sub_(by_a)
        grad = grad.unsqueeze(-1)
        return None, by_mu.mul_(grad), by_theta.mul_(grad).sum_to_size(theta.shape), by_pi.mul_(grad), None
