from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def elbo(
    adata: AnnData,
    *,
    key: str = "scvi",
    batch_size: int | None = None,
    return_mean: bool = True,
    random_state: int = 0,
) -> float | np.ndarray:
    """Evidence lower bound of cells under a fitted model, in nats; higher is better.

    It says how well the model explains the counts of a cell: use it to compare models of the same cells and genes,
    best on cells that were held out. The losses of :func:`scvitl.get.history` are its negative.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    return_mean
        Whether to return the mean over cells, or else the value of every cell.
    random_state
        Seed of the one posterior draw per cell.

    Returns
    -------
    A number, or an array with one per cell (`float32`). Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or a column that it needs is missing.
    ValueError
        Genes of the model are missing, a batch is new to it, or the counts are not counts.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.elbo(adata, return_mean=False).shape
    (600,)
    """
    if batch_size is not None:
        _checks.whole_number("batch_size", batch_size)
    _checks.seed(random_state)
    model = store.from_uns(adata, key)

    from .. import posterior

    values = posterior.elbo(
        model.module, store.load(adata, model), batch_size=batch_size, random_state=random_state
    )
    return float(values.mean(dtype="float64")) if return_mean else values
