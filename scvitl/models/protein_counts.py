"""How the counts of proteins come about in totalVI, given what is decoded: background, foreground, what was measured.

Shapes: B cells, P proteins, K batches, M panels; further dimensions may come first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..likelihoods import nb_mixture
from .blocks import kl_normal, log_normal
from .records import ProteinExpression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Cells

MIXING_WEIGHT = 1e-3  # of a term that holds proteins to be background where nothing else speaks


class ProteinCounts(nn.Module):
    """Dispersions, efficiencies of batches, and the prior of the background of every panel.

    ``measured`` (M, P) says which proteins a panel has, ``in_batch`` (K, P) which batches
    make the average batch of a protein: those that have it.
    """

    def __init__(
        self,
        measured: Sequence[Sequence[bool]],
        *,
        in_batch: Sequence[Sequence[bool]] | None = None,
        n_batch: int,
        n_labels: int,
        dispersion: str,
        efficiency: bool,
        background_mean: Tensor | None,
        background_sd: Tensor | None,
    ) -> None:
        super().__init__()
        self.register_buffer("measured", torch.tensor(measured, dtype=torch.bool), persistent=False)
        n_panels, self.n_proteins = self.measured.shape
        self.complete = all(map(all, measured))
        there = torch.ones(n_batch, self.n_proteins) if in_batch is None else torch.tensor(in_batch).float()
        self.register_buffer("batch_shares", (there / there.sum(0)).T, persistent=False)  # (P, K)
        shape = self.n_proteins, n_panels
        mean = torch.full(shape, 3.0) if background_mean is None else background_mean
        sd = torch.ones(shape) if background_sd is None else background_sd
        self.background_mean, self.background_log_sd = nn.Parameter(mean), nn.Parameter(sd.log())
        self.log_efficiency = nn.Parameter(torch.zeros(self.n_proteins, n_batch)) if efficiency else None
        self.dispersion = dispersion.removeprefix("protein-")
        sets = {"batch": (n_batch,), "label": (n_labels,)}.get(self.dispersion, ())
        self.py_r = nn.Parameter(2 * torch.rand(self.n_proteins, *sets))  # log theta

    def expression(
        self, background: Tensor, times: Tensor, mixing: Tensor, batch: Tensor, labels: Tensor
    ) -> ProteinExpression:
        """Parameters of the counts for a ``background`` and a foreground that is so many ``times`` higher, (..., B, P)."""
        efficiency = None
        if self.log_efficiency is not None:
            # As it is in a batch on average, or what is decoded would not be counts: only products with it are known.
            average = (self.log_efficiency * self.batch_shares).sum(1)  # (P)
            efficiency = torch.exp(self.log_efficiency.T[batch] - average)  # (B, P)
            background = background * average.exp()
        return ProteinExpression(
            background, background * times, mixing, self.theta(batch, labels), efficiency
        )

    def theta(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Inverse dispersions, (P) or (B, P)."""
        if self.dispersion == "protein":
            return torch.exp(self.py_r)
        return torch.exp(self.py_r.T[batch if self.dispersion == "batch" else labels])

    def log_likelihood(self, cells: Cells, p: ProteinExpression) -> Tensor:
        """Log p(y | z, b) of the proteins that were measured, (..., B)."""
        return nb_mixture.log_likelihood(cells.proteins, *p.means, p.theta, p.mixing, self.mask(cells))

    def mask(self, cells: Cells) -> Tensor | None:
        """Which proteins were measured, (B, P); `None` if all were."""
        return None if self.complete else self.measured[cells.panel]

    def prior(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the log background, each (B, P)."""
        return self.background_mean.T[cells.panel], self.background_log_sd.T[cells.panel].exp()

    def log_prior_ratio(self, log_b: Tensor, mean: Tensor, sd: Tensor, cells: Cells) -> Tensor:
        """Log p(b) - log q(b | z) of draws of the log background (..., B, P), over measured proteins, (..., B)."""
        sides = (mean, sd), self.prior(cells)
        q, p = (log_normal(log_b[..., None], m[..., None], s[..., None] ** 2) for m, s in sides)
        mask = self.mask(cells)
        return (p - q if mask is None else (p - q) * mask).sum(-1)

    def kl(self, mean: Tensor, sd: Tensor, mixing: Tensor, cells: Cells) -> Tensor:
        """KL of the background of the proteins that were measured, (B,).

        With efficiencies, also what these cost (minus log of a log-normal density) and what foreground costs.
        """
        prior_mean, prior_sd = self.prior(cells)
        mask, sides = self.mask(cells), (mean, sd**2, prior_mean, prior_sd**2)
        if mask is None:
            kl = kl_normal(*sides)
        else:
            kl = (kl_normal(*(values[..., None] for values in sides)) * mask).sum(-1)
        if self.log_efficiency is None:
            return kl
        log_e = self.log_efficiency.T[cells.batch]  # (B, P)
        unlikely = log_e + log_e**2 / 2 + math.log(2 * math.pi) / 2
        return kl + unlikely.sum(-1) + MIXING_WEIGHT * F.softplus(-mixing).sum(-1)
