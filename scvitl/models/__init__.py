"""The models as plain torch modules; they know tensors, never AnnData."""

from __future__ import annotations

from .cells import Cells
from .ldvae import LDVAE
from .scanvae import SCANVAE
from .scarvae import SCARVAE
from .totalvae import TOTALVAE
from .vae import VAE

__all__ = ["LDVAE", "SCANVAE", "SCARVAE", "TOTALVAE", "VAE", "Cells"]
