"""What the schema of a trained model becomes on cells of a new data set: genes by name, new categories after the old."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from .. import _checks
from .._logging import logg
from . import columns
from . import proteins as protein_tables
from .counts import locate
from .labels import Labels

if TYPE_CHECKING:
    import anndata as ad

    from .columns import Category
    from .schema import Schema

ENOUGH = 0.8  # share of the model's genes below which a query is warned of
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}")


def extend(query: ad.AnnData, schema: Schema, *, layer: str | None = None, whole: bool = True) -> Schema:
    """The ``schema`` of a reference with the categories of ``query`` after its own, and the genes that it lacks.

    Without a ``layer``, counts are sought where the reference had them, then where a fit seeks them.
    """
    _checks.unique_names(query, "var")
    if query.n_obs == 0:
        msg = "query has no cells: check the selection that made it."
        raise ValueError(msg)
    for argument, keys in needed(schema).items():
        for key in keys:
            _check_column(query, argument, key)
    if layer is None and schema.layer in query.layers:
        layer = schema.layer
    batch = None if schema.batch is None else _grown(query, "batch_key", schema.batch)
    proteins = None
    if schema.proteins is not None:
        proteins = protein_tables.grown(query, schema.proteins, (schema.batch, batch))
    return replace(
        schema,
        layer=locate(query, layer, whole=whole),
        batch=batch,
        proteins=proteins,
        categorical=tuple(_grown(query, "categorical_covariate_keys", entry) for entry in schema.categorical),
        absent=absent_genes(query, schema.genes),
    )


def needed(schema: Schema) -> dict[str, list[str]]:
    """Columns of ``obs`` that cells have to have, by the argument that named them at the fit."""
    return {
        "batch_key": [] if schema.batch is None else [schema.batch.key],
        "labels_key": []
        if schema.labels is None or isinstance(schema.labels, Labels)
        else [schema.labels.key],
        "size_factor_key": [] if schema.size_factor is None else [schema.size_factor],
        "categorical_covariate_keys": [entry.key for entry in schema.categorical],
        "continuous_covariate_keys": [entry.key for entry in schema.continuous],
        "panel_key": [panel.key] if (panel := getattr(schema.proteins, "panel", None)) else [],
    }


def new_categories(old: Schema, new: Schema) -> dict[str, tuple[str, ...]]:
    """Categories that ``new`` has beyond those of ``old``, by column."""
    sides = [
        (schema.batch, *schema.categorical, getattr(schema.proteins, "panel", None)) for schema in (old, new)
    ]
    pairs = zip(*sides, strict=True)
    added = {a.key: b.categories[len(a.categories) :] for a, b in pairs if a is not None}
    return {key: names for key, names in added.items() if names}


def _check_column(query: ad.AnnData, argument: str, key: str) -> None:
    if key not in query.obs:
        msg = (
            f"the reference was fitted with {key!r} as {argument}, but query.obs has no such column."
            f"{_checks.did_you_mean(key, query.obs.columns)} "
            f"Columns: {', '.join(map(repr, query.obs.columns)) or 'none'}. Add it, as in query.obs[{key!r}] = …"
        )
        raise KeyError(msg)


def _grown(query: ad.AnnData, argument: str, entry: Category) -> Category:
    found = columns.category(query, argument, entry.key).categories
    known = set(entry.categories)
    return replace(entry, categories=(*entry.categories, *(name for name in found if name not in known)))


def absent_genes(query: ad.AnnData, genes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``genes`` that ``query`` lacks; few in common is warned of, none an error."""
    here = set(query.var_names)
    absent = tuple(gene for gene in genes if gene not in here)
    n_genes, n_here = len(genes), len(genes) - len(absent)
    if n_here == 0:
        msg = (
            f"none of the {n_genes:,} genes of the reference is in query.var_names: the reference has "
            f"{_some(genes)}, the query {_some(query.var_names)}.{_hint(query, genes)}"
        )
        raise ValueError(msg)
    logg.info(
        f"    {n_here:,} of the {n_genes:,} genes of the reference are in the query"
        + (", the others count as 0" if absent else "")
        + (f"; {query.n_vars - n_here:,} further ones are left out" if query.n_vars > n_here else "")
    )
    if n_here < ENOUGH * n_genes:
        logg.warning(
            f"the query has only {n_here / n_genes:.0%} of the genes of the reference (it lacks {_some(absent)}), "
            f"so cells may end up in the wrong place: map cells with all their genes, rather than some selected "
            f"from them.{_hint(query, genes)}"
        )
    return absent


def _some(names: tuple[str, ...] | pd.Index) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")


def _hint(query: ad.AnnData, genes: tuple[str, ...]) -> str:
    """Where the names of the reference may be found, with a space before it, or nothing."""
    wanted = pd.Index(genes)

    def share(names: pd.Index) -> float:
        return wanted.isin(names).mean()

    names = query.var_names.astype(str)
    enough = max(0.1, 1.5 * share(names))
    for column in query.var:
        if share(pd.Index(query.var[column].astype(str))) > enough:
            return (
                f" query.var[{column!r}] has {share(pd.Index(query.var[column].astype(str))):.0%} of them: "
                f"query.var_names = query.var[{column!r}].astype(str), then query.var_names_make_unique()."
            )
    if wanted.str.upper().isin(names.str.upper()).mean() > enough:
        return " Their case differs: write the names as the reference does, unless the query is of another species."
    if (
        wanted.str.replace(r"\.\d+$", "", regex=True)
        .isin(names.str.replace(r"\.\d+$", "", regex=True))
        .mean()
        > enough
    ):
        return " Their versions differ, the number after the point: write the names as the reference does."
    sides = [pd.Series(side[:100]).str.match(ENSEMBL).mean() > 0.5 for side in (wanted, names)]
    if sides[0] != sides[1]:
        ensembl, symbols = ("reference", "query") if sides[0] else ("query", "reference")
        return f" The {ensembl} has Ensembl identifiers and the {symbols} has symbols: give the query the names of the reference."
    return ""
