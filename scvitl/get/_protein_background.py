from __future__ import annotations

from typing import TYPE_CHECKING

from ._decoding import decoded_proteins

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from .. import store
    from ..posterior.proteins import Quantity


def protein_background(  # noqa: PLR0913
    adata: AnnData,
    *,
    key: str = "totalvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    transform_batch: str | Sequence[str] | None = "measured",
    proteins: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    give_mean: bool = False,
    return_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> pd.DataFrame | np.ndarray:
    """Counts that proteins have from background alone, from antibodies that stick where they should not.

    It is the mean of the background counts of a cell, whether the protein is there or not.
    :func:`scvitl.get.protein_expression` is free of it.

    Parameters
    ----------
    adata
        Cells to look at, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to. Their genes and proteins are matched by name.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    transform_batch
        Batch to decode all cells from, several to average over, or ``"all"``; ``"measured"`` takes for every protein the
        batches in which it was measured. `None` leaves each cell in its own.
    proteins
        Names of proteins to return, in this order. `None` takes all.
    n_samples
        Posterior draws per cell. `None` takes 25.
    give_mean
        Whether to decode the posterior mean in place of draws.
    return_mean
        Whether to average over the draws of a cell.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    A frame of cells × proteins (`float32`), or an array of samples × cells × proteins for several samples that are not
    averaged. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, protein, cell or batch, or a column that the model needs is missing.
    ValueError
        The model has no proteins; genes or proteins of it are missing, a batch is new to it, the counts are not counts, or
        no cells are selected.
    MemoryError
        The result would not fit.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.cite()
    >>> scvitl.tl.totalvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.protein_background(adata, indices=range(50), proteins=["CD4", "CD8a"]).shape
    (50, 2)
    """

    def quantity() -> Quantity:
        from ..posterior import background

        return background

    return decoded_proteins(
        adata,
        quantity,
        key=key,
        model=model,
        indices=indices,
        transform_batch=transform_batch,
        proteins=proteins,
        n_samples=n_samples,
        give_mean=give_mean,
        return_mean=return_mean,
        batch_size=batch_size,
        random_state=random_state,
    )
