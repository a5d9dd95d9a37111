from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def latent_library_size(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    give_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Library size of cells as a fitted model sees it: what the shares of the genes are multiplied with.

    A model fitted with ``use_observed_lib_size=False`` infers it, and this is its posterior mean. Otherwise it is the
    total counts of the cell in the genes of the model, or its size factor.

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
        Whether to return the posterior mean, or else one draw; the same where nothing is inferred.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    Array of cells × 1 (`float32`), in counts. Nothing in ``adata`` changes.

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
    >>> scvitl.get.latent_library_size(adata).shape
    (600, 1)
    """
    _checks.reading(batch_size=batch_size, random_state=random_state)
    _checks.true_or_false("give_mean", give_mean)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="get.latent_library_size"
    )

    from .. import posterior

    return posterior.library_size(
        fitted.module, cells, give_mean=give_mean, batch_size=batch_size, random_state=random_state
    )
