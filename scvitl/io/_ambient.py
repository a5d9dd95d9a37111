"""What scAR alone has: an ambient profile, which is an argument there and no weight; and columns that its model never sees."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .._logging import logg
from ..data import features
from ..data.ambient import pooled
from ._decode import array_in
from ._unpickle import RefusedError, intact

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from ..data import Schema
    from ..data.batches import CellData

ARGUMENT = "ambient_profile"


def seen(schema: Schema, file: Path) -> Schema:
    """The columns that the model sees: scvi-tools registers a batch and keeps it from the model."""
    if schema.size_factor is not None:
        msg = (
            f"the model in {str(file)!r} was set up with size_factor_key={schema.size_factor!r}, which scvitl's scAR does "
            "not have: use scvi-tools for it."
        )
        raise RefusedError(msg)
    return replace(schema, batch=None)


def weights(
    given: Any, adata: ad.AnnData, schema: Schema, data: CellData, file: Path
) -> dict[str, np.ndarray]:
    """The profile ``given`` to the model, and genes all at one level, as our module has them."""
    n_genes = len(schema.genes)
    if given is None:
        logg.warning(
            "the file does not hold the ambient profile; the cells together stand for it, as in scvi-tools where none is given"
        )
        shares = pooled(data.counts, np.zeros(data.n_cells), 1)
    elif isinstance(given, str):
        shares = _by_name(given, adata, schema)
    else:
        with intact(file):
            shares = _values(given, n_genes)
    # scvi-tools takes NaN for no share, and leaves the sum as it is.
    shares = np.where(np.isnan(shares), 0, shares)
    if (shares < 0).any() or not shares.any():
        msg = f"the ambient profile in {str(file)!r} is no profile: its shares are negative, or all zero."
        raise RefusedError(msg)
    return {"ambient": shares.reshape(1, -1), "decoder.level": np.ones(n_genes)}


def feature_type(adata: ad.AnnData, schema: Schema) -> str:
    """What the features of the model are, as ``var`` has it; genes, where it does not say."""
    if features.COLUMN not in adata.var:
        return "mRNA"
    there = set(adata.var.loc[list(schema.genes), features.COLUMN].astype(str))
    return next((name for name, kind in features.TYPES.items() if there <= {name, kind}), "mRNA")


def _values(given: Any, n_genes: int) -> np.ndarray:
    """An array or a frame, whose values scvi-tools takes in the order of the genes."""
    found = array_in(given, lambda array: array.dtype.kind in "fiu" and array.size == n_genes)
    if found is None:
        msg = f"there is no {ARGUMENT} of {n_genes} genes in it"
        raise ValueError(msg)
    return found.astype(np.float64)


def _by_name(key: str, adata: ad.AnnData, schema: Schema) -> np.ndarray:
    """A profile that the model took from ``varm``."""
    if key not in adata.varm:
        there = ", ".join(map(repr, adata.varm)) or "nothing"
        msg = (
            f"the model takes its ambient profile from adata.varm[{key!r}], which is not there."
            f"{_checks.did_you_mean(key, adata.varm)} There: {there}. Put it there, one share per gene."
        )
        raise KeyError(msg)
    values = np.asarray(adata.varm[key], np.float64).reshape(adata.n_vars, -1)
    if values.shape[1] != 1:
        msg = f"the ambient profile in adata.varm[{key!r}] has {values.shape[1]} columns, and the model takes one."
        raise ValueError(msg)
    return values[adata.var_names.get_indexer(schema.genes), 0]
