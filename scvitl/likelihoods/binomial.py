r"""Binomial: of the n counts of a cell, each falls on gene g with probability p_g.

log p(x) = lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1) + x log p + (n - x) log(1 - p)

n is the sum of the counts of the cell, a whole number. At the zeros, which most counts are, only the last term is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

TINY = torch.finfo(torch.float32).eps  # probabilities stay as far from 0 and 1, as those of torch do


def log_likelihood(x: Tensor, p: Tensor) -> Tensor:
    """Log-likelihood of counts ``x`` (B, G), summed over genes, for probabilities ``p`` (..., B, G)."""
    return _Binomial.apply(x, p)


def log_likelihood_of_pairs(x: Tensor, p: Tensor) -> Tensor:
    """Log-likelihood of every row of counts ``x`` (A, G) for every row of probabilities ``p`` (B, G), (B, A)."""
    row, _ = at = x.nonzero(as_tuple=True)
    total, inside = x.sum(-1).double(), p.clamp(TINY, 1 - TINY).double()
    fixed = torch.zeros_like(total).index_add_(0, row, log_coefficients(x[at].double(), total[row]))
    # What is left is linear in the counts, so that one product of matrices serves all pairs.
    misses = torch.log1p(-inside)
    found = (torch.log(inside) - misses) @ x.double().T
    return found.addr_(misses.sum(-1), total).add_(fixed).to(p.dtype)


def sample(p: Tensor, total: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Counts (..., B, G) of ``total`` (..., B, 1) trials."""
    return torch.binomial(total.expand_as(p).contiguous(), p, generator=generator)


class _Binomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: Tensor) -> Tensor:
        # flat, which indexes several times faster than a tuple per dimension
        at = x.reshape(-1).nonzero().squeeze(-1)
        counts, total = x.reshape(-1)[at], x.sum(-1)  # (n,), (B,)
        inside = p.clamp(TINY, 1 - TINY)
        at_counts = inside.flatten(-2)[..., at]  # (..., n)
        terms = counts * (torch.log(at_counts) - torch.log1p(-at_counts))
        row = at // x.shape[-1]
        terms = terms + log_coefficients(counts, total[row])
        dense = torch.log1p(-inside).sum(-1).mul_(total)
        ctx.save_for_backward(inside, at, counts, total, at_counts)
        return dense.index_add_(-1, row, terms)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        inside, at, counts, total, at_counts = ctx.saved_tensors
        by_p = torch.div(total.unsqueeze(-1), inside - 1)
        by_p.flatten(-2).index_add_(-1, at, counts / (at_counts * (1 - at_counts)))
        return None, by_p.mul_(grad.unsqueeze(-1))


def log_coefficients(x: Tensor, n: Tensor) -> Tensor:
    """Logarithms of n over x for counts ``x`` (m,) among ``n`` (m,)."""
    # lgamma(n + 1) - lgamma(n - x + 1) is a small difference of large numbers, so these are float64, which Apple's GPUs lack
    device = torch.device("cpu") if x.device.type == "mps" else x.device
    whole, k = n.to(device, torch.int64), x.to(device, torch.int64)
    # A table spares the CPU most of the work; a GPU would be waited for, to ask how long it must be.
    size = (int(whole.max()) + 1 if len(whole) else 1) if device.type == "cpu" else math.inf
    if size > 3 * len(k):
        found = sum(
            sign * torch.lgamma(part.double() + 1) for sign, part in ((1, whole), (-1, whole - k), (-1, k))
        )
    else:
        table = torch.lgamma(torch.arange(1, size + 1, dtype=torch.float64, device=device))
        found = table[whole] - table[whole - k] - table[k]
    return found.to(x)
