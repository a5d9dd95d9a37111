from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks, store
from ..data import selection
from ._latent import latent
from ._loadings import factor_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def factor_association(
    adata: AnnData,
    keys: Sequence[str] | str | None = None,
    *,
    key: str = "ldvae",
    model: store.FittedModel | None = None,
    indices: object = None,
) -> pd.DataFrame:
    r"""How strongly each factor varies with columns of ``obs``, such as cell type, batch or total counts.

    For a column of groups, it is the share :math:`\eta^2` of the factor's variance that lies between the groups; for a
    column of numbers, the squared rank correlation :math:`\rho^2`. Both go from 0, nothing to do with each other, to 1. Many
    groups explain much by chance alone, which is subtracted: with :math:`n` cells and :math:`k` groups (two for numbers),

    .. math::

        1 - (1 - \eta^2)\,\frac{n - 1}{n - k}, \text{ but at least } 0.

    A factor that goes with the cell type is biology; one that goes with the batch is what integration left over; one that
    goes with total counts or mitochondrial share is quality. :func:`scvitl.pl.loadings` draws this beside the genes.

    Parameters
    ----------
    adata
        Cells to look at, with counts where they were at the fit.
    keys
        Columns of ``obs``. `None` takes all that tell groups of cells apart or hold numbers.
    key
        Name of the model in ``uns``: of any model, although the axes of a non-linear one mean little.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to. Their genes are matched by name.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.

    Returns
    -------
    A frame of factors (``Z_0``, ``Z_1``, …) × columns. A cell without a value in a column is left out for that column. A
    factor that is the same in all cells has zeros. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model or column, or cells or a column that the model needs are missing.
    ValueError
        A column asked for does not tell cells apart, genes of the model are missing, a batch is new to it, the counts are
        not counts, or no cells are selected.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.ldvae(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> list(scvitl.get.factor_association(adata))
    ['batch', 'cell_type', 'library']
    """
    adata = store.joined(adata, key=key, model=model)
    columns = telling(adata, keys, indices)
    fitted = store.from_uns(adata, key) if model is None else model
    values = latent(adata, key=key, model=fitted, indices=indices)
    return association(values, columns, factor_names(fitted))


def telling(
    adata: AnnData, keys: Sequence[str] | str | None = None, indices: object = None
) -> dict[str, pd.Series]:
    """The columns of ``obs`` that tell cells apart, as `_groups_or_ranks` gives them; those asked for have to."""
    obs = adata.obs if indices is None else adata.obs.iloc[selection.cells(adata, indices)]
    columns = {name: _groups_or_ranks(obs[name]) for name in _asked(adata, keys)}
    for name, column in columns.items():
        if column is None and keys is not None:
            msg = (
                f"adata.obs[{name!r}] does not tell cells apart: it needs numbers that differ, or at least two groups "
                "and more cells than groups."
            )
            raise ValueError(msg)
    return {name: column for name, column in columns.items() if column is not None}


def association(values: np.ndarray, columns: dict[str, pd.Series], names: Sequence[str]) -> pd.DataFrame:
    """The table of `factor_association`, of cells with the latent state ``values`` (n, D)."""
    values = values.astype(np.float64)
    ranks = _ranks(values) if any(map(pd.api.types.is_float_dtype, columns.values())) else None
    return pd.DataFrame(
        {name: _share(values, ranks, column) for name, column in columns.items()}, index=names
    )


def _asked(adata: AnnData, keys: Sequence[str] | str | None) -> list[str]:
    if keys is None:
        return list(adata.obs)
    keys = list(dict.fromkeys([keys] if isinstance(keys, str) else keys))
    for name in keys:
        _checks.obs_column(adata, "keys", name)
    return keys


def _groups_or_ranks(column: pd.Series) -> pd.Series | None:
    """Codes of groups (as integers), or ranks (as floats); NaN or -1 where missing; `None` if cells are not told apart."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        ranks = pd.Series(column.to_numpy(np.float64, na_value=np.nan)).rank()
        return ranks if ranks.min() < ranks.max() and ranks.count() > 2 else None
    codes = pd.Series(pd.factorize(column)[0])
    n_groups, n_cells = codes.max() + 1, (codes >= 0).sum()
    return codes if 1 < n_groups < n_cells else None


def _ranks(values: np.ndarray) -> np.ndarray:
    return pd.DataFrame(values).rank().to_numpy()


def _share(values: np.ndarray, ranks: np.ndarray | None, column: pd.Series) -> np.ndarray:
    """Share of the variance of every column of ``values`` (n, D) that ``column`` explains, less what chance would.

    Numbers are compared with ``ranks`` (n, D); cells without one change the ranks of the others.
    """
    there = (column >= 0).to_numpy()
    grouped = pd.api.types.is_integer_dtype(column)
    if grouped:
        values = values[there]
    elif there.all():
        values = ranks
    else:
        values = _ranks(values[there])
    column = column.to_numpy()[there]
    n, total = len(values), values.var(0)
    if grouped:
        sizes = np.bincount(column)
        sums = np.stack([np.bincount(column, weights=factor) for factor in values.T], 1)
        means, k = sums / sizes[:, None], len(sizes)
        explained = sizes @ (means - values.mean(0)) ** 2 / n
    else:
        k = 2
        slope = (column - column.mean()) @ (values - values.mean(0)) / n
        explained = slope**2 / column.var()
    share = np.divide(explained, total, out=np.zeros_like(total), where=total > 0)
    return np.maximum(1 - (1 - share) * (n - 1) / (n - k), 0) * (total > 0)
