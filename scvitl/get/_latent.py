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
    give_mean: bool = True,
    mc_samples: int = 5000,
    return_dist: bool = False,
    random_state: int = 0,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Latent representation of cells by a fitted model.

    ``adata.obsm["X_scvi"]`` holds it already for the cells that the model was fitted to. Use this function after
    adding or changing cells, or for the uncertainty of a cell's place. Genes are matched by name, whatever their order.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    give_mean
        Whether to return the posterior mean, or else one draw from the posterior.
    mc_samples
        Draws to average for the mean of a logistic normal, which has no formula.
    return_dist
        Whether to return the mean and the variance of the normal posterior (before any softmax) instead.
    random_state
        Seed of the draws.

    Returns
    -------
    Array of cells × dimensions (`float32`), or with ``return_dist`` two of them. Nothing in ``adata`` changes.

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
    >>> mean, variance = scvitl.get.latent(adata, return_dist=True)
    >>> variance.shape
    (600, 10)
    """
    _checks.whole_number("mc_samples", mc_samples)
    _checks.seed(random_state)
    model = store.from_uns(adata, key)

    from .. import posterior

    cells = store.load(adata, model)
    if return_dist:
        return posterior.latent_distribution(model.module, cells)
    return posterior.latent(
        model.module, cells, give_mean=give_mean, mc_samples=mc_samples, random_state=random_state
    )
