from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def latent(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    give_mean: bool = True,
    mc_samples: int = 5000,
    return_dist: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Latent representation of cells by a fitted model.

    ``adata.obsm["X_scvi"]`` holds it already for the cells that the model was fitted to. Use this function after
    adding or changing cells, or for the uncertainty of a cell's place. Genes are matched by name, whatever their order.

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
    give_mean
        Whether to return the posterior mean, or else one draw from the posterior.
    mc_samples
        Draws to average for the mean of a logistic normal, which has no formula.
    return_dist
        Whether to return the mean and the variance of the normal posterior (before any softmax) instead.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    Array of cells × dimensions (`float32`), or with ``return_dist`` two of them. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> mean, variance = scvitl.get.latent(adata, return_dist=True)
    >>> variance.shape
    (600, 10)
    """
    _checks.whole_number("mc_samples", mc_samples)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    _checks.true_or_false("give_mean", give_mean)
    _checks.true_or_false("return_dist", return_dist)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)

    from .. import posterior

    if return_dist:
        return posterior.latent_distribution(fitted.module, cells, batch_size=batch_size)
    return posterior.latent(
        fitted.module,
        cells,
        give_mean=give_mean,
        mc_samples=mc_samples,
        batch_size=batch_size,
        random_state=random_state,
    )
