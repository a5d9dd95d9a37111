"""Differential expression from a fitted model: draw, decode, test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import _checks
from .._logging import logg
from . import differential
from .draws import decode, draw
from .engine import noise, posterior
from .importance import weigh
from .pools import sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data.batches import CellData
    from ..models import VAE
    from .draws import Decoded, Draws
    from .pools import Sampling

ENOUGH_TO_FILTER = 10  # cells per latent dimension, below which outliers cannot be told


@torch.inference_mode()
def compare(  # noqa: PLR0913
    model: VAE,
    data: CellData,
    sets: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, tuple[int, ...]]],
    *,
    mode: str = "change",
    n_samples: int = 5000,
    batches: tuple[Sequence[int | None], Sequence[int | None]] = ((None,), (None,)),
    mean_counts: Sequence[tuple[np.ndarray | None, np.ndarray | None]],
    importance_options: dict[str, Any] | None = None,
    filter_outlier_cells: bool = False,
    random_state: int = 0,
    **change,
) -> list[dict[str, Any]]:
    """Statistics of every gene for every pair of ``sets`` of cells, as arrays.

    ``mean_counts`` of the genes in both sides of every pair may be `None` for cells without counts; expected counts
    take their place. ``change`` are the options of `differential.change`.
    """
    rng = np.random.default_rng(random_state)
    if importance_options is not None:
        sets, pairs = _one_set_per_side(sets, pairs)
    if filter_outlier_cells:
        sets = _inliers(model, data, sets, random_state)
    plan = sampling(sets, pairs, n_draws=n_samples, batches=batches, rng=rng)
    _check_memory(model, plan)
    draws = draw(model, data, torch.from_numpy(plan.index), noise(data, random_state))
    weights = None
    if importance_options is not None:
        options = {**importance_options, "random_state": random_state}
        weights = _weights(model, data, draws, plan, options)
    decoded = decode(model, draws, None if plan.batch is None else torch.from_numpy(plan.batch))
    rows = plan.rows(rng, weights)
    if mode == "vanilla":
        return differential.vanilla(decoded, rows)
    if data.counts is None:
        mean_counts = _expected_counts(decoded, draws, rows)
    return differential.change(decoded, rows, mean_counts=mean_counts, random_state=random_state, **change)


def _one_set_per_side(
    sets: Sequence[np.ndarray], pairs: Sequence[tuple[int, tuple[int, ...]]]
) -> tuple[list[np.ndarray], list[tuple[int, tuple[int, ...]]]]:
    """Sets that are never part of a side: importance weights belong to all cells of a side together."""
    joined = [*sets]
    sides = []
    for group, reference in pairs:
        sides.append((group, (len(joined),)))
        joined.append(np.concatenate([sets[i] for i in reference]))
    return joined, sides


def _inliers(model: VAE, data: CellData, sets: Sequence[np.ndarray], random_state: int) -> list[np.ndarray]:
    """The cells of every set whose latent state is not far from the others'."""
    from sklearn.covariance import EllipticEnvelope

    latent = posterior(model, data).mean.cpu().numpy()
    kept = []
    for cells in sets:
        if len(cells) < ENOUGH_TO_FILTER * latent.shape[1]:
            logg.warning(f"a group of {len(cells)} cells is too small to tell its outliers; all are taken")
            kept.append(cells)
            continue
        inlier = EllipticEnvelope(random_state=random_state).fit_predict(latent[cells]) == 1
        kept.append(cells[inlier])
    return kept


def _weights(
    model: VAE,
    data: CellData,
    draws: Draws,
    plan: Sampling,
    options: dict[str, Any],
) -> dict[int, np.ndarray]:
    """Importance weights of the draws of every pool, by the row where it starts."""
    weights = {}
    for pool in plan.pools:
        rows = torch.arange(pool.start, pool.start + pool.size * len(pool.batches), device=data.device)
        weights[pool.start] = weigh(model, data, draws.take(rows), pool.cells, **options)
    return weights


def _expected_counts(
    decoded: Decoded, draws: Draws, rows: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean counts of the genes in both sides of every pair, as the model expects them."""
    depth = torch.exp(draws.library).cpu().numpy()
    return [
        tuple(share[f"scale{k}"] * depth[side].mean() for k, side in enumerate(pair, start=1))
        for share, pair in zip(differential.shares(decoded, rows), rows, strict=True)
    ]


def _check_memory(model: VAE, plan: Sampling) -> None:
    # hidden units, latent states and covariates of all draws, and a few blocks at work
    width = model.decoder.heads["scale"].in_features + 64
    _checks.fits_memory(
        4 * (len(plan.index) * width + 8 * differential.BLOCK_ENTRIES),
        f"comparing {len(plan.index):,} draws",
        "take fewer with n_samples, or fewer groups",
    )
