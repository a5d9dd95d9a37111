"""Bayesian tests of differential expression on draws of two sides (Lopez et al. 2018, Boyeau et al. 2019).

Draws are paired at random, one of a side with one of the other; all statistics of a gene are over these pairs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .pools import Sides

    Statistics = Callable[[np.ndarray, int], dict[str, np.ndarray]]

EPS = 1e-8  # keeps the logarithm of odds finite
NEAR_ZERO = 0.01  # mean counts below which a gene tells what level the model gives to nothing
LFC_SHARE = 1e-3  # of the pseudocount that log fold changes are reported with
GENES_TOGETHER = 64  # so that the draws of both sides stay in the cache


def vanilla(sides: Sides) -> list[dict[str, np.ndarray]]:
    """Probability that a gene is higher in the first side, per pair and gene."""

    def statistics(shares: np.ndarray, pair: int) -> dict[str, np.ndarray]:
        # The second side down against the first: shares that are equal, as two zeros, count for neither.
        _, higher, _ = _compared(shares, sides.stretches[pair][:, [1, 0, 2]], (0.0, 1.0), 1.0)
        return {"proba_m1": higher}

    tables = []
    for top, table in zip(levels(sides), by_gene(sides, statistics), strict=True):
        p1, p2 = table["proba_m1"], 1 - table["proba_m1"]
        scales = {"scale1": top["scale1"], "scale2": top["scale2"]}
        tables.append({"proba_m1": p1, "proba_m2": p2, "bayes_factor": log_odds(p1), **scales})
    return tables


def change(
    sides: Sides,
    *,
    mean_counts: Sequence[tuple[np.ndarray, np.ndarray]],
    delta: float | str = 0.25,
    pseudocounts: float | None = None,
    test_mode: str = "three",
    cred_interval_lvls: Sequence[float] = (),
    random_state: int = 0,
) -> list[dict[str, Any]]:
    """Probability that the log fold change of a gene exceeds ``delta``, and its distribution, per pair and gene.

    Genes of ``mean_counts`` next to zero in either side tell what level the model gives to nothing; it becomes the
    pseudocount, where none is given. ``delta="auto"`` is chosen by the spread of the fold changes of all genes.
    """
    tops = levels(sides)
    offsets = [
        pseudocounts if pseudocounts is not None else pseudocount(top, means)
        for top, means in zip(tops, mean_counts, strict=True)
    ]
    deltas = [delta] * len(tops)
    if delta == "auto":

        def mean(shares: np.ndarray, pair: int) -> dict[str, np.ndarray]:
            *_, ratios = _compared(shares, sides.stretches[pair], (0.0, offsets[pair]), 1.0)
            return {"mean": np.log2(ratios).mean(1)}

        deltas = [automatic_delta(table["mean"], random_state) for table in by_gene(sides, mean)]

    def statistics(shares: np.ndarray, pair: int) -> dict[str, np.ndarray]:
        both = offsets[pair], LFC_SHARE * offsets[pair]
        up, down, ratios = _compared(shares, sides.stretches[pair], both, 2 ** deltas[pair])
        return {"proba_up": up, "proba_down": down, **describe(ratios, cred_interval_lvls)}

    tables = []
    for top, offset, threshold, table in zip(tops, offsets, deltas, by_gene(sides, statistics), strict=True):
        up, down = table.pop("proba_up"), table.pop("proba_down")
        p = np.maximum(up, down) if test_mode == "three" else np.minimum(up + down, 1)
        first = {
            "proba_de": p,
            "proba_not_de": 1 - p,
            "bayes_factor": log_odds(p),
            "scale1": top["scale1"],
            "scale2": top["scale2"],
            "pseudocounts": offset,
            "delta": threshold,
        }
        tables.append({**first, **table, "proba_up": up})
    return tables


def describe(ratios: np.ndarray, cred_levels: Sequence[float]) -> dict[str, np.ndarray]:
    """Statistics of the log2 of draws (g, N) of ratios."""
    middle = np.empty((len(ratios), 4), np.int32)
    kernels.order(ratios.view(np.int32), middle)
    middle = np.log2(middle.view(np.float32).astype(np.float64))
    lfc = np.log2(ratios, out=ratios)
    moments = np.empty((len(lfc), 2))
    kernels.moments(lfc, moments)
    table = {
        "lfc_mean": moments[:, 0],
        "lfc_median": middle[:, 2:].mean(1),
        "lfc_std": moments[:, 1],
        "lfc_min": middle[:, 0],
        "lfc_max": middle[:, 1],
    }
    ordered = np.sort(lfc, axis=1) if len(cred_levels) else lfc
    n = lfc.shape[1]
    for level in cred_levels:
        # The shortest interval that holds a share `level` of the draws.
        width = min(int(level * n), n - 1)
        at = (ordered[:, width:] - ordered[:, : n - width]).argmin(1)
        genes, name = np.arange(len(lfc)), f"lfc_confidence_interval_{level:g}"
        table[f"{name}_min"], table[f"{name}_max"] = ordered[genes, at], ordered[genes, at + width]
    return table


def log_odds(p: np.ndarray) -> np.ndarray:
    """Logarithm of the odds, finite for what happened always or never."""
    return np.log(p + EPS) - np.log(1 - p + EPS)


def pseudocount(tops: dict[str, np.ndarray], mean_counts: tuple[np.ndarray, np.ndarray]) -> float:
    """Level of genes that are next to absent: differences below it mean nothing."""
    absent = [means < NEAR_ZERO for means in mean_counts]
    highest = [
        np.quantile(tops[f"max{side}"][mask], 0.9) if mask.any() else 1e-10
        for side, mask in enumerate(absent, start=1)
    ]
    return float(max(1e-10, max(highest) / len(absent[0])))


def automatic_delta(mean_lfc: np.ndarray, random_state: int) -> float:
    """A threshold between the genes that change and those that do not: three normals fitted to the fold changes."""
    from sklearn.mixture import GaussianMixture

    if len(mean_lfc) < 2:
        return 0.1  # nothing to set a gene apart from
    n_components = min(3, len(mean_lfc))
    mixture = GaussianMixture(n_components, random_state=random_state).fit(mean_lfc.reshape(-1, 1))
    return max(0.1, 0.6 * float(np.abs([mixture.means_.min(), mixture.means_.max()]).mean()))


def levels(sides: Sides) -> list[dict[str, np.ndarray]]:
    """Mean and highest share of every gene in both sides of every pair."""
    cuts = np.unique([(start, start + n) for pair in sides.spans for spans in pair for start, n in spans])

    def statistics(shares: np.ndarray, _: int) -> dict[str, np.ndarray]:
        top, total = np.empty((2, len(shares), len(cuts) - 1))
        kernels.levels(shares, cuts, top, total)
        return {"top": top, "total": total}

    (parts,) = by_gene(sides, statistics, n_pairs=1)

    def level(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # How often the columns between two cuts occur: the draws of a group may come twice.
        times = sum(((cuts[:-1] >= start) & (cuts[1:] <= start + n)).astype(int) for start, n in spans)
        return parts["top"][:, times > 0].max(1), parts["total"] @ times / spans[:, 1].sum()

    names = ("max1", "scale1", "max2", "scale2")
    return [dict(zip(names, (*level(first), *level(second)), strict=True)) for first, second in sides.spans]


def by_gene(sides: Sides, statistics: Statistics, n_pairs: int | None = None) -> list[dict[str, np.ndarray]]:
    """``statistics`` of every pair, from the shares of a few genes at a time in all draws; on all threads."""
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in range(n_pairs or len(sides.spans))]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for block in sides.blocks():
            few = [block[start : start + GENES_TOGETHER] for start in range(0, len(block), GENES_TOGETHER)]
            tasks = [(shares, pair) for shares in few for pair in range(len(parts))]
            for (_, pair), table in zip(
                tasks, threads.map(statistics, *zip(*tasks, strict=True)), strict=True
            ):
                parts[pair].append(table)
    return [
        {name: np.concatenate([part[name] for part in tables]).astype(np.float64) for name in tables[0]}
        for tables in parts
    ]


def _compared(
    shares: np.ndarray, stretches: np.ndarray, offsets: tuple[float, float], factor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In what share of the draws a gene is up, and down, by ``factor``, and the ratios of its draws (g, draws)."""
    n = int(stretches[:, 2].sum())
    counts, ratios = np.empty((len(shares), 2)), np.empty((len(shares), n), np.float32)
    kernels.compare(shares, stretches, np.array(offsets, np.float32), np.float32(factor), counts, ratios)
    return counts[:, 0] / n, counts[:, 1] / n, ratios
