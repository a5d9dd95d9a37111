from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store
from ._decoding import check_weights

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def importance_weights(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    n_samples: int = 1,
    max_cells: int = 1024,
    truncation: bool = False,
    n_mc_samples: int = 500,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """How well posterior draws explain a set of cells together :cite:p:`Boyeau23`.

    Draws from the approximate posteriors, weighted so, stand for the set as the true posteriors would.
    :func:`scvitl.tl.rank_genes_groups` and :func:`scvitl.get.normalized_expression` do this with
    ``weights="importance"``. The time goes with draws × ``max_cells`` × counts above zero: a minute or so for a group of a
    thousand cells.

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
    n_samples
        Draws per cell.
    max_cells
        Cells, taken at random, that draws are held against.
    truncation
        Whether to cap weights at √(number of draws) times their mean, which trades a little bias for steadier
        results.
    n_mc_samples
        Posterior draws for the marginal likelihood of each of these cells.
    random_state
        Seed of the draws and of the choice of cells.

    Returns
    -------
    Weights, samples × cells (`float64`), which sum to one; and the latent states they belong to, samples × cells ×
    dimensions (`float32`, before any softmax). Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        Genes of the model are missing, a batch is new to it, the counts are not counts, no cells are selected, or
        the model has proteins, too.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> weights, draws = scvitl.get.importance_weights(adata, indices=range(50), max_cells=20)
    >>> weights.shape, draws.shape
    ((1, 50), (1, 50, 10))
    """
    for name, value in (
        ("n_samples", n_samples),
        ("max_cells", max_cells),
        ("n_mc_samples", n_mc_samples),
    ):
        _checks.whole_number(name, value)
    _checks.true_or_false("truncation", truncation)
    _checks.seed(random_state)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="get.importance_weights"
    )
    check_weights(fitted)

    from .. import posterior

    weights, z = posterior.importance_weights(
        fitted.module,
        cells,
        n_samples=n_samples,
        max_cells=max_cells,
        truncation=truncation,
        n_mc_samples=n_mc_samples,
        random_state=random_state,
    )
    return weights, z
