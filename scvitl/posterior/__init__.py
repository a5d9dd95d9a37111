"""What a fitted model says about cells: arrays in, arrays out."""

from __future__ import annotations

from .engine import stream
from .latent import latent, latent_distribution
from .scores import elbo

__all__ = ["elbo", "latent", "latent_distribution", "stream"]
