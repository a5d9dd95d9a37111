"""What the columns of an AnnData mean: learned once, kept as JSON, applied to every AnnData the model meets later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from . import columns, labels
from . import proteins as protein_tables
from .columns import Category, Continuous
from .labels import Labels
from .proteins import AUTO, Proteins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad


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
    absent: tuple[str, ...] = ()  # genes that the cells may lack, which then count as 0
    proteins: Proteins | None = None

    def to_json(self) -> str:
        """The schema as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The schema that `to_json` wrote."""
        record = json.loads(text)

        def category(entry: dict | None) -> Category | None:
            if entry is None:
                return None
            parts = {name: tuple(part) if isinstance(part, list) else part for name, part in entry.items()}
            return Labels(**parts) if "unlabeled" in parts else Category(**parts)

        return cls(
            genes=tuple(record["genes"]),
            layer=record["layer"],
            batch=category(record["batch"]),
            labels=category(record["labels"]),
            size_factor=record["size_factor"],
            categorical=tuple(category(entry) for entry in record["categorical"]),
            continuous=tuple(Continuous(**entry) for entry in record["continuous"]),
            absent=tuple(record.get("absent", ())),  # older records have none
            proteins=protein_tables.from_record(record.get("proteins")),
        )


@dataclass(frozen=True)
class Codes:
    """The columns of n cells as numbers."""

    genes: np.ndarray | None  # positions of the schema's genes, -1 for absent ones; None: as they stand
    batch: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    categorical: np.ndarray  # (n, C)
    continuous: np.ndarray  # (n, c)
    size_factor: np.ndarray | None  # (n,)
    proteins: np.ndarray | None  # (n, P) counts
    panel: np.ndarray  # (n,), of proteins


def learn(  # noqa: PLR0913
    adata: ad.AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    unlabeled_category: str | None = None,
    labels_groups: Mapping[str, str] | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    protein_key: str | None = None,
    protein_names: Sequence[str] | str | None = None,
    panel_key: str | None = None,
    missing_proteins: Mapping[str, Sequence[str]] | str = AUTO,
) -> Schema:
    """The schema of ``adata``; the arguments are those of `scvitl.tl.scvi`, `scvitl.tl.scanvi` and `scvitl.tl.totalvi`.

    With an ``unlabeled_category``, labels are to be learned, and cells may lack them.
    """
    _checks.several_cells(adata)
    _checks.unique_names(adata, "obs", "var")

    def category(argument: str, key: str | None) -> Category | None:
        return None if key is None else columns.category(adata, argument, key)

    def covariate(key: str) -> Category:
        learned = category("categorical_covariate_keys", key)
        if len(learned.categories) == 1:
            msg = f"adata.obs[{key!r}] is {learned.categories[0]!r} in every cell, so it explains nothing: leave it out of categorical_covariate_keys."
            raise ValueError(msg)
        return learned

    if size_factor_key is not None:
        columns.numbers(adata, "size_factor_key", size_factor_key, positive=True)
    if unlabeled_category is None:
        label = category("labels_key", labels_key)
    else:
        label = labels.learn(adata, labels_key, unlabeled_category, labels_groups)
    batch, proteins = category("batch_key", batch_key), None
    if protein_key is not None:
        proteins = protein_tables.learn(
            adata,
            protein_key,
            names=protein_names,
            batch=batch,
            panel_key=panel_key,
            missing=missing_proteins,
        )
    return Schema(
        genes=tuple(map(str, adata.var_names)),
        layer=layer,
        batch=batch,
        labels=label,
        size_factor=size_factor_key,
        categorical=tuple(map(covariate, categorical_covariate_keys)),
        continuous=tuple(columns.continuous(adata, key) for key in continuous_covariate_keys),
        proteins=proteins,
    )


def encode(adata: ad.AnnData, schema: Schema, *, genes: bool = True) -> Codes:
    """Columns of ``adata`` as the schema's codes; where ``genes`` are of use, these matched by name, and proteins."""
    if adata.n_obs == 0:
        msg = "adata has no cells: check the selection that made it."
        raise ValueError(msg)

    def codes(argument: str, entry: Category | None) -> np.ndarray:
        if entry is None:
            return np.zeros(adata.n_obs, np.int64)
        return (
            labels.codes(adata, entry) if isinstance(entry, Labels) else columns.codes(adata, argument, entry)
        )

    def stack(values: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.stack(values, 1) if values else np.zeros((adata.n_obs, 0), dtype)

    batch = codes("batch_key", schema.batch)
    proteins, panel = None, batch
    if genes and schema.proteins is not None:
        proteins, panel = protein_tables.encode(adata, schema.proteins, batch)
    return Codes(
        genes=_genes(adata, schema) if genes else None,
        batch=batch,
        labels=codes("labels_key", schema.labels),
        categorical=stack(
            [codes("categorical_covariate_keys", entry) for entry in schema.categorical], np.int64
        ),
        continuous=stack([columns.standardised(adata, entry) for entry in schema.continuous], np.float64),
        size_factor=(
            None
            if schema.size_factor is None
            else columns.numbers(adata, "size_factor_key", schema.size_factor, positive=True)
        ),
        proteins=proteins,
        panel=panel,
    )


def _genes(adata: ad.AnnData, schema: Schema) -> np.ndarray | None:
    if tuple(adata.var_names) == schema.genes:
        return None
    _checks.unique_names(adata, "var")
    at = adata.var_names.get_indexer(schema.genes)
    missing = pd.Index(schema.genes)[at < 0].difference(schema.absent, sort=False).tolist()
    if missing:
        msg = (
            f"{len(missing)} of the {len(schema.genes)} genes of the model are not in adata.var_names "
            f"({', '.join(map(repr, missing[:3]))}{', …' if len(missing) > 3 else ''}). adata has {adata.n_vars} genes "
            f"such as {', '.join(map(repr, adata.var_names[:3]))}: pass an AnnData with all genes of the model."
        )
        raise ValueError(msg)
    return at
