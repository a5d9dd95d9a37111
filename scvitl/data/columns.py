"""Columns of ``obs`` as categories and numbers: what they hold, learned once and applied to other cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad


ALL = slice(None)


@dataclass(frozen=True)
class Category:
    """A column of categories; the code of a category is its position."""

    key: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Continuous:
    """A column of numbers, with the mean and standard deviation that standardise it."""

    key: str
    mean: float
    sd: float


def category_name(value: object) -> str:
    """A category as text; whole numbers that were read as floats are written without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def text(adata: ad.AnnData, argument: str, key: str, rows: np.ndarray | slice = ALL) -> pd.Categorical:
    """The column, or some rows of it, as categories of text, in pandas' order of its categories."""
    _checks.obs_column(adata, argument, key)
    column = adata.obs[key].iloc[rows]
    if column.isna().any():
        msg = (
            f"adata.obs[{key!r}] is NaN in {int(column.isna().sum())} cells. Drop these cells, or name the gap: "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
        )
        raise ValueError(msg)
    column = column.astype("category").cat
    # Numbers become text, so that codes survive a file in which the same column was stored in another type.
    names = [category_name(value) for value in column.categories]
    if len(set(names)) < len(names):
        msg = f"adata.obs[{key!r}] has different categories that read the same, such as 1 and '1': {column.categories.tolist()}. Rename or merge them."
        raise ValueError(msg)
    return pd.Categorical.from_codes(column.codes, names)


def category(adata: ad.AnnData, argument: str, key: str) -> Category:
    """The categories of a column that have cells."""
    column = text(adata, argument, key)
    used = column.remove_unused_categories().categories
    if len(used) < len(column.categories):
        unused = [name for name in column.categories if name not in set(used)]
        logg.warning(
            f"categories of adata.obs[{key!r}] without cells are left out: {', '.join(map(repr, unused))}"
        )
    single = [name for name, size in column.value_counts().items() if size == 1]
    if single:
        logg.warning(
            f"only one cell of adata.obs[{key!r}] is in {', '.join(map(repr, single))}: little can be learned about it"
        )
    return Category(key, tuple(used))


def codes(adata: ad.AnnData, argument: str, entry: Category) -> np.ndarray:
    """Codes of a column whose categories were learned, (n,)."""
    column = text(adata, argument, entry.key).remove_unused_categories()
    refuse_unseen(column.categories, entry)
    return pd.Index(entry.categories).get_indexer(np.asarray(column, dtype=object))


def refuse_unseen(
    names: Sequence[str],
    entry: Category,
    *,
    remedy: str = "use these cells only, or fit again with all of them",
) -> None:
    """Refuse names that are not among those learned."""
    unseen = [name for name in names if name not in entry.categories]
    if unseen:
        msg = (
            f"adata.obs[{entry.key!r}] has {', '.join(map(repr, unseen))}, which the model was not fitted to. "
            f"It knows {', '.join(map(repr, entry.categories))}: {remedy}."
        )
        raise ValueError(msg)


def numbers(adata: ad.AnnData, argument: str, key: str, *, positive: bool = False) -> np.ndarray:
    """A column of finite numbers, (n,)."""
    _checks.obs_column(adata, argument, key)
    if not pd.api.types.is_numeric_dtype(adata.obs[key]):
        msg = f"adata.obs[{key!r}] holds {adata.obs[key].dtype}, but {argument} needs numbers."
        raise TypeError(msg)
    values = adata.obs[key].to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values) | (positive & (values <= 0))
    if bad.any():
        wanted = "positive numbers" if positive else "finite numbers"
        msg = (
            f"adata.obs[{key!r}] is {values[bad][0]} in {adata.obs_names[bad][0]!r} and {int(bad.sum()) - 1} other cells, "
            f"but {argument} needs {wanted}. Correct the column or drop these cells."
        )
        raise ValueError(msg)
    return values


def continuous(adata: ad.AnnData, key: str) -> Continuous:
    """Mean and standard deviation of a column."""
    values = numbers(adata, "continuous_covariate_keys", key)
    with np.errstate(over="ignore"):
        mean, sd = float(values.mean()), float(values.std())
    if not np.isfinite(sd):
        msg = f"the values of adata.obs[{key!r}] are too large to standardise (up to {np.abs(values).max():g}): rescale the column."
        raise ValueError(msg)
    if sd <= 1e-12 * max(1.0, abs(mean)):
        msg = f"adata.obs[{key!r}] is {mean:g} in every cell, so it explains nothing: leave it out of continuous_covariate_keys."
        raise ValueError(msg)
    return Continuous(key, mean, sd)


def standardised(adata: ad.AnnData, entry: Continuous) -> np.ndarray:
    """A column by the mean and standard deviation that were learned, (n,)."""
    return (numbers(adata, "continuous_covariate_keys", entry.key) - entry.mean) / entry.sd
