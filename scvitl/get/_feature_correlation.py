from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .. import _checks, store
from ._decoding import batch_codes, gene_names, gene_positions, protein_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def feature_correlation(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    proteins: Sequence[str] | None = None,
    method: Literal["spearman", "pearson"] = "spearman",
    n_samples: int = 10,
    random_state: int = 0,
) -> pd.DataFrame:
    """Which genes go together over cells, once depth and sampling noise are taken out.

    Correlations of raw counts are dragged to zero by dropouts and pushed up by depth. Here cells are decoded from
    posterior draws, and the variation that the model ascribes to a gene's own dispersion is put back, so that
    correlations are neither diluted nor overdone. A Poisson or binomial model has no dispersion to put back. Correlations by
    a scAR model are those of native expression. Draws of many cells wait in the folder for temporary files.
    :func:`scvitl.pl.correlation` draws the result.

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
        Batch to decode all cells from; for several, or ``"all"``, the mean of the correlations in each. `None` leaves
        each cell in its own.
    genes
        Names of genes to return, in this order. `None` takes all genes of the model.
    proteins
        Of a totalVI model: names of proteins to return after the genes. `None` takes all, ``[]`` none.
    method
        Spearman's rank correlation or Pearson's.
    n_samples
        Posterior draws per cell.
    random_state
        Seed of the draws.

    Returns
    -------
    A frame of genes × genes, with the proteins of a totalVI model after them; one that is called like a gene has
    ``_protein`` added to its name. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene, cell or batch, or a column that the model needs is missing.
    ValueError
        The likelihood of the model is ``"normal"``, genes of the model are missing, a batch is new to it, the counts are
        not counts, or no cells are selected.
    MemoryError
        The draws would not fit.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.feature_correlation(adata, genes=adata.var_names[:3]).shape
    (3, 3)
    """
    _checks.one_of("method", method, ("spearman", "pearson"))
    _checks.whole_number("n_samples", n_samples)
    _checks.seed(random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)
    if fitted.params["gene_likelihood"] == "normal":
        msg = (
            "get.feature_correlation draws the rates of counts, which gene_likelihood='normal' has not: fit with "
            "'nb', 'zinb' or 'poisson'."
        )
        raise ValueError(msg)
    nothing = np.empty(0, int)
    no_genes = genes is not None and len(genes) == 0 and fitted.schema.proteins is not None
    positions = nothing if no_genes else gene_positions(fitted.schema, genes)
    batches = batch_codes(fitted.schema, transform_batch)
    names = gene_names(fitted.schema, positions)
    of_proteins = {}
    if fitted.schema.proteins is not None:
        known = fitted.schema.proteins.names
        none = proteins is not None and len(proteins) == 0
        chosen = nothing if none else protein_positions(fitted.schema, proteins)
        chosen = np.arange(len(known)) if chosen is None else chosen
        names += [f"{known[i]}_protein" if known[i] in names else known[i] for i in chosen]
        of_proteins = {"proteins": chosen, "in_batch": np.array(fitted.schema.proteins.in_batch)}
    elif proteins is not None:
        msg = f"the model in adata.uns[{key!r}] has no proteins: leave proteins out, or name a totalVI model with key."
        raise ValueError(msg)
    n_draws = cells.n_cells * n_samples
    # hidden units of all draws, two blocks of genes, and twice the result
    n_values = (
        n_draws * (fitted.params["n_hidden"] + 2 * min(len(names), 2**27 // n_draws)) + 4 * len(names) ** 2
    )
    _checks.fits_memory(
        4 * n_values, "the computation", "take fewer cells with indices, fewer genes, or n_samples=1"
    )

    from .. import posterior

    values = posterior.feature_correlation(
        fitted.module,
        cells,
        method=method,
        n_samples=n_samples,
        batches=batches,
        genes=positions,
        random_state=random_state,
        **of_proteins,
    )
    return pd.DataFrame(values, index=names, columns=names)
