"""How well a model explains cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .engine import BLOCK_ENTRIES, noise, stream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE, Cells
    from ..models.records import Posterior

MODALITIES = "rna", "protein"  # in the order of `TOTALVAE.explain_apart`


@torch.inference_mode()
def elbo(model: VAE, data: CellData, *, batch_size: int | None = None, random_state: int = 0) -> np.ndarray:
    """Evidence lower bound of every cell, (n,), with one posterior draw; higher is better."""
    generator, parts = noise(data, random_state), []
    for cells, posterior in stream(model, data, batch_size=batch_size):
        z, library = posterior.draw(generator=generator)
        log_likelihood = model.explain(z, library, cells, generator)
        parts.append(log_likelihood - sum(model.kl(z, posterior, cells, generator)))
    return torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def reconstruction_error(
    model: VAE,
    data: CellData,
    *,
    modality: str | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Negative log-likelihood of every cell given one posterior draw, (n,); lower is better.

    Of a model of proteins, that of genes ("rna") or proteins ("protein") apart, or of both.
    """
    generator, parts = noise(data, random_state), []
    for cells, posterior in stream(model, data, batch_size=batch_size):
        drawn = posterior.draw(generator=generator)
        if modality is None:
            parts.append(model.explain(*drawn, cells, generator))
        else:
            apart = model.explain_apart(*drawn, cells, generator)
            parts.append(apart[MODALITIES.index(modality)])
    return -torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def marginal_ll(
    model: VAE,
    data: CellData,
    *,
    n_mc_samples: int = 1000,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Log p(x) of every cell, (n,), by importance sampling from the posterior.

    log p(x) = log E_q [ p(x | z, l) p(z, l) / q(z, l | x) ], with ``n_mc_samples`` draws.
    """
    generator = noise(data, random_state)
    # Blocks hold many draws of few cells.
    blocks = stream(model, data, n_samples=min(n_mc_samples, 100), batch_size=batch_size)
    parts = [marginal_ll_of(model, *block, n_mc_samples, generator) for block in blocks]
    return torch.cat(parts).cpu().numpy()


def marginal_ll_of(
    model: VAE, cells: Cells, posterior: Posterior, n_mc_samples: int, generator: torch.Generator
) -> Tensor:
    """Log p(x) of one block of cells, (B,)."""
    draws = max(1, BLOCK_ENTRIES // (len(cells.library) * model.width))
    logs = []
    for start in range(0, n_mc_samples, draws):
        z, library = posterior.draw(min(draws, n_mc_samples - start), generator)
        logs.append(model.log_weight(z, library, posterior, cells, generator))
    return torch.logsumexp(torch.cat(logs), dim=0) - math.log(n_mc_samples)
