from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import get
from ._labels import LONGEST

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.transforms import Transform

SMALLEST, LARGEST = 5.0, 9.0  # points, of text
WIDTH, HEIGHT = 0.62, 1.25  # of a character and of a line, over the size of the font


def confusion(
    adata: AnnData,
    truth: str | None = None,
    *,
    key: str = "scanvi",
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw which labels were predicted for the cells of every given label: a heatmap, right ones framed.

    Every row is a given label. Its colours are the shares of its cells, so that rare labels show like frequent ones, and
    its numbers the cells themselves, as :func:`scvitl.get.confusion` counts them. Where these do not fit, the shares
    stand there in percent, or nothing. At the right is the share of the row that was predicted as given.

    Parameters
    ----------
    adata
        Cells with predicted labels.
    truth
        Column of ``obs`` with the labels to compare with. `None` takes the column that the model was fitted to, which
        flatters it.
    key
        Name of the model in ``uns`` and of the predicted labels in ``obs``.
    ax
        Axes to draw on, where names of more than 24 characters are shortened. `None` makes a figure with room for them.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model or column.
    ValueError
        The model knows no labels, or no cell has a label in ``truth``.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    >>> scvitl.tl.scanvi(adata, "known", batch_key="batch", max_epochs=2, progress=False)
    >>> ax = scvitl.pl.confusion(adata, "cell_type", show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    table = get.confusion(adata, truth, key=key)
    longest = LONGEST
    if ax is None:
        longest = None
        _, ax = plt.subplots(figsize=_figure_size(table), layout="constrained")
    shares = table.div(table.sum(axis=1), axis=0).to_numpy()
    right = table.index.to_numpy()[:, None] == table.columns.to_numpy()  # (rows, columns)
    mesh = ax.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="0.93", linewidth=0.4)
    _frame(ax, table, right, longest)
    beside = _recall(ax, shares, right)
    bar = ax.inset_axes((1, 0, 0.03, 0.4), transform=_beside(ax, 36))
    ax.figure.colorbar(mesh, cax=bar, format=lambda share, _: f"{share:.0%}").outline.set_visible(False)
    bar.tick_params(labelsize=8, length=2)
    # Only now is it known how much room is left to the cells.
    _fit_names(ax, table.shape, beside)
    written = _numbers(ax, table.to_numpy(), shares)
    bar.set_ylabel(f"share of row\n{written}", fontsize=8)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return ax


def _figure_size(table: pd.DataFrame) -> tuple[float, float]:
    """Inches for the cells, and for names, recall and bar around them."""
    n_rows, n_columns = table.shape
    cell = np.clip(4.5 / max(table.shape), 0.26, 0.6)
    names = [max(map(len, axis)) * WIDTH * LARGEST / 72 for axis in (table.index, table.columns)]
    return names[0] + cell * n_columns + 2.0, names[1] + cell * n_rows + 1.1


def _beside(ax: Axes, points: float) -> Transform:
    """Coordinates of the axes, moved to the right by so many points."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transAxes + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def _frame(ax: Axes, table: pd.DataFrame, right: np.ndarray, longest: int | None) -> None:
    """Names, title, and frames around what is right."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    frames = [Rectangle((x, y), 1, 1) for y, x in np.argwhere(right)]
    ax.add_collection(PatchCollection(frames, facecolor="none", edgecolor="0.35", linewidth=0.9, zorder=3))
    given, predicted = (
        [name if longest is None or len(name) <= longest else f"{name[: longest - 1]}…" for name in axis]
        for axis in (table.index, table.columns)
    )
    n_rows, n_columns = table.shape
    ax.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    ax.set_xticks(np.arange(n_columns) + 0.5, predicted, rotation=90, parse_math=False)
    ax.set_yticks(np.arange(n_rows) + 0.5, given, parse_math=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"predicted ({table.columns.name})", parse_math=False)
    ax.set_ylabel(f"given ({table.index.name})", parse_math=False)
    n_right, n = table.to_numpy()[right].sum(), table.to_numpy().sum()
    ax.set_title(f"{n_right:,} of {n:,} cells right ({_percent(n_right / n, 1)})", fontsize=11, pad=20)


def _recall(ax: Axes, shares: np.ndarray, right: np.ndarray) -> list[Text]:
    """At the right of every row, the share that is right."""
    style = {"fontsize": LARGEST, "va": "center", "ha": "right", "color": "0.3", "clip_on": False}
    n_rows = len(shares)
    column = _beside(ax, 30)
    # A name that the model does not know cannot be right.
    texts = [
        _percent(share[is_right].sum()) if is_right.any() else "–"
        for share, is_right in zip(shares, right, strict=True)
    ]
    ax.text(1, 1, "right", transform=column, **{**style, "va": "bottom"})
    return [
        ax.text(1, 1 - (row + 0.5) / n_rows, text, transform=column, **style)
        for row, text in enumerate(texts)
    ]


def _percent(share: float, digits: int = 0) -> str:
    """A share in percent, which are 100 for all and nothing less."""
    return f"{share if share == 1 else min(share, 0.99 if digits == 0 else 0.999):.{digits}%}"


def _fit_names(ax: Axes, shape: tuple[int, int], beside: list[Text]) -> None:
    """Names, and what stands ``beside`` the rows, as large as rows and columns allow."""
    texts = ax.get_xticklabels(), [*ax.get_yticklabels(), *beside]
    for some, room in zip(texts, _cell_size(ax, shape), strict=True):
        for text in some:
            text.set_fontsize(min(LARGEST, room / HEIGHT))


def _numbers(ax: Axes, counts: np.ndarray, shares: np.ndarray) -> str:
    """Write counts into the cells, or percents where these do not fit, or nothing; returns a word on them."""
    width, height = _cell_size(ax, counts.shape)
    # Less than half a percent would read 0.
    percents = [[f"{100 * share:.0f}" if share >= 0.005 else "" for share in row] for row in shares]
    written = {
        "numbers: cells": [[f"{n:,}" if n else "" for n in row] for row in counts],
        "numbers: %": percents,
    }
    for word, texts in written.items():
        longest = max(1, *(len(text) for row in texts for text in row))
        size = min(LARGEST, height / HEIGHT, 0.9 * width / (WIDTH * longest))
        if size < SMALLEST:
            continue
        for y, x in np.argwhere(np.array(texts) != ""):
            color = "white" if shares[y, x] > 0.55 else "0.15"
            style = {"fontsize": size, "color": color, "ha": "center", "va": "center", "clip_on": True}
            ax.text(x + 0.5, y + 0.5, texts[y][x], **style)
        return word
    return ""


def _cell_size(ax: Axes, shape: tuple[int, int]) -> tuple[float, float]:
    """Width and height of a cell in points, once the figure has found the size of the axes."""
    ax.figure.canvas.figure.draw_without_rendering()
    box = ax.get_window_extent()
    points = 72 / ax.figure.dpi
    return box.width * points / shape[1], box.height * points / shape[0]
