"""A panel of `scvitl.pl.protein`: counts of a protein above a line, and below it what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._cards import widest
from ._labels import LONGEST, SIZE, spread, text_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

COLORS = {"background": "#2166ac", "foreground": "#b2182b"}
REMAINS = {"background": "absent", "foreground": "present"}  # of a part of the counts, once they are denoised
MEASURED = "0.85"
WIDTH = 0.25  # of a bin, in units of log(1 + count)
TICKS = [0, *(10**k for k in range(1, 9))]
# Heights of what is below the line, of words, and of the lowest end of a curve, over that of what is above the line.
BELOW, WORDS, LEAST = 0.7, 0.17, 0.004
SMALLEST = 5  # points
SHORT = 12  # characters of the name of a batch


@dataclass(frozen=True)
class Panel:
    """A protein in n cells."""

    name: str
    counts: np.ndarray  # (n,)
    parameters: dict[str, np.ndarray]  # of the distribution of the counts, (n,) each
    denoised: np.ndarray  # (n,)
    present: np.ndarray  # (n,)
    measured: np.ndarray  # (n,)
    batches: np.ndarray | None  # (n,), names

    @property
    def subtitle(self) -> str:
        """In how many cells it was measured, and imputed."""
        n_measured, n_imputed = self.measured.sum(), (~self.measured).sum()
        if not n_imputed:
            return f"{n_measured:,} cells"
        where = ""
        if self.batches is not None:
            names = np.unique(self.batches[~self.measured])
            short = len(names) == 1 and len(names[0]) <= SHORT
            where = f" ({names[0]})" if short else f" ({len(names)} batch{'es' * (len(names) > 1)})"
        if not n_measured:
            return f"imputed in {n_imputed:,} cells{where}"
        return f"{n_measured:,} cells; outline: {n_imputed:,} imputed{where}"


def edges(panels: Sequence[Panel]) -> np.ndarray:
    """Counts at which bins begin, and the last ends, for all ``panels``: even on the axis, as far as counts are whole."""
    highest = max(max(panel.counts[panel.measured].max(initial=0), panel.denoised.max()) for panel in panels)
    return np.unique(np.rint(np.expm1(np.arange(0, np.log1p(highest) + 3 * WIDTH, WIDTH)))).astype(int)


def draw(ax: Axes, panel: Panel, bins: np.ndarray) -> None:
    """Measured counts and what is expected of them above the line, denoised ones below, in ``bins`` of `edges`."""
    x = np.log1p(bins - 0.5)
    width, middle = np.diff(x), (x[1:] + x[:-1]) / 2

    def heights(values: np.ndarray) -> np.ndarray:
        return np.histogram(values, bins - 0.5)[0] / width

    counted = heights(panel.counts[panel.measured])
    expected = {kind: _expected(panel, kind, bins) / width for kind in COLORS}
    shown = panel.measured if panel.measured.any() else ~panel.measured
    left = {REMAINS[kind]: shown & (panel.present == (kind == "foreground")) for kind in COLORS}
    left = {kind: heights(panel.denoised[cells]) for kind, cells in left.items()}
    imputed = heights(panel.denoised[~panel.measured & ~shown])
    top = max(counted.max(), *(line.max() for line in expected.values())) or 1.0
    _frame(ax, panel, x, top)
    ax.stairs(counted, x, fill=True, color=MEASURED, label="measured", zorder=1)
    for kind, line in expected.items():
        seen = np.where(line > LEAST * top, line, np.nan)
        style = {"color": COLORS[kind], "linewidth": 1.5, "zorder": 3}
        ax.plot([x[0], *middle], [seen[0], *seen], label=kind, **style)
    scale = BELOW * top / max(sum(left.values()).max(), imputed.max())
    start = np.zeros(len(width))
    for kind, color in COLORS.items():
        end = start - scale * left[REMAINS[kind]]
        style = {"color": color, "alpha": 0.8, "linewidth": 0}
        ax.stairs(end, x, baseline=start, fill=True, label=REMAINS[kind], **style)
        start = end
    if imputed.any():
        ax.stairs(-scale * imputed, x, color="0.1", linewidth=0.9, label="imputed", zorder=3)
    ax.axhline(0, color="0.2", linewidth=0.8, zorder=4)
    places = {kind: _middle(middle, part * width) for kind, part in {**expected, **left}.items()}
    _name(ax, places, panel.present[shown].mean())


def _expected(panel: Panel, kind: str, bins: np.ndarray) -> np.ndarray:
    """Expected number of measured cells in each bin with a count of the background, or of the foreground."""
    from scipy.special import betainc

    p = {name: values[panel.measured, None] for name, values in panel.parameters.items()}
    theta, mixing = p["protein_dispersions"], p["protein_mixing"][:, 0]
    # Probability of a count below an edge: of a negative binomial, it is an incomplete beta function.
    below = betainc(theta, bins[1:], theta / (theta + p[f"protein_{kind}"]))  # (n, bins)
    return (mixing if kind == "background" else 1 - mixing) @ np.diff(below, axis=1, prepend=0)


def _middle(x: np.ndarray, cells: np.ndarray) -> float | None:
    """Where ``cells`` are on average."""
    return cells @ x / cells.sum() if cells.sum() else None


def _frame(ax: Axes, panel: Panel, x: np.ndarray, top: float) -> None:
    """Limits, ticks and headings."""
    # Further to the right than the bins, so that a label there stays in the figure.
    ax.set(xlim=(x[0], x[-1] + 0.06 * (x[-1] - x[0])), ylim=(-(BELOW + WORDS) * top, (1 + WORDS) * top))
    ticks = [tick for tick in TICKS if np.log1p(tick) < x[-1]]
    ax.set_xticks(np.log1p(ticks), [f"{tick:,}" for tick in ticks])
    ax.set_yticks([top / 2, -BELOW * top / 2], ["measured", "denoised"], rotation=90, va="center")
    ax.tick_params(labelsize=SIZE, length=0)
    ax.tick_params(axis="x", length=2)
    ax.set_xlabel("counts", fontsize=SIZE)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set_visible(True)
    name = panel.name if len(panel.name) <= LONGEST else f"{panel.name[: LONGEST - 1]}…"
    ax.set_title(name, fontsize=10, fontweight="bold", pad=14, parse_math=False)
    subtitle = ax.annotate(
        panel.subtitle,
        (0.5, 1),
        (0, 4),
        "axes fraction",
        "offset points",
        ha="center",
        fontsize=SIZE,
        color="0.4",
        parse_math=False,
    )
    # Widths go in steps of pixels, so that a ratio would not do.
    while text_size(subtitle)[0] > ax.get_window_extent().width and subtitle.get_fontsize() > SMALLEST:
        subtitle.set_fontsize(subtitle.get_fontsize() - 0.5)


def _name(ax: Axes, places: dict[str, float | None], present: float) -> None:
    """Name the parts over those of the measured counts, and under what is left of them."""
    left = {"background": f"{_percent(1 - present)} absent", "foreground": f"{_percent(present)} present"}
    if places["background"] is not None:
        _write(ax, {kind: (kind, places[kind]) for kind in COLORS}, above=True)
        places = {**places, **{name: places[kind] for kind, name in REMAINS.items() if places[name] is None}}
    _write(ax, {kind: (left[kind], places[REMAINS[kind]]) for kind in COLORS}, above=False)


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 < share < 1 else f"{share:.0%}"


def _write(ax: Axes, words: dict[str, tuple[str, float | None]], *, above: bool) -> None:
    """Two words at places along the axis, beside each other."""
    low, high = ax.get_xlim()
    # A part without a place is not there: the background goes to the left, the foreground to the right.
    ends = {"background": low, "foreground": high}
    places = {kind: (ends[kind] if x is None else x) for kind, (_, x) in words.items()}
    kinds = sorted(words, key=lambda kind: (-places[kind], kind == "background"))
    wide = widest([text for text, _ in words.values()]) * ax.figure.dpi / ax.get_window_extent().width
    wanted = np.array([(places[kind] - low) / (high - low) for kind in kinds])
    for kind, x in zip(kinds, spread(wanted, 1.1 * wide, wide / 2, 1 - wide / 2), strict=True):
        style = {"color": COLORS[kind], "ha": "center", "va": "top" if above else "bottom", "fontsize": SIZE}
        ax.text(x, float(above), words[kind][0], transform=ax.transAxes, **style)
