"""What the columns of an AnnData mean: learned once, kept as JSON, applied to every AnnData the model meets later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad


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


@dataclass(frozen=True)
class Schema:
    """Genes and columns that a model was fitted to."""

    genes: tuple[str, ...]
    layer: str | None = None
    batch: Category | None = None
    labels: Category | None = None
    size_factor: str | None = None
    categorical: tuple[Category, ...] = field(default=())
    continuous: tuple[Continuous, ...] = field(default=())

    def to_json(self) -> str:
        """The schema as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The schema that `to_json` wrote."""
        record = json.loads(text)

        def category(entry: dict | None) -> Category | None:
            return entry and Category(entry["key"], tuple(entry["categories"]))

        return cls(
            genes=tuple(record["genes"]),
            layer=record["layer"],
            batch=category(record["batch"]),
            labels=category(record["labels"]),
            size_factor=record["size_factor"],
            categorical=tuple(category(entry) for entry in record["categorical"]),
            continuous=tuple(Continuous(**entry) for entry in record["continuous"]),
        )


@dataclass(frozen=True)
class Codes:
    """The columns of n cells as numbers."""

    genes: np.ndarray | None  # positions of the schema's genes, None where they stand in its order
    batch: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    categorical: np.ndarray  # (n, C)
    continuous: np.ndarray  # (n, c)
    size_factor: np.ndarray | None  # (n,)


def learn(
    adata: ad.AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
) -> Schema:
    """The schema of ``adata``; the arguments are those of `scvitl.tl.scvi`."""
    _checks.several_cells(adata)
    _checks.unique_names(adata, "obs", "var")

    def category(argument: str, key: str | None) -> Category | None:
        return None if key is None else _category(adata, argument, key)

    def covariate(key: str) -> Category:
        learned = category("categorical_covariate_keys", key)
        if len(learned.categories) == 1:
            msg = f"adata.obs[{key!r}] is {learned.categories[0]!r} in every cell, so it explains nothing: leave it out of categorical_covariate_keys."
            raise ValueError(msg)
        return learned

    if size_factor_key is not None:
        _numbers(adata, "size_factor_key", size_factor_key, positive=True)
    return Schema(
        genes=tuple(map(str, adata.var_names)),
        layer=layer,
        batch=category("batch_key", batch_key),
        labels=category("labels_key", labels_key),
        size_factor=size_factor_key,
        categorical=tuple(map(covariate, categorical_covariate_keys)),
        continuous=tuple(_continuous(adata, key) for key in continuous_covariate_keys),
    )


def encode(adata: ad.AnnData, schema: Schema, *, genes: bool = True) -> Codes:
    """Columns of ``adata`` as the schema's codes, with the genes matched by name where ``genes`` are of use."""
    if adata.n_obs == 0:
        msg = "adata has no cells: check the selection that made it."
        raise ValueError(msg)

    def codes(argument: str, entry: Category | None) -> np.ndarray:
        return np.zeros(adata.n_obs, np.int64) if entry is None else _codes(adata, argument, entry)

    def columns(values: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.stack(values, 1) if values else np.zeros((adata.n_obs, 0), dtype)

    return Codes(
        genes=_genes(adata, schema) if genes else None,
        batch=codes("batch_key", schema.batch),
        labels=codes("labels_key", schema.labels),
        categorical=columns(
            [codes("categorical_covariate_keys", entry) for entry in schema.categorical], np.int64
        ),
        continuous=columns([_standardised(adata, entry) for entry in schema.continuous], np.float64),
        size_factor=(
            None
            if schema.size_factor is None
            else _numbers(adata, "size_factor_key", schema.size_factor, positive=True)
        ),
    )


def category_name(value: object) -> str:
    """A category as text; whole numbers that were read as floats are written without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _text(adata: ad.AnnData, argument: str, key: str) -> pd.Categorical:
    """The column as categories of text, in pandas' order of its categories."""
    _checks.obs_column(adata, argument, key)
    column = adata.obs[key]
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


def _category(adata: ad.AnnData, argument: str, key: str) -> Category:
    column = _text(adata, argument, key)
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


def _codes(adata: ad.AnnData, argument: str, entry: Category) -> np.ndarray:
    column = _text(adata, argument, entry.key).remove_unused_categories()
    unseen = [name for name in column.categories if name not in entry.categories]
    if unseen:
        msg = (
            f"adata.obs[{entry.key!r}] has {', '.join(map(repr, unseen))}, which the model was not fitted to. "
            f"It knows {', '.join(map(repr, entry.categories))}: use these cells only, or fit again with all of them."
        )
        raise ValueError(msg)
    return pd.Index(entry.categories).get_indexer(np.asarray(column, dtype=object))


def _numbers(adata: ad.AnnData, argument: str, key: str, *, positive: bool = False) -> np.ndarray:
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


def _continuous(adata: ad.AnnData, key: str) -> Continuous:
    values = _numbers(adata, "continuous_covariate_keys", key)
    with np.errstate(over="ignore"):
        mean, sd = float(values.mean()), float(values.std())
    if not np.isfinite(sd):
        msg = f"the values of adata.obs[{key!r}] are too large to standardise (up to {np.abs(values).max():g}): rescale the column."
        raise ValueError(msg)
    if sd <= 1e-12 * max(1.0, abs(mean)):
        msg = f"adata.obs[{key!r}] is {mean:g} in every cell, so it explains nothing: leave it out of continuous_covariate_keys."
        raise ValueError(msg)
    return Continuous(key, mean, sd)


def _standardised(adata: ad.AnnData, entry: Continuous) -> np.ndarray:
    return (_numbers(adata, "continuous_covariate_keys", entry.key) - entry.mean) / entry.sd


def _genes(adata: ad.AnnData, schema: Schema) -> np.ndarray | None:
    if tuple(adata.var_names) == schema.genes:
        return None
    _checks.unique_names(adata, "var")
    at = adata.var_names.get_indexer(schema.genes)
    missing = [gene for gene, position in zip(schema.genes, at, strict=True) if position < 0]
    if missing:
        msg = (
            f"{len(missing)} of the {len(schema.genes)} genes of the model are not in adata.var_names "
            f"({', '.join(map(repr, missing[:3]))}{', …' if len(missing) > 3 else ''}). adata has {adata.n_vars} genes "
            f"such as {', '.join(map(repr, adata.var_names[:3]))}: pass an AnnData with all genes of the model."
        )
        raise ValueError(msg)
    return at
