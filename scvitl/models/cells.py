"""What a model sees of a minibatch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..compiled.stored import Stored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cells:
    """B cells with their counts and covariates on the device of the model."""

    counts: Tensor | Stored | None  # (B, G), all of them or those that are not zero; minified cells have none
    library: Tensor  # (B, 1) log of the total counts, or of the size factor where one was given
    batch: Tensor  # (B,) codes
    labels: Tensor  # (B,) codes
    categorical: Tensor  # (B, C) codes, a column per categorical covariate
    continuous: Tensor  # (B, c)
    # mean and variance (B, D) that minified cells have instead
    posterior: tuple[Tensor, Tensor] | None = None
    proteins: Tensor | None = None  # (B, P) counts
    panel: Tensor | None = None  # (B,) codes of the panels of proteins

    @property
    def x(self) -> Tensor | None:
        """All counts, (B, G); those that are not zero take little room, so that these are only made for a reader."""
        return self.counts.dense if isinstance(self.counts, Stored) else self.counts

    @property
    def stored(self) -> Stored | None:
        """The counts that are not zero, if known."""
        return self.counts if isinstance(self.counts, Stored) else None

    def take(self, rows: Tensor) -> Cells:
        """The cells at ``rows``."""
        values = (self.x, *(getattr(self, field.name) for field in fields(self)[1:]))
        return Cells(*(None if value is None else value[rows] for value in values))
