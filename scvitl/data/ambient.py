"""Ambient profiles: shares of the genes in what floats between the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from .. import _checks
from .._logging import logg
from .columns import category_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from .columns import Category

ONE = "ambient"  # column of a profile that is not of a batch
SUM = 1e-3  # by which the sum of a profile may differ from one without a word


def frame(shares: np.ndarray, genes: pd.Index, batches: Sequence[str] | None) -> pd.DataFrame:
    """Profiles (K, G) as they go into ``varm``: genes × batches."""
    return pd.DataFrame(shares.T, index=genes, columns=[ONE] if batches is None else list(batches))


def given(adata: ad.AnnData, ambient: Any, genes: Sequence[str], batch: Category | None) -> np.ndarray:
    """What the user passes as ``ambient``, checked, as shares of ``genes`` in every batch, (K, G).

    A frame or series is matched by gene. Everything else is in the order of ``adata.var_names``.
    """
    name, names, genes = "ambient", adata.var_names, pd.Index(genes)
    if isinstance(ambient, str):
        name, ambient = f"adata.varm[{ambient!r}]", _stored(adata, ambient)
    if isinstance(ambient, pd.Series):
        ambient = ambient.to_frame(ONE)
    if isinstance(ambient, pd.DataFrame):
        table = _matched(name, ambient, genes)
    else:
        table = pd.DataFrame(_array(name, ambient, len(names)), index=names).loc[genes]
    table = _of_batches(name, table, batch)
    odd = next((kind for kind in table.dtypes if not pd.api.types.is_numeric_dtype(kind)), None)
    if odd is not None:
        msg = f"{name} holds {odd}, where the shares of the genes are numbers."
        raise TypeError(msg)
    values = table.to_numpy(np.float64, na_value=np.nan)  # (G, K)
    wrong = {"NaN or infinite": ~np.isfinite(values), "negative": values < 0}
    for what, where in wrong.items():
        if where.any():
            bad = genes[where.any(1)]
            msg = f"{name} is {what} for {len(bad)} of {len(genes)} genes (such as {bad[0]!r}): a profile has the share of every gene."
            raise ValueError(msg)
    total = values.sum(0)
    if (total <= 0).any():
        msg = f"{name} is zero for every gene: a profile has the share of every gene."
        raise ValueError(msg)
    if len(genes) == len(names) and (abs(total - 1) > SUM).any():
        logg.warning(
            f"{name} sums to {total[abs(total - 1).argmax()]:g} and not to 1: it is divided by its sum"
        )
    return (values / total).T


def _stored(adata: ad.AnnData, key: str) -> Any:
    """What is in ``varm`` under that key."""
    if key in adata.varm:
        return adata.varm[key]
    if key in adata.var:
        hint = f" adata.var has it: ambient=adata.var[{key!r}]."
    else:
        hint = _checks.did_you_mean(key, adata.varm)
    msg = (
        f"ambient={key!r} is not in adata.varm.{hint} In varm: {', '.join(map(repr, adata.varm)) or 'none'}."
    )
    raise KeyError(msg)


def _matched(name: str, table: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    """Rows of a frame by the genes of the cells."""
    if not table.index.is_unique:
        msg = f"the index of {name} has {table.index[table.index.duplicated()][0]!r} more than once: one row per gene."
        raise ValueError(msg)
    missing = genes.difference(table.index, sort=False)
    if len(missing):
        msg = (
            f"{name} has no row for {len(missing)} of the {len(genes)} genes of adata (such as {missing[0]!r}); its rows are "
            f"such as {', '.join(map(repr, table.index[:3]))}: index it by adata.var_names."
        )
        raise ValueError(msg)
    return table.loc[genes]


def _array(name: str, values: Any, n_genes: int) -> np.ndarray:
    """An array of one profile as (G, 1)."""
    kind = type(values).__name__
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu()
    try:
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
    except ValueError:  # no array at all
        values = np.asarray(None)
    if not np.issubdtype(values.dtype, np.number):
        msg = f"{name} takes the shares of the genes as numbers, or a key of adata.varm, not {kind} of {values.dtype}."
        raise TypeError(msg)
    column = values.reshape(-1, 1) if values.ndim == 1 or values.shape == (1, n_genes) else values
    if column.ndim != 2 or column.shape != (n_genes, 1):
        msg = f"{name} has shape {values.shape}, but adata has {n_genes} genes: one share per gene, in the order of adata.var_names; a profile for each batch takes a frame."
        raise ValueError(msg)
    return column


def _of_batches(name: str, table: pd.DataFrame, batch: Category | None) -> pd.DataFrame:
    """One column per batch; a single column serves all."""
    if table.shape[1] == 1:
        return table.iloc[:, [0] * (1 if batch is None else len(batch.categories))]
    if batch is None:
        msg = f"{name} has {table.shape[1]} columns: name the obs column of the batches with batch_key, or pass one profile."
        raise ValueError(msg)
    columns = [category_name(column) for column in table.columns]
    missing = [label for label in batch.categories if label not in columns]
    if missing:
        msg = (
            f"{name} has no profile for {', '.join(map(repr, missing))} of adata.obs[{batch.key!r}]; its columns are "
            f"{', '.join(map(repr, columns))}: pass a frame with the batches as columns."
        )
        raise ValueError(msg)
    return table.iloc[:, [columns.index(label) for label in batch.categories]]


def pooled(counts: sp.csr_matrix, codes: np.ndarray, n_batch: int) -> np.ndarray:
    """Shares of the genes in the cells of every batch together, (K, G)."""
    summed = np.array(
        [np.asarray(counts[codes == code].sum(0)).ravel() for code in range(n_batch)], np.float64
    )
    return summed / summed.sum(1, keepdims=True)


def smoothed(counts: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Shares of the genes that ``counts`` (G,) of empty droplets are drawn from, expected to be near ``pool`` (G,).

    Most genes have few of these counts, or none, and would count as never ambient. Ambient RNA comes from the cells, so
    shares are given a Dirichlet prior around those of the cells; its weight, in counts, is the one that makes the counts
    most likely.
    """
    pool = np.where(pool > 0, pool, 0) + 1e-12
    pool, total, seen = pool / pool.sum(), counts.sum(), counts > 0

    def cost(log_weight: float) -> float:
        weight = np.exp(log_weight)
        prior = weight * pool[seen]
        evidence = (
            gammaln(weight) - gammaln(weight + total) + (gammaln(counts[seen] + prior) - gammaln(prior)).sum()
        )
        return -evidence

    weight = np.exp(minimize_scalar(cost, bounds=(0.0, np.log(100 * total)), method="bounded").x)
    return (counts + weight * pool) / (total + weight)
