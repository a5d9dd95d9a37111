"""Counts of which most are zero, as compiled loops take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """The counts of B cells that are not zero, a cell after the other, by column."""

    start: Tensor  # (B + 1,) where the counts of a cell begin, and the last ones end
    columns: Tensor  # (m,) of the genes
    values: Tensor  # (m,)
    n_genes: int

    @classmethod
    def of(cls, counts: csr_matrix) -> Stored:
        """The counts of a sparse matrix."""
        start, columns = (torch.from_numpy(part).int() for part in (counts.indptr, counts.indices))
        return cls(start, columns, torch.from_numpy(counts.data), counts.shape[1])

    def rows(self) -> Tensor:
        """Cells of the counts, (m,)."""
        return torch.repeat_interleave(self.start.diff(), output_size=len(self.columns))

    def at(self) -> Tensor:
        """Positions in the flattened (B, G), (m,), cell after cell."""
        return self.rows().long() * self.n_genes + self.columns

    @cached_property
    def dense(self) -> Tensor:
        """All counts, (B, G), made when they are first read."""
        x = self.values.new_zeros((len(self.start) - 1) * self.n_genes)
        x[self.at()] = self.values
        return x.view(-1, self.n_genes)


# stamp a7a9bea6615e666d
