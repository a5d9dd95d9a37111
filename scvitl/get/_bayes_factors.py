from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import _checks, store
from ._decoding import check_ambient

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAX_LOG = 709.78  # of what float64 holds
ADJUSTMENTS = ("micro", "global")


def bayes_factors(
    adata: AnnData,
    *,
    key: str = "scar",
    model: store.FittedModel | None = None,
    indices: object = None,
    adjust: Literal["micro", "global"] | None = "micro",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """How much more likely counts are if a cell has the feature than if all of them are ambient, by a fitted scAR model.

    Ambient counts of a feature are Poisson, with the mean that the ambient profile and the share of ambient counts of the
    cell give. The factor is P(X ≤ x) / P(X = x) for the x counts that were seen: 1 where there are none, and huge where so
    many are hardly ever ambient. :func:`scvitl.tl.assign_features` reads guides and tags from it.

    Parameters
    ----------
    adata
        Cells to look at, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to. Their features are matched by name.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    adjust
        What is added to the ambient counts expected, which asks for more evidence: ``"micro"`` the counts of the cell that
        are not ambient, spread evenly over all features; ``"global"`` the mean of that over the cells that are taken;
        `None` nothing.
    batch_size
        Cells looked at together; `None` chooses by the number of features.

    Returns
    -------
    Frame of cells × features of the model (`float64`), from 1 to about 1.8e308, the largest number there is. They are
    factors, not logarithms. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        The model is not scAR, features of it are missing, a batch is new to it, the counts are not counts, or no cells are
        selected.
    MemoryError
        The frame would not fit.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.scar(adata, raw, max_epochs=2, progress=False)
    >>> factors = scvitl.get.bayes_factors(adata)
    >>> float(factors.to_numpy().min())
    1.0
    """
    import numpy as np
    import pandas as pd

    check_adjust(adjust)
    if batch_size is not None:
        _checks.whole_number("batch_size", batch_size)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="get.bayes_factors"
    )
    check_ambient(fitted, key, given=model is not None)
    _checks.fits_memory(16 * cells.n_cells * cells.n_genes, "the frame", "ask for fewer cells with indices")

    from .. import posterior

    factors = posterior.log_bayes_factors(fitted.module, cells, adjust=adjust, batch_size=batch_size)
    values = np.exp(np.minimum(factors.toarray(), MAX_LOG))
    return pd.DataFrame(values, index=cells.names, columns=list(fitted.schema.genes))


def check_adjust(adjust: object) -> None:
    """What to add to the ambient counts expected is legal; False is as good as `None`."""
    if adjust is not None and adjust is not False:
        _checks.one_of("adjust", adjust, ADJUSTMENTS)
