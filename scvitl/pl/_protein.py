from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks, get, store
from .._logging import logg
from ..data import selection
from ..get._decoding import check_proteins, protein_positions
from ..get._likelihood_parameters import PROTEIN_PARAMETERS
from . import _cards
from ._labels import settle
from ._split import Panel, draw, edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

    from ..data.batches import CellData

MOST_PANELS = 60
MOST_CELLS = 10_000
# Of a panel, in inches: alone or among many, and around it.
SIZES = {"one": (3.8, 2.7), "many": (2.25, 1.75)}
LEFT, UNDER, TITLE = 0.4, 0.4, 0.43


def protein(
    adata: AnnData,
    proteins: Sequence[str] | str | None = None,
    *,
    key: str = "totalvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    random_state: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw how totalVI tells the foreground of proteins from their background, before and after.

    Above the line are the counts as measured (grey), and as the model expects them: background (blue), and foreground (red)
    in cells that have the protein. Below are the denoised counts of the same cells, blue where the protein is more likely
    absent, red where it is present. The split is right where blue and red lie over a hump of the grey each. Where both lie
    over the same hump, these counts alone do not tell, and the model goes by genes and other proteins.

    Parameters
    ----------
    adata
        Cells with a model fitted by :func:`scvitl.tl.totalvi`, with counts where they were at the fit.
    proteins
        Names of proteins to draw, in this order. `None` takes all.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``, such as one batch. `None` takes all. Of more than
        10,000, as many are taken at random.
    random_state
        Seed of the draws.
    ax
        Axes to draw a single protein on. `None` makes a figure.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes, one per protein, on a logarithmic scale that has a zero. Areas above the line
    are numbers of cells, areas below are to each other as numbers of cells. Cells in which a protein was not measured have
    no part in these: an outline has what was imputed in them. Denoised counts are those of
    :func:`scvitl.get.protein_expression`, free of what a batch does to counts, so they may lie beside the hump that they come
    from. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, protein or cell, or a column that the model needs is missing.
    ValueError
        The model has no proteins, the cells are minified, there are too many proteins for a figure, or several for ``ax``.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.cite()
    >>> scvitl.tl.totalvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> axes = scvitl.pl.protein(adata, ["CD3", "CD19"], show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    _checks.seed(random_state)
    adata = store.joined(adata, key=key, model=model)
    some = _some(adata, indices, random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=some, counts_for="pl.protein")
    check_proteins(fitted, key, given=model is not None)
    at = protein_positions(fitted.schema, proteins)
    at = np.arange(len(fitted.schema.proteins.names)) if at is None else at
    _check(len(at), ax)
    read = {"key": key, "model": fitted, "indices": some, "random_state": random_state}
    panels = _panels(adata, cells, at, read)
    if ax is None:
        width, height = SIZES["one" if len(panels) == 1 else "many"]
        cards = _cards.lay_out(len(panels), left=LEFT, width=width, parts=[(height, UNDER)], title=TITLE)
        axes = [card[0] for card in cards]
    else:
        settle(ax)
        axes = [ax]
    bins = edges(panels)
    for panel, one in zip(panels, axes, strict=True):
        draw(one, panel, bins)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes


def _some(adata: AnnData, indices: object, random_state: int) -> np.ndarray | None:
    """Positions of the cells to draw, `None` for all."""
    if indices is None and adata.n_obs <= MOST_CELLS:
        return None
    found = selection.cells(adata, slice(None) if indices is None else indices)
    if len(found) <= MOST_CELLS:
        return found
    logg.info(f"    drawing {MOST_CELLS:,} of {len(found):,} cells, taken at random")
    return np.sort(np.random.default_rng(random_state).choice(found, MOST_CELLS, replace=False))


def _check(n_proteins: int, ax: Axes | None) -> None:
    if ax is not None and n_proteins > 1:
        msg = f"ax holds a single protein, but there are {n_proteins}: name one, or leave ax out."
        raise ValueError(msg)
    if n_proteins > MOST_PANELS:
        msg = f"{n_proteins} proteins are too many for a figure, which holds {MOST_PANELS}: name some with proteins."
        raise ValueError(msg)


def _panels(adata: AnnData, cells: CellData, at: np.ndarray, read: dict[str, Any]) -> list[Panel]:
    """What is drawn of the proteins at ``at``."""
    schema = read["model"].schema
    names = [schema.proteins.names[i] for i in at]
    parameters = get.likelihood_parameters(adata, parameters=PROTEIN_PARAMETERS, **read)
    denoised = get.protein_expression(adata, proteins=names, **read)
    foreground = get.protein_foreground(adata, proteins=names, **read)
    measured = np.array(schema.proteins.measured)[cells.panel.cpu().numpy()]
    counts, batches = cells.proteins.cpu().numpy(), None
    if schema.batch is not None:
        batches = np.array(schema.batch.categories)[cells.batch.cpu().numpy()]
    return [
        Panel(
            name,
            counts[:, i],
            {what: values[:, i].astype(float) for what, values in parameters.items()},
            denoised[name].to_numpy(),
            foreground[name].to_numpy() > 0.5,
            measured[:, i],
            batches,
        )
        for name, i in zip(names, at, strict=True)
    ]
