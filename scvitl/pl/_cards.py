"""Cards that tell what a factor is, side by side: every row of text has a place of its own, so nothing can collide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _keys
from ._labels import LINE, SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.ticker import FixedLocator

# In inches.
ROW = LINE * SIZE / 72
WIDEST = 13.0  # figure, unless a single card needs more
BETWEEN = 0.25  # cards
MARGIN = 0.12
TITLE = 0.3
HALF = 0.8  # least room for names on either side

COLORS = {"up": "#b2182b", "down": "#2166ac"}
GREY = "0.55"
GUIDE = {"color": "0.92", "linewidth": 0.8, "zorder": 0}
ZERO = {"color": "0.75", "linewidth": 0.8, "zorder": 0.5}
MEDIAN = {"markersize": 3, "markeredgewidth": 0.5}
TO_PER_CENT = 1.3  # right end of the axes of shares
GAP = 0.7  # rows between the highest genes and the lowest


def widest(names: Sequence[str]) -> float:
    """Width of the longest of ``names`` as it will be written."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=SIZE)
    return max(
        (text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] / 72 for name in names),
        default=0.0,
    )


def lay_out(
    n_cards: int, *, left: float, width: float, parts: Sequence[tuple[float, float]], title: float = TITLE
) -> list[list[Axes]]:
    """A figure with the axes of every card from top to bottom, for ``parts`` of this height and room below each.

    The first card of a row has the room ``left`` of it, where names of rows go, which the others lack.
    """
    import matplotlib.pyplot as plt

    per_row = max(int((WIDEST - left - MARGIN + BETWEEN) // (width + BETWEEN)), 1)
    n_rows = -(-n_cards // per_row)
    per_row = -(-n_cards // n_rows)
    height = title + sum(map(sum, parts))
    size = left + per_row * (width + BETWEEN) - BETWEEN + MARGIN, MARGIN + n_rows * height
    figure, cards = plt.figure(figsize=size), []
    for card in range(n_cards):
        row, column = divmod(card, per_row)
        x, y = left + column * (width + BETWEEN), size[1] - MARGIN - row * height - title
        cards.append([])
        for part, below in parts:
            y -= part
            ax = figure.add_axes((x / size[0], y / size[1], width / size[0], part / size[1]))
            ax.patch.set_visible(False)
            ax.spines[:].set_visible(False)
            ax.tick_params(length=0, labelsize=SIZE, pad=2, labelleft=column == 0)
            ax.xaxis.label.set(visible=column == 0, fontsize=SIZE)
            cards[-1].append(ax)
            y -= below
    return cards


def rows(ax: Axes, names: Sequence[str], *, heading: str | None = None) -> None:
    """Rows of text height from top to bottom, with ``names`` at the left of the first card."""
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names, parse_math=False)
    for name in ax.get_yticklabels():
        if name.get_text() == heading:
            name.set(color=GREY, style="italic")


def bars(ax: Axes, shares: Sequence[float]) -> None:
    """Shares from 0 to 1 as bars, with per cent behind them; a row without one is a heading."""
    for y, share in enumerate(shares):
        if np.isnan(share):
            continue
        ax.axhline(y, xmax=1 / TO_PER_CENT, **GUIDE)
        ax.barh(y, share, height=0.6, color=GREY)
        ax.text(TO_PER_CENT, y, f"{share:.0%}", ha="right", va="center", fontsize=SIZE, color="0.2")
    ax.set(xlim=(0, TO_PER_CENT), xticks=[])


def spans(ax: Axes, values: np.ndarray, codes: np.ndarray, colors: Sequence[str]) -> None:
    """Of every group a line from the 5th to the 95th percentile of its cells, a bar for the middle half, a median."""
    for group, color in enumerate(colors):
        ax.axhline(group, **GUIDE)
        low, lower, middle, upper, high = np.quantile(values[codes == group], [0.05, 0.25, 0.5, 0.75, 0.95])
        ax.plot([low, high], [group, group], color=color, linewidth=1, solid_capstyle="butt", zorder=2)
        ax.barh(group, upper - lower, left=lower, height=0.6, color=color, zorder=3)
        ax.plot(middle, group, "o", color="white", markeredgecolor="0.2", zorder=4, **MEDIAN)
    ax.axvline(0, **ZERO)
    ax.set_xlabel("factor")
    ax.locator_params(axis="x", nbins=4)


def ends(loadings: np.ndarray, n_genes: int) -> np.ndarray:
    """Positions of the genes at both ends, highest first; all of them where there are few."""
    order = np.argsort(-loadings, kind="stable")
    if len(order) <= 2 * n_genes:
        return order
    return np.concatenate([order[:n_genes], order[len(order) - n_genes :]])


def genes(ax: Axes, values: np.ndarray, names: Sequence[str], *, limit: float, gap_after: int | None) -> None:
    """A bar for every gene, with its name on the other side of zero."""
    at = np.arange(len(values), dtype=float)
    if gap_after is not None:
        at[gap_after:] += GAP
    up = values >= 0
    ax.barh(at, values, height=0.75, color=np.where(up, COLORS["up"], COLORS["down"]), zorder=2)
    for y, name, right in zip(at, names, up, strict=True):
        ax.annotate(
            name,
            (0, y),
            (-3 if right else 3, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=SIZE,
            parse_math=False,
        )
    ax.set(xlim=(-limit, limit), ylim=(at[-1] + 0.5, -0.5), yticks=[], xlabel="loading")
    ax.axvline(0, color="0.3", linewidth=0.8, zorder=3)
    ax.xaxis.set_major_locator(_three(limit))
    ax.spines["bottom"].set_visible(True)
    ax.tick_params(axis="x", length=2)


def _three(limit: float) -> FixedLocator:
    """Ticks at zero and at a round number on either side."""
    from matplotlib import ticker

    step = 10.0 ** np.floor(np.log10(limit))
    step = max(factor * step for factor in (0.1, 0.2, 0.5, 1, 2, 5) if factor * step <= 0.9 * limit)
    return ticker.FixedLocator([-step, 0, step])


def colors(adata: AnnData, column: str, n: int) -> list[str]:
    """Colours of the ``n`` categories of a column of ``obs``: those in ``uns``, else those that scanpy would choose."""
    from matplotlib import rcParams
    from scanpy.plotting import palettes

    kept = list(adata.uns.get(_keys.colors(column), ()))
    cycle = rcParams["axes.prop_cycle"].by_key().get("color", [])
    known = (kept, cycle, palettes.default_20, palettes.default_28, palettes.default_102, ["0.4"] * n)
    return list(next(some for some in known if n <= len(some))[:n])
