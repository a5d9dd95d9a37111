"""How well a model explains cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .engine import stream

if TYPE_CHECKING:
    import numpy as np

    from ..data.batches import CellData
    from ..models import VAE


@torch.inference_mode()
def elbo(model: VAE, data: CellData, *, batch_size: int | None = None, random_state: int = 0) -> np.ndarray:
    """Evidence lower bound of every cell, (n,), with one posterior draw; higher is better."""
    noise = torch.Generator(data.device).manual_seed(random_state)
    parts = []
    for cells, posterior in stream(model, data, batch_size=batch_size, generator=noise):
        expression = model.generative(posterior.z, posterior.library, cells)
        kl_z, kl_l = model.kl(posterior, cells)
        parts.append(model.log_likelihood(cells.x, expression) - kl_z - kl_l)
    return torch.cat(parts).cpu().numpy()
