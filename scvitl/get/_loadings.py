from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .. import store

if TYPE_CHECKING:
    from anndata import AnnData


def loadings(adata: AnnData, *, key: str = "ldvae", model: store.FittedModel | None = None) -> pd.DataFrame:
    """Which genes make up the factors of a model with a linear decoder.

    The loading says by how much the log of a gene's share in the counts changes, relative to the other genes, when the
    factor rises by one; what batch norm does to it is included. Genes of large loadings rise with the factor, genes of
    strongly negative ones fall. :func:`scvitl.pl.loadings` draws them.

    Parameters
    ----------
    adata
        Cells with a model fitted by :func:`scvitl.tl.ldvae`.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it.

    Returns
    -------
    A frame of genes × factors (``Z_0``, ``Z_1``, …), of the genes that the model was fitted to. The sign of a factor is
    arbitrary, and so is a constant added to all its loadings: what counts is how genes differ. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model.
    ValueError
        The decoder of the model is not linear.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.ldvae(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.loadings(adata)["Z_0"].nlargest(15).size
    15
    """
    fitted = linear_model(adata, key, model)
    values = fitted.module.loadings().detach().cpu().numpy()
    return pd.DataFrame(values, index=list(fitted.schema.genes), columns=factor_names(fitted))


def linear_model(adata: AnnData, key: str, model: store.FittedModel | None) -> store.FittedModel:
    """The model in ``adata.uns[key]``, or the one given, which has loadings."""
    fitted = store.from_uns(adata, key) if model is None else model
    if not isinstance(fitted, store.FittedModel):
        msg = f"model takes what scvitl.get.model(adata) returns, not {type(fitted).__name__}."
        raise TypeError(msg)
    if not hasattr(fitted.module, "loadings"):
        which = "the model given" if model is not None else f"the model in adata.uns[{key!r}]"
        names = [name for name, value in adata.uns.items() if store.is_model(value)]
        linear = [repr(name) for name in names if adata.uns[name]["params"]["model"] == "LDVAE"]
        remedy = (
            f"Models that have: {', '.join(linear)}." if linear else "Fit one with scvitl.tl.ldvae(adata)."
        )
        msg = f"{which} is {fitted.params['model']}, whose decoder is not linear, so its genes have no loadings. {remedy}"
        raise ValueError(msg)
    return fitted


def factor_names(model: store.FittedModel) -> list[str]:
    """What the latent dimensions are called in tables and plots."""
    return [f"Z_{i}" for i in range(model.params["n_latent"])]
