from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..get._bayes_factors import check_adjust
from ..get._decoding import check_ambient
from ._fit import check_copy, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from anndata import AnnData

SEPARATOR = ", "


def assign_features(
    adata: AnnData,
    *,
    key: str = "scar",
    cutoff: float = 3.0,
    moi: float | None = None,
    adjust: Literal["micro", "global"] | None = "micro",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Tell which guide or tag every cell has, by a scAR model of their counts.

    Counts of guides (CRISPR screens) or tags (cells of several samples in one run) that a cell does not have are ambient. A
    feature is assigned where so many counts would hardly be: where its Bayes factor, see :func:`scvitl.get.bayes_factors`,
    is high. Fit the model with ``scvitl.tl.scar(adata, raw, feature_type="sgRNA")``, or ``"CMO"`` or ``"tag"``.

    Parameters
    ----------
    adata
        Cells with a fitted scAR model of guides or tags, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    cutoff
        Bayes factor that a feature needs at least, above 1. At 3, few cells stay without a feature; take 100, say, where
        some have none and are meant to stay so.
    moi
        Mean number of features of a cell, the multiplicity of infection of a screen. `None` assigns one feature to a cell.
        With a number it gets those that are most probable together: sets of k features have the prior
        Poisson(k; ``moi``), shared evenly among all of that size.
    adjust
        What is added to the ambient counts expected, which asks for more evidence: ``"micro"`` the counts of the cell that
        are not ambient, spread evenly over all features; ``"global"`` the mean of that over all cells; `None` nothing.
    key_added
        Stem of the names of the results, in place of that of the model.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obs['scar_feature' | key_added + '_feature']` : :class:`pandas.Series` (dtype ``category``)
        Name of the feature. Several, and those that share the highest Bayes factor to the last digit, are joined by ``", "``
        in the order of ``var_names``. NaN in cells that have none, which scanpy shows in grey.
    `adata.obs['scar_n_features' | key_added + '_n_features']` : :class:`pandas.Series` (dtype `int64`)
        Number of features.

    Raises
    ------
    KeyError
        There is no such model, or a column that it needs is missing.
    ValueError
        The model is not scAR, or one of mRNA, the cells do not suit it or are minified, or an option is not legal.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scvitl
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(1, size=(200, 8))
    >>> counts[np.arange(200), np.arange(200) % 8] += 40
    >>> adata = ad.AnnData(counts.astype("float32"))
    >>> scvitl.tl.scar(adata, feature_type="sgRNA", max_epochs=5, progress=False)
    >>> scvitl.tl.assign_features(adata)
    >>> adata.obs["scar_feature"].head(3).tolist()
    ['0', '1', '2']
    """
    _checks.number("cutoff", cutoff, above=1)
    if moi is not None:
        _checks.number("moi", moi, above=0)
    check_adjust(adjust)
    check_copy(adata, copy)
    names = keys(key, key_added)
    _checks.key_added(names.stem)
    start = logg.info("assigning features")
    fitted, cells = store.open_cells(adata, key=key, counts_for="tl.assign_features")
    check_ambient(fitted, key, given=False)
    _check(fitted, names.feature, names.n_features, key=key)

    from .. import posterior

    factors = posterior.log_bayes_factors(fitted.module, cells, adjust=adjust)
    found = posterior.assigned(factors, cutoff=cutoff, moi=moi)
    number = np.diff(found.indptr).astype(np.int64)
    columns = {names.feature: _joined(found, fitted.schema.genes), names.n_features: number}
    adata = adata.copy() if copy else adata
    write(adata, {"obs": columns})
    one, several = int((number == 1).sum()), int((number > 1).sum())
    logg.info(
        f"    {one:,} cells have one feature, {several:,} several, {len(number) - one - several:,} none"
    )
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.feature!r}, features of the cells (adata.obs)\n"
            f"    {names.n_features!r}, how many they are (adata.obs)"
        ),
    )
    return adata if copy else None


def _check(fitted: store.FittedModel, *written: str, key: str) -> None:
    """The model tells features that a cell has or has not, and reads no column that is ``written``."""
    if fitted.params.get("feature_type", "mRNA") == "mRNA":
        msg = (
            f"the model in adata.uns[{key!r}] is of mRNA, and a cell has RNA of many genes: there is nothing to assign. Fit guides "
            "or tags with scvitl.tl.scar(adata, raw, feature_type='sgRNA'), or name such a model with key."
        )
        raise ValueError(msg)
    odd = [name for name in fitted.schema.genes if SEPARATOR in name]
    if odd:
        msg = f"several features are joined by {SEPARATOR!r}, which {odd[0]!r} has in its name: rename it and fit again."
        raise ValueError(msg)
    batch = fitted.schema.batch
    if batch is not None and batch.key in written:
        msg = f"the results would replace adata.obs[{batch.key!r}], which the model reads: choose another key_added."
        raise ValueError(msg)


def _joined(found: sp.csr_matrix, names: Sequence[str]) -> pd.Categorical:
    """Names of the features of every cell; single ones come first among the categories, in the order of ``names``."""
    found.sort_indices()
    sets = [tuple(columns.tolist()) for columns in np.split(found.indices, found.indptr[1:-1])]
    there = sorted(set(sets) - {()}, key=lambda columns: (len(columns), columns))
    codes = {columns: code for code, columns in enumerate(there)} | {(): -1}
    joined = [SEPARATOR.join(names[i] for i in columns) for columns in there]
    return pd.Categorical.from_codes([codes[columns] for columns in sets], pd.Index(joined, dtype=object))
