"""Labels that are to be learned, which some of the cells lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg
from .columns import Category, category_name, refuse_unseen, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

GAPS = {"nan", "none", "na", "n/a", "<na>"}  # what a gap turns into as text


@dataclass(frozen=True)
class Labels(Category):
    """A column of labels to be learned, which cells may lack: these have the code after the last category."""

    unlabeled: str
    groups: tuple[str, ...] = ()  # of every category, where there are any


def learn(adata: ad.AnnData, key: str, unlabeled: str, groups: Mapping[str, str] | None) -> Labels:
    """The labels in ``obs[key]``, apart from the word ``unlabeled``, with the groups that they belong to."""
    unlabeled = category_name(unlabeled)
    sizes = _known(adata, key, unlabeled)[1].value_counts(sort=False)
    names = tuple(sizes.index)
    if not names:
        msg = (
            f"no cell of adata.obs[{key!r}] has a label: all {adata.n_obs} are {unlabeled!r} or NaN. "
            "Label some cells, or integrate without labels, with scvitl.tl.scvi."
        )
        raise ValueError(msg)
    if "" in names:
        msg = f"{sizes['']} cells of adata.obs[{key!r}] have an empty text as their label: set them to {unlabeled!r}, or name it."
        raise ValueError(msg)
    if len(names) == 1:
        msg = f"adata.obs[{key!r}] has one label only, {names[0]!r} ({sizes.iloc[0]} cells): a classifier needs two or more."
        raise ValueError(msg)
    gaps = [name for name in names if name.lower() in GAPS]
    if gaps:
        logg.warning(
            f"{', '.join(map(repr, gaps))} in adata.obs[{key!r}] is taken for a label; if it means that there is none, "
            f"set these cells to {unlabeled!r}"
        )
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        msg = (
            f"only one cell of adata.obs[{key!r}] is {' or '.join(map(repr, single))}: a label needs at least two cells. "
            f"Label more of them, merge them into a related label, or set them to {unlabeled!r}."
        )
        raise ValueError(msg)
    return Labels(key, names, unlabeled, () if groups is None else _groups(key, names, groups))


def frequencies(labels: Labels, y_prior: Mapping[str, float] | Sequence[float] | None) -> list[float] | None:
    """Frequencies of the labels that a user gives, in the order of the labels."""
    names = labels.categories
    if y_prior is None:
        return None
    if isinstance(y_prior, pd.Series):
        y_prior = y_prior.to_dict()  # such as value counts, which are not in the order of the labels
    if isinstance(y_prior, Mapping):
        given = {category_name(name): value for name, value in y_prior.items()}
        unknown, missing = (
            [name for name in a if name not in b] for a, b in ((given, names), (names, given))
        )
        if unknown or missing:
            problem = (
                f"has {unknown[0]!r}, which is no label" if unknown else f"has no number for {missing[0]!r}"
            )
            msg = f"y_prior {problem}. Labels of adata.obs[{labels.key!r}]: {', '.join(map(repr, names))}."
            raise KeyError(msg)
        y_prior = [given[name] for name in names]
    try:
        prior = np.asarray(y_prior, dtype=float)
    except (TypeError, ValueError) as error:
        msg = (
            f"y_prior takes numbers, as a dictionary by label or in the order of the labels, not {y_prior!r}."
        )
        raise TypeError(msg) from error
    if prior.shape != (len(names),):
        msg = f"y_prior has {prior.size} numbers, but there are {len(names)} labels: {', '.join(map(repr, names))}."
        raise ValueError(msg)
    if not (prior > 0).all() or abs(prior.sum() - 1) > 1e-3:
        msg = f"y_prior must be positive and sum to one, but sums to {prior.sum():g} with a smallest value of {prior.min():g}."
        raise ValueError(msg)
    return (prior / prior.sum()).tolist()


def _groups(key: str, names: tuple[str, ...], groups: Mapping[str, str]) -> tuple[str, ...]:
    """The group of every label."""
    if not isinstance(groups, Mapping):
        msg = f"labels_groups takes a dictionary from labels to groups, such as {{{names[0]!r}: 'my group'}}, not {type(groups).__name__}."
        raise TypeError(msg)
    groups = {category_name(name): category_name(group) for name, group in groups.items()}
    unknown, missing = ([name for name in a if name not in b] for a, b in ((groups, names), (names, groups)))
    if unknown:
        msg = (
            f"labels_groups has {', '.join(map(repr, unknown))}, not among the labels in adata.obs[{key!r}]."
            f"{_checks.did_you_mean(unknown[0], names)} Labels: {', '.join(map(repr, names))}."
        )
        raise KeyError(msg)
    if missing:
        msg = f"labels_groups has no group for {', '.join(map(repr, missing))}: give every label of adata.obs[{key!r}] one."
        raise ValueError(msg)
    if len(set(groups.values())) == 1:
        msg = f"labels_groups puts all labels into one group, {next(iter(groups.values()))!r}: use two or more groups, or leave it out."
        raise ValueError(msg)
    return tuple(groups[name] for name in names)


def codes(adata: ad.AnnData, entry: Labels) -> np.ndarray:
    """Codes of the labels; without the column, no cell has one."""
    codes = np.full(adata.n_obs, len(entry.categories), np.int64)
    if entry.key in adata.obs:
        rows, names = _known(adata, entry.key, entry.unlabeled)
        unlabeled = f"set these cells to {entry.unlabeled!r} to have their labels predicted"
        refuse_unseen(names.cat.categories, entry, remedy=f"{unlabeled}, or fit again with all of them")
        codes[rows] = pd.Index(entry.categories).get_indexer(names)
    return codes


def _known(adata: ad.AnnData, key: str, unlabeled: str) -> tuple[np.ndarray, pd.Series]:
    """Positions of the cells that have a label, and the labels as categories of text without unused ones."""
    _checks.obs_column(adata, "labels_key", key)
    rows = np.flatnonzero(adata.obs[key].notna())
    names = pd.Series(text(adata, "labels_key", key, rows))
    known = (names != unlabeled).to_numpy()
    return rows[known], names[known].cat.remove_unused_categories()
