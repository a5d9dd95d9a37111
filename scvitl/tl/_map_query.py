from __future__ import annotations

from typing import TYPE_CHECKING

from .. import store
from .._keys import keys
from .._logging import logg
from ..data import Labels
from ..data.multimodal import as_read, copied
from . import _mapping
from ._fit import check_copy, write
from ._options import check_names, check_place
from ._proteins import tables

if TYPE_CHECKING:
    from anndata import AnnData


def map_query(  # noqa: PLR0913
    query: AnnData,
    reference: AnnData,
    *,
    key: str = "scvi",
    layer: str | None = None,
    max_epochs: int | None = None,
    device: str = "auto",
    random_state: int = 0,
    progress: bool | None = None,
    min_confidence: float | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Place new cells into the latent space of a reference, whose model stays as it is :cite:p:`Lotfollahi22`.

    Genes are matched by name. Batches (and other categories) that the reference does not know get weights of their own,
    which alone are trained, in seconds; so cells of the reference keep their place, and both share one latent space. A
    scANVI model labels the new cells, too. Of the reference only the model is needed, so a minified file will do.

    Parameters
    ----------
    query
        Cells × genes with raw counts and the columns of ``obs`` that the model was fitted with. Those of labels may be
        missing, or lack labels for some cells.
    reference
        AnnData with the fitted model.
    key
        Name of the model in ``reference.uns``.
    layer
        Layer of the query with the counts. `None` takes the layer that the reference had if the query has it, else
        looks for them as :func:`scvitl.tl.scvi` does.
    max_epochs
        Times that training goes through the cells. `None` takes about 250 minibatches.
    device
        ``"auto"`` takes a CUDA GPU if there is one, else the CPU; or a device of torch by name.
    random_state
        Seed of the split and all noise. On a CPU, equal seeds give equal results.
    progress
        Whether to show a progress bar. `None` shows one unless ``scanpy.settings.verbosity`` is 0.
    min_confidence
        Of a scANVI model: cells whose likeliest label is less probable than this are left without one. `None` takes what
        the reference was fitted with.
    key_added
        Stem of the names of the results, in place of ``key``.
    copy
        Whether to return a copy rather than write into ``query``.

    Returns
    -------
    `None`, or a copy of ``query`` if ``copy=True``. These fields are set:

    `query.obsm['X_scvi' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space, shared with ``reference.obsm``.
    `query.uns['scvi' | key_added]` : :class:`dict`
        The model of the reference with what was added for the query; all other functions find it there. Genes that
        the query lacks count as 0.
    `query.obs['scanvi' | key_added]`, `query.obs['scanvi_confidence']`, `query.obsm['scanvi_proba']`
        Of a scANVI model: labels, how sure they are, and the probabilities of all; with groups of labels,
        `query.obs['scanvi_group']`. Labels that the query has of its own are not looked at.
    `query.obsm['totalvi_protein']`, `query.obsm['totalvi_protein_foreground']`
        Of a totalVI model: proteins without background, and the probability that they are there. Those that the query lacks,
        or all of them, are imputed. They are decoded as of the batches of the reference, so that both compare.

    Raises
    ------
    KeyError
        The reference has no such model, or the query lacks a column of ``obs``.
    ValueError
        Query and reference have no gene in common, a label is not among those of the reference, the values of the
        query are not counts, or the model is scAR.

    Notes
    -----
    The encoder sees counts alone unless the reference was fitted with ``encode_covariates=True``; then latent states
    and labels of the query come from the model as it is, and training only concerns what is decoded.

    Examples
    --------
    >>> import anndata as ad, scvitl
    >>> adata = scvitl.datasets.toy()
    >>> new = adata.obs["batch"] == "batch_1"
    >>> reference, query = adata[~new].copy(), adata[new].copy()
    >>> scvitl.tl.scvi(reference, batch_key="batch", max_epochs=2, progress=False)
    >>> scvitl.tl.map_query(query, reference, max_epochs=2, progress=False)
    >>> both = ad.concat([reference, query])
    >>> both.obsm["X_scvi"].shape
    (600, 10)
    """
    check_copy(query, copy)
    model = _mapping.check(query, reference, key)
    names = keys(key, key_added)
    check_place(query, names)
    if isinstance(model.schema.labels, Labels):
        check_names(model.schema, names)
    _mapping.check_options(max_epochs, min_confidence, random_state, progress)
    start = logg.info(f"mapping {query.n_obs:,} cells onto a reference of {model.params['n_obs']:,}")
    fitted = _mapping.fit(
        as_read(query, model.schema.proteins),
        model,
        layer=layer,
        max_epochs=max_epochs,
        device=device,
        random_state=random_state,
        progress=progress,
    )
    slots = _mapping.annotated(query, reference, fitted, key=names.stem, min_confidence=min_confidence)
    slots["obsm"][names.latent] = fitted.latent
    if fitted.model.schema.proteins is not None:
        slots["obsm"] |= tables(fitted.model, fitted.data, names, random_state=random_state)
    slots["uns"][names.model] = store.to_uns(fitted.model)
    query = copied(query) if copy else query
    write(query, slots)
    labels = (
        f"    {names.label!r} and {names.confidence!r}, predicted label and its probability (query.obs)\n"
    )
    proteins = (
        f"    {names.protein!r}, proteins without background (query.obsm)\n"
        f"    {names.protein_foreground!r}, probability that a protein is there (query.obsm)\n"
    )
    logg.info(
        "    finished",
        time=start,
        deep=(
            "added\n"
            f"{labels if slots['obs'] else ''}"
            f"{proteins if names.protein in slots['obsm'] else ''}"
            f"    {names.latent!r}, latent space, shared with the reference (query.obsm)\n"
            f"    {names.model!r}, the model of the reference and what is new (query.uns)"
        ),
    )
    return query if copy else None
