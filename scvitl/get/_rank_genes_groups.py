from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks
from .._keys import RANKING, RANKING_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData


def rank_genes_groups(
    adata: AnnData, *, groups: Sequence[str] | str | None = None, key: str = RANKING
) -> pd.DataFrame:
    """The full table of differential expression that :func:`scvitl.tl.rank_genes_groups` made.

    :func:`scanpy.get.rank_genes_groups_df` returns the five columns that scanpy knows; this table has all of them.
    The page on differential expression in the documentation says what each means and how to choose by them.

    Parameters
    ----------
    adata
        Cells whose genes were ranked.
    groups
        Groups to return. `None` returns all.
    key
        Name of the results in ``uns``.

    Returns
    -------
    A frame with a row per group and gene, the surest differences of a group first. Columns for ``mode="change"``:
    ``proba_de``, ``proba_not_de``, ``bayes_factor`` (log odds of the former), ``scale1`` and ``scale2`` (mean share of the
    counts in group and reference), ``pseudocounts``, ``delta``, ``lfc_*`` (of the log2 fold change: mean, median, std,
    min, max, credible intervals), ``raw_*`` and ``non_zeros_proportion*`` (from the counts), ``is_de_fdr_*``,
    ``proba_up``, ``comparison``, ``group1``, ``group2``. For ``mode="vanilla"``: ``proba_m1`` and ``proba_m2`` (probability
    of being higher in group and reference), their ``bayes_factor``, and the columns that need no threshold. Nothing in
    ``adata`` changes.

    Raises
    ------
    KeyError
        There are no such results, or no such group.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> scvitl.tl.rank_genes_groups(adata, "cell_type", n_samples=200)
    >>> table = scvitl.get.rank_genes_groups(adata, groups="type_1")
    >>> len(table), table["comparison"].iloc[0]
    (200, 'type_1 vs Rest')
    """
    found = adata.uns.get(key)
    if not isinstance(found, dict) or RANKING_TABLE not in found:
        msg = f"no full table in adata.uns[{key!r}]: run scvitl.tl.rank_genes_groups(adata, groupby) first."
        raise KeyError(msg)
    table = found[RANKING_TABLE].copy()
    if groups is None:
        return table
    groups = list(map(str, [groups] if isinstance(groups, (str, int)) else groups))
    known = table["group1"].unique()
    for group in groups:
        if group not in known:
            msg = (
                f"groups has {group!r}, which was not tested.{_checks.did_you_mean(group, known)} "
                f"Tested: {', '.join(map(repr, known))}."
            )
            raise KeyError(msg)
    return table[table["group1"].isin(groups)]
