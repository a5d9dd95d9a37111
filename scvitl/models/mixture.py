"""Log-likelihood of counts that are native or ambient, straight from the logits of the native shares, with its gradient.

    v = max(0, softplus(u) - threshold) level,    beta = v / (sum v + TINY),    p = (1 - nu) beta + nu alpha
    log p(x) = sum over genes of x log p + (n - x) log(1 - p) + log (n over x)

In training this is most of the work. Value and gradient are made together, a few cells at a time, so that what is between
them stays in the cache. Shapes: B cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..likelihoods.binomial import TINY as CLOSEST
from ..likelihoods.binomial import log_coefficients
from .scar_decoder import TINY

CACHED = 2**17  # entries looked at together
LOWEST = -80.0  # logits below it give shares of zero in float32, too


def log_likelihood(
    x: Tensor, at: Tensor, u: Tensor, noise: Tensor, ambient: Tensor, level: Tensor, threshold: float
) -> Tensor:
    """Of counts ``x`` (B, G), zero but at the positions ``at`` (m,), in order, of the flattened ``x``, for logits ``u``.

    ``noise`` (B, 1) are the shares of ambient counts, ``ambient`` (B, G) or (1, G) the profile.
    """
    return _Mixture.apply(x, at, u, noise, ambient, level, threshold)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, at: Tensor, u: Tensor, noise: Tensor, ambient: Tensor, level: Tensor, threshold: float
    ) -> Tensor:
        n_cells, n_genes = u.shape
        counts, row, total = x.view(-1)[at], at // n_genes, x.sum(-1)
        coefficients = log_coefficients(counts, total[row])
        by_u, by_noise, out = torch.empty_like(u), torch.empty_like(noise), torch.empty_like(total)
        if u.device.type == "cpu":
            size = max(1, CACHED // n_genes)
            cuts = torch.searchsorted(at, torch.arange(0, n_cells + size, size) * n_genes).tolist()
        else:
            size, cuts = n_cells, [0, len(at)]
        for start, first, last in zip(range(0, n_cells, size), cuts, cuts[1:], strict=False):
            cells, seen = slice(start, start + size), slice(first, last)
            part = _Part(
                at[seen] - start * n_genes, row[seen] - start, counts[seen], coefficients[seen], total[cells]
            )
            alpha = ambient if len(ambient) == 1 else ambient[cells]
            out[cells], by_noise[cells] = part(u[cells], noise[cells], alpha, level, threshold, by_u[cells])
        ctx.save_for_backward(by_u, by_noise)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_u, by_noise = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return None, None, by_u * grad, by_noise * grad, None, None, None


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the cells: where they have counts, which, and how many in all."""

    at: Tensor  # (m,), positions among the entries of these cells
    row: Tensor  # (m,)
    counts: Tensor  # (m,)
    coefficients: Tensor  # (m,), logarithms of the binomial coefficients
    total: Tensor  # (b,)

    def __call__(
        self, u: Tensor, noise: Tensor, ambient: Tensor, level: Tensor, threshold: float, by_u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-likelihood (b,) and its gradient by ``noise``, (b, 1); that by ``u`` goes into ``by_u``."""
        shares, slope = _softplus(u, threshold)
        shares.mul_(level)
        slope.mul_(level)
        sum_ = shares.sum(-1, keepdim=True).add_(TINY)
        shares.div_(sum_)
        p = torch.lerp(shares, ambient.expand_as(shares), noise).clamp_(CLOSEST, 1 - CLOSEST)
        seen, minus = p.view(-1)[self.at], p.neg_()
        value = torch.log1p(minus).sum(-1).mul_(self.total)
        terms = self.counts * (torch.log(seen) - torch.log1p(-seen)) + self.coefficients
        value.index_add_(0, self.row, terms)
        # by p: -n / (1 - p), and at the counts x / (p (1 - p)) more
        by_p = torch.div(-self.total[:, None], minus.add_(1))
        by_p.view(-1).index_add_(0, self.at, self.counts / (seen * (1 - seen)))
        # d beta_i / d u_j = (1[i = j] - beta_i) slope_j / sum, where gene j is above the threshold
        native = torch.linalg.vecdot(by_p, shares).unsqueeze(-1)
        by_noise = torch.linalg.vecdot(by_p, ambient).unsqueeze(-1) - native
        torch.mul(by_p.sub_(native), slope, out=by_u).mul_((1 - noise) / sum_)
        return value, by_noise


def _softplus(u: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """max(0, softplus(u) - threshold) and its slope."""
    if not threshold:
        return F.softplus(u), torch.sigmoid(u)
    # softplus(u) = u - log(sigmoid(u)) takes half the time; it is inexact where the threshold is far above it
    u = u.clamp_min(LOWEST)
    slope = torch.sigmoid(u)
    values = u.sub_(torch.log(slope)).sub_(threshold).relu_()
    return values, slope.mul_(torch.sign(values))
