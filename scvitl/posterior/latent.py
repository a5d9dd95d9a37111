"""Latent representation of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..models.blocks import sample_normal
from .engine import stream

if TYPE_CHECKING:
    import numpy as np

    from ..data.batches import CellData
    from ..models import VAE
    from ..models.vae import Latent

DRAWS = 100  # of a block held at once while averaging


@torch.inference_mode()
def latent(
    model: VAE, data: CellData, *, give_mean: bool = True, mc_samples: int = 5000, random_state: int = 0
) -> np.ndarray:
    """Latent state of every cell, (n, D): its posterior mean, or one draw."""
    noise = torch.Generator(data.device).manual_seed(random_state)
    parts = []
    for _, posterior in stream(model, data, generator=noise):
        if not give_mean:
            parts.append(posterior.z)
        elif model.latent_distribution == "ln":
            parts.append(_mean_of_softmax(model, posterior, mc_samples, noise))
        else:
            parts.append(posterior.mean)
    return torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def latent_distribution(model: VAE, data: CellData) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the normal posterior, before any softmax, each (n, D)."""
    posteriors = [(posterior.mean, posterior.variance) for _, posterior in stream(model, data)]
    mean, variance = (torch.cat(parts).cpu().numpy() for parts in zip(*posteriors, strict=True))
    return mean, variance


def _mean_of_softmax(model: VAE, posterior: Latent, mc_samples: int, noise: torch.Generator) -> torch.Tensor:
    """Mean of the transformed draws, (B, D); it has no closed form."""
    total = torch.zeros_like(posterior.mean)
    for start in range(0, mc_samples, DRAWS):
        draws = sample_normal(posterior.mean, posterior.variance, min(DRAWS, mc_samples - start), noise)
        total += model.transform(draws).sum(0)
    return total / mc_samples
