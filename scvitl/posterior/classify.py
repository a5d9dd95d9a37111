"""Which label a cell has, how sure that is, and how far the sureness can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from .engine import BLOCK_ENTRIES, noise, stream

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import SCANVAE, Cells
    from ..models.records import Posterior

DRAWS = 25  # of the latent state of a cell, over which probabilities are averaged
REPLICATES = 10  # of every cell that the temperature is fitted to
MOST = 2000  # such cells; more make the temperature no surer
MOST_ENTRIES = 2**25  # cells × replicates × draws × labels, 128 MB
SPREAD = 0.5  # of the logarithm of temperatures before any cell was seen: few cells leave it near 1


@torch.inference_mode()
def label_probabilities(
    model: SCANVAE,
    data: CellData,
    *,
    temperature: float = 1.0,
    index: Tensor | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Probability of every label in every cell, (n, L), averaged over draws of its latent state."""
    generator = noise(data, random_state)
    parts = []
    for _, posterior in stream(model, data, index=index, batch_size=batch_size or _block(model, data)):
        z, _ = posterior.draw(DRAWS, generator)
        parts.append(torch.softmax(model.classifier(z) / temperature, -1).mean(0))
    return torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def temperature(model: SCANVAE, data: CellData, index: Tensor, *, random_state: int = 0) -> float:
    """The number to divide logits by so that probabilities fit the labels of the cells at ``index`` best.

    Above 1, the classifier was too sure of itself (Guo et al. 2017). Cells are taken as the model expects them in the
    batches whose cells lack labels, since it is there that predictions are needed.
    """
    if len(index) == 0:
        return 1.0
    most = max(1, min(MOST, MOST_ENTRIES // (REPLICATES * DRAWS * model.n_labels)))
    index = index[:: -(-len(index) // most)]  # evenly, since cells may be in the order of their labels
    generator, unlabelled = noise(data, random_state), data.batch[data.labels >= model.n_labels]
    logits, labels = [], []
    for _ in range(REPLICATES):
        for cells, posterior in stream(model, data, index=index, batch_size=_block(model, data)):
            moved = posterior
            if len(unlabelled):
                moved = model.encode(_elsewhere(model, cells, posterior, unlabelled, generator))
            logits.append(model.classifier(moved.draw(DRAWS, generator)[0]).cpu())
            labels.append(cells.labels.cpu())
    logits, labels = torch.cat(logits, 1), torch.cat(labels)  # (S, N, L), (N,)

    def loss(log_temperature: float) -> float:
        p = torch.softmax(logits / np.exp(log_temperature), -1).mean(0).gather(1, labels[:, None])
        error = -torch.log(p.clamp_min(1e-9)).sum() / REPLICATES
        return float(error) + 0.5 * (log_temperature / SPREAD) ** 2

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _block(model: SCANVAE, data: CellData) -> int:
    """Cells to look at together: many labels can take more room than the counts of few genes."""
    groups = 1 if model.classifier.groups is None else model.classifier.groups.out_features
    return max(1, BLOCK_ENTRIES // max(data.n_genes, DRAWS * model.n_labels * groups))


def _elsewhere(
    model: SCANVAE, cells: Cells, posterior: Posterior, batches: Tensor, generator: torch.Generator
) -> Cells:
    """The cells as they could have been measured in ``batches``, one at random for each; as they are in their own."""
    at = torch.randint(len(batches), (len(cells.batch),), generator=generator, device=batches.device)
    batch = batches[at]
    z, library = posterior.draw(generator=generator)
    # A normal likelihood may draw less than nothing, of which there is no logarithm.
    x = model.sample(model.generative(z, library, cells, batch=batch), generator).clamp_min(0)
    return replace(cells, counts=torch.where((batch == cells.batch)[:, None], cells.x, x), batch=batch)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 15) -> float:
    """Expected difference between how sure a prediction is and how often it is right, over bins of sureness."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    # Bins are closed on the right, so that a probability of 1 is in the last.
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, confidence - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(labels))
