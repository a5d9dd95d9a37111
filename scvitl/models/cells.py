"""What a model sees of a minibatch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..compiled.stored import Stored


@dataclass(frozen=True, slots=True)
class Cells:
    """B cells with their counts and covariates on the device of the model."""

    x: Tensor | None  # (B, G) counts; minified cells have none
    library: Tensor  # (B, 1) log of the total counts, or of the size factor where one was given
    batch: Tensor  # (B,) codes
    labels: Tensor  # (B,) codes
    categorical: Tensor  # (B, C) codes, a column per categorical covariate
    continuous: Tensor  # (B, c)
    # mean and variance (B, D) that minified cells have instead
    posterior: tuple[Tensor, Tensor] | None = None
    proteins: Tensor | None = None  # (B, P) counts
    panel: Tensor | None = None  # (B,) codes of the panels of proteins
    stored: Stored | None = None  # the counts that are not zero, if known

    def take(self, rows: Tensor) -> Cells:
        """The cells at ``rows``."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "stored")
        return Cells(*(None if value is None else value[rows] for value in values))
