from __future__ import annotations

from typing import TYPE_CHECKING

from .. import store

if TYPE_CHECKING:
    from anndata import AnnData


def model(adata: AnnData, *, key: str = "scvi") -> store.FittedModel:
    """Rebuild the fitted model that travels in ``adata``.

    Everything comes out of ``adata.uns[key]``, so this works on a file that a colleague sends. Printing the model
    summarises it; ``.module`` is the plain torch module for work that this package does not do.

    Parameters
    ----------
    adata
        Cells with a fitted model.
    key
        Name of the model in ``uns``.

    Returns
    -------
    The model with its ``module``, ``schema``, ``params`` and ``history``. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.model(adata).module.training
    False
    """
    return store.from_uns(adata, key)
