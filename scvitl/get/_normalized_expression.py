from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from .. import _checks, store
from ._decoding import (
    batch_codes,
    check_library_size,
    check_weights,
    gene_names,
    gene_positions,
    importance,
    samples,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData


def normalized_expression(  # noqa: PLR0913
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    library_size: float | Literal["latent"] = 1.0,
    n_samples: int = 1,
    give_mean: bool = False,
    n_samples_overall: int | None = None,
    weights: Literal["uniform", "importance"] = "uniform",
    importance_options: dict[str, Any] | None = None,
    return_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> pd.DataFrame | np.ndarray:
    """Expression as the model decodes it: denoised, free of depth and, where asked for, of batch.

    By default the values of a cell are the expected shares of its genes in the counts, which sum to one over the genes
    of the model. Without ``transform_batch`` every cell is decoded as of its own batch, so batch effects stay in.
    To keep the result with the cells, for plots, use :func:`scvitl.tl.normalized_expression`.
    Shares by a scAR model are those in the native counts.

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
    transform_batch
        Batch to decode all cells from, several to average over, or ``"all"``. `None` leaves each cell in its own.
    genes
        Names of genes to return, in this order. Only these are decoded, as far as the model permits: shares need the
        sum over all genes.
    library_size
        What the shares are multiplied with, such as 1e4; ``"latent"`` takes the library size of each cell.
    n_samples
        Posterior draws per cell.
    give_mean
        Whether to decode the posterior mean in place of draws: free of noise, and a little different from the mean
        over draws.
    n_samples_overall
        Return that many draws from all the cells together instead.
    weights
        Whether such draws come evenly from the approximate posteriors or by importance, see
        :func:`scvitl.get.importance_weights`.
    importance_options
        ``max_cells``, ``truncation`` and ``n_mc_samples`` of that function.
    return_mean
        Whether to average over the draws of a cell.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    A frame of cells × genes (`float32`). An array of samples × cells × genes for several samples that are not
    averaged, and of draws × genes with ``n_samples_overall``. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene, cell or batch, or a column that the model needs is missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected; or draws
        cannot be weighed by importance, as those of a model of proteins.
    MemoryError
        The result would not fit.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> frame = scvitl.get.normalized_expression(adata, genes=["gene_003", "gene_001"], transform_batch="all")
    >>> list(frame)
    ['gene_003', 'gene_001']
    """
    check_library_size(library_size)
    _checks.whole_number("n_samples", n_samples)
    samples(n_samples, give_mean, return_mean, n_samples_overall)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    options = importance(weights, importance_options)
    if options is not None and n_samples_overall is None:
        msg = (
            "weights='importance' weighs draws from all cells together: say how many with n_samples_overall."
        )
        raise ValueError(msg)
    needs = None if options is None else "weights='importance'"
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices, counts_for=needs)
    if options is not None:
        check_weights(fitted)
    positions = gene_positions(fitted.schema, genes)
    batches = batch_codes(fitted.schema, transform_batch)
    names = gene_names(fitted.schema, positions)
    rows = n_samples_overall or cells.n_cells * (1 if return_mean or give_mean else n_samples)
    _checks.fits_memory(4 * rows * len(names), "the result", "name fewer genes, or cells with indices")

    from .. import posterior

    shared = {
        "batches": batches,
        "genes": positions,
        "library_size": library_size,
        "random_state": random_state,
    }
    if n_samples_overall is not None:
        return posterior.expression_draws(fitted.module, cells, n_samples_overall, weights=options, **shared)
    values = posterior.normalized_expression(
        fitted.module,
        cells,
        n_samples=n_samples,
        give_mean=give_mean,
        return_mean=return_mean,
        batch_size=batch_size,
        **shared,
    )
    return pd.DataFrame(values, index=cells.names, columns=names) if values.ndim == 2 else values
