from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data import ambient as profiles
from ..data import columns, features, multimodal
from ..data.counts import in_memory, locate, problem
from . import _cards
from ._labels import SIZE, gene_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

MOST_BATCHES = 20
COLORS = {"cell": "#2166ac", "empty": "#d95f02", "other": "#bdbdbd"}
WORDS = {"cell": "cells", "empty": "empty", "other": "other"}
FINE = 100  # places per power of ten on either axis, of which each is drawn once
# In inches.
KNEE, GENES, LEAST_HEIGHT, AROUND = 4.2, 3.6, 2.6, 1.0


def ambient(
    adata: AnnData,
    *,
    n_genes: int = 20,
    key: str = "scar",
    batches: Sequence[str] | str | None = None,
    gene_symbols: str | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw the droplets by size, with those that were taken for empty, and the genes that are most ambient.

    At the left is the knee: droplets with cells hold many counts, empty ones few. The empty ones (orange, with the range
    that they span) should lie below the knee; ``prob`` of :func:`scvitl.tl.ambient_profile` moves them. At the right are the
    genes with the largest shares in the ambient profile (bars), with their shares in the cells (dots). What most cells
    express has both alike. A bar far beyond its dot points to cells that burst, or that were not called.

    Parameters
    ----------
    adata
        Cells with an ambient profile, as :func:`scvitl.tl.ambient_profile` and :func:`scvitl.tl.scar` write it. Of several
        types of features the first is drawn, which are the genes; for another, select its features first.
    n_genes
        How many genes to draw.
    key
        Stem of the names of the results: the profile is in ``varm[key + "_ambient"]``, the droplets in
        ``uns[key + "_ambient"]``.
    batches
        Batches to draw. `None` takes all.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes: for every batch that of the droplets and that of the genes. Where the
    profile was given, there are no droplets to draw; where counts are not at hand, there are no dots. Other droplets (grey)
    are neither cells nor empty, or beyond the ``sample`` that was looked at. Of droplets of a class that would lie upon each
    other, one is drawn. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is neither a profile nor droplets, or no such batch or column.
    ValueError
        There are too many batches for a figure.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.ambient_profile(adata, raw)
    >>> knee, genes = scvitl.pl.ambient(adata, show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    multimodal.refuse(adata, "pl.ambient")
    _checks.unique_names(adata, "var")
    _checks.whole_number("n_genes", n_genes)
    profile, droplets = _profile(adata, key), _droplets(adata, key)
    if profile is None and droplets is None:
        raise KeyError(_nothing(adata, key))
    drawn = _batches(profile, droplets, batches)
    if droplets is not None and drawn != [profiles.ONE] and not {*drawn} <= {*droplets.get("batch", ())}:
        droplets = None  # of another profile than the one that took its place
    labels = (
        {}
        if profile is None
        else dict(zip(profile.index, gene_labels(adata, profile.index, gene_symbols), strict=True))
    )
    in_cells = None if profile is None else _in_cells(adata, key, profile)
    n_genes = 0 if profile is None else min(n_genes, len(profile))
    widths = ([] if droplets is None else [KNEE]) + ([] if profile is None else [GENES])
    height = max(n_genes * _cards.ROW, LEAST_HEIGHT) + AROUND
    figure, axes = plt.subplots(
        len(drawn),
        len(widths),
        figsize=(sum(widths) + 1.5, len(drawn) * height),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    for row, batch in zip(axes, drawn, strict=True):
        name = "" if batch == profiles.ONE else batch
        if droplets is not None:
            _knee(row[0], droplets[droplets["batch"].astype(str) == batch] if name else droplets)
        if profile is not None:
            top = profile[batch].nlargest(n_genes).index
            cells = None if in_cells is None else in_cells.loc[top, batch]
            _genes(row[-1], profile.loc[top, batch], cells, [labels[gene] for gene in top])
        row[0].set_title(name, fontsize=10, fontweight="bold", pad=22, loc="left", parse_math=False)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return list(axes.ravel())


def _profile(adata: AnnData, key: str) -> pd.DataFrame | None:
    """The profile, genes × batches, of the first type of features that has one."""
    import pandas as pd

    if keys(key).ambient not in adata.varm:
        return None
    table = pd.DataFrame(adata.varm[keys(key).ambient])
    table = table.set_axis(adata.var_names).rename(columns=str)
    known = table.notna().all(axis=1).to_numpy()
    return next((table[mask & known] for mask in features.types(adata) if (mask & known).any()), None)


def _droplets(adata: AnnData, key: str) -> pd.DataFrame | None:
    """The ``total`` and the ``class`` of all droplets, and the ``batch`` if there are several."""
    found = adata.uns.get(keys(key).ambient)
    return found["droplets"] if isinstance(found, dict) and "droplets" in found else None


def _nothing(adata: AnnData, key: str) -> str:
    """What to say where there is nothing to draw."""
    name = keys(key).ambient
    others = [
        found.removesuffix(keys("").ambient) for found in adata.varm if found.endswith(keys("").ambient)
    ]
    hint = f" There is one with key={others[0]!r}." if others else ""
    return (
        f"no ambient profile in adata.varm[{name!r}], and no droplets in adata.uns[{name!r}].{hint} Run "
        "scvitl.tl.ambient_profile(adata, raw) or scvitl.tl.scar(adata, raw) first."
    )


def _batches(
    profile: pd.DataFrame | None, droplets: pd.DataFrame | None, asked: Sequence[str] | str | None
) -> list[str]:
    """Names of the batches to draw; a name of its own where there is one profile for all."""
    if profile is not None:
        known = list(profile)
    else:
        known = [profiles.ONE] if "batch" not in droplets else list(map(str, droplets["batch"].unique()))
    if asked is not None:
        asked = list(map(str, [asked] if isinstance(asked, (str, int)) else asked))
        for batch in asked:
            if batch not in known:
                msg = f"batches has {batch!r}, which has no profile.{_checks.did_you_mean(batch, known)} Batches: {', '.join(map(repr, known))}."
                raise KeyError(msg)
    drawn = list(dict.fromkeys(known if asked is None else asked))
    if not 1 <= len(drawn) <= MOST_BATCHES:
        msg = f"{len(drawn)} batches do not make a figure, which holds 1 to {MOST_BATCHES}: name some with batches."
        raise ValueError(msg)
    return drawn


def _in_cells(adata: AnnData, key: str, profile: pd.DataFrame) -> pd.DataFrame | None:
    """Shares of the genes in the cells of every batch, as in ``profile``; `None` where they are not known."""
    import pandas as pd
    import scipy.sparse as sp

    layer, column = _origin(adata, key)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    matrix = adata.X if layer is None else adata.layers.get(layer)
    counts = None if matrix is None else sp.csr_matrix(in_memory(matrix))
    wrong, several = "is gone" if counts is None else problem(counts.data), profile.shape[1] > 1
    if wrong or (several and column not in adata.obs):
        why = f"{where} {wrong}" if wrong else "which batch they are of is not known"
        logg.info(f"    shares in the cells are not drawn: {why}")
        return None
    codes = np.zeros(adata.n_obs, int)
    if several:
        codes = profile.columns.get_indexer([columns.category_name(name) for name in adata.obs[column]])
    counts = counts[:, adata.var_names.get_indexer(profile.index)]
    # A batch may have no cells left.
    with np.errstate(invalid="ignore"):
        shares = profiles.pooled(counts, codes, profile.shape[1])
    return pd.DataFrame(shares.T, profile.index, profile.columns)


def _origin(adata: AnnData, key: str) -> tuple[str | None, str | None]:
    """The layer of the counts of the cells, and the column of their batches."""
    from ..data.schema import Schema

    found = adata.uns.get(keys(key).ambient, {})
    if not store.is_model(adata.uns.get(key)):
        return locate(adata, None), found.get("batch_key")
    schema = Schema.from_json(str(adata.uns[key]["schema"]))
    # A profile may have been found since.
    column = found.get("batch_key", schema.batch and schema.batch.key)
    return locate(adata, schema.layer), column


def _knee(ax: Axes, droplets: pd.DataFrame) -> None:
    """Counts of droplets by rank, both logarithmic, and the range of the empty ones."""
    total, kind = droplets["total"].to_numpy(), droplets["class"].astype(str).to_numpy()
    order = np.argsort(-total, kind="stable")
    total, kind, rank = total[order], kind[order], np.arange(1, len(order) + 1)
    places = np.rint(FINE * np.log10([rank, total])).astype(np.int64)
    # Where classes mix, those below show around those above.
    for below, name in enumerate(COLORS):
        mine = np.flatnonzero(kind == name)
        some = mine[np.unique(places[:, mine], axis=1, return_index=True)[1]]
        style = {"color": COLORS[name], "s": 7 * 2**below, "linewidths": 0, "zorder": 4 - below}
        ax.scatter(rank[some], total[some], label=f"{len(mine):,} {WORDS[name]}", **style)
    ax.set(xscale="log", yscale="log", ylim=(total[-1] / 1.6, 1.6 * total[0]))
    ax.set(xlabel="droplets, by rank", ylabel="counts of the droplet")
    empty = total[kind == "empty"]
    if empty.size:
        low, high = empty.min(), empty.max()
        ax.axhspan(low - 0.5, high + 0.5, color=COLORS["empty"], alpha=0.13, linewidth=0, zorder=0)
        text = f"empty: {low:,} to {high:,} counts"
        style = {"fontsize": SIZE, "color": COLORS["empty"], "va": "center"}
        ax.text(0.02, np.sqrt(low * high), text, transform=ax.get_yaxis_transform(), **style)
    _dress(ax)


def _genes(ax: Axes, shares: pd.Series, in_cells: pd.Series | None, names: Sequence[str]) -> None:
    """Shares of the genes as bars, in the cells as dots."""
    from matplotlib.ticker import MaxNLocator

    y = np.arange(len(shares))
    ax.barh(y, shares, height=0.7, color=COLORS["empty"], alpha=0.75, label="ambient", zorder=2)
    if in_cells is not None:
        style = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 3}
        ax.plot(in_cells, y, "o", color=COLORS["cell"], label="cells", **style)
    _cards.rows(ax, names)
    ax.set_xlim(0, 1.05 * max(shares.max(), np.nan_to_num(0 if in_cells is None else in_cells).max()) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    ax.set_xlabel("share of the counts")
    _dress(ax)
    ax.tick_params(axis="y", length=0)


def _dress(ax: Axes) -> None:
    """A legend above, and no frame."""
    ax.tick_params(labelsize=SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.2, "borderaxespad": 0.2}
    ax.legend(ncols=3, frameon=False, fontsize=SIZE, handletextpad=0.3, columnspacing=1.2, **place)
