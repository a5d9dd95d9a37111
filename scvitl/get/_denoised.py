from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import _checks, store
from ._decoding import check_ambient, gene_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

EXCESS = 0.01


def denoised(
    adata: AnnData,
    *,
    key: str = "scar",
    model: store.FittedModel | None = None,
    indices: object = None,
    genes: Sequence[str] | None = None,
    output: Literal["posterior", "generative"] = "posterior",
    excess: float | None = EXCESS,
    n_samples: int | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> csr_matrix:
    """Counts without what is ambient, by a fitted scAR model.

    Use it for other cells than those of the fit, or to see how the result depends on ``excess`` without fitting again;
    :func:`scvitl.tl.scar` has written what the defaults give to ``layers["scar"]``. Counts are whole numbers, and with
    ``output="posterior"`` never more than were seen.

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
    genes
        Names of genes to return, in this order. `None` returns all of the model.
    output
        ``"posterior"``: which of the counts that were seen are native. ``"generative"``: native counts drawn anew, as in
        scvi-tools.
    excess
        Share of the native counts to give up for taking away more of the ambient ones. `None` draws which counts are kept.
    n_samples
        Posterior draws of the latent state of a cell, of which the (lower) median is taken. `None` reads its mean.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.

    Returns
    -------
    Sparse matrix of cells × genes (`float32`, whole numbers). Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene or cell, or a column that the model needs is missing.
    ValueError
        The model is not scAR, genes of it are missing, a batch is new to it, the counts are not counts, or no cells are
        selected.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.scar(adata, raw, max_epochs=2, progress=False)
    >>> strict = scvitl.get.denoised(adata, excess=0.05)
    >>> bool(strict.sum() < adata.layers["scar"].sum())
    True
    """
    check_output(output, excess)
    if n_samples is not None:
        _checks.whole_number("n_samples", n_samples)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices, counts_for="get.denoised")
    check_ambient(fitted, key, given=model is not None)
    positions = gene_positions(fitted.schema, genes)

    from .. import posterior

    counts, _ = posterior.denoise(
        fitted.module,
        cells,
        output=output,
        excess=excess,
        n_samples=n_samples,
        batch_size=batch_size,
        random_state=random_state,
    )
    return counts if positions is None else counts[:, positions].sorted_indices()


def check_output(output: str, excess: float | None) -> None:
    """How counts are to be read is legal."""
    _checks.one_of("output", output, ("posterior", "generative"))
    if excess is not None:
        _checks.number("excess", excess, at_least=0, below=1)
