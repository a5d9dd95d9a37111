from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import get
from ._labels import gene_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

LABELLED = 60  # genes; names of more could not be read


def correlation(  # noqa: PLR0913
    adata: AnnData,
    *,
    genes: Sequence[str] | None = None,
    correlation: pd.DataFrame | None = None,
    key: str = "scvi",
    indices: object = None,
    transform_batch: str | Sequence[str] | None = None,
    method: Literal["spearman", "pearson"] = "spearman",
    n_samples: int = 10,
    random_state: int = 0,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw which genes go together over cells: correlations as a heatmap, similar genes side by side.

    The correlations are those of :func:`scvitl.get.feature_correlation`, free of depth and sampling noise. Red blocks
    along the diagonal are sets of genes that rise and fall together, such as the markers of one cell type; blue is
    between genes that exclude each other. Name up to 60 genes; more also work, but have no room for names and tree.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    genes
        Names of genes to draw. `None` takes all.
    correlation
        What :func:`scvitl.get.feature_correlation` returned, so that it is not computed again; the options that follow
        then have no say.
    key
        Name of the model in ``uns``.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    transform_batch
        Batch to decode all cells from; for several, or ``"all"``, the mean of the correlations in each. `None` leaves
        each cell in its own.
    method
        Spearman's rank correlation or Pearson's.
    n_samples
        Posterior draws per cell.
    random_state
        Seed of the draws.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    ax
        Axes to draw on. `None` makes a figure.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes of the heatmap. The colours end at the strongest correlation between two
    genes. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene, cell, batch or column.
    ValueError
        ``correlation`` is not a table of genes × genes, or :func:`scvitl.get.feature_correlation` cannot be computed.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> ax = scvitl.pl.correlation(adata, genes=adata.var_names[:10], n_samples=1, show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    if correlation is None:
        correlation = get.feature_correlation(
            adata,
            key=key,
            indices=indices,
            transform_batch=transform_batch,
            genes=genes,
            method=method,
            n_samples=n_samples,
            random_state=random_state,
        )
    else:
        correlation = _checked(correlation, genes)
    tree = _tree(correlation.to_numpy())
    order = [0] if tree is None else _leaves(tree)
    labels = gene_labels(adata, correlation.index[order], gene_symbols)
    if ax is None:
        side = 1.5 + 0.15 * min(len(order), LABELLED)
        _, ax = plt.subplots(figsize=(side + 1.8, side + 1.2), layout="constrained")
    _heatmap(ax, correlation.to_numpy()[np.ix_(order, order)], labels)
    if 1 < len(order) <= LABELLED:
        _dendrogram(ax, tree)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return ax


def _checked(correlation: pd.DataFrame, genes: Sequence[str] | None) -> pd.DataFrame:
    """The genes asked for, of a table that was handed in."""
    import pandas as pd

    from ..data import selection

    if not isinstance(correlation, pd.DataFrame) or not correlation.index.equals(correlation.columns):
        msg = (
            "correlation takes the table of genes × genes that scvitl.get.feature_correlation(adata) returns, "
            f"not {type(correlation).__name__} of shape {np.shape(correlation)}."
        )
        raise ValueError(msg)
    if not len(correlation) or not np.isfinite(correlation.to_numpy(dtype=float)).all():
        msg = "correlation is empty or has gaps (NaN): leave out the genes that have no correlations."
        raise ValueError(msg)
    if genes is None:
        return correlation
    at = selection.genes(list(correlation.index), genes)
    return correlation.iloc[at, at]


def _tree(values: np.ndarray) -> np.ndarray | None:
    """Clustering of the genes by average linkage, neighbours in the order in which they are most alike."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(values) < 2:
        return None
    distance = squareform(1 - (values + values.T) / 2, checks=False)
    return linkage(np.maximum(distance, 0), "average", optimal_ordering=True)


def _leaves(tree: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list

    return leaves_list(tree)


def _heatmap(ax: Axes, values: np.ndarray, labels: list[str]) -> None:
    n = len(values)
    own = np.eye(n, dtype=bool)
    limit = np.abs(values[~own]).max(initial=0.0) or 1.0
    # Of a gene with itself there is nothing to see: the grey of the axes shows through.
    ax.set_facecolor("0.8")
    image = ax.imshow(
        np.where(own, np.nan, values),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.03, 0.6)), label="correlation")
    bar.outline.set_visible(False)
    ax.spines[:].set_visible(False)
    if n > LABELLED:
        ax.set(xticks=[], yticks=[], xlabel=f"{n:,} genes")
        return
    style = {"fontsize": 8, "parse_math": False}
    ax.set_xticks(range(n), labels, rotation=90, **style)
    ax.set_yticks(range(n), labels, **style)
    ax.tick_params(length=0)


def _dendrogram(ax: Axes, tree: np.ndarray) -> None:
    """The tree above the heatmap, drawn in the columns that it puts in order."""
    from matplotlib.collections import LineCollection
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(tree, no_plot=True)
    above = ax.inset_axes((0, 1.01, 1, 0.1))
    # scipy puts leaf i at 10 i + 5
    lines = [
        np.column_stack([(np.array(x) - 5) / 10, y])
        for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    above.add_collection(LineCollection(lines, colors="0.4", linewidths=0.7))
    above.set(xlim=ax.get_xlim(), ylim=(0, 1.02 * tree[:, 2].max() or 1.0))
    above.axis("off")
