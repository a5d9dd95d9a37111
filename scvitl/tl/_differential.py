"""The way of a test of differential expression: check the options, choose batches, draw and compare, make tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .._logging import logg
from ..data import selection
from ..get._decoding import check_weights
from ._groups import is_membership
from ._ranking import count_statistics, frame, protein_statistics

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

    from ..data import Schema
    from ..data.batches import CellData
    from ..store import FittedModel
    from ._groups import Comparisons

    Batches = tuple[list[int | None], list[int | None]]


def check_options(options: dict[str, Any], batches1: object, batches2: object) -> None:
    """Every option has a legal value."""
    _checks.one_of("mode", options["mode"], ("change", "vanilla"))
    _checks.one_of("test_mode", options["test_mode"], ("three", "two"))
    if isinstance(options["cred_interval_lvls"], (int, float)):
        options["cred_interval_lvls"] = [options["cred_interval_lvls"]]
    options["cred_interval_lvls"] = list(options["cred_interval_lvls"])
    if options["delta"] != "auto":
        _checks.number("delta", options["delta"], at_least=0)
    if options["pseudocounts"] is not None:
        _checks.number("pseudocounts", options["pseudocounts"], above=0)
    for level in options["cred_interval_lvls"]:
        _checks.number("cred_interval_lvls", level, above=0, below=1)
    _checks.number("protein_prior_count", options["protein_prior_count"], above=0)
    _checks.number("fdr_target", options["fdr_target"], above=0, below=1)
    _checks.whole_number("n_samples", options["n_samples"], at_least=2)
    _checks.seed(options["random_state"])
    for name in ("batch_correction", "filter_outlier_cells"):
        _checks.true_or_false(name, options[name])
    if not options["batch_correction"] and not (batches1 is None and batches2 is None):
        msg = "batches1 and batches2 are the batches to decode from: they need batch_correction=True."
        raise ValueError(msg)


def check_name(adata: ad.AnnData, name: object) -> None:
    """Results under this name hide nothing else."""
    _checks.key_added(name)
    there = adata.uns.get(name)
    if there is not None and not (isinstance(there, dict) and {"params", "names"} <= there.keys()):
        msg = f"adata.uns[{name!r}] holds something that is not a ranking of genes: choose another key_added."
        raise ValueError(msg)
    if name in adata.obs and not is_membership(adata.obs[name]):
        msg = f"adata.obs[{name!r}] exists already: choose another key_added."
        raise ValueError(msg)


def batches_of(schema: Schema, options: dict[str, Any], batches1: object, batches2: object) -> Batches:
    """Codes of the batches that either side is decoded from; ``[None]`` leaves cells in their own."""
    if not options["batch_correction"]:
        if schema.batch is not None and len(schema.batch.categories) > 1:
            logg.hint(
                "cells are compared as of their own batches; batch_correction=True takes batch effects out"
            )
        return [None], [None]
    first = selection.batches(schema, "all" if batches1 is None else batches1, "batches1")
    second = first if batches2 is None else selection.batches(schema, batches2, "batches2")
    most = max(len(first), len(second))
    if options["n_samples"] < 2 * most:
        msg = f"n_samples={options['n_samples']} is too few for {most} batches; take at least {2 * most}."
        raise ValueError(msg)
    if set(first) == set(second):
        return first, first
    if set(first) & set(second):
        msg = "batches1 and batches2 overlap: they must be the same batches, or have none in common."
        raise ValueError(msg)
    return first, second


def compare(
    fitted: FittedModel,
    data: CellData,
    comparisons: Comparisons,
    options: dict[str, Any],
    *,
    batches: Batches,
    importance_options: dict[str, Any] | None,
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame] | None]:
    """The full table of genes of every group, and that of proteins where there are some."""
    if importance_options is not None:
        check_weights(fitted)

    from .. import posterior

    if data.counts is None:
        logg.warning("the cells are minified: the table has no statistics of counts")
        counts = [{} for _ in comparisons.pairs]
    else:
        counts = count_statistics(data.counts, comparisons, data.measured)
    proteins = fitted.schema.proteins
    genes, of_proteins = posterior.compare(
        fitted.module,
        data,
        comparisons.sets,
        comparisons.pairs,
        batches=batches,
        mean_counts=[(table.get("raw_mean1"), table.get("raw_mean2")) for table in counts],
        importance_options=importance_options,
        in_batch=None if proteins is None else np.array(proteins.in_batch),
        **{name: value for name, value in options.items() if name not in {"fdr_target", "batch_correction"}},
    )
    sides = {"reference": comparisons.reference, "fdr_target": options["fdr_target"]}

    def frames(names: tuple[str, ...], measured: np.ndarray, *parts) -> dict[str, pd.DataFrame]:
        return {
            name: frame(names, measured, *both, group=name, **sides)
            for name, *both in zip(comparisons.names, *parts, strict=True)
        }

    tables = frames(fitted.schema.genes, data.measured, genes, counts)
    if of_proteins is None:
        return tables, None
    counts = protein_statistics(fitted.module, data, comparisons)
    return tables, frames(proteins.names, np.ones(len(proteins.names), bool), of_proteins, counts)
