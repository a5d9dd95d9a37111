"""Batch norm, ReLU and dropout of a layer while it is trained, compiled, for the CPU: one call in place of seven.

Shapes: B cells, H units.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.autograd.function import once_differentiable

from ..compiled import hidden
from ..compiled.team import run

if TYPE_CHECKING:
    from torch import Tensor, nn


def fits(h: Tensor, norm: nn.BatchNorm1d) -> bool:
    """Whether `through` does what the modules do to ``h``."""
    here = h.device.type == "cpu" and h.dtype == torch.float32
    return here and h.ndim == 2 and len(h) > 1 and norm.training and norm.momentum is not None


def through(h: Tensor, norm: nn.BatchNorm1d, noise: Tensor | None, rate: float) -> Tensor:
    """``h`` (B, H) after batch norm, ReLU and, where there is ``noise`` (B, H), dropout of a share ``rate`` by it."""
    norm.num_batches_tracked.add_(1)
    return _Hidden.apply(h, norm.weight, norm.bias, norm, noise, 0 if noise is None else rate)


def threshold(rate: float) -> int:
    """From which number of 16 random bits on a unit is kept where a share ``rate`` is left out."""
    return min(round(rate * 2**16) - 2**15, 2**15 - 1)


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, h: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d, noise: Tensor | None, rate: float
    ) -> Tensor:
        h = h.contiguous()
        out, mean, inverse = (torch.empty_like(part) for part in (h, weight, weight))
        numbers, factor, least = _constants(norm.eps, norm.momentum, rate)
        given = weight, bias, norm.running_mean, norm.running_var, mean, inverse, numbers
        run(hidden.forward, out, h, *given, least if noise is None else noise, least)
        ctx.save_for_backward(out, h, weight, mean, inverse, factor)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_h, by_weight, by_bias = (torch.empty_like(part) for part in ctx.saved_tensors[1:4])
        run(hidden.backward, by_h, by_weight, by_bias, grad.contiguous(), *ctx.saved_tensors)
        return by_h, by_weight, by_bias, None, None, None


@cache
def _constants(eps: float, momentum: float, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the compiled loops read: numbers, 1 / (1 - rate), and the `threshold`, if any unit is left out."""
    numbers = torch.tensor([eps, momentum, 1 / (1 - rate)])
    return numbers, numbers[2:], torch.tensor([threshold(rate)] if rate else [], dtype=torch.int16)
