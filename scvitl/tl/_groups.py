"""Sets of cells to compare, from a column of ``obs`` or as the user selects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg
from ..data import selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

FIRST, SECOND, OTHER = "cells1", "cells2", "other"  # names of two sets and of the cells in neither


@dataclass(frozen=True)
class Comparisons:
    """Sets of cells, and which is compared with which."""

    sets: list[np.ndarray]
    names: list[str]  # of the groups compared
    pairs: list[tuple[int, tuple[int, ...]]]  # positions in sets: a group, and those of its reference
    reference: str

    def union(self, side: tuple[int, ...]) -> np.ndarray:
        """The cells of several sets."""
        return np.concatenate([self.sets[i] for i in side])


def check_choice(groupby: object, groups: object, reference: object, cells1: object, cells2: object) -> bool:
    """Arguments that go together were given; whether they select cells, rather than name a column."""
    if (groupby is None) == (cells1 is None):
        msg = "say which cells to compare: either groupby, a column of obs, or cells1 (and cells2), not both."
        raise ValueError(msg)
    selected = cells1 is not None
    if (selected and (groups is not None or reference != "rest")) or (not selected and cells2 is not None):
        msg = "groups and reference go with groupby, cells2 with cells1: leave out what does not belong."
        raise ValueError(msg)
    return selected


def by_column(
    adata: ad.AnnData, groupby: str, groups: Sequence[str] | str | None, reference: str
) -> Comparisons:
    """Groups of a column, each against the rest of the cells or against one of them."""
    _checks.obs_column(adata, "groupby", groupby)
    column = adata.obs[groupby].astype("category").cat
    codes, names = column.codes.to_numpy(), [str(name) for name in column.categories]
    if len(set(names)) < len(names) or "" in names:
        msg = f"adata.obs[{groupby!r}] has groups that read the same, such as 1 and '1', or one without a name: rename them."
        raise ValueError(msg)
    cells = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    names, reference = [name for name in names if len(cells[name])], str(reference)
    if not names:
        msg = f"adata.obs[{groupby!r}] is NaN in every cell: there are no groups to compare."
        raise ValueError(msg)
    if groups is None:
        wanted = [name for name in names if name != reference]
    else:
        wanted = [str(group) for group in ([groups] if np.isscalar(groups) else groups)]
    for argument, name in (*(("groups", name) for name in wanted), ("reference", reference)):
        if name not in names and not (argument == "reference" and name == "rest"):
            msg = (
                f"{argument} has {name!r}, but no cell of adata.obs[{groupby!r}] is that."
                f"{_checks.did_you_mean(name, names)} Groups: {', '.join(map(repr, names))}."
            )
            raise KeyError(msg)
    if len(names) < len(column.categories) or not isinstance(adata.obs[groupby].dtype, pd.CategoricalDtype):
        logg.hint(
            f"some of scanpy's plots need text categories that all have cells: adata.obs[{groupby!r}] = "
            f"adata.obs[{groupby!r}].astype(str).astype('category')"
        )
    if groups is not None and not wanted:
        msg = f"groups is empty: name groups of {', '.join(map(repr, names))}, or leave it out to test all."
        raise ValueError(msg)
    if reference == "rest" and "rest" in names:
        msg = (
            f"adata.obs[{groupby!r}] has a group called 'rest', which also means all other cells: rename it."
        )
        raise ValueError(msg)
    if reference in wanted:
        msg = f"reference={reference!r} is among the groups compared with it: leave it out of groups."
        raise ValueError(msg)
    if not wanted or (reference == "rest" and len(names) < 2):
        msg = f"adata.obs[{groupby!r}] has one group, {names[0]!r}: there is nothing to compare it with."
        raise ValueError(msg)
    sets, at = [cells[name] for name in names], {name: i for i, name in enumerate(names)}
    if (codes < 0).any():
        sets.append(np.flatnonzero(codes < 0))  # without a group, but part of the rest
    pairs = [
        (
            at[name],
            tuple(i for i in range(len(sets)) if i != at[name]) if reference == "rest" else (at[reference],),
        )
        for name in wanted
    ]
    comparisons = Comparisons(sets, wanted, pairs, reference)
    _check_sizes(comparisons, f"adata.obs[{groupby!r}]")
    return comparisons


def by_selection(adata: ad.AnnData, cells1: object, cells2: object) -> Comparisons:
    """Two sets of cells; the second is all others where it is not given."""
    first = np.unique(selection.cells(adata, cells1, "cells1"))
    if cells2 is None:
        second = np.setdiff1d(np.arange(adata.n_obs), first)
        if not len(second):
            msg = "cells1 selects all cells, so there is nothing to compare them with."
            raise ValueError(msg)
    else:
        second = np.unique(selection.cells(adata, cells2, "cells2"))
    if np.array_equal(first, second):
        msg = "cells1 and cells2 select the same cells, so there is nothing to compare."
        raise ValueError(msg)
    both = np.intersect1d(first, second)
    if len(both):
        msg = f"{len(both)} cells, such as {adata.obs_names[both[0]]!r}, are in cells1 and in cells2: make the sets distinct."
        raise ValueError(msg)
    comparisons = Comparisons([first, second], [FIRST], [(0, (1,))], SECOND)
    _check_sizes(comparisons, "the selection")
    return comparisons


def membership(adata: ad.AnnData, comparisons: Comparisons):
    """A column that says which set each cell is in."""
    names = np.full(adata.n_obs, OTHER, dtype=object)
    for name, cells in zip((FIRST, SECOND), comparisons.sets, strict=True):
        names[cells] = name
    used = [name for name in (FIRST, SECOND, OTHER) if name in names]
    return pd.Categorical(names, categories=used)


def is_membership(column: pd.Series) -> bool:
    """Whether a column is what `membership` makes."""
    categories = isinstance(column.dtype, pd.CategoricalDtype) and set(column.cat.categories)
    return bool(categories) and FIRST in categories and categories <= {FIRST, SECOND, OTHER}


def _check_sizes(comparisons: Comparisons, where: str) -> None:
    for name, (group, reference) in zip(comparisons.names, comparisons.pairs, strict=True):
        for side, cells in (
            (name, comparisons.sets[group]),
            (comparisons.reference, comparisons.union(reference)),
        ):
            if len(cells) < 2:
                msg = (
                    f"{side!r} of {where} has {len(cells)} cell, but at least two are needed to compare: "
                    "leave it out, or merge it with another."
                )
                raise ValueError(msg)
