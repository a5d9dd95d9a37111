from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .. import store
from .._keys import PROTEINS, RANKING, RANKING_TABLE
from .._logging import logg
from ..data.multimodal import copied
from ..get._decoding import importance
from ._differential import batches_of, check_name, check_options, compare
from ._fit import check_copy, write
from ._groups import by_column, by_selection, check_choice, membership
from ._ranking import joined, structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

OF_PROTEINS = "protein_prior_count"  # an option that rankings of genes and proteins alone have


def rank_genes_groups(  # noqa: PLR0913
    adata: AnnData,
    groupby: str | None = None,
    *,
    groups: Sequence[str] | None = None,
    reference: str = "rest",
    cells1: object = None,
    cells2: object = None,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    mode: Literal["change", "vanilla"] = "change",
    delta: float | Literal["auto"] = 0.25,
    pseudocounts: float | None = None,
    test_mode: Literal["three", "two"] = "three",
    cred_interval_lvls: Sequence[float] = (),
    batch_correction: bool = False,
    batches1: Sequence[str] | None = None,
    batches2: Sequence[str] | None = None,
    weights: Literal["uniform", "importance"] = "uniform",
    importance_options: dict[str, Any] | None = None,
    filter_outlier_cells: bool = False,
    fdr_target: float = 0.05,
    protein_prior_count: float = 0.1,
    n_samples: int = 5000,
    random_state: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Find the genes that differ between groups of cells, by a fitted model :cite:p:`Lopez18,Boyeau19`.

    Posterior draws of two groups of cells are decoded and compared, so that depth, sampling noise and, where asked
    for, batch are accounted for. Use it in place of :func:`scanpy.tl.rank_genes_groups` once a model is fitted; results
    are stored in the same form, so scanpy's plots and tables work, and :func:`scvitl.get.rank_genes_groups` returns
    the full table. Say which cells to compare by ``groupby``, or select them with ``cells1`` and ``cells2``.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    groupby
        Column of ``obs`` with the groups.
    groups
        Groups to test. `None` tests all.
    reference
        Group to compare them with; ``"rest"`` is all other cells, those without a group included.
    cells1
        In place of ``groupby``: cells to test, as a mask, positions, names, or a query of ``obs``.
    cells2
        Cells to compare ``cells1`` with. `None` takes all others.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it.
    mode
        ``"change"`` asks how probable it is that expression changes by more than ``delta``, and gives fold
        changes; ``"vanilla"`` only asks in which group it is higher.
    delta
        Log2 fold change that matters; ``"auto"`` finds one between the genes that change and those that do not.
    pseudocounts
        Added to expression before fold changes are taken. `None` takes the level that the model gives to genes that
        are next to absent.
    test_mode
        ``"three"``: a gene is up, down or neither, and the likelier of up and down counts. ``"two"``: it changes or
        not, whatever the direction.
    cred_interval_lvls
        Levels of credible intervals of the log fold change to add to the table, such as ``[0.95]``.
    batch_correction
        Whether to decode both groups from the same batches, all or ``batches1``, so that batches cancel.
    batches1
        Batches to decode the first group from. `None` takes all.
    batches2
        Batches to decode the reference from: the same as ``batches1`` (default) or none of them.
    weights
        ``"importance"`` weighs draws by how well they explain the group :cite:p:`Boyeau23`: more exact, and slower
        by far, minutes for every comparison.
    importance_options
        ``max_cells``, ``truncation`` and ``n_mc_samples`` of :func:`scvitl.get.importance_weights`.
    filter_outlier_cells
        Whether to leave out cells that lie far from the rest of their group in latent space.
    fdr_target
        Expected share of false discoveries among the genes flagged in ``is_de_fdr_*``.
    protein_prior_count
        Of a totalVI model: added to the counts of proteins before fold changes are taken, so that those next to nothing
        do not change much.
    n_samples
        Comparisons of draws per group and gene; each draw of a small group meets two of the reference.
    random_state
        Seed of the draws.
    key_added
        Name of the results in ``uns``, in place of ``"rank_genes_groups"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.uns['rank_genes_groups' | key_added]` : :class:`dict`
        scanpy's structure, genes sorted by ``scores`` within a group: ``names``; ``scores``, log odds that the
        gene is higher in the group (by more than ``delta``); ``logfoldchanges``, posterior mean; ``pvals``,
        1 - probability of a difference (no p-value, but small means sure as well); ``pvals_adj``, expected share of
        false discoveries down to this gene; ``params``; and ``table``, the full table.
    `adata.obs['rank_genes_groups' | key_added]` : :class:`pandas.Categorical`
        With ``cells1``: which set each cell was in, for scanpy's plots.
    `adata.uns['rank_genes_groups_protein' | key_added + '_protein']` : :class:`dict`
        Of a totalVI model: the same for the proteins. ``scale1`` and ``scale2`` are mean counts without background. Proteins
        that some batches lack are decoded as of those that have them.

    Raises
    ------
    KeyError
        There is no such model, column, group, cell or batch.
    ValueError
        A group has fewer than two cells, group and reference are the same, sets overlap or are empty, or an option
        is not legal.

    Examples
    --------
    >>> import scanpy as sc, scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> scvitl.tl.rank_genes_groups(adata, "cell_type", n_samples=200)
    >>> sc.get.rank_genes_groups_df(adata, "type_1").columns.tolist()
    ['names', 'scores', 'logfoldchanges', 'pvals', 'pvals_adj']
    """
    options = {
        "mode": mode,
        "delta": delta,
        "pseudocounts": pseudocounts,
        "test_mode": test_mode,
        "cred_interval_lvls": cred_interval_lvls,
        "fdr_target": fdr_target,
        "protein_prior_count": protein_prior_count,
        "n_samples": n_samples,
        "filter_outlier_cells": filter_outlier_cells,
        "batch_correction": batch_correction,
        "random_state": random_state,
    }
    check_options(options, batches1, batches2)
    check_copy(adata, copy)
    name = RANKING if key_added is None else key_added
    check_name(adata, name)
    importance_options = importance(weights, importance_options)
    selected = check_choice(groupby, groups, reference, cells1, cells2)
    cells = store.joined(adata, key=key, model=model)
    comparisons = (
        by_selection(cells, cells1, cells2) if selected else by_column(cells, groupby, groups, reference)
    )
    start = logg.info("ranking genes")
    needs = None if importance_options is None else "weights='importance'"
    fitted, data = store.open_cells(cells, key=key, model=model, counts_for=needs)
    if fitted.schema.proteins is not None:
        check_name(adata, name + PROTEINS)
    batches = batches_of(fitted.schema, options, batches1, batches2)
    tables, of_proteins = compare(
        fitted, data, comparisons, options, batches=batches, importance_options=importance_options
    )
    params = {
        "groupby": name if selected else groupby,
        "reference": comparisons.reference,
        "method": "scvi",
        "use_raw": False,
        "layer": None,
        "corr_method": "posterior expected false discovery rate",
        "model": key,
        "weights": weights,
        **{option: value for option, value in options.items() if value not in (None, [])},
    }
    rankings = _rankings(adata, name, tables, of_proteins, params)
    column = {name: membership(adata, comparisons)} if selected else {}
    adata = copied(adata) if copy else adata
    if name in adata.obs and not selected:
        # of an earlier ranking of two sets under this name
        del adata.obs[name]
    write(adata, {"obs": column, "uns": rankings})
    proteins = "" if of_proteins is None else f"\n    {name + PROTEINS!r}, ranked proteins (adata.uns)"
    logg.info("    finished", time=start, deep=f"added\n    {name!r}, ranked genes (adata.uns){proteins}")
    return adata if copy else None


def _rankings(
    adata: AnnData,
    name: str,
    genes: dict[str, pd.DataFrame],
    proteins: dict[str, pd.DataFrame] | None,
    params: dict[str, Any],
) -> dict[str, Any]:
    """What goes into ``uns``; `None` for the proteins of an earlier ranking under this name, which goes."""
    tables = {name: genes}
    if proteins is None:
        params = {option: value for option, value in params.items() if option != OF_PROTEINS}
    else:
        tables[name + PROTEINS] = proteins
    rankings: dict[str, Any] = {
        name: {"params": params, **structure(table), RANKING_TABLE: joined(table)}
        for name, table in tables.items()
    }
    if OF_PROTEINS in adata.uns.get(name, {}).get("params", {}):
        rankings.setdefault(name + PROTEINS, None)
    return rankings
