"""How densely the cells of a sample lie around a latent state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .engine import posterior

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from ..data.batches import CellData
    from ..models import VAE

BLOCK_ENTRIES = 2**23  # cells × cells looked at together: 64 MB of float64


@torch.inference_mode()
def log_densities(
    model: VAE, data: CellData, samples: Sequence[np.ndarray], *, dof: float | None = None
) -> np.ndarray:
    """Log density of every cell's latent mean under the aggregated posterior of each of the ``samples``, (n, samples).

    ``samples`` are positions of cells; components are normal, or Student's t with ``dof`` degrees.
    """
    cells = posterior(model, data)
    # The squares below cancel, which float32 would not survive.
    at, variance = cells.mean.double(), cells.variance.double()
    out = torch.empty(len(at), len(samples), dtype=torch.float64)
    for column, sample in enumerate(samples):
        index = torch.from_numpy(sample).to(at.device)
        mixture = _normal if dof is None else _student(dof)
        size = max(1, BLOCK_ENTRIES // len(index))
        for start in range(0, len(at), size):
            logs = mixture(at[start : start + size], at[index], variance[index])
            out[start : start + size, column] = (torch.logsumexp(logs, 1) - math.log(len(index))).cpu()
    return out.numpy()


def _normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density of normals (m, D) at ``x`` (n, D), (n, m): the square multiplied out, as matrix products."""
    constant = (mean**2 / variance + torch.log(2 * math.pi * variance)).sum(1)
    return -0.5 * (x**2 @ (1 / variance).T - 2 * x @ (mean / variance).T + constant)


def _student(dof: float):
    """The same for independent Student's t in every dimension."""
    norm = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi * dof)

    def log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        # One logarithm of the product over dimensions rather than one for each.
        product = x.new_ones(len(x), len(mean))
        logs = x.new_zeros(len(x), len(mean))
        for d in range(x.shape[1]):
            product *= 1 + (x[:, d, None] - mean[:, d]) ** 2 / (dof * variance[:, d])
            if d % 16 == 15:
                logs += torch.log(product)
                product.fill_(1)
        logs += torch.log(product)
        constant = x.shape[1] * norm - 0.5 * torch.log(variance).sum(1)
        return constant - (dof + 1) / 2 * logs

    return log_density
