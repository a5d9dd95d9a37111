from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, get
from .._logging import logg
from ..get._factor_association import association, telling
from ..get._loadings import linear_model
from . import _cards
from ._labels import gene_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

IDLE = 0.01  # of what all factors contribute; one below it is not worth a look
MOST_COLUMNS = 6
HEADING = "explained by"


def loadings(
    adata: AnnData,
    factors: Sequence[int | str] | int | str | None = None,
    n_genes: int = 15,
    *,
    key: str = "ldvae",
    obs_keys: Sequence[str] | str | None = None,
    groupby: str | None = None,
    gene_symbols: str | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw what the factors of LDVAE are: a card for each, with its genes and the cells that have it.

    At the top stands how much the factor contributes, and what share of it goes with cell type, batch and whatever else
    ``obs`` tells of the cells (:func:`scvitl.get.factor_association`). Below, where ``groupby`` is given, stands how high the
    groups are on the factor: half of the cells lie in the bar, nine in ten on the line. At the bottom are the genes of the
    largest loadings on both sides (:func:`scvitl.get.loadings`): red ones are high in cells that are high on the factor,
    blue ones in cells that are low. Which side is called high is arbitrary.

    Parameters
    ----------
    adata
        Cells with a model fitted by :func:`scvitl.tl.ldvae`, with counts where they were at the fit.
    factors
        Factors to draw, by number or name: ``3`` or ``"Z_3"``. `None` takes those that contribute at least 1 %.
    n_genes
        How many genes to name on either side.
    key
        Name of the model in ``uns``.
    obs_keys
        Columns of ``obs`` to relate the factors to; an empty list for none. `None` takes the six that go with the factors
        most.
    groupby
        Column of ``obs`` with groups of cells, such as cell types, to show on the factors, in the colours that scanpy keeps
        in ``uns``.
    gene_symbols
        Column of ``var`` with the names to write, in place of ``var_names``.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes with the genes, one per factor. All genes have the same scale; a factor's
    scale for cells is its own. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, factor or column.
    ValueError
        The decoder of the model is not linear, a column does not tell cells apart, or the counts are not counts.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.ldvae(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> axes = scvitl.pl.loadings(adata, groupby="cell_type", show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    _checks.whole_number("n_genes", n_genes)
    groups = None if groupby is None else _groups(adata, groupby)
    model = linear_model(adata, key, None)
    table = get.loadings(adata, model=model)
    cells = get.latent(adata, key=key, model=model)
    shares = _shares(table, cells)
    chosen = _chosen(factors, shares)
    facts = _facts(adata, cells, obs_keys, shares).iloc[chosen]
    names = np.array(gene_labels(adata, table.index, gene_symbols), dtype=object)
    values = table.to_numpy()[:, chosen]
    axes = _draw(facts, values, names, n_genes=n_genes, cells=cells[:, chosen], groups=groups)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes


def _shares(table: pd.DataFrame, cells: np.ndarray) -> pd.Series:
    """How much of the variance of the logits comes from each factor."""
    variance = table.var(ddof=0) * cells.var(0, dtype=np.float64)
    return variance / (variance.sum() or 1.0)


def _chosen(factors: Sequence[int | str] | int | str | None, shares: pd.Series) -> list[int]:
    """Positions of the factors to draw, each once."""
    names = list(shares.index)
    if factors is None:
        idle = shares < min(IDLE, shares.max())
        if idle.any():
            logg.info(f"    not drawn, since they contribute less than 1 %: {', '.join(shares.index[idle])}")
        return np.flatnonzero(~idle).tolist()
    asked = [factors] if isinstance(factors, (int, str, np.integer, np.bool_)) else list(factors)
    if not asked:
        msg = f"factors is empty: name some of {', '.join(names)}, or leave it out."
        raise ValueError(msg)
    for factor in asked:
        if isinstance(factor, (bool, np.bool_)) or (factor not in names and factor not in range(len(names))):
            msg = f"factors has {factor!r}, but the factors of the model are {names[0]} to {names[-1]}, or 0 to {len(names) - 1}."
            raise KeyError(msg)
    found = (names.index(factor) if isinstance(factor, str) else int(factor) for factor in asked)
    return list(dict.fromkeys(found))


def _facts(
    adata: AnnData, cells: np.ndarray, obs_keys: Sequence[str] | str | None, shares: pd.Series
) -> pd.DataFrame:
    """What stands at the top of the cards: factors × (contribution, heading, columns of obs)."""
    import pandas as pd

    found = shares.to_frame("contribution")
    asked = association(cells, telling(adata, obs_keys), shares.index)
    if obs_keys is None:
        most = asked.max().nlargest(MOST_COLUMNS).index
        asked = asked[[name for name in asked if name in most]]
    if asked.empty:
        return found
    heading = pd.DataFrame({HEADING: np.nan}, index=found.index)
    return pd.concat([found, heading, asked], axis=1)


@dataclass(frozen=True)
class Groups:
    """Groups of cells to show on the factors."""

    codes: np.ndarray  # (n,), -1 for no group
    names: list[str]
    colors: list[str]


def _groups(adata: AnnData, groupby: str) -> Groups:
    """The groups that some cell belongs to."""
    import pandas as pd

    _checks.obs_column(adata, "groupby", groupby)
    column = adata.obs[groupby]
    if pd.api.types.is_float_dtype(column):
        msg = (
            f"groupby takes groups of cells, but adata.obs[{groupby!r}] holds numbers: obs_keys is for these."
        )
        raise ValueError(msg)
    column = column.astype("category").cat
    codes, names = column.codes.to_numpy(), column.categories
    used = np.unique(codes[codes >= 0])
    if not used.size:
        msg = f"no cell has a group in adata.obs[{groupby!r}]: name another column with groupby."
        raise ValueError(msg)
    colors = _cards.colors(adata, groupby, len(names))
    return Groups(
        np.where(codes < 0, -1, np.searchsorted(used, codes)),
        [str(names[code]) for code in used],
        [colors[code] for code in used],
    )


def _draw(
    facts: pd.DataFrame,
    loadings: np.ndarray,
    names: np.ndarray,
    *,
    n_genes: int,
    cells: np.ndarray,
    groups: Groups | None,
) -> list[Axes]:
    """The figure; ``loadings`` (G, F) and ``cells`` (n, F) are of the factors that are rows of ``facts``."""
    picked = [_cards.ends(column, n_genes) for column in loadings.T]
    gap = n_genes if len(names) > 2 * n_genes else None
    told = list(map(str, facts))
    n_rows = {
        "facts": len(told),
        "groups": 0 if groups is None else len(groups.names),
        "genes": len(picked[0]) + (0 if gap is None else _cards.GAP),
    }
    below = {"facts": 0.1, "groups": 0.45, "genes": 0.5}
    beside = [*told, *([] if groups is None else groups.names)]
    cards = _cards.lay_out(
        len(facts),
        left=_cards.widest(beside) + 0.25,
        width=2 * max(_cards.HALF, _cards.widest(names[np.concatenate(picked)]) + 0.1),
        parts=[(n * _cards.ROW, below[part]) for part, n in n_rows.items() if n],
    )
    limit = 1.05 * np.abs(loadings).max() or 1.0
    for axes, factor, which, values, z in zip(cards, facts.index, picked, loadings.T, cells.T, strict=True):
        axes[0].set_title(factor, fontsize=10, fontweight="bold", pad=4)
        _cards.rows(axes[0], told, heading=HEADING)
        _cards.bars(axes[0], facts.loc[factor].to_numpy())
        if groups is not None:
            _cards.rows(axes[1], groups.names)
            _cards.spans(axes[1], z, groups.codes, groups.colors)
        _cards.genes(axes[-1], values[which], names[which], limit=limit, gap_after=gap)
    return [axes[-1] for axes in cards]
