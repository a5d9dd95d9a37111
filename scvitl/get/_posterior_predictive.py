from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import _checks, store
from ._decoding import MODALITIES, batch_codes, check_proteins, gene_positions, protein_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix


def posterior_predictive(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    modality: Literal["rna", "protein"] = "rna",
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    random_state: int = 0,
) -> csr_matrix | list[csr_matrix]:
    """New counts for the same cells, drawn from the model.

    If the model describes the data, these counts look like those that were measured; :func:`scvitl.pl.posterior_predictive`
    shows whether they do. Each draw takes a latent state from the posterior of the cell and counts from the likelihood
    at that state. Counts by a scAR model are all counts, native and ambient.

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
        Whether to draw counts of genes, or with a totalVI model of proteins.
    transform_batch
        Batch to decode all cells from; for several, or ``"all"``, counts are averaged. `None` leaves each cell in
        its own.
    genes
        Names of genes to return, in this order, or with ``modality="protein"`` of proteins. `None` returns all of the
        model.
    n_samples
        Draws per cell.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    Sparse matrix of cells × genes, or proteins (`float32`), or a list of as many for several samples. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene, cell or batch, or a column that the model needs is missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected,
        or the model has no proteins to draw.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.posterior_predictive(adata, genes=adata.var_names[:2]).shape
    (600, 2)
    """
    _checks.whole_number("n_samples", n_samples)
    _checks.one_of("modality", modality, MODALITIES)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)
    if modality == "protein":
        check_proteins(fitted, key, given=model is not None)
        what = {"proteins": protein_positions(fitted.schema, genes, "genes")}
    else:
        what = {"genes": gene_positions(fitted.schema, genes)}
    batches = batch_codes(fitted.schema, transform_batch, warn=False)

    from .. import posterior

    draw = posterior.protein_predictive if modality == "protein" else posterior.posterior_predictive
    samples = draw(
        fitted.module,
        cells,
        batches=batches,
        **what,
        n_samples=n_samples,
        batch_size=batch_size,
        random_state=random_state,
    )
    return samples[0] if n_samples == 1 else samples
