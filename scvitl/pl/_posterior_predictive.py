from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, get, store
from ._labels import gene_labels, name_nearby

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from scipy.sparse import csr_matrix

PANELS = {"mean": "mean count", "variance": "variance of counts", "zeros": "share of cells without counts"}
COLOR, NAMED = "#7f7f7f", "#d95f02"
FEW = 100  # counts of a gene over all cells; with fewer, luck outweighs the model


def posterior_predictive(
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    n_genes: int = 4,
    gene_symbols: str | None = None,
    random_state: int = 0,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw mean, variance and zeros of every gene as measured, and as the model would have it.

    The model draws new counts for the same cells. If it describes the data, genes lie on the diagonal of all three
    panels; genes above it get too much from the model, genes below too little. Look at it when another likelihood is in
    question: where a share of zeros or a variance is off throughout, the likelihood does not suit the data.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    n_genes
        How many genes to name in a panel, those farthest from the diagonal.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    random_state
        Seed of the draws.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes of the three panels. The words above a panel say by how much the model is
    off for the gene in the middle and for one gene in twenty. Genes with fewer than 100 counts are pale, and neither
    named nor counted there, as they are off by luck alone. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, cell or column, or a column that the model needs is missing.
    ValueError
        The cells are minified, genes of the model are missing, a batch is new to it, or the counts are not counts.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> axes = scvitl.pl.posterior_predictive(adata, show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    _checks.whole_number("n_genes", n_genes, at_least=0)
    fitted, cells = store.open_cells(
        adata, key=key, model=model, indices=indices, counts_for="pl.posterior_predictive"
    )
    labels = np.array(gene_labels(adata, fitted.schema.genes, gene_symbols), dtype=object)[cells.measured]
    drawn = get.posterior_predictive(adata, model=fitted, indices=indices, random_state=random_state)
    tables = [_moments(counts)[cells.measured] for counts in (cells.counts, drawn)]
    _, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
        _panel(ax, name, tables, labels, n_genes)
        ax.set_title(f"{title}\n", fontsize="medium")
    axes[0].set_ylabel("drawn from the model")
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return list(axes)


def _moments(counts: csr_matrix) -> pd.DataFrame:
    """Mean, variance and share of zeros of every gene."""
    import pandas as pd

    n_cells, n_genes = counts.shape

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(counts.indices, weights=values, minlength=n_genes) / n_cells

    mean = total(counts.data)
    variance = np.maximum(total(np.square(counts.data, dtype=np.float64)) - mean**2, 0)
    return pd.DataFrame(
        {
            "counts": mean * n_cells,
            "mean": mean,
            "variance": variance,
            "zeros": 1 - total(counts.data != 0),
        }
    )


def _panel(ax: Axes, name: str, tables: list[pd.DataFrame], labels: np.ndarray, n_genes: int):
    """One point per gene, the diagonal, by how much genes are off, and the names of the worst."""
    x, y = (table[name].to_numpy() for table in tables)
    often = np.maximum(*(table["counts"].to_numpy() for table in tables)) >= FEW
    if name == "zeros":
        low, high = -0.03, 1.03
        off = np.abs(y - x)
        middle, most = (f"{100 * value:.1f}" for value in _middle_and_most(off[often]))
        words = f"off by {middle} points; 1 gene in 20 by over {most}"
    else:
        positive = np.concatenate([x[x > 0], y[y > 0]])
        floor = positive.min() / 2 if positive.size else 0.5
        x, y = np.maximum(x, floor), np.maximum(y, floor)
        low, high = floor / 1.2, max(x.max(), y.max()) * 1.5
        off = np.abs(np.log(y / x))
        middle, most = (f"{np.expm1(value):.0%}" for value in _middle_and_most(off[often]))
        words = f"off by {middle}; 1 gene in 20 by over {most}"
        ax.set(xscale="log", yscale="log")
    if not often.any():
        words = f"no gene has {FEW} counts"
    ax.set(xlim=(low, high), ylim=(low, high), xlabel="measured")
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.annotate(
        words, (0.5, 1), (0, 5), "axes fraction", "offset points", ha="center", fontsize=9, color="0.4"
    )
    ax.plot([low, high], [low, high], color="0.2", linewidth=0.8, zorder=1)
    worst = np.argsort(np.where(often & (off > 0), -off, 0), kind="stable")[:n_genes]
    worst = worst[(often & (off > 0))[worst]]
    for kind, (some, style) in {
        "few counts": (~often, {"s": 5, "color": "0.8"}),
        "genes": (often, {"s": 6, "color": COLOR, "alpha": 0.5}),
        "named": (worst, {"s": 12, "color": NAMED}),
    }.items():
        ax.scatter(x[some], y[some], linewidths=0, label=kind, zorder=2, **style)
    # Away from the diagonal, where nothing else is.
    angles = np.where(y[worst] > x[worst], 0.75, -0.25) * np.pi
    name_nearby(ax, x, y, labels, which=worst, angles=angles)


def _middle_and_most(off: np.ndarray) -> np.ndarray:
    """What half of the genes, and what 19 in 20, stay below."""
    return np.quantile(off, [0.5, 0.95]) if off.size else np.zeros(2)
