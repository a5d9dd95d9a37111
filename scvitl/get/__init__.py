"""Read results: frames, arrays, numbers; nothing is written."""

from __future__ import annotations

from ._elbo import elbo
from ._history import history
from ._latent import latent
from ._model import model

__all__ = ["elbo", "history", "latent", "model"]
