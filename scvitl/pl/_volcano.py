from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, get
from .._keys import RANKING
from ..tl._ranking import log_ratio
from ._labels import gene_labels, name_at_side, text_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

COLORS = {"lower": "#2166ac", "not flagged": "#bdbdbd", "higher": "#b2182b"}
LINES = {"color": "0.4", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}


def volcano(
    adata: AnnData,
    group: str | None = None,
    *,
    key: str = RANKING,
    genes: Sequence[str] | None = None,
    n_genes: int = 10,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw how much every gene differs between a group and its reference, and how sure that is.

    Look at it after :func:`scvitl.tl.rank_genes_groups`, to see at a glance how many genes differ and which stand out.
    The upper corners hold what one looks for: large differences that are sure. The axis of the probability is stretched
    towards 1, so that one wrong in ten, in a hundred and in a thousand lie equally far apart.

    Parameters
    ----------
    adata
        Cells whose genes were ranked.
    group
        Group to draw. `None` takes the only one there is.
    key
        Name of the results in ``uns``.
    genes
        Genes to name. `None` names the most telling ones.
    n_genes
        How many to name on either side, where ``genes`` is not given: flagged genes, those with large fold change and
        high probability first.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    ax
        Axes to draw on. `None` makes a figure.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes. Coloured are the genes that :func:`scvitl.tl.rank_genes_groups` flagged
    at its ``fdr_target``; as ``mode="vanilla"`` flags none, the genes there that are higher or lower with a probability of
    at least ``1 - fdr_target``. Dashed lines mark ``delta`` and that threshold. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There are no such results, or no such group, gene or column.
    ValueError
        Several groups were tested and ``group`` is not given.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> scvitl.tl.rank_genes_groups(adata, "cell_type", n_samples=200)
    >>> ax = scvitl.pl.volcano(adata, "type_1", show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    _checks.whole_number("n_genes", n_genes, at_least=0)
    table = _one_group(get.rank_genes_groups(adata, groups=group, key=key), key)
    points = _points(table, adata.uns[key]["params"])
    named = _named(points, genes, n_genes)
    labels = gene_labels(adata, named.index, gene_symbols)
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for kind, color in COLORS.items():
        some = points[points["kind"] == kind]
        style = {"s": 7, "alpha": 0.6} if kind == "not flagged" else {"s": 11}
        ax.scatter(some["x"], some["y"], color=color, linewidths=0, label=kind, zorder=2, **style)
    _frame(ax, points, table)
    _name(ax, points, named, np.array(labels, dtype=object))
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return ax


def _one_group(table: pd.DataFrame, key: str) -> pd.DataFrame:
    groups = table["group1"].unique()
    if len(groups) > 1:
        msg = (
            f"adata.uns[{key!r}] has {len(groups)} groups: say which one to draw, with group=. "
            f"Groups: {', '.join(map(repr, groups))}."
        )
        raise ValueError(msg)
    return table


def _points(table: pd.DataFrame, params: dict) -> pd.DataFrame:
    """Where every gene goes, and its kind; facts about the axes in ``attrs``."""
    import pandas as pd

    if "proba_de" in table:
        proba, x, delta = table["proba_de"], table["lfc_median"], float(table["delta"].iloc[0])
        flagged = table.filter(like="is_de_fdr_").iloc[:, 0].astype(bool)
        sure = proba[flagged].min() if flagged.any() else None
        about = f"expected FDR {params['fdr_target']:g}"
    else:
        proba, x = table[["proba_m1", "proba_m2"]].max(1), log_ratio(table)
        delta, sure = 0.0, 1 - params["fdr_target"]
        flagged, about = proba >= sure, f"{sure:g}"
    # What happened in all draws is put where half a draw more would have been against it.
    floor = 0.5 / params["n_samples"]
    kind = np.where(flagged, np.where(x > 0, "higher", "lower"), "not flagged")
    points = pd.DataFrame(
        {"x": x, "y": -np.log10(np.maximum(1 - proba, floor)), "kind": kind}, index=table.index
    )
    points.attrs = {
        "delta": delta,
        "threshold": None if sure is None else -np.log10(max(1 - sure, floor)),
        "about": about,
        "top": -np.log10(floor),
    }
    return points


def _named(points: pd.DataFrame, genes: Sequence[str] | None, n_genes: int) -> pd.DataFrame:
    """The genes to name: those asked for, or of either side the ones far out on both axes."""
    from ..data import selection

    if genes is not None:
        return points.iloc[selection.genes(list(points.index), genes)]
    flagged = points[points["kind"] != "not flagged"]
    outward = (flagged["x"].abs() * flagged["y"]).sort_values(ascending=False, kind="stable").index
    return flagged.loc[outward].groupby("kind", sort=False).head(n_genes)


def _frame(ax: Axes, points: pd.DataFrame, table: pd.DataFrame) -> None:
    """Limits, thresholds, and words."""
    facts = points.attrs
    delta, threshold = facts["delta"], facts["threshold"]
    for x in {-delta, delta}:
        ax.axvline(x, **LINES)
    if threshold is not None:
        ax.axhline(threshold, **LINES)
    top = max(points["y"].max(), threshold or 0.0, 0.5)
    ax.set_ylim(-0.03 * top, 1.06 * top)
    # As far as the draws can tell, then "1" for what happened in all of them.
    decades = np.arange(1, int(facts["top"] - np.log10(2) + 1e-9) + 1)
    ticks = {0.0: "0", -np.log10(0.5): "0.5", **{float(k): f"{1 - 10.0**-k:.{k}f}" for k in decades}}
    ticks[facts["top"]] = "1"
    ticks = {y: text for y, text in ticks.items() if y <= 1.03 * top}
    ax.set_yticks(list(ticks), list(ticks.values()))
    what = f"a change beyond {delta:.3g}" if "proba_de" in table else "being higher or lower"
    line = "" if threshold is None else f"\n(dashed: {facts['about']})"
    ax.set_xlabel("log2 fold change" + (f" (dashed: ±{delta:.3g})" if delta else ""))
    ax.set_ylabel(f"probability of {what}{line}")
    ax.set_title(table["comparison"].iloc[0], pad=22, parse_math=False)
    for (kind, color), at in zip(COLORS.items(), (0.0, 0.5, 1.0), strict=True):
        text = f"{(points['kind'] == kind).sum():,} {kind}"
        ax.annotate(
            text,
            (at, 1),
            (0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha=("left", "center", "right")[round(2 * at)],
            color="0.4" if at == 0.5 else color,
            fontsize=9,
        )
    ax.spines[["top", "right"]].set_visible(False)


def _name(ax: Axes, points: pd.DataFrame, named: pd.DataFrame, labels: np.ndarray) -> None:
    """Write the names beside the cloud, and make room for them."""
    x, y = named["x"].to_numpy(), named["y"].to_numpy()
    width = ax.get_window_extent().width
    room = {}
    for side, mine in {"left": x <= 0, "right": x > 0}.items():
        texts = name_at_side(ax, x[mine], y[mine], labels[mine], side=side)
        widest = max((text_size(text)[0] for text in texts), default=0.0)
        room[side] = min(widest / width + 0.05, 0.4) if texts else 0.03
    low, high = points["x"].min(), points["x"].max()
    low, high = min(low, -2 * points.attrs["delta"], -0.5), max(high, 2 * points.attrs["delta"], 0.5)
    unit = (high - low) / (1 - room["left"] - room["right"])
    ax.set_xlim(low - room["left"] * unit, high + room["right"] * unit)
