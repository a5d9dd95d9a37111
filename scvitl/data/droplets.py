"""The droplets of an experiment before cells were called: matched with the cells by the names of both, and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .. import _checks
from .._logging import logg
from .counts import BLOCK, in_memory, locate, problem
from .raw import RAW

if TYPE_CHECKING:
    import anndata as ad

ROWS = 2**14  # droplets read together from a file
BARCODE = "([ACGTN]{8,})"
USUAL = 2  # droplets for a cell, at least, in a matrix that was not filtered


@dataclass(frozen=True)
class Droplets:
    """Droplets with enough counts, over the genes of the cells in their order."""

    counts: sp.csr_matrix  # (m, G); genes that were not measured have none
    is_cell: np.ndarray  # (m,)
    n_shared: int  # genes that were measured
    lost: pd.Index  # cells that are not among the droplets


def droplets(
    raw: ad.AnnData,
    rows: np.ndarray | slice,
    genes: pd.Index,
    cells: pd.Index,
    *,
    layer: str | None,
    min_counts: int,
    title: str = "raw",
) -> Droplets:
    """Droplets at ``rows`` with at least ``min_counts`` counts, by the names of ``genes``; ``cells`` are those called.

    ``title`` is what errors call ``raw``.
    """
    at = _positions(raw, genes, title)
    here = np.arange(raw.n_obs)[rows]
    is_cell, lost = _called(raw.obs_names[here], cells, title)
    matrix, name = _matrix(raw, layer)
    # A dense matrix becomes sparse in parts that are small.
    n_rows = max(BLOCK // raw.n_vars, 1) if getattr(matrix, "format", None) is None else ROWS
    parts, kept = [], []
    for start in range(0, len(here), n_rows):
        part = _block(matrix, here[start : start + n_rows], at, name)
        enough = np.asarray(part.sum(1)).ravel() >= min_counts
        parts.append(part[enough])
        kept.append(enough)
    return Droplets(sp.vstack(parts, format="csr"), is_cell[np.concatenate(kept)], int((at >= 0).sum()), lost)


def _positions(raw: ad.AnnData, genes: pd.Index, title: str) -> np.ndarray:
    """Where the genes are in ``raw``, found by name; -1 for those that it does not have."""
    if not raw.var_names.is_unique:
        twice = raw.var_names[raw.var_names.duplicated()][0]
        msg = f"the var_names of {title} are not unique ({twice!r} occurs more than once). Run raw.var_names_make_unique() first."
        raise ValueError(msg)
    at = raw.var_names.get_indexer(genes)
    missing = genes[at < 0]
    if len(missing) == len(genes):
        ids = next((name for name in raw.var if pd.Index(raw.var[name].astype(str)).isin(genes).any()), None)
        hint = f" raw.var[{ids!r}] has names of adata: set raw.var_names = raw.var[{ids!r}]." if ids else ""
        msg = (
            f"{title} and adata have no gene in common: {title} has {', '.join(map(repr, raw.var_names[:3]))}, …, adata "
            f"{', '.join(map(repr, genes[:3]))}, ….{hint}"
        )
        raise ValueError(msg)
    if len(missing):
        logg.warning(
            f"{len(missing):,} of the {len(genes):,} genes of adata are not in {title} (such as {missing[0]!r}) and count as "
            "never ambient"
        )
    return at


def _called(names: pd.Index, cells: pd.Index, title: str) -> tuple[np.ndarray, pd.Index]:
    """Which droplets, by their ``names``, are cells, and which cells are no droplet."""
    is_cell, found = names.isin(cells), cells.isin(names)
    if not found.any():
        is_cell, found = _by_barcode(names, cells)
    if is_cell.all():
        msg = f"all {len(names):,} droplets of {title} are cells of adata: pass {RAW}, with the droplets that hold no cell."
        raise ValueError(msg)
    if len(names) <= len(cells):
        own = (
            ""
            if found.any()
            else " If all of them are empty, their counts together are a profile: scvitl.tl.scar(adata, "
            "ambient=pd.Series(np.ravel(raw.X.sum(0)), raw.var_names))."
        )
        msg = f"{title} has {len(names):,} droplets, no more than the {len(cells):,} cells of adata: pass {RAW}.{own}"
        raise ValueError(msg)
    if found.any() and len(names) < USUAL * len(cells):
        logg.warning(
            f"{title} has {len(names):,} droplets for {len(cells):,} cells, where an unfiltered matrix has many times as many: "
            "is it filtered?"
        )
    return is_cell, cells[~found]


def _by_barcode(names: pd.Index, cells: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Which droplets are cells, and which cells are droplets, where names differ in what is around the barcodes.

    That is so where samples were put together, and their names made unique.
    """
    of_raw, of_cells = (
        pd.Index(index.astype(str).str.extract(BARCODE, expand=False)) for index in (names, cells)
    )
    is_cell, found = (
        one.isin(other) & one.notna() for one, other in ((of_raw, of_cells), (of_cells, of_raw))
    )
    # Some barcodes are in any two samples.
    if found.mean() < 0.5 or not (of_raw.dropna().is_unique and of_cells.dropna().is_unique):
        return np.zeros(len(names), bool), np.zeros(len(cells), bool)
    logg.info(
        f"    cells are found in raw by their barcodes, such as {cells[found][0]!r} by {of_cells[found][0]!r}"
    )
    return is_cell, found


def _matrix(raw: ad.AnnData, layer: str | None) -> tuple[Any, str]:
    """The matrix with the counts, by rows, and its name."""
    if layer is not None and layer not in raw.layers:
        layers = ", ".join(map(repr, raw.layers)) or "none"
        msg = f"{layer!r} is not in raw.layers.{_checks.did_you_mean(layer, raw.layers)} Layers: {layers}."
        raise KeyError(msg)
    # A look at some droplets is enough; of a view of a file no part can be taken.
    layer = locate(raw if raw.isbacked and raw.is_view else raw[:ROWS], layer)
    matrix, name = (raw.X, "raw.X") if layer is None else (raw.layers[layer], f"raw.layers[{layer!r}]")
    if matrix is None:
        msg = f"{name} is empty: raw counts are needed. Layers: {', '.join(map(repr, raw.layers)) or 'none'}."
        raise ValueError(msg)
    by_columns = getattr(matrix, "format", None) not in {None, "csr"}
    return (in_memory(matrix).tocsr() if by_columns else matrix), name


def _block(matrix: Any, rows: np.ndarray, genes: np.ndarray, name: str) -> sp.csr_matrix:
    """Counts of some droplets, checked, with an empty column for genes at -1."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[-1] + 1)):
        rows = slice(rows[0], rows[-1] + 1)
    part = sp.csr_matrix(in_memory(matrix[rows]))
    wrong = problem(part.data)
    if wrong:
        msg = f"{name} {wrong}; raw counts are needed."
        raise ValueError(msg)
    part = sp.csr_matrix((part.data, part.indices, part.indptr), shape=(part.shape[0], part.shape[1] + 1))
    part = part[:, genes].astype(np.float32)
    part.sum_duplicates()
    return part
