from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .. import _checks, store
from .._keys import Keys, keys
from ..data.counts import in_memory, problem
from ._decoding import check_ambient, gene_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

BY = ("gene", "cell", "group")


def removed(
    adata: AnnData,
    *,
    key: str = "scar",
    by: Literal["gene", "cell", "group"] = "gene",
    groupby: str | None = None,
    genes: Sequence[str] | str | None = None,
) -> pd.DataFrame:
    """How many counts :func:`scvitl.tl.scar` took away, from which genes and from which cells.

    Look here to see whether it removed too much. ``removed`` is the share of the counts that is gone, ``noise`` the share
    that is ambient as the model has it. With cell types as ``groupby``, a marker should stay in its own type and fall
    elsewhere. Its ``noise`` elsewhere should be at most about one: if more ambient counts are expected in these cells than
    they have counts, the model takes too much in them for ambient. A cell loses what is expected and the ``excess`` of the fit.
    A gene may lose more or less than its ``noise``, since the surest counts go first, and these are not spread evenly over genes.

    Parameters
    ----------
    adata
        Cells with a model fitted by :func:`scvitl.tl.scar`, with counts where they were at the fit.
    key
        Name of the model in ``uns``, and of its counts in ``layers``.
    by
        What the rows are: ``"gene"``, ``"cell"``, or ``"group"`` for every gene in every group of ``groupby``.
    groupby
        Column of ``obs`` with groups of cells, such as cell types. Cells without a group have no part in what is told of
        groups.
    genes
        Names of the genes to look at, in this order; those of cells count these alone. `None` takes all.

    Returns
    -------
    A frame. In all of them, ``removed`` is NaN where there were no counts before, and below zero where
    ``output="generative"`` added some.

    ``by="gene"``: genes, those that lost most counts first, with their counts ``before`` and ``after``, ``removed``,
    ``noise`` and ``ambient``, the share of the gene in the ambient profile (mean of the batches). With ``groupby`` also
    ``top_group``, where its mean was highest before, ``removed_in_top`` and ``removed_elsewhere``.

    ``by="cell"``: cells, with ``before``, ``after``, ``removed``, ``noise`` (of all their counts), and ``group``.

    ``by="group"``: ``gene`` and ``group``, with ``n_cells``, ``mean_before`` and ``mean_after`` of the counts,
    ``cells_before`` and ``cells_after``, the share of the cells that have the gene, ``removed`` and ``noise``.

    Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene or column, or what the model wrote is gone.
    ValueError
        The model is not scAR, the counts are not counts, genes of the model are missing, or ``groupby`` holds numbers.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.scar(adata, raw, max_epochs=5, progress=False)
    >>> scvitl.get.removed(adata).columns.tolist()
    ['before', 'after', 'removed', 'noise', 'ambient']
    >>> markers = scvitl.get.removed(adata, groupby="cell_type").query(
    ...     "removed_in_top < 0.05 < 0.5 < removed_elsewhere"
    ... )
    """
    _checks.one_of("by", by, BY)
    if by == "group" and groupby is None:
        msg = "by='group' needs groups: name a column of obs with groupby, such as cell types."
        raise ValueError(msg)
    groups = None if groupby is None else _groups(adata, groupby)
    found = _read(adata, keys(key), genes)
    if by == "cell":
        return _by_cell(adata.obs_names, found, groups)
    if by == "group":
        return _by_group(found, groups)
    table = _by_gene(found, groups)
    if genes is not None:
        return table
    return table.iloc[np.argsort(table["after"] - table["before"], kind="stable")]


@dataclass(frozen=True)
class Pair:
    """Counts of the same cells before and after."""

    genes: list[str]
    before: sp.csr_matrix  # (n, G)
    after: sp.csr_matrix  # (n, G)
    noise: np.ndarray  # (n,), share of ambient counts
    expected: np.ndarray  # (n, K), ambient counts of a cell, in the column of its batch
    ambient: np.ndarray  # (K, G), shares of the genes

    def summed(self, groups: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts before and after and ambient ones expected, (groups, G), of groups of cells (groups, n)."""
        before, after = ((groups @ counts).toarray() for counts in (self.before, self.after))
        return before, after, (groups @ self.expected) @ self.ambient


def _groups(adata: AnnData, groupby: str) -> pd.Categorical:
    """The groups that some cell belongs to."""
    _checks.obs_column(adata, "groupby", groupby)
    column = adata.obs[groupby]
    if pd.api.types.is_float_dtype(column):
        msg = f"groupby takes groups of cells, but adata.obs[{groupby!r}] holds numbers: name a column of groups."
        raise ValueError(msg)
    groups = pd.Categorical(column.astype("category")).remove_unused_categories()
    if not len(groups.categories):
        msg = f"no cell has a group in adata.obs[{groupby!r}]: name another column with groupby."
        raise ValueError(msg)
    return groups.rename_categories(str)


def _read(adata: AnnData, names: Keys, genes: Sequence[str] | str | None) -> Pair:
    """The counts of some genes that the model in ``uns`` read and wrote."""
    fitted, cells = store.open_cells(adata, key=names.model, counts_for="get.removed")
    check_ambient(fitted, names.model, given=False)
    for slot, name in {"layers": names.counts, "obs": names.noise}.items():
        if name not in getattr(adata, slot):
            msg = f"adata.{slot}[{name!r}], which scvitl.tl.scar wrote, is gone: start from the file as it was, or fit again."
            raise KeyError(msg)
    schema, positions = fitted.schema, gene_positions(fitted.schema, genes)
    positions = np.arange(len(schema.genes)) if positions is None else positions
    chosen = [schema.genes[i] for i in positions]
    after = sp.csr_matrix(in_memory(adata.layers[names.counts]))
    wrong = problem(after.data)
    if wrong:
        msg = f"adata.layers[{names.counts!r}] {wrong}, so it is not what scvitl.tl.scar wrote: fit again, with a key_added that nothing else writes to."
        raise ValueError(msg)
    ambient = fitted.module.ambient.cpu().numpy().astype(np.float64)
    noise = adata.obs[names.noise].to_numpy(np.float64)
    total = cells.counts.sum(1, dtype=np.float64).A1
    batch = cells.batch.cpu().numpy()
    return Pair(
        chosen,
        before=cells.counts[:, positions],
        after=after[:, adata.var_names.get_indexer(chosen)],
        noise=noise,
        expected=np.where(batch[:, None] == np.arange(len(ambient)), (noise * total)[:, None], 0),
        ambient=ambient[:, positions],
    )


def _share_gone(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return 1 - _over(after, before)


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A share, NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _members(groups: pd.Categorical) -> sp.csr_matrix:
    """Which cells are of which group, (groups, n)."""
    cells = np.flatnonzero(groups.codes >= 0)
    shape = len(groups.categories), len(groups)
    return sp.csr_matrix((np.ones(len(cells)), (groups.codes[cells], cells)), shape)


def _by_cell(names: pd.Index, found: Pair, groups: pd.Categorical | None) -> pd.DataFrame:
    before, after = (counts.sum(1, dtype=np.float64).A1 for counts in (found.before, found.after))
    table = pd.DataFrame(
        {
            "before": before.astype(np.int64),
            "after": after.astype(np.int64),
            "removed": _share_gone(before, after),
            "noise": found.noise,
        },
        names,
    )
    return table if groups is None else table.assign(group=groups)


def _by_gene(found: Pair, groups: pd.Categorical | None) -> pd.DataFrame:
    before, after, expected = (
        values[0] for values in found.summed(sp.csr_matrix(np.ones((1, len(found.noise)))))
    )
    table = pd.DataFrame(
        {
            "before": before.astype(np.int64),
            "after": after.astype(np.int64),
            "removed": _share_gone(before, after),
            "noise": _over(expected, before),
            "ambient": found.ambient.mean(0),
        },
        pd.Index(found.genes, name="gene"),
    )
    if groups is None:
        return table
    members = _members(groups)
    before, after, _ = found.summed(members)
    at, every = (before / members.sum(1).A).argmax(0), np.arange(before.shape[1])
    top = before[at, every], after[at, every]
    seen = before.any(0)
    return table.assign(
        top_group=pd.Categorical.from_codes(np.where(seen, at, -1), groups.categories),
        removed_in_top=_share_gone(*top),
        removed_elsewhere=_share_gone(before.sum(0) - top[0], after.sum(0) - top[1]),
    )


def _by_group(found: Pair, groups: pd.Categorical) -> pd.DataFrame:
    members = _members(groups)
    n_cells = members.sum(1).A
    before, after, expected = found.summed(members)
    having = [(members @ (counts > 0)).toarray() / n_cells for counts in (found.before, found.after)]
    values = {
        "n_cells": np.broadcast_to(n_cells.astype(np.int64), before.shape),
        "mean_before": before / n_cells,
        "mean_after": after / n_cells,
        "cells_before": having[0],
        "cells_after": having[1],
        "removed": _share_gone(before, after),
        "noise": _over(expected, before),
    }
    n_groups, n_genes = before.shape
    return pd.DataFrame(
        {
            "gene": np.repeat(found.genes, n_groups),
            "group": pd.Categorical.from_codes(np.tile(np.arange(n_groups), n_genes), groups.categories),
            **{name: value.T.ravel() for name, value in values.items()},
        }
    )
