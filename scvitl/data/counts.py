"""Find the raw counts of an AnnData, check that they are counts, and hand them out as float32 CSR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .._checks import did_you_mean

if TYPE_CHECKING:
    import anndata as ad

BLOCK = 2**22  # entries looked at together; keeps temporary arrays far below the size of the counts


def find_counts(
    adata: ad.AnnData, layer: str | None = None, *, whole: bool = True, genes: np.ndarray | None = None
) -> sp.csr_matrix:
    """Counts of ``adata`` as checked float32 CSR, without a copy where they are that already.

    Parameters
    ----------
    adata
        Cells × genes; a view or backed is fine.
    layer
        Layer that holds the counts. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    whole
        Whether values must be whole numbers; only a normal likelihood does without.
    genes
        Positions of the genes to take, in the order wanted; -1 is a gene without counts. `None` takes all.

    Raises
    ------
    KeyError
        The layer does not exist.
    ValueError
        The values are not counts, or a cell has none.
    """
    layer = locate(adata, layer, whole=whole)
    counts = _as_csr(_matrix(adata, layer))
    if genes is not None:
        # An empty column at the end, which -1 finds.
        shape = counts.shape[0], counts.shape[1] + 1
        counts = sp.csr_matrix((counts.data, counts.indices, counts.indptr), shape=shape)[:, genes]
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and an error below
        counts = counts.astype(np.float32, copy=False)
    wrong = problem(counts.data, whole=whole)
    if wrong:
        wanted = (
            f"raw counts are needed. {_remedy(adata)}"
            if whole
            else "finite values of at least zero are needed."
        )
        msg = f"{_name(layer)} {wrong}; {wanted}"
        raise ValueError(msg)
    _check_totals(adata, counts, layer, all_genes=genes is None)
    return counts


def locate(adata: ad.AnnData, layer: str | None, *, whole: bool = True) -> str | None:
    """The layer to take: the one asked for; else `None` for ``X``, or "counts" where only that layer holds counts."""
    if layer is not None or not whole or "counts" not in adata.layers:
        return layer
    if adata.X is not None and not problem(_values(adata.X)):
        return None
    return None if problem(_values(adata.layers["counts"])) else "counts"


def _matrix(adata: ad.AnnData, layer: str | None):
    layers = ", ".join(map(repr, adata.layers)) or "none"
    if layer is not None and layer not in adata.layers:
        msg = f"{layer!r} is not in adata.layers.{did_you_mean(layer, adata.layers)} Layers: {layers}."
        raise KeyError(msg)
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        msg = (
            f"adata.X is empty; pass layer= with the name of the layer of counts. Layers: {layers}. "
            "Where scvitl.tl.minify took the counts away, use the AnnData that still has them."
        )
        raise ValueError(msg)
    return matrix


def in_memory(matrix):
    """Backed matrices read into memory, everything else as it is."""
    if hasattr(matrix, "to_memory"):
        return matrix.to_memory()
    return matrix if sp.issparse(matrix) else np.asarray(matrix)


def _as_csr(matrix) -> sp.csr_matrix:
    counts = sp.csr_matrix(in_memory(matrix))
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    if not counts.data.all():
        counts = counts.copy()
        counts.eliminate_zeros()
    return counts


def _values(matrix) -> np.ndarray:
    matrix = in_memory(matrix)
    return matrix.data if sp.issparse(matrix) else matrix.ravel()


def problem(values: np.ndarray, *, whole: bool = True) -> str | None:
    """What keeps ``values`` from being counts, in words, or `None`."""
    if values.dtype == bool or np.issubdtype(values.dtype, np.unsignedinteger):
        return None
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        if not np.isfinite(block).all():
            return "holds NaN or infinite values"
        if (block < 0).any():
            return f"holds negative values (smallest {values.min():.4g})"
        if whole and not np.issubdtype(block.dtype, np.integer) and (block != np.rint(block)).any():
            seen = block[block != np.rint(block)][0]
            kind = " and looks log-normalised" if values.max() < 20 else ""
            return f"holds values that are not whole numbers (such as {float(seen):.7g}){kind}"
    return None


def _remedy(adata: ad.AnnData) -> str:
    """The advice that ends the error: a place in ``adata`` that does hold counts, or how to keep them."""
    for name, matrix in adata.layers.items():
        if not problem(_values(matrix)):
            return f"adata.layers[{name!r}] holds counts: fit with layer={name!r}."
    if adata.X is not None and not problem(_values(adata.X)):
        return "adata.X holds counts: leave layer out."
    genes_kept = adata.raw is not None and adata.var_names.isin(adata.raw.var_names).all()
    if genes_kept and not problem(_values(adata.raw.X)):
        return "adata.raw holds counts: adata.layers['counts'] = adata.raw[:, adata.var_names].X brings them back."
    return "Keep them before normalising, with adata.layers['counts'] = adata.X.copy()."


def _check_totals(adata: ad.AnnData, counts: sp.csr_matrix, layer: str | None, *, all_genes: bool) -> None:
    empty = np.flatnonzero(np.asarray(counts.sum(1)).ravel() <= 0)
    if empty.size:
        matrix = _name(layer) if all_genes else f"{_name(layer)}[:, adata.var_names.isin(genes)]"
        where = "" if all_genes else " where genes are those of the model, scvitl.get.model(…).schema.genes"
        some = ", ".join(map(repr, adata.obs_names[empty[:3]])) + (", …" if empty.size > 3 else "")
        msg = (
            f"{empty.size} {'cell has' if empty.size == 1 else 'cells have'} no counts in the {counts.shape[1]} genes given ({some}). "
            f"Drop them first: adata = adata[np.asarray({matrix}.sum(1)).ravel() > 0].copy(){where}."
        )
        raise ValueError(msg)


def _name(layer: str | None) -> str:
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"
