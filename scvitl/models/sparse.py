"""A linear layer on counts of which most are zero: it reads the weights of those genes alone that a cell has counts of.

    out_bh = bias_h + sum over the counts k of cell b of value_k weight_{h, column_k},    and the same backwards.

Compiled, for the CPU. Shapes: B cells, G genes, H units, m counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..compiled import rows
from ..compiled.team import run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..compiled.stored import Stored
    from .cells import Cells

MAX_DENSITY = 0.2  # share of counts that are not zero up to which this is faster than a product of matrices


@dataclass(frozen=True, slots=True)
class Counts:
    """What an encoder sees of B cells: counts, as they are or transformed, and further columns."""

    stored: Stored
    columns: Tensor  # (B, c)

    def log1p(self) -> Counts:
        """Log(1 + counts), which leaves zeros what they are."""
        return self._with(torch.log1p(self.stored.values))

    def __truediv__(self, sizes: Tensor) -> Counts:
        """Divided by a number for every cell, (B, 1)."""
        return self._with(self.stored.values / sizes[self.stored.rows(), 0])

    def _with(self, values: Tensor) -> Counts:
        return replace(self, stored=replace(self.stored, values=values))

    def append(self, columns: Tensor) -> Counts:
        """With more columns."""
        return replace(self, columns=torch.cat([self.columns, columns], dim=-1))

    def through(self, linear: nn.Linear) -> Tensor:
        """What a linear layer makes of them, (B, H)."""
        weight, n = linear.weight, self.stored.n_genes
        bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias
        if weight.shape[1] == n:
            return _Product.apply(self.stored, weight, bias)
        return _Product.apply(self.stored, weight[:, :n], bias) + F.linear(self.columns, weight[:, n:])


def by_row(linear: nn.Linear) -> None:
    """Let the weights of an input lie side by side, where `Counts` finds them without making a copy."""
    linear.weight.data = linear.weight.data.T.contiguous().T


def counts(cells: Cells) -> Tensor | Counts:
    """The counts of ``cells``, dense where that is faster."""
    stored, n_cells = cells.stored, len(cells.library)
    if stored is None or stored.values.device.type != "cpu" or stored.values.dtype != torch.float32:
        return cells.x
    if len(stored.columns) > MAX_DENSITY * n_cells * stored.n_genes:
        return cells.x
    return Counts(stored, cells.continuous[:, :0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stored: Stored, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.stored, ctx.n_genes = stored, weight.shape[1]
        out = weight.new_empty(len(stored.start) - 1, weight.shape[0])
        run(rows.product, out, weight.T.contiguous(), stored.values, stored.start, stored.columns, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        by_weight = grad.new_empty(ctx.n_genes, grad.shape[1])  # (G, H)
        stored = ctx.stored
        run(rows.gradient, by_weight, grad.contiguous(), stored.values, stored.start, stored.columns)
        return None, by_weight.T, grad.sum(0)
