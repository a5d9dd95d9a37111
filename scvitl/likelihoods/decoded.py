r"""Log-likelihood of counts straight from what the decoder gives: logits of the shares, dispersion, logits of dropout.

    mu = exp(library) softmax(logits) or exp(library) softplus(logits),    x ~ NB(mu, theta) or ZINB(mu, theta, dropout)

On the CPU, in float32, a compiled loop makes value and gradient in one go (`scvitl.compiled.negative_binomial`). Elsewhere it
is put together from `nb` and `zinb`. Shapes: B cells, G genes; draws may come before B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd.function import once_differentiable

from ..compiled import negative_binomial
from ..compiled.stored import Stored
from ..compiled.team import n_parts, run
from . import nb, zinb

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6  # relative, of a number in float32


def log_likelihood(
    counts: Tensor | Stored,
    logits: Tensor,
    library: Tensor,
    theta: Tensor,
    dropout: Tensor | None = None,
    *,
    softmax: bool = True,
) -> Tensor:
    """Of ``counts`` (B, G), summed over genes, (..., B).

    ``logits`` and ``dropout`` are (..., B, G), ``library`` (..., B, 1), ``theta`` (G) or (..., B, G).
    """
    stored = isinstance(counts, Stored)
    if stored and logits.device.type == "cpu" and logits.dtype == torch.float32:
        return _Decoded.apply(counts, logits, library, theta, dropout, softmax)
    scale = torch.softmax(logits, dim=-1) if softmax else torch.nn.functional.softplus(logits)
    mu = torch.exp(library) * scale
    x, at = (counts.dense, counts.at()) if stored else (counts, None)
    if dropout is None:
        return nb.log_likelihood(x, mu, theta, at)
    return zinb.log_likelihood(x, mu, theta, dropout, at)


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        stored: Stored,
        logits: Tensor,
        library: Tensor,
        theta: Tensor,
        dropout: Tensor | None,
        softmax: bool,  # noqa: FBT001
    ) -> Tensor:
        ctx.stored, ctx.softmax = stored, softmax
        ctx.shapes = [None if part is None else part.shape for part in (logits, library, theta, dropout)]
        shape = logits.shape
        # R cells, or draws of cells: (R, G), (R), (1, G) or (R, G), (R, G) or (0, G)
        rows = logits.contiguous().view(-1, shape[-1])
        size = library.exp().expand(*shape[:-1], 1).reshape(-1)
        theta = (theta if theta.ndim == 1 else theta.expand(shape)).contiguous().view(-1, shape[-1])
        dropout = rows[:0] if dropout is None else dropout.expand(shape).contiguous().view(-1, shape[-1])
        inputs, wanted = (rows, size, theta, dropout), any(ctx.needs_input_grad)
        # most likely the cells count alike in a mean that is to be made small
        ctx.guess = -1 / max(1, len(size))
        weight = torch.full_like(size, ctx.guess)
        out, *ctx.gradients = _run(stored, *inputs, weight, softmax=softmax, wanted=wanted)
        ctx.save_for_backward(*inputs)
        return out.view(shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.reshape(-1)
        # They serve once, since whoever takes them may change them.
        gradients, ctx.gradients = ctx.gradients, None
        weights = grad.numpy()
        if gradients is not None and (weights == weights[:1]).all():
            factor = float(weights[0]) / ctx.guess if len(weights) else 1.0
            gradients = gradients if abs(factor - 1) < ROUNDING else [part * factor for part in gradients]
        else:
            _, *gradients = _run(ctx.stored, *ctx.saved_tensors, grad, softmax=ctx.softmax, wanted=True)
        logits, library, theta, dropout = ctx.shapes
        by_logits, by_size, by_theta, by_dropout = gradients
        draws = logits[:-1]
        return (
            None,
            by_logits.view(logits),
            by_size.view(*draws, 1).sum_to_size(library),
            by_theta[0] if len(theta) == 1 else by_theta.view(logits).sum_to_size(theta),
            None if dropout is None else by_dropout.view(logits).sum_to_size(dropout),
            None,
        )


def _run(
    stored: Stored,
    logits: Tensor,
    size: Tensor,
    theta: Tensor,
    dropout: Tensor,
    weight: Tensor,
    *,
    softmax: bool,
    wanted: bool,
) -> tuple[Tensor, ...]:
    """Log-likelihoods, and their gradients by logits, log size, theta and dropout, if they are wanted."""
    out, by_size = torch.empty_like(size), torch.empty_like(size)
    gradients = torch.empty_like(logits) if wanted else logits[:0]
    by_dropout = torch.empty_like(dropout) if wanted else dropout[:0]
    # by all cells, whose gradients are then added up, those of a part of the work first
    shared = len(theta) == 1
    by_theta = theta.new_zeros((n_parts() if shared else len(theta)) if wanted else 0, theta.shape[1])
    counts = stored.values, stored.start, stored.columns
    softmax = torch.tensor([softmax], dtype=torch.int32)
    run(
        negative_binomial.log_likelihood,
        logits,
        dropout,
        theta,
        size,
        weight,
        out,
        gradients,
        by_dropout,
        by_theta,
        by_size,
        *counts,
        softmax,
    )
    return out, gradients, by_size, by_theta.sum(0, keepdim=True) if shared else by_theta, by_dropout
