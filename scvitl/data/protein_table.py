"""The table of counts of proteins in ``obsm``: read with names and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .. import _checks
from .._logging import logg
from .counts import problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad


def table(adata: ad.AnnData, key: str, names: Sequence[str] | str | None) -> tuple[np.ndarray, list[str]]:
    """Checked counts, (n, P) float32, and names of the proteins: of the columns, else ``names``."""
    try:
        tables = adata.obsm
    except ValueError as error:
        msg = (
            "a table in adata.obsm has other cells than adata.obs_names, or the same in another order, so that anndata "
            "reads none of them: change the names back that were changed last, those of the table or adata.obs.index."
        )
        raise ValueError(msg) from error
    if key not in tables:
        there = ", ".join(map(repr, tables)) or "nothing"
        msg = (
            f"{key!r} is not in adata.obsm, where counts of proteins are looked for.{_checks.did_you_mean(key, tables)} "
            f"There: {there}. Name the table with protein_key=, or pass a MuData with a modality of proteins."
        )
        raise KeyError(msg)
    found = tables[key]
    where = place(adata, key)
    if isinstance(found, pd.DataFrame):
        given, found = [str(name) for name in found.columns], _array(found)
    else:
        found = found.toarray() if sp.issparse(found) else np.asarray(found)
        given = _names(adata, names, found.shape[1], where)
    repeated = pd.Index(given)[pd.Index(given).duplicated()].unique().tolist()
    if repeated:
        msg = f"{where} has several proteins called {some(repeated)}: rename them, so that each has a name of its own."
        raise ValueError(msg)
    if found.shape[1] == 0:
        msg = f"{where} has no columns: there are no proteins. scvitl.tl.scvi models genes alone."
        raise ValueError(msg)
    check(found.ravel(), where)
    return np.ascontiguousarray(found, np.float32), given


def check(values: np.ndarray, where: str) -> None:
    """``values`` are counts."""
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        msg = f"{where} holds values that are not numbers (dtype {values.dtype}); raw counts of proteins are needed."
        raise TypeError(msg)
    wrong = problem(values)
    if wrong and np.isnan(values).any():
        msg = (
            f"{where} holds NaN in {np.isnan(values).sum():,} places: put 0 where a protein was not measured, as with "
            "fillna(0). What has no count in a whole batch (or panel) is taken for that."
        )
        raise ValueError(msg)
    if wrong:
        msg = f"{where} {wrong}; raw counts of proteins are needed, neither CLR- nor log-normalised."
        raise ValueError(msg)


def _array(frame: pd.DataFrame) -> np.ndarray:
    """The values of a frame, with NaN where pandas' own types have a gap."""
    numbers = all(map(pd.api.types.is_numeric_dtype, frame.dtypes))
    if numbers and any(map(pd.api.types.is_extension_array_dtype, frame.dtypes)):
        return frame.to_numpy(np.float64, na_value=np.nan)
    return frame.to_numpy()


def place(adata: ad.AnnData, key: str) -> str:
    """Where the table of proteins is, in words."""
    return getattr(adata.obsm[key], "attrs", {}).get("where", f"adata.obsm[{key!r}]")


def _names(adata: ad.AnnData, names: Sequence[str] | str | None, n: int, where: str) -> list[str]:
    """Names for a table without columns: those given, in ``uns`` under the name given, or numbers."""
    if names is None:
        logg.hint(f"{where} has no names of proteins, so they are numbered; protein_names= gives them names")
        return [f"protein_{i}" for i in range(n)]
    if isinstance(names, str):
        if names not in adata.uns:
            msg = f"protein_names={names!r} is not in adata.uns.{_checks.did_you_mean(names, adata.uns)} Pass the names themselves, or put them there."
            raise KeyError(msg)
        names = adata.uns[names]
    names = [str(name) for name in names]
    if len(names) != n:
        msg = f"{where} has {n} columns, but there are {len(names)} names of proteins: as many are needed."
        raise ValueError(msg)
    return names


def some(names: Sequence[str], n: int = 5) -> str:
    """Up to ``n`` names, in words."""
    return ", ".join(map(repr, names[:n])) + (f", … ({len(names)})" if len(names) > n else "")
