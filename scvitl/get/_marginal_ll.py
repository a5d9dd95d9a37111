from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def marginal_ll(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    n_mc_samples: int = 1000,
    batch_size: int | None = None,
    return_mean: bool = True,
    random_state: int = 0,
) -> float | np.ndarray:
    """Marginal log-likelihood of cells under a fitted model, in nats; higher is better.

    It is the log-probability of the counts with the latent state averaged out, which the ELBO bounds from below; use
    it where the difference of two models is small. The estimate averages over draws from the posterior, weighted by
    how well they explain the cell :cite:p:`Burda16`; it takes time in proportion to the draws.

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
    n_mc_samples
        Posterior draws per cell; exactly so many are taken.
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
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> bound, estimate = scvitl.get.elbo(adata), scvitl.get.marginal_ll(adata, n_mc_samples=100)
    >>> bound < estimate
    True
    """
    _checks.whole_number("n_mc_samples", n_mc_samples)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    _checks.true_or_false("return_mean", return_mean)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="get.marginal_ll"
    )

    from .. import posterior

    values = posterior.marginal_ll(
        fitted.module, cells, n_mc_samples=n_mc_samples, batch_size=batch_size, random_state=random_state
    )
    return float(values.mean(dtype="float64")) if return_mean else values
