"""What a fitted scAR model leaves with the cells: native counts, shares of ambient counts, the profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import logg
from ..data import ambient as profiles
from ..data import find_counts
from ..get._denoised import EXCESS

if TYPE_CHECKING:
    import anndata as ad

    from .. import store
    from .._keys import Keys
    from ..data.batches import CellData


def tables(
    adata: ad.AnnData,
    model: store.FittedModel,
    data: CellData,
    names: Keys,
    *,
    shares: np.ndarray,
    output: str = "posterior",
    excess: float | None = EXCESS,
    random_state: int = 0,
) -> dict[str, dict[str, Any]]:
    """What goes into the slots of ``adata``, whose cells ``data`` holds, for ambient ``shares`` (K, g) of the model.

    Features that the model does not have keep their counts, and have no share.
    """
    from .. import posterior

    counts, noise = posterior.denoise(
        model.module, data, output=output, excess=excess, random_state=random_state
    )
    total = np.exp(data.library.cpu().double().numpy()).sum()
    logg.info(f"    {1 - counts.sum(dtype=np.float64) / total:.1%} of the counts removed")
    schema = model.schema
    genes = adata.var_names.get_indexer(schema.genes)
    full = np.full((len(shares), adata.n_vars), np.nan)
    full[:, genes] = shares
    batches = None if schema.batch is None else schema.batch.categories
    return {
        "layers": {names.counts: _with_others(adata, counts, genes, schema.layer)},
        "obs": {names.noise: noise},
        "varm": {names.ambient: profiles.frame(full, adata.var_names, batches)},
    }


def check_layer(adata: ad.AnnData, layer: str | None, names: Keys) -> None:
    """The results do not take the place of counts, or of a layer that is not theirs."""
    if layer == names.counts:
        msg = f"the counts are in layers[{layer!r}], where the result would take their place: choose another key_added."
        raise ValueError(msg)
    if names.counts in adata.layers and names.model not in adata.uns:
        msg = f"adata.layers[{names.counts!r}] is there already, and not of such a model: choose another key_added."
        raise ValueError(msg)


def _with_others(adata: ad.AnnData, counts: Any, genes: np.ndarray, layer: str | None) -> Any:
    """``counts`` of the features at ``genes`` with those of the others, as they were seen, in the order of ``adata``."""
    import scipy.sparse as sp

    order = np.argsort(genes)
    if len(genes) < adata.n_vars:
        others = np.setdiff1d(np.arange(adata.n_vars), genes)
        counts = sp.hstack([counts, find_counts(adata, layer)[:, others]], format="csr")
        order = np.argsort(np.concatenate([genes, others]))
    if not np.array_equal(order, np.arange(adata.n_vars)):
        counts = counts[:, order]
        counts.sort_indices()
    return counts
