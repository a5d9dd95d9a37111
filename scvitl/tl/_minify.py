from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.multimodal import refuse
from ._fit import write

if TYPE_CHECKING:
    from anndata import AnnData


def minify(adata: AnnData, *, key: str = "scvi", copy: bool = False) -> AnnData | None:
    """Replace the counts by what the model remembers of them: a small file to share, or room in memory.

    Of every cell, the posterior of its latent state and its library size stay, some twenty numbers in place of
    thousands. What decodes goes on working (latent space, normalised expression, differential expression, predictive
    samples); what looks at counts says that they are gone. ``X``, all layers (also that of native counts by scAR) and
    ``raw`` are dropped, so keep the file with the counts.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    copy
        Whether to return a minified copy and leave ``adata`` as it is.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. ``X``, layers and ``raw`` are gone, and these fields are set:

    `adata.obsm['scvi_latent_mean']`, `adata.obsm['scvi_latent_variance']` : :class:`numpy.ndarray` (dtype `float32`)
        Posterior of the latent state (before any softmax), cells × dimensions.
    `adata.obs['scvi_library']` : :class:`numpy.ndarray` (dtype `float64`)
        Library size: total counts in the genes of the model, or the size factor.

    Raises
    ------
    KeyError
        There is no such model.
    ValueError
        The library size of the model is latent, the cells are minified already, or they do not suit the model.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> small = scvitl.tl.minify(adata, copy=True)
    >>> small.X is None
    True
    >>> scvitl.get.normalized_expression(small, genes=["gene_001"], transform_batch="all").shape
    (600, 1)
    """
    _checks.true_or_false("copy", copy)
    refuse(
        adata,
        "tl.minify",
        remedy="minify its genes: adata = mdata['rna'].copy(), with adata.obsm['protein_expression'] = mdata['prot'].to_df(), "
        f"adata.uns[{key!r}] = mdata.uns[{key!r}], and the columns of mdata.obs that the model reads.",
    )
    if adata.isbacked:
        msg = "adata is backed by a file, which minify would empty: read it first, with adata = adata.to_memory()."
        raise ValueError(msg)
    start = logg.info("minifying")
    fitted, data = store.open_cells(adata, key=key, counts_for="tl.minify")
    if not fitted.params["use_observed_lib_size"] and fitted.schema.size_factor is None:
        msg = "the model infers library sizes from the counts (use_observed_lib_size=False), so it cannot do without them."
        raise ValueError(msg)

    from .. import posterior

    mean, variance = posterior.latent_distribution(fitted.module, data)
    library = np.exp(data.library.cpu().numpy().astype(np.float64)).ravel()
    others = [name for name, value in adata.uns.items() if store.is_model(value) and name != key]
    if others:
        logg.warning(f"other models lose their counts, too: {', '.join(map(repr, others))}")
    names = keys(key)
    slots = {
        "obsm": {names.latent_mean: mean, names.latent_variance: variance},
        "obs": {names.library: library},
        "uns": {names.model: {**adata.uns[key], store.MINIFIED: store.fingerprint(fitted)}},
    }
    adata = _without_counts(adata) if copy else adata
    write(adata, slots)
    adata.X, adata.raw = None, None
    for layer in list(adata.layers):
        del adata.layers[layer]
    logg.info(
        "    finished",
        time=start,
        deep=(
            "removed X, layers and raw; added\n"
            f"    {names.latent_mean!r} and {names.latent_variance!r}, posterior of the latent state (adata.obsm)\n"
            f"    {names.library!r}, library size (adata.obs)"
        ),
    )
    return adata if copy else None


def _without_counts(adata: AnnData) -> AnnData:
    """A copy of everything but the matrices of cells × genes."""
    import anndata as ad

    slots = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
    return ad.AnnData(**{slot: deepcopy(_plain(getattr(adata, slot))) for slot in slots})


def _plain(slot):
    """Frames as they are, mappings as dictionaries."""
    return dict(slot) if hasattr(slot, "keys") and not hasattr(slot, "columns") else slot
