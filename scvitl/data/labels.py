"""Labels that are to be learned, which some of the cells lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .columns import Category, category_name, refuse_unseen, text

if TYPE_CHECKING:
    import anndata as ad


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
    if len(names) == 1:
        msg = f"adata.obs[{key!r}] has one label only, {names[0]!r} ({sizes.iloc[0]} cells): a classifier needs two or more."
        raise ValueError(msg)
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        msg = (
            f"only one cell of adata.obs[{key!r}] is {' or '.join(map(repr, single))}: a label needs at least two cells. "
            f"Label more of them, merge them into a related label, or set them to {unlabeled!r}."
        )
        raise ValueError(msg)
    return Labels(key, names, unlabeled, () if groups is None else _groups(key, names, groups))


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
        refuse_unseen(names.cat.categories, entry)
        codes[rows] = pd.Index(entry.categories).get_indexer(names)
    return codes


def _known(adata: ad.AnnData, key: str, unlabeled: str) -> tuple[np.ndarray, pd.Series]:
    """Positions of the cells that have a label, and the labels as categories of text without unused ones."""
    _checks.obs_column(adata, "labels_key", key)
    rows = np.flatnonzero(adata.obs[key].notna())
    names = pd.Series(text(adata, "labels_key", key, rows))
    known = (names != unlabeled).to_numpy()
    return rows[known], names[known].cat.remove_unused_categories()
