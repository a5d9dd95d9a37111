from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks
from ._decoding import decoded_proteins

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from .. import store
    from ..posterior import Expression


def protein_expression(  # noqa: PLR0913
    adata: AnnData,
    *,
    key: str = "totalvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    transform_batch: str | Sequence[str] | None = "measured",
    proteins: Sequence[str] | str | None = None,
    include_protein_background: bool = False,
    scale_protein: bool = False,
    sample_protein_mixing: bool = False,
    n_samples: int | None = None,
    give_mean: bool = False,
    n_samples_overall: int | None = None,
    return_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> pd.DataFrame | np.ndarray:
    """Counts of proteins as totalVI decodes them: denoised, without background and, by default, without batch.

    By default this is what :func:`scvitl.tl.totalvi` left in ``obsm["totalvi_protein"]``, imputed where a protein was not
    measured. :func:`scvitl.get.protein_foreground` says how sure it is that a protein is there at all, and
    :func:`scvitl.pl.protein` shows whether foreground and background were told apart.

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
    include_protein_background
        Whether to leave the background in.
    scale_protein
        Whether to return shares of a cell's proteins, which sum to one over all of them, asked for or not.
    sample_protein_mixing
        Whether to decide in every draw if a count is background, rather than to weigh by the probability. A share of a
        cell that has no protein then is zero.
    n_samples
        Posterior draws per cell. `None` takes 25.
    give_mean
        Whether to decode posterior means in place of draws: faster, and a little different from the mean over draws.
    n_samples_overall
        Return that many draws from all the cells together instead: of the same cells and latent states as
        :func:`scvitl.get.normalized_expression` draws with an equal ``random_state``.
    return_mean
        Whether to average over the draws of a cell.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    A frame of cells × proteins (`float32`). An array of samples × cells × proteins for several samples that are not
    averaged, and of draws × proteins with ``n_samples_overall``. Nothing in ``adata`` changes.

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
    >>> frame = scvitl.get.protein_expression(adata, proteins=["CD4", "CD8a"], n_samples=2)
    >>> frame.shape
    (400, 2)
    """
    for name, value in (
        ("include_protein_background", include_protein_background),
        ("scale_protein", scale_protein),
        ("sample_protein_mixing", sample_protein_mixing),
    ):
        _checks.true_or_false(name, value)

    def quantity() -> Expression:
        from ..posterior import Expression

        return Expression(sample_mixing=sample_protein_mixing, include_background=include_protein_background)

    return decoded_proteins(
        adata,
        quantity,
        key=key,
        model=model,
        indices=indices,
        transform_batch=transform_batch,
        proteins=proteins,
        scale=scale_protein,
        n_samples=n_samples,
        give_mean=give_mean,
        n_samples_overall=n_samples_overall,
        return_mean=return_mean,
        batch_size=batch_size,
        random_state=random_state,
    )
