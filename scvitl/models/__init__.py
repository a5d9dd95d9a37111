"""The models as plain torch modules; they know tensors, never AnnData."""

from __future__ import annotations

from .cells import Cells
from .vae import VAE

__all__ = ["VAE", "Cells"]
