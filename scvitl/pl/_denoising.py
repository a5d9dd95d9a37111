from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import _checks, get
from . import _cards
from ._labels import SIZE, gene_labels, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

MOST_PANELS = 60
VALUES = {"mean": "mean count per cell", "cells": "cells with counts"}
COLORS = {"before": "0.45", "after": "#2166ac"}
# Of a panel, in inches: width, and around it.
WIDTH, LEFT, UNDER, TITLE = 2.1, 0.25, 0.5, 0.46
NUMBERS = 1.3  # right end of the panel, where it is 1 up to the numbers
DECADES = 4  # below the largest mean, of which anything lower is drawn as zero
GAP = 0.5  # decades from zero to the lowest mean
NEAR = 0.16  # of the axis, where a number would touch the zero


def denoising(
    adata: AnnData,
    genes: Sequence[str] | str,
    groupby: str,
    *,
    key: str = "scar",
    value: Literal["mean", "cells"] = "mean",
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw the counts of some genes in groups of cells before and after ambient RNA was removed.

    Every gene has a panel and every group a row in it: open is the mean before, filled the mean after
    :func:`scvitl.tl.scar`, and at the right is the share that is gone. A marker should stay where it belongs, with both
    circles in one place, and fall in all other groups. Where it falls in its own group as well, too much was removed.

    Parameters
    ----------
    adata
        Cells with a model fitted by :func:`scvitl.tl.scar`, with counts where they were at the fit.
    genes
        Names of the genes to draw, in this order: markers of the groups, and what is high in the ambient profile.
    groupby
        Column of ``obs`` with groups of cells, such as cell types. Cells without a group are left out.
    key
        Name of the model in ``uns``, and of its counts in ``layers``.
    value
        What to draw: the ``"mean"`` of the counts, or the share of the ``"cells"`` that have the gene.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    ax
        Axes to draw a single gene on. `None` makes a figure.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes, one per gene, all with the same scale. That of means is logarithmic with a
    zero at its left end, where means below a ten-thousandth of the largest are, too. :func:`scvitl.get.removed` with
    ``by="group"`` has the numbers. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, gene or column, or what the model wrote is gone.
    ValueError
        The model is not scAR, ``groupby`` holds numbers, there are too many genes for a figure, or several for ``ax``.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.scar(adata, raw, max_epochs=2, progress=False)
    >>> axes = scvitl.pl.denoising(adata, ["gene_000", "gene_001"], "cell_type", show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    _checks.one_of("value", value, VALUES)
    genes = [genes] if isinstance(genes, str) else list(genes)
    _check(len(genes), ax)
    table = get.removed(adata, key=key, by="group", groupby=groupby, genes=genes)
    groups, labels = list(table["group"].cat.categories), gene_labels(adata, genes, gene_symbols)
    if ax is None:
        size = len(groups) * _cards.ROW, UNDER
        cards = _cards.lay_out(
            len(genes), left=_cards.widest(groups) + LEFT, width=WIDTH, parts=[size], title=TITLE
        )
        axes = [card[0] for card in cards]
    else:
        settle(ax)
        axes = [ax]
    before, after = (table[f"{value}_{when}"].to_numpy().reshape(len(genes), -1) for when in COLORS)
    scale = _Scale(before, after, shares=value == "cells")
    for one, label, *values in zip(axes, labels, before, after, strict=True):
        _cards.rows(one, groups)
        _draw(one, *values, scale)
        _frame(one, label, scale)
        one.set_xlabel(VALUES[value], fontsize=SIZE)
    _legend(axes[0])
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes


def _check(n_genes: int, ax: Axes | None) -> None:
    if ax is not None and n_genes > 1:
        msg = f"ax holds a single gene, but there are {n_genes}: name one, or leave ax out."
        raise ValueError(msg)
    if n_genes > MOST_PANELS:
        msg = f"{n_genes} genes are too many for a figure, which holds {MOST_PANELS}: name fewer."
        raise ValueError(msg)


class _Scale:
    """Where values lie on the axis of a panel, which goes from 0 to 1."""

    def __init__(self, before: np.ndarray, after: np.ndarray, *, shares: bool) -> None:
        self.shares = shares
        if shares:
            self.ticks = {0.0: "0", 0.5: "50%", 1.0: "100%"}
            return
        values = np.concatenate([before, after], None)
        top = values.max() or 1.0
        self.least = max(values[values > 0].min(initial=top / 10), top / 10**DECADES)
        self.low, self.high = np.log10(self.least) - GAP, np.log10(top)
        whole = 10.0 ** np.arange(np.floor(np.log10(self.least)), np.ceil(self.high) + 1)
        # Few powers of ten, or none, lie within a narrow range.
        known = whole if top >= 30 * self.least else np.outer(whole, [1, 2, 5]).ravel()
        known = known[(known >= self.least) & (known <= top * (1 + 1e-9)) & (self(known) > NEAR)][::-1]
        ticks = known[:: -(-len(known) // 3)] if len(known) else [top]
        self.ticks = {0.0: "0", **{float(self(tick)): f"{tick:.3g}" for tick in ticks}}

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Places of values that are at least zero."""
        if self.shares:
            return values
        logs = np.log10(np.maximum(values, self.least))
        return np.where(values < self.least, 0, (logs - self.low) / (self.high - self.low))


def _draw(ax: Axes, before: np.ndarray, after: np.ndarray, scale: _Scale) -> None:
    """Circles before and after, a line between, and the share that is gone."""
    there = (before > 0) | (after > 0)
    y = np.arange(len(before))
    ax.hlines(y, 0, 1, **_cards.GUIDE)
    x = scale(before), scale(after)
    ax.hlines(y[there], x[0][there], x[1][there], color=COLORS["before"], linewidth=1, zorder=2)
    style = {"linestyle": "", "marker": "o", "clip_on": False}
    ring = {"markerfacecolor": "white", "markersize": 5.5, "zorder": 3}
    ax.plot(x[0][there], y[there], color=COLORS["before"], label="before", **style, **ring)
    ax.plot(x[1][there], y[there], color=COLORS["after"], label="after", markersize=3.5, zorder=4, **style)
    style = {"fontsize": SIZE, "color": "0.2", "va": "center_baseline"}
    for row, (was, is_) in enumerate(zip(before, after, strict=True)):
        ax.text(NUMBERS, row, _percent(1 - is_ / was) if was > 0 else "–", ha="right", **style)
    if not there.any():
        ax.text(0.5, y.mean(), "no counts", ha="center", bbox={"color": "white", "pad": 2}, **style)


def _percent(share: float) -> str:
    """A share in percent, which are none or all only where that is so."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 < share < 1 else f"{share:.0%}".replace("-", "−")


def _frame(ax: Axes, label: str, scale: _Scale) -> None:
    """Limits, ticks, and headings."""
    ax.set_xlim(-0.04, NUMBERS)
    ax.set_xticks(list(scale.ticks), list(scale.ticks.values()))
    ax.tick_params(labelsize=SIZE, length=0)
    ax.tick_params(axis="x", length=2)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, bounds=(0, 1), color="0.6")
    ax.set_title(label, fontsize=10, fontweight="bold", pad=17, parse_math=False)
    style = {"fontsize": SIZE, "color": "0.4", "ha": "right"}
    ax.annotate("removed", (1, 1), (0, 4), "axes fraction", "offset points", **style)


def _legend(ax: Axes) -> None:
    """What is open and what is filled, in the line above the rows."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        frameon=False,
        fontsize=SIZE,
        labelcolor="0.4",
        borderpad=0.2,
        borderaxespad=0,
        handlelength=0.8,
        handletextpad=0.3,
        columnspacing=0.8,
    )
