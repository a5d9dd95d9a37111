"""What the models hand on: posteriors, parameters of the counts, losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .blocks import sample_normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is known of the latent variables of B cells once their counts are seen: normal distributions."""

    mean: Tensor  # (B, D), before any softmax
    variance: Tensor  # (B, D)
    library: Tensor  # (B, 1), log: as observed, else the mean of its posterior
    library_variance: Tensor | None  # (B, 1), where the library is latent

    def draw(
        self, n_samples: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latent state and log library size, (B, D) and (B, 1), with a leading (S,) where ``n_samples`` is given."""
        z = sample_normal(self.mean, self.variance, n_samples, generator)
        if self.library_variance is None:
            return z, self.library.expand(*z.shape[:-1], 1)
        return z, sample_normal(self.library, self.library_variance, n_samples, generator)

    def take(self, rows: Tensor) -> Posterior:
        """The posteriors of the cells at ``rows``, which may repeat cells."""
        library_variance = None if self.library_variance is None else self.library_variance[rows]
        return Posterior(self.mean[rows], self.variance[rows], self.library[rows], library_variance)


@dataclass(frozen=True, slots=True)
class Expression:
    """Parameters of the counts."""

    scale: Tensor  # (..., B, G), share of each gene (with a size factor: its level before scaling)
    rate: Tensor  # (..., B, G), exp(library) scale
    theta: Tensor | None  # (G) or (..., B, G), inverse dispersion; standard deviation for "normal"
    dropout: Tensor | None  # (..., B, G), logits of the zero inflation


@dataclass(frozen=True, slots=True)
class ProteinExpression:
    """Parameters of the counts of proteins: a mixture of background and foreground."""

    background: Tensor  # (..., B, P), mean of background counts
    foreground: Tensor  # (..., B, P), mean of foreground counts, larger
    mixing: Tensor  # (..., B, P), logits of being background
    theta: Tensor  # (P) or (B, P), inverse dispersion
    efficiency: Tensor | None  # (B, P), by which the means of a batch differ from those of the average batch

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Means of background and foreground counts as they are in the batch."""
        if self.efficiency is None:
            return self.background, self.foreground
        return self.background * self.efficiency, self.foreground * self.efficiency


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective of a minibatch and its parts per cell."""

    total: Tensor  # ()
    reconstruction: Tensor  # (B,), negative log-likelihood
    kl: Tensor  # (B,), unweighted
    metrics: dict[str, Tensor] = field(
        default_factory=dict
    )  # further columns of the history, a value per cell
