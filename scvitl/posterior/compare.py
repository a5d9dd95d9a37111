"""Differential expression from a fitted model: draw, decode, test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax

from .. import _checks
from .._logging import logg
from . import differential, pools
from .draws import decode, draw
from .engine import noise, posterior
from .importance import MAX_CELLS, weigh
from .proteins import DecodedProteins, Expression, incomplete, protein_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data.batches import CellData
    from ..models import VAE
    from .draws import Draws

PROTEIN_PSEUDOCOUNT = 1e-5  # next to the prior count
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
    in_batch: np.ndarray | None = None,
    protein_prior_count: float = 0.1,
    **change,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Statistics of every gene, and of every protein if there are some, for every pair of ``sets`` of cells, as arrays.

    ``mean_counts`` of the genes in both sides of every pair may be `None` for cells without counts; expected counts
    take their place. ``in_batch`` (K, P) says which proteins a batch measured; ``protein_prior_count`` is added to proteins
    before they are compared. ``change`` are the options of `differential.change`.
    """
    rng, generator = np.random.default_rng(random_state), noise(data, random_state)
    if importance_options is not None:
        sets, pairs = _one_set_per_side(sets, pairs)
        # Draws are held against anchors, so they come from these alone.
        sets = [rng.permutation(cells)[: importance_options.get("max_cells", MAX_CELLS)] for cells in sets]
    if filter_outlier_cells:
        sets = _inliers(model, data, sets, random_state)
    plan = pools.plan(sets, pairs, n_draws=n_samples, batches=batches)
    _check_memory(model, plan)
    drawn = [pools.cells_and_batches(pool, rng) for pool in plan.pools]
    index, batch = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    draws = draw(model, data, torch.from_numpy(index), generator)
    if importance_options is not None:
        options = {**importance_options, "random_state": random_state}
        draws = _weighed(model, data, draws, plan, rng=rng, **options)
    own = all(code is None for side in batches for code in side)
    batch = None if own else batch
    of_proteins = None
    if in_batch is not None:
        shares = incomplete(in_batch)
        values = protein_draws(model, draws, Expression(), generator, batch=batch, shares=shares)
        decoded = DecodedProteins(draws.z[:, :0], values + protein_prior_count)
        of_proteins = _compared(
            pools.Sides(plan, decoded), mode, random_state, **{**change, "pseudocounts": PROTEIN_PSEUDOCOUNT}
        )
        for table in of_proteins:
            for side in ("scale1", "scale2"):
                table[side] = table[side] - protein_prior_count
    sides = pools.Sides(plan, decode(model, draws, batch))
    if data.counts is None and mode != "vanilla":
        mean_counts = _expected_counts(sides, draws)
    return _compared(sides, mode, random_state, mean_counts=mean_counts, **change), of_proteins


def _compared(
    sides: pools.Sides, mode: str, random_state: int, *, mean_counts: Sequence | None = None, **change
) -> list[dict[str, Any]]:
    """Statistics of every feature for every pair."""
    if mode == "vanilla":
        return differential.vanilla(sides)
    if mean_counts is None:
        mean_counts = [(None, None)] * len(sides.spans)
    return differential.change(sides, mean_counts=mean_counts, random_state=random_state, **change)


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


def _weighed(
    model: VAE, data: CellData, draws: Draws, plan: pools.Plan, *, rng: np.random.Generator, **options
) -> Draws:
    """The draws of every pool, drawn again by importance weight among those decoded from the same batch."""
    rows, start = [], 0
    for pool in plan.pools:
        here = torch.arange(start, start + pool.n_draws, device=data.device)
        log_weights = weigh(model, data, draws.take(here), pool.cells, **options)
        for part in log_weights.reshape(-1, pool.size):
            rows.append(start + rng.choice(pool.size, pool.size, p=softmax(part)))
            start += pool.size
    return draws.take(torch.from_numpy(np.concatenate(rows)).to(data.device))


def _expected_counts(sides: pools.Sides, draws: Draws) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean counts of the genes in both sides of every pair, as the model expects them."""
    counts = []
    for table, pair in zip(differential.levels(sides), sides.spans, strict=True):
        rows = [np.concatenate([np.arange(start, start + n) for start, n in spans]) for spans in pair]
        rows = [torch.from_numpy(side).to(draws.library.device) for side in rows]
        counts.append(
            tuple(sides.decoded.mean_counts(table[f"scale{k + 1}"], draws.library, rows[k]) for k in (0, 1))
        )
    return counts


def _check_memory(model: VAE, plan: pools.Plan) -> None:
    decoder = model.decoder
    n_draws = sum(pool.n_draws for pool in plan.pools)
    # hidden units and latent states of all draws, and what is decoded of them at a time
    decoded = min(n_draws * decoder.n_genes, pools.KEPT_ENTRIES)
    _checks.fits_memory(
        4 * (n_draws * (decoder.n_hidden + 64) + 1.5 * decoded),
        f"comparing {n_draws:,} draws",
        "take fewer with n_samples, or fewer groups",
    )
