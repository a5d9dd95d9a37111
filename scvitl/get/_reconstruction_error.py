from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import _checks, store
from ._decoding import MODALITIES, check_proteins

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def reconstruction_error(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    modality: Literal["rna", "protein"] | None = None,
    batch_size: int | None = None,
    return_mean: bool = True,
    random_state: int = 0,
) -> float | np.ndarray:
    """Negative log-likelihood of counts given the latent state of their cell, in nats; lower is better.

    It is the part of the loss that says how well the decoder reproduces the counts, from one posterior draw per cell.
    Unlike :func:`scvitl.get.elbo` it does not charge for what the latent state remembers, so it falls with every
    further dimension; compare models by the former.

    Parameters
    ----------
    adata
        Cells to look at, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to. Their genes are matched by name.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    modality
        Of a totalVI model: ``"rna"`` for the counts of genes alone, ``"protein"`` for those of proteins, where they were
        measured. `None` takes both.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    return_mean
        Whether to return the mean over cells, or else the value of every cell.
    random_state
        Seed of the posterior draws.

    Returns
    -------
    A number, or an array with one per cell (`float32`). Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected,
        or the model has no proteins to look at.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.reconstruction_error(adata, return_mean=False).shape
    (600,)
    """
    _checks.reading(batch_size=batch_size, random_state=random_state)
    _checks.true_or_false("return_mean", return_mean)
    if modality is not None:
        _checks.one_of("modality", modality, MODALITIES)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="get.reconstruction_error"
    )
    if modality == "protein":
        check_proteins(fitted, key, given=model is not None)
    if fitted.schema.proteins is None:
        modality = None  # genes are all there is

    from .. import posterior

    values = posterior.reconstruction_error(
        fitted.module, cells, modality=modality, batch_size=batch_size, random_state=random_state
    )
    return float(values.mean(dtype="float64")) if return_mean else values
