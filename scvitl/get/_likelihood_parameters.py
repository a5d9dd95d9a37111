from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData

# Names of the parameters of each likelihood.
PARAMETERS = {
    "zinb": ("mean", "dispersions", "dropout"),
    "nb": ("mean", "dispersions"),
    "poisson": ("mean",),
    "b": ("mean",),
    "normal": ("mean", "sd"),
}
AMBIENT_PARAMETERS = ("native",)
PROTEIN_PARAMETERS = ("protein_background", "protein_foreground", "protein_mixing", "protein_dispersions")


def likelihood_parameters(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    parameters: Sequence[str] | None = None,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
) -> dict[str, np.ndarray]:
    """Parameters of the distribution of the counts, decoded from posterior draws of each cell.

    Use them to compute what this package does not, or to see how much of a gene's zeros a model puts down to loss.
    ``mean`` is that of the negative binomial, binomial or Poisson, before zeros are lost; ``dispersions`` are inverse (the
    variance is mean + mean² / dispersion); ``dropout`` is the probability that a count is lost.

    Counts of a scAR model are native or ambient: ``mean`` is that of both together, ``native`` that of the native ones.

    Counts of proteins, of a totalVI model, come from one of two negative binomials that share ``protein_dispersions``:
    with probability ``protein_mixing`` from that of mean ``protein_background``, else ``protein_foreground``. The means are
    as they are in the batch of the cell.

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
    parameters
        Which to return. `None` returns all that the likelihood has: ``mean``; ``dispersions`` for ``"nb"`` and
        ``"zinb"``; ``dropout`` for ``"zinb"``; ``sd`` for ``"normal"``; ``native`` for scAR; the four of proteins for
        totalVI.
    n_samples
        Posterior draws per cell.
    give_mean
        Whether to average over the draws.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    A dictionary of arrays, cells × genes or proteins of the model (`float32`), or samples × cells × genes or proteins for
    several samples that are not averaged. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, or no cells are selected, or
        the likelihood lacks a parameter.
    MemoryError
        The arrays would not fit.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> parameters = scvitl.get.likelihood_parameters(
    ...     adata, indices=range(20), parameters=["mean", "dropout"]
    ... )
    >>> parameters["dropout"].shape
    (20, 200)
    """
    _checks.whole_number("n_samples", n_samples)
    _checks.true_or_false("give_mean", give_mean)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)
    likelihood = fitted.params["gene_likelihood"]
    proteins = fitted.schema.proteins
    genes = PARAMETERS[likelihood] + (AMBIENT_PARAMETERS if fitted.params["model"] == "scAR" else ())
    known = genes + (() if proteins is None else PROTEIN_PARAMETERS)
    names = known if parameters is None else [parameters] if isinstance(parameters, str) else list(parameters)
    for name in names:
        if name not in known:
            msg = (
                f"the model has gene_likelihood={likelihood!r}, whose parameters are {', '.join(map(repr, known))}; "
                f"it has no {name!r}."
            )
            raise ValueError(msg)
    of_genes = [name for name in names if name in genes]
    of_proteins = [name for name in names if name in PROTEIN_PARAMETERS]
    n_proteins = 0 if proteins is None else len(proteins.names)
    n_columns = len(of_genes) * cells.n_genes + len(of_proteins) * n_proteins
    n_values = n_columns * cells.n_cells * (1 if give_mean else n_samples)
    _checks.fits_memory(4 * n_values, "the result", "ask for fewer cells with indices or fewer parameters")

    from .. import posterior

    options = {
        "n_samples": n_samples,
        "give_mean": give_mean,
        "batch_size": batch_size,
        "random_state": random_state,
    }
    found = {}
    if of_genes:
        found |= posterior.likelihood_parameters(fitted.module, cells, of_genes, **options)
    if of_proteins:
        found |= posterior.protein_parameters(fitted.module, cells, of_proteins, **options)
    return {name: found[name] for name in names}
