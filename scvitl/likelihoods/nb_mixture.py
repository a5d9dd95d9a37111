r"""Mixture of two negative binomials that share their inverse dispersion theta: background and foreground.

log p(y) = log( sigmoid(pi) NB(y; background, theta) + sigmoid(-pi) NB(y; foreground, theta) )

``pi`` are the logits of a count being background. Proteins are few, so nothing here is sparse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ..compiled.limits import EPS
from . import nb

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(
    y: Tensor,
    background: Tensor,
    foreground: Tensor,
    theta: Tensor,
    pi: Tensor,
    measured: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of counts ``y`` (B, P), summed over the proteins that were ``measured`` (B, P).

    The means and ``pi`` are (..., B, P), ``theta`` is (P) or (..., B, P).
    """
    # What both parts share is left out of the logarithm of their sum.
    shared = (
        theta * torch.log(theta + EPS)
        + torch.lgamma(y + theta)
        - torch.lgamma(theta)
        - torch.lgamma(y + 1)
        - F.softplus(-pi)
    )
    parts = [
        y * torch.log(mu + EPS) - (theta + y) * torch.log(theta + mu + EPS) for mu in (background, foreground)
    ]
    log_p = shared + torch.logaddexp(parts[0], parts[1] - pi)
    return (log_p if measured is None else log_p * measured).sum(-1)


def sample(
    background: Tensor,
    foreground: Tensor,
    theta: Tensor,
    pi: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Counts of the mixture, (..., B, P)."""
    below = torch.rand(pi.shape, generator=generator, device=pi.device) < torch.sigmoid(pi)
    return nb.sample(torch.where(below, background, foreground), theta, generator=generator)
