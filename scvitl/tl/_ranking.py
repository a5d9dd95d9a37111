"""Tables of differential expression: count statistics, the full table, scanpy's structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import scipy.sparse as sp

    from ..data.batches import CellData
    from ..models import TOTALVAE
    from ._groups import Comparisons

TARGET_SUM = 1e4
TINY = 1e-12
DTYPES = {"names": "O", "scores": "f4", "logfoldchanges": "f4", "pvals": "f8", "pvals_adj": "f8"}


def count_statistics(
    counts: sp.csr_matrix, comparisons: Comparisons, measured: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """Means, shares of cells with counts, and means per 10,000 counts, of both sides of every pair.

    They are NaN for genes that were not ``measured`` (G,).
    """
    factor = TARGET_SUM / np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    sums = []
    for cells in comparisons.sets:
        block = counts[cells]
        scaled = block.copy()
        scaled.data = scaled.data * np.repeat(factor[cells], np.diff(block.indptr))
        present = np.bincount(block.indices[block.data > 0], minlength=block.shape[1])
        sums.append(np.where(measured, np.stack([_sum(block), present, _sum(scaled)]), np.nan))

    def means(side: tuple[int, ...]) -> np.ndarray:
        return sum(sums[i] for i in side) / sum(len(comparisons.sets[i]) for i in side)

    names = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
    tables = []
    for group, reference in comparisons.pairs:
        sides = means((group,)), means(reference)
        tables.append(
            {f"{name}{side + 1}": sides[side][k] for k, name in enumerate(names) for side in (0, 1)}
        )
    return tables


def protein_statistics(
    module: TOTALVAE, data: CellData, comparisons: Comparisons
) -> list[dict[str, np.ndarray]]:
    """Means of the counts of proteins and shares of cells with counts, of both sides of every pair.

    They are over the cells in which a protein was measured, NaN where it was in none; cells without counts have none.
    """
    if data.proteins is None:
        return [{} for _ in comparisons.pairs]
    counts = data.proteins.double()
    mask = module.protein_counts.measured[data.panel].double()
    tables = []
    for pair in comparisons.pairs:
        table = {}
        for side, sets in enumerate(((pair[0],), pair[1]), start=1):
            cells = comparisons.union(sets)
            n, there = mask[cells].sum(0), counts[cells] * mask[cells]
            table[f"raw_mean{side}"] = (there.sum(0) / n).cpu().numpy()
            table[f"non_zeros_proportion{side}"] = ((there > 0).sum(0) / n).cpu().numpy()
        tables.append(table)
    return tables


def frame(
    genes: tuple[str, ...],
    measured: np.ndarray,
    statistics: dict[str, Any],
    counts: dict[str, np.ndarray],
    *,
    group: str,
    reference: str,
    fdr_target: float,
) -> pd.DataFrame:
    """The full table of one comparison, a row per gene that was ``measured`` (G,), the most probable first."""
    up = statistics.pop("proba_up", None)
    table = pd.DataFrame({**statistics, **counts}, index=pd.Index(genes, name="gene"))[measured]
    if up is not None:
        rate = false_discovery_rate(table["proba_de"].to_numpy())
        table[f"is_de_fdr_{fdr_target:g}"] = rate <= fdr_target
        table["proba_up"] = up[measured]
    against = "Rest" if reference == "rest" else reference
    table["comparison"], table["group1"], table["group2"] = f"{group} vs {against}", group, against
    return table.sort_values("bayes_factor" if up is None else "proba_de", ascending=False, kind="stable")


def structure(tables: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """The five record arrays of scanpy, a field per group, the surest markers first."""
    columns = {group: _columns(table) for group, table in tables.items()}
    return {
        name: np.rec.fromarrays(
            [values[name].to_numpy(dtype) for values in columns.values()],
            dtype=[(group, dtype) for group in columns],
        )
        for name, dtype in DTYPES.items()
    }


def joined(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of all groups below each other."""
    return pd.concat(tables.values()).astype(dict.fromkeys(("comparison", "group1", "group2"), "category"))


def false_discovery_rate(proba: np.ndarray) -> np.ndarray:
    """Expected share of false discoveries if all genes at least as probable as this one are called, (g,)."""
    order = np.argsort(-proba, kind="stable")
    rate = np.empty(len(proba))
    rate[order] = np.cumsum(1 - proba[order], dtype=np.float64) / np.arange(1, len(proba) + 1)
    return rate


def log_ratio(table: pd.DataFrame) -> pd.Series:
    """Log2 ratio of the mean shares, which can underflow to zero."""
    return np.log2(table["scale1"].clip(TINY) / table["scale2"].clip(TINY))


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    """What scanpy shows of one comparison."""
    if "proba_de" in table:
        up, proba, lfc = table["proba_up"], table["proba_de"], table["lfc_mean"]
    else:
        up = proba = table["proba_m1"]
        lfc = log_ratio(table)
    columns = pd.DataFrame(
        {
            "names": table.index,
            "scores": np.log(up + 1e-8) - np.log(1 - up + 1e-8),
            "logfoldchanges": lfc,
            "pvals": 1 - proba,
            "pvals_adj": false_discovery_rate(proba.to_numpy()),
        },
        index=table.index,
    )
    return columns.sort_values(["scores", "logfoldchanges"], ascending=False, kind="stable")


def _sum(matrix: sp.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(0, dtype=np.float64)).ravel()
