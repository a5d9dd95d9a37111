from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..tl._fit import write
from ..tl._options import check_place

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData


def read_scvi_tools(
    path: str | PathLike[str], adata: AnnData, *, key_added: str | None = None, copy: bool = False
) -> AnnData | None:
    """Read a model that scvi-tools saved, so that everything here works with it as with one fitted here.

    Use it for models that took long to train, or that somebody published. The model goes into ``adata``, and so into
    every file that you write it to; the saved model is not needed any more. Reading is safe with files from anywhere: the
    pickle in them is taken apart, never run.

    Parameters
    ----------
    path
        Folder that ``model.save()`` made, or the file ``model.pt`` in it. The layout from before scvi-tools 0.15
        (``model_params.pt``, ``attr.pkl``, ``var_names.csv``) is read as well.
    adata
        Cells to use the model on, with raw counts: those that it was trained on, or others of the same batches. They
        need the genes of the model, in any order, and the columns of ``obs`` that it was set up with.
    key_added
        Stem of the names of the results, in place of ``"scvi"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obsm['X_scvi' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space: the posterior mean.
    `adata.uns['scvi' | key_added]` : :class:`dict`
        The model, as :func:`scvitl.tl.scvi` writes it. ``params["source"]`` is the version of scvi-tools that it
        comes from.

    Raises
    ------
    FileNotFoundError
        There is no saved model at ``path``.
    KeyError
        A column of ``obs`` or a layer that the model needs does not exist.
    ValueError
        The file is damaged, hostile, or holds a model of another class than ``SCVI``. Or ``adata`` is without counts,
        genes of the model are missing, or a batch is new to it.

    Notes
    -----
    scvi-tools takes continuous covariates as they are, so they are not standardised for these models.

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
    latent = posterior.latent(model.module, cells)
    adata = adata.copy() if copy else adata
    write(adata, {"obsm": {names.latent: latent}, "uns": {names.model: store.to_uns(model)}})
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
