"""Names of genes in plots that cannot overlap, each with a thin line to its point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from ..data.multimodal import variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

SIZE = 8.0  # points
LINE = 1.4  # height of a line of text over its size
LONGEST = 24  # characters
BOX = {"edgecolor": "none", "pad": 0.5}  # behind a name, so that no line strikes it through
LEADER = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}


def gene_labels(adata: AnnData, genes: Sequence[str] | pd.Index, gene_symbols: str | None) -> list[str]:
    """What to call ``genes``: by name, or by a column of ``var`` where that has something; short enough to draw."""
    names = list(map(str, genes))
    if gene_symbols is not None:
        tables = variables(adata)
        columns = list(dict.fromkeys(column for var in tables for column in var))
        if gene_symbols not in columns:
            msg = (
                f"gene_symbols={gene_symbols!r} is not in adata.var."
                f"{_checks.did_you_mean(gene_symbols, columns)} "
                f"Columns: {', '.join(map(repr, columns)) or 'none'}."
            )
            raise KeyError(msg)
        symbols = pd.concat([var[gene_symbols].dropna().astype(str) for var in tables if gene_symbols in var])
        symbols = symbols[~symbols.index.duplicated()].to_dict()
        names = [symbols.get(name, name) for name in names]
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]


def name_at_side(
    ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, side: str
) -> list[Annotation]:
    """Write ``names`` in a column along a side of ``ax``.

    The limits of y have to be final; those of x may still change.
    """
    if not len(names):
        return []
    settle(ax)
    height = ax.get_window_extent().height * 72 / ax.figure.dpi
    step = min(LINE * SIZE / height, 1 / len(names))
    heights = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([x, y])))[:, 1]
    # Of points at the same height the outermost comes first, so that the lines do not cross.
    order = np.lexsort([-x if side == "right" else x, -heights])
    at = spread(heights[order], step, step / 2, 1 - step / 2)
    return [
        ax.annotate(
            names[i],
            (x[i], y[i]),
            (0.985 if side == "right" else 0.015, position),
            textcoords="axes fraction",
            ha=side,
            va="center",
            fontsize=step * height / LINE,
            parse_math=False,
            bbox={"facecolor": ax.get_facecolor(), **BOX},
            arrowprops=LEADER,
            zorder=4,
        )
        for i, position in zip(order, at, strict=True)
    ]


def name_nearby(
    ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, which: np.ndarray, angles: np.ndarray
) -> list[Annotation]:
    """Write the names of the points at ``which`` beside them, towards ``angles``, where nothing else is.

    A name for which there is no room is left out. The limits have to be final.
    """
    from matplotlib.transforms import Bbox

    settle(ax)
    pixels = ax.figure.dpi / 72
    inside = ax.get_window_extent().padded(-2 * pixels)
    points = ax.transData.transform(np.column_stack([x, y]))
    texts, taken = [], []
    for i, angle in zip(which, angles, strict=True):
        text = ax.annotate(
            names[i],
            (x[i], y[i]),
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=SIZE,
            parse_math=False,
            bbox={"facecolor": ax.get_facecolor(), **BOX},
            arrowprops=LEADER,
            zorder=4,
        )
        size = text_size(text) + 5 * pixels
        box = Bbox([points[i] - size / 2, points[i] + size / 2])
        for shift in _shifts(angle):
            moved = box.translated(*(shift * pixels))
            if _is_free(moved, inside, points, taken):
                text.set_position(shift)
                texts.append(text)
                taken.append(moved)
                break
        else:
            text.remove()
    return texts


def _is_free(box: Bbox, inside: Bbox, points: np.ndarray, taken: list[Bbox]) -> bool:
    """Whether ``box`` lies inside and hides nothing."""
    if not (inside.contains(*box.min) and inside.contains(*box.max)) or box.count_overlaps(taken):
        return False
    return not ((points > box.min) & (points < box.max)).all(1).any()


def _shifts(angle: float) -> np.ndarray:
    """Where to try, in points: nearest first, and rather farther away than far from ``angle``."""
    distance, turn = np.meshgrid(np.arange(14, 120, 5), np.radians(np.arange(-160, 181, 20)))
    first = np.argsort(distance + 20 * np.abs(turn), axis=None, kind="stable")
    distance, turn = distance.ravel()[first], angle + turn.ravel()[first]
    return distance[:, None] * np.column_stack([np.cos(turn), np.sin(turn)])


def text_size(text: Annotation) -> np.ndarray:
    """Width and height of the words alone, in pixels."""
    from matplotlib.text import Text

    return Text.get_window_extent(text).size


def settle(ax: Axes) -> None:
    """Let the figure find the size of the axes."""
    ax.figure.canvas.figure.draw_without_rendering()


def spread(wanted: np.ndarray, step: float, low: float, high: float) -> np.ndarray:
    """Positions as near to the ``wanted`` ones (falling) as can be, at least ``step`` apart, from ``low`` to ``high``."""
    from scipy.optimize import isotonic_regression

    offsets = step * np.arange(len(wanted))
    moved = isotonic_regression(-wanted - offsets).x
    return -(np.clip(moved, -high, max(-low - offsets[-1], -high)) + offsets)
