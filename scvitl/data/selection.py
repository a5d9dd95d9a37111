"""What a user names, as numbers: cells, genes, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._checks import did_you_mean
from .columns import category_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from .schema import Schema


def cells(adata: ad.AnnData, selection: object, argument: str = "indices") -> np.ndarray:
    """Positions of cells given as a mask, positions, names, a slice, or a query of ``obs``."""
    if isinstance(selection, str):
        selection = _query(adata, selection, argument)
    if isinstance(selection, slice):
        selection = np.arange(adata.n_obs)[selection]
    if isinstance(selection, pd.Series) and len(selection) == adata.n_obs:
        if pd.api.types.is_bool_dtype(selection) and not selection.index.equals(adata.obs_names):
            msg = f"{argument} is a mask with an index of its own that differs from adata.obs_names: build it from adata.obs."
            raise ValueError(msg)
        selection = _mask(selection) if pd.api.types.is_bool_dtype(selection) else selection.to_numpy()
    selection = np.asarray(selection)
    if selection.ndim != 1:
        msg = f"{argument} takes a list of cells (mask, positions or names) or a query of obs, not {selection.ndim} dimensions."
        raise ValueError(msg)
    if selection.size == 0 or (selection.dtype == bool and not selection.any()):
        msg = f"{argument} selects no cells; adata has {adata.n_obs}."
        raise ValueError(msg)
    if selection.dtype == bool:
        if selection.size != adata.n_obs:
            msg = f"{argument} is a mask of {selection.size} values, but adata has {adata.n_obs} cells."
            raise ValueError(msg)
        return np.flatnonzero(selection)
    if np.issubdtype(selection.dtype, np.integer):
        outside = (selection < -adata.n_obs) | (selection >= adata.n_obs)
        if outside.any():
            msg = f"{argument} has {selection[outside][0]}, but positions of the {adata.n_obs} cells go from 0 to {adata.n_obs - 1}."
            raise IndexError(msg)
        return selection % adata.n_obs
    return _positions(adata.obs_names, selection, argument, "adata.obs_names")


def genes(
    names: Sequence[str], selection: Sequence[str] | str, argument: str = "genes", what: str = "genes"
) -> np.ndarray:
    """Positions among the ``names`` of genes of a model, or of ``what`` else it has, in the order asked for."""
    selection = [selection] if isinstance(selection, str) else list(selection)
    if not selection:
        msg = f"{argument} is empty: name at least one {what.removesuffix('s')}, or leave it out for all {len(names)}."
        raise ValueError(msg)
    twice = pd.Index(selection)[pd.Index(selection).duplicated()]
    if len(twice):
        msg = f"{argument} has {twice[0]!r} more than once."
        raise ValueError(msg)
    return _positions(pd.Index(names), selection, argument, f"the {what} of the model")


def batches(schema: Schema, selection: object, argument: str = "transform_batch") -> list[int]:
    """Codes of batches given as one name, several, or "all"."""
    if schema.batch is None:
        msg = f"{argument}={selection!r} needs a model of several batches, but this one was fitted without batch_key."
        raise ValueError(msg)
    known = schema.batch.categories
    if isinstance(selection, str) and selection == "all":
        if "all" in known:
            msg = f"{argument}='all' means all batches, but one of them is called so: name the batches as a list."
            raise ValueError(msg)
        return list(range(len(known)))
    names = [category_name(name) for name in ([selection] if np.isscalar(selection) else selection)]
    if not names:
        msg = f"{argument} is empty: name batches of {', '.join(map(repr, known))}, or use 'all'."
        raise ValueError(msg)
    for name in names:
        if name not in known:
            msg = (
                f"{argument} has {name!r}, which is no batch of the model.{did_you_mean(name, known)} "
                f"Its batches (obs[{schema.batch.key!r}]): {', '.join(map(repr, known))}."
            )
            raise KeyError(msg)
    return [known.index(name) for name in dict.fromkeys(names)]


def _query(adata: ad.AnnData, query: str, argument: str) -> np.ndarray:
    columns = ", ".join(map(repr, adata.obs.columns)) or "none"
    try:
        mask = adata.obs.eval(query)
    except Exception as error:  # pandas raises whatever its parser or the comparison raises
        msg = f"{argument}={query!r} is not a query that adata.obs can answer ({error}). Columns: {columns}."
        raise ValueError(msg) from error
    if not pd.api.types.is_bool_dtype(mask) or np.shape(mask) != (adata.n_obs,):
        msg = (
            f"{argument}={query!r} is no condition: write one such as \"leiden == '3'\". Columns: {columns}."
        )
        raise ValueError(msg)
    return _mask(mask)


def _mask(values: pd.Series) -> np.ndarray:
    """Booleans, False where one is missing."""
    return pd.Series(values).astype("boolean").to_numpy(bool, na_value=False)


def _positions(known: pd.Index, names: Sequence[str], argument: str, where: str) -> np.ndarray:
    if not known.is_unique:
        msg = f"{where} are not unique, so that {argument} cannot name them: make them unique first."
        raise ValueError(msg)
    names = [str(name) for name in names]
    at = known.get_indexer(names)
    missing = [name for name, position in zip(names, at, strict=True) if position < 0]
    if missing:
        hints = "".join(did_you_mean(name, known) for name in missing[:3])
        some = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
        msg = f"{argument} has {some}, not among {where}.{hints}"
        raise KeyError(msg)
    return at
