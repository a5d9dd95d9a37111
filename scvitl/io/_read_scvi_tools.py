from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.multimodal import copied
from ..tl._annotate import annotation
from ..tl._fit import write
from ..tl._native import check_layer
from ..tl._native import tables as native
from ..tl._options import check_names, check_place
from ..tl._proteins import tables

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from anndata import AnnData


def read_scvi_tools(
    path: str | PathLike[str], adata: AnnData, *, key_added: str | None = None, copy: bool = False
) -> AnnData | None:
    """Read a model that scvi-tools saved, so that everything here works with it as with one fitted here.

    Use it for models that took long to train, or that somebody published. The classes ``SCVI``, ``LinearSCVI``,
    ``SCANVI``, ``TOTALVI`` and ``SCAR`` can be read. The model goes into ``adata``, and so into every file that you write
    it to; the saved model is not needed any more. Reading is safe with files from anywhere: the pickle in them is taken
    apart, never run.

    Parameters
    ----------
    path
        Folder that ``model.save()`` made, or the file ``model.pt`` in it. The layout from before scvi-tools 0.15
        (``model_params.pt``, ``attr.pkl``, ``var_names.csv``) is read as well.
    adata
        Cells to use the model on, with raw counts: those that it was trained on, or others of the same batches. They
        need the genes of the model, in any order and among others, and the columns of ``obs`` that it was set up with,
        apart from labels to be predicted and from those of a ``SCAR``, which uses none. For a ``TOTALVI`` they also need the
        counts of its proteins, in ``obsm`` under the name that it was set up with; or ``adata`` is a MuData. Of a model that
        was set up with a MuData, they are looked for under ``"protein_expression"`` in an AnnData.
    key_added
        Stem of the names of the results, in place of ``"scvi"``, ``"ldvae"``, ``"scanvi"``, ``"totalvi"`` or ``"scar"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obsm['X_scvi' | 'X_ldvae' | 'X_scanvi' | 'X_totalvi' | 'X_scar' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space: the posterior mean.
    `adata.uns['scvi' | 'ldvae' | 'scanvi' | 'totalvi' | 'scar' | key_added]` : :class:`dict`
        The model, as :func:`scvitl.tl.scvi` writes it. ``params["source"]`` is the version of scvi-tools that it
        comes from.

    Of a ``LinearSCVI`` also:

    `adata.varm['ldvae_loadings' | key_added + '_loadings']` : :class:`numpy.ndarray` (dtype `float32`)
        Loadings of the genes, as :func:`scvitl.tl.ldvae` writes them but not turned; NaN for genes that the model does not
        have.

    Of a ``SCANVI`` also, as :func:`scvitl.tl.scanvi` writes them:

    `adata.obs['scanvi' | key_added]` : :class:`pandas.Series` (dtype ``category``)
        Predicted label of every cell.
    `adata.obs['scanvi_confidence' | key_added + '_confidence']` : :class:`pandas.Series` (dtype `float32`)
        Probability of that label.
    `adata.obsm['scanvi_proba' | key_added + '_proba']` : :class:`pandas.DataFrame` (dtype `float32`)
        Probabilities of all labels, cells × labels.

    Of a ``TOTALVI`` also, as :func:`scvitl.tl.totalvi` writes them:

    `adata.obsm['totalvi_protein' | key_added + '_protein']` : :class:`pandas.DataFrame` (dtype `float32`)
        Counts of proteins without background, cells × proteins.
    `adata.obsm['totalvi_protein_foreground' | key_added + '_protein_foreground']` : :class:`pandas.DataFrame` (dtype `float32`)
        Probability that the protein is there, that its counts are more than background.

    Of a ``SCAR`` also, as :func:`scvitl.tl.scar` writes them:

    `adata.layers['scar' | key_added]` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Native counts: which of those that were seen, so none that were not. Genes that the model does not have are as they
        were.
    `adata.obs['scar_noise' | key_added + '_noise']` : :class:`pandas.Series` (dtype `float32`)
        Share of the counts of a cell that is ambient.
    `adata.varm['scar_ambient' | key_added + '_ambient']` : :class:`pandas.DataFrame` (dtype `float64`)
        The ambient profile of the model; NaN for genes that it does not have.

    Raises
    ------
    FileNotFoundError
        There is no saved model at ``path``.
    KeyError
        A column of ``obs``, a layer or a table of proteins that the model needs does not exist.
    ValueError
        The file is damaged, hostile, or holds a model of another class, or with options that the models here do not have.
        Or ``adata`` is without counts, genes or proteins of the model are missing, or a batch is new to it.

    Notes
    -----
    scvi-tools takes continuous covariates as they are, so they are not standardised for these models.

    The classifier of a ``SCANVI`` that was saved before scvi-tools 1.1 ends in a softmax. Without it, the same weights give
    logits, whose softmax gives the same probabilities; so nothing needs to be known of the version. Probabilities are
    averaged over draws of the latent state, where ``SCANVI.predict`` takes its mean, and are not calibrated.

    A ``TOTALVI`` that was trained before scvi-tools 1.3.1 saw counts that were not normalised, and its batches have no
    efficiencies. It is read as it was trained. Later versions of scvi-tools read some of these files as if they were new
    and give other latent states.

    A ``SCAR`` knows nothing of batches: scvi-tools keeps them from its model. Native counts are told by the rule of
    :func:`scvitl.tl.scar`; those of ``SCAR.get_denoised_counts`` come from :func:`scvitl.get.denoised` with
    ``output="generative"``.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.io.read_scvi_tools("my_model/", adata)  # doctest: +SKIP
    >>> scvitl.get.model(adata)  # doctest: +SKIP
    """
    _checks.true_or_false("copy", copy)
    start = logg.info("reading a model of scvi-tools")

    from .. import posterior
    from ._mapping import imported
    from ._saved import read

    reader, model, cells = imported(read(path), adata)
    names = keys(reader.function, key_added)
    check_place(adata, names)
    if reader.title == "scANVI":
        check_names(model.schema, names)
    if reader.title == "scAR":
        check_layer(adata, model.schema.layer, names)
    latent = posterior.latent(model.module, cells)
    slots = {"obsm": {}, "uns": {}}
    if reader.title == "LDVAE":
        slots["varm"] = {names.loadings: _loadings(adata, model)}
    if reader.title == "scANVI":
        probabilities = posterior.label_probabilities(model.module, cells)
        slots |= annotation(adata, model, probabilities, key=names.stem)
    if reader.title == "totalVI":
        slots["obsm"] |= tables(model, cells, names)
    if reader.title == "scAR":
        slots |= native(adata, model, cells, names, shares=model.module.ambient.numpy())
        # Droplets that were looked at for another profile.
        slots["uns"][names.ambient] = None
    slots["obsm"][names.latent] = latent
    slots["uns"][names.model] = store.to_uns(model)
    adata = copied(adata) if copy else adata
    write(adata, slots)
    logg.info(
        "    finished",
        time=start,
        deep=(
            "added\n"
            f"    {names.latent!r}, latent space (adata.obsm)\n"
            f"    {names.model!r}, {reader.title} model of {model.params['source']} (adata.uns)"
        ),
    )
    return adata if copy else None


def _loadings(adata: AnnData, model: store.FittedModel) -> np.ndarray:
    """Loadings by the genes of ``adata``, NaN for those that the model does not have."""
    import numpy as np

    values, genes = model.module.loadings().detach().numpy().copy(), model.schema.genes
    if tuple(adata.var_names) == genes:
        return values
    found = np.full((adata.n_vars, values.shape[1]), np.nan, values.dtype)
    found[adata.var_names.get_indexer(genes)] = values
    return found
