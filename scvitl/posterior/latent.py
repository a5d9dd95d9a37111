"""Latent variables of cells: state and library size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributions as D

from .engine import noise, posterior, stream

if TYPE_CHECKING:
    import numpy as np

    from ..data.batches import CellData
    from ..models import VAE
    from ..models.records import Posterior

DRAWS = 100  # of a block held at once while averaging


@torch.inference_mode()
def latent(
    model: VAE,
    data: CellData,
    *,
    give_mean: bool = True,
    mc_samples: int = 5000,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Latent state of every cell, (n, D): its posterior mean, or one draw."""
    generator = noise(data, random_state)
    parts = []
    for _, cells in stream(model, data, batch_size=batch_size):
        if not give_mean:
            parts.append(model.transform(cells.draw(generator=generator)[0]))
        elif model.latent_distribution == "ln":
            parts.append(_mean_of_softmax(model, cells, mc_samples, generator))
        else:
            parts.append(cells.mean)
    return torch.cat(parts).cpu().numpy()


def latent_distribution(
    model: VAE, data: CellData, *, batch_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the normal posterior, before any softmax, each (n, D)."""
    cells = posterior(model, data, batch_size=batch_size)
    return cells.mean.cpu().numpy(), cells.variance.cpu().numpy()


@torch.inference_mode()
def library_size(
    model: VAE,
    data: CellData,
    *,
    give_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Library size of every cell, (n, 1): observed, or of a latent one the posterior mean or a draw."""
    generator = noise(data, random_state)
    parts = []
    for _, cells in stream(model, data, batch_size=batch_size):
        if give_mean and cells.library_variance is not None:
            # mean of a log-normal
            log_size = cells.library + cells.library_variance / 2
        else:
            log_size = cells.library if give_mean else cells.draw(generator=generator)[1]
        parts.append(torch.exp(log_size))
    return torch.cat(parts).cpu().numpy()


def aggregated_posterior(
    model: VAE, data: CellData, *, dof: float | None = 3.0, batch_size: int | None = None
) -> D.MixtureSameFamily:
    """Even mixture of the posteriors of all cells, with Student tails of ``dof`` degrees or normal."""
    mean, variance = map(torch.from_numpy, latent_distribution(model, data, batch_size=batch_size))
    component = D.Normal(mean, variance.sqrt()) if dof is None else D.StudentT(dof, mean, variance.sqrt())
    return D.MixtureSameFamily(D.Categorical(torch.ones(len(mean))), D.Independent(component, 1))


def _mean_of_softmax(
    model: VAE, cells: Posterior, mc_samples: int, generator: torch.Generator
) -> torch.Tensor:
    """Mean of the transformed draws, (B, D); it has no closed form."""
    total = torch.zeros_like(cells.mean)
    for start in range(0, mc_samples, DRAWS):
        z, _ = cells.draw(min(DRAWS, mc_samples - start), generator)
        total += model.transform(z).sum(0)
    return total / mc_samples
