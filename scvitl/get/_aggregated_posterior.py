from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store

if TYPE_CHECKING:
    from anndata import AnnData
    from torch.distributions import MixtureSameFamily


def aggregated_posterior(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    dof: float | None = 3.0,
    batch_size: int | None = None,
) -> MixtureSameFamily:
    """Where the cells of a set lie in latent space, as a density: the even mixture of their posteriors.

    Its ``log_prob`` says how likely a latent state is among these cells, which tells query cells that belong from
    those that do not; its ``sample`` draws new states. :func:`scvitl.tl.differential_abundance` compares such
    densities between samples.

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
    dof
        Degrees of freedom of Student's t, whose tails are kind to cells in between; `None` takes normal components.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.

    Returns
    -------
    A distribution of torch over the latent dimensions (before any softmax). Nothing in ``adata`` changes.

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
    >>> density = scvitl.get.aggregated_posterior(adata, indices="batch == 'batch_1'")
    >>> density.sample((5,)).shape
    torch.Size([5, 10])
    """
    _checks.reading(batch_size=batch_size, random_state=0)
    if dof is not None:
        _checks.number("dof", dof, above=0)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)

    from .. import posterior

    return posterior.aggregated_posterior(fitted.module, cells, dof=dof, batch_size=batch_size)
