"""Bayesian tests of differential expression on draws of two sides (Lopez et al. 2018, Boyeau et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from .draws import Decoded

BLOCK_ENTRIES = 2**25  # draws × genes of a block: 128 MB of float32
EPS = 1e-8  # keeps the logarithm of odds finite
NEAR_ZERO = 0.01  # mean counts below which a gene tells what level the model gives to nothing
LFC_SHARE = 1e-3  # of the pseudocount that log fold changes are reported with


@torch.inference_mode()
def vanilla(decoded: Decoded, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Probability that a gene is higher in the first side, per pair and gene."""

    def statistics(a: Tensor, b: Tensor, _: int) -> dict[str, Tensor]:
        return {"proba_m1": (a > b).float().mean(1), "scale1": a.mean(1), "scale2": b.mean(1)}

    tables = []
    for table in _by_gene(decoded, pairs, statistics):
        p1, p2 = table["proba_m1"], 1 - table.pop("proba_m1")
        factor = np.log(p1 + EPS) - np.log(p2 + EPS)
        tables.append({"proba_m1": p1, "proba_m2": p2, "bayes_factor": factor, **table})
    return tables


@torch.inference_mode()
def change(
    decoded: Decoded,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
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
    tops = shares(decoded, pairs)
    offsets = [
        pseudocounts if pseudocounts is not None else pseudocount(top, means)
        for top, means in zip(tops, mean_counts, strict=True)
    ]
    deltas = [delta] * len(pairs)
    if delta == "auto":
        means = _by_gene(decoded, pairs, lambda a, b, i: {"mean": _log_ratio(a, b, offsets[i]).mean(1)})
        deltas = [automatic_delta(table["mean"], random_state) for table in means]

    def statistics(a: Tensor, b: Tensor, i: int) -> dict[str, Tensor]:
        ratio = (a + offsets[i]) / (b + offsets[i])
        up = (ratio >= 2 ** deltas[i]).float().mean(1)
        down = (ratio < 2 ** -deltas[i]).float().mean(1)
        lfc = _log_ratio(a, b, LFC_SHARE * offsets[i])
        return {"proba_up": up, "proba_down": down, **describe(lfc, cred_interval_lvls)}

    tables = []
    for i, table in enumerate(_by_gene(decoded, pairs, statistics)):
        up, down = table.pop("proba_up"), table.pop("proba_down")
        p = np.maximum(up, down) if test_mode == "three" else np.minimum(up + down, 1)
        tables.append(
            {
                "proba_de": p,
                "proba_not_de": 1 - p,
                "bayes_factor": np.log(p + EPS) - np.log(1 - p + EPS),
                "scale1": tops[i]["scale1"],
                "scale2": tops[i]["scale2"],
                "pseudocounts": offsets[i],
                "delta": deltas[i],
                "proba_up": up,
                **table,
            }
        )
    return tables


def describe(lfc: Tensor, levels: Sequence[float]) -> dict[str, Tensor]:
    """Statistics of draws (g, N) of log fold changes, per gene."""
    mean, std = lfc.mean(1), lfc.std(1, correction=0)
    lfc = _sorted(lfc)
    n = lfc.shape[1]
    table = {
        "lfc_mean": mean,
        "lfc_median": (lfc[:, (n - 1) // 2] + lfc[:, n // 2]) / 2,
        "lfc_std": std,
        "lfc_min": lfc[:, 0],
        "lfc_max": lfc[:, -1],
    }
    for level in levels:
        # The shortest interval that holds a share `level` of the draws.
        width = min(int(level * n), n - 1)
        at = (lfc[:, width:] - lfc[:, : n - width]).argmin(1, keepdim=True)
        name = f"lfc_confidence_interval_{level:g}"
        table[f"{name}_min"], table[f"{name}_max"] = (
            lfc.gather(1, at)[:, 0],
            lfc.gather(1, at + width)[:, 0],
        )
    return table


def pseudocount(levels: dict[str, np.ndarray], mean_counts: tuple[np.ndarray, np.ndarray]) -> float:
    """Level of genes that are next to absent: differences below it mean nothing."""
    absent = [means < NEAR_ZERO for means in mean_counts]
    highest = [
        np.quantile(levels[f"max{side}"][mask], 0.9) if mask.any() else 1e-10
        for side, mask in enumerate(absent, start=1)
    ]
    return max(1e-10, max(highest) / len(absent[0]))


def automatic_delta(mean_lfc: np.ndarray, random_state: int) -> float:
    """A threshold between the genes that change and those that do not: three normals fitted to the fold changes."""
    from sklearn.mixture import GaussianMixture

    n_components = min(3, len(mean_lfc))
    mixture = GaussianMixture(n_components, random_state=random_state).fit(mean_lfc.reshape(-1, 1))
    return max(0.1, 0.6 * float(np.abs([mixture.means_.min(), mixture.means_.max()]).mean()))


@torch.inference_mode()
def shares(decoded: Decoded, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Mean share of every gene in both sides, and its highest."""
    return _by_gene(decoded, pairs, _levels)


def _levels(a: Tensor, b: Tensor, _: int) -> dict[str, Tensor]:
    return {"max1": a.amax(1), "max2": b.amax(1), "scale1": a.mean(1), "scale2": b.mean(1)}


def _log_ratio(a: Tensor, b: Tensor, offset: float) -> Tensor:
    return (a + offset).div_(b + offset).log2_()


def _by_gene(
    decoded: Decoded,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    statistics: Callable[[Tensor, Tensor, int], dict[str, Tensor]],
) -> list[dict[str, np.ndarray]]:
    """``statistics`` of the draws (g, N) of both sides, gene block by gene block, for every pair."""
    device = decoded.hidden.device
    rows = [tuple(torch.from_numpy(side).to(device) for side in pair) for pair in pairs]
    parts: list[list[dict[str, Tensor]]] = [[] for _ in pairs]
    for scale in _blocks(decoded):
        for i, (first, second) in enumerate(rows):
            table = statistics(scale.index_select(1, first), scale.index_select(1, second), i)
            parts[i].append({name: values.cpu() for name, values in table.items()})
    return [
        {name: torch.cat([part[name] for part in tables]).double().numpy() for name in tables[0]}
        for tables in parts
    ]


def _blocks(decoded: Decoded) -> Iterator[Tensor]:
    """Shares of the genes, (g, N), for as many genes at a time as memory likes."""
    n_genes = decoded.model.decoder.heads["scale"].out_features
    genes = torch.arange(n_genes, device=decoded.hidden.device)
    for block in genes.split(max(1, BLOCK_ENTRIES // len(decoded.hidden))):
        yield decoded.scale(block).T.contiguous()


def _sorted(values: Tensor) -> Tensor:
    """Sorted along the last dimension; NumPy does that several times faster than torch on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(1).values
