"""What is known of the background of proteins before training: from the cells, from empty droplets, or from the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .. import _checks
from .._logging import logg
from ..data import proteins as protein_tables
from ..data.columns import category_name
from ..data.counts import in_memory
from ..data.multimodal import is_mudata
from ..data.protein_table import check as check_counts
from ..data.protein_table import table

if TYPE_CHECKING:
    import anndata as ad

    from ..data import Schema
    from ..data.batches import CellData
    from ..models import TOTALVAE

CHOICES = ("auto", "empirical", "learned")
MANY_PROTEINS = 10  # of which the background can be told from the cells one by one
N_CELLS = 100  # that are looked at for it
ENOUGH = 5  # proteins of a cell
MIN_SD = 0.05  # a surer prior takes training long to reach
USUAL = 0.01, 0.5  # counts of an empty droplet by those of a cell: fewer are stray reads, more may be a cell
ANTIBODIES = "Antibody Capture"  # Cell Ranger's name of features that are proteins
LOW, HIGH = 0.25, 0.9  # quantiles of counts that stand for background and foreground before training


def check(adata: ad.AnnData, option: object, raw: object) -> None:
    """``protein_background_prior`` and ``raw`` are legal."""
    import anndata

    if isinstance(option, str):
        _checks.one_of("protein_background_prior", option, CHOICES)
    elif not isinstance(option, (tuple, list)) or len(option) != 2:
        msg = (
            "protein_background_prior takes 'auto', 'empirical', 'learned', or a pair: mean and standard deviation of the "
            f"log background of the proteins, not {option!r}."
        )
        raise TypeError(msg)
    if raw is None:
        return
    if not isinstance(raw, (anndata.AnnData, pd.DataFrame)):
        hint = ": pass its modality of proteins, such as raw['prot']." if is_mudata(raw) else "."
        msg = f"raw takes the droplets before cells were called, as AnnData or table of droplets × proteins, not {type(raw).__name__}{hint}"
        raise TypeError(msg)
    if option != "auto":
        msg = "raw and protein_background_prior both say what the background is: leave one of them out."
        raise ValueError(msg)


def prior(
    adata: ad.AnnData, schema: Schema, option: object, raw: Any, *, plan: str, random_state: int
) -> dict[str, np.ndarray] | None:
    """Mean and standard deviation of the log background by protein and panel, (P, M); `None` leaves them to be learned.

    An empirical prior is one level for all proteins and next to certain, from which a short training does not get away:
    so only the reference plan takes it by itself.
    """
    batches = protein_tables.batch_codes(adata, schema.batch)
    counts, panels = protein_tables.encode(adata, schema.proteins, batches)
    measured = np.array(schema.proteins.measured)  # (M, P)
    if raw is not None:
        return _of_droplets(adata, schema, raw, counts, len(measured))
    if not isinstance(option, str):
        return _given(option, schema, measured.shape[::-1])
    few = len(schema.proteins.names) <= MANY_PROTEINS
    if option == "learned" or (option == "auto" and (few or plan == "fast")):
        return None
    rng = np.random.default_rng(random_state)
    found = [
        empirical(counts[panels == code][:, measured[code]], rng, random_state)
        for code in range(len(measured))
    ]
    mean, sd = np.array(found, np.float32).T  # (M,)
    shape = measured.shape[1], 1
    return {"background_mean": np.tile(mean, shape), "background_sd": np.tile(sd, shape)}


def kind(option: object, raw: object, prior: dict[str, np.ndarray] | None) -> str:
    """What the background started from, in a word."""
    if raw is not None:
        return "droplets"
    if not isinstance(option, str):
        return "given"
    return "learned" if prior is None else "empirical"


def empirical(counts: np.ndarray, rng: np.random.Generator, random_state: int) -> tuple[float, float]:
    """Mean and standard deviation of the log background of one panel, for all its proteins, from ``counts`` (n, p).

    In each of a hundred cells, two normals are fitted to the logarithms of its proteins, and the lower one is taken; the
    mean of these is the prior, and as sure as a mean of so many.
    """
    from sklearn.mixture import GaussianMixture

    if len(counts) == 0 or counts.shape[1] < ENOUGH:
        return 0.0, MIN_SD
    means, variances = [], []
    for cell in np.log1p(counts[rng.choice(len(counts), N_CELLS)]):
        if len(np.unique(cell)) < 2:
            means.append(float(cell[0]))
            variances.append(MIN_SD**2)
            continue
        mixture = GaussianMixture(2, random_state=random_state).fit(cell.reshape(-1, 1))
        lower = mixture.means_.argmin()
        means.append(float(mixture.means_[lower, 0]))
        variances.append(float(mixture.covariances_[lower, 0, 0]))
    return float(np.mean(means)), max(MIN_SD, float(np.sqrt(np.sum(variances)) / N_CELLS))


def _given(option: Any, schema: Schema, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The user's own, one for all, by protein, or by protein and panel."""
    panel = schema.proteins.panel or schema.batch
    kinds = [] if panel is None else list(panel.categories)
    parts = []
    for name, part in zip(("mean", "standard deviation"), option, strict=True):
        if isinstance(part, (pd.Series, pd.DataFrame)):
            part = part.reindex(list(schema.proteins.names))  # noqa: PLW2901
        if isinstance(part, pd.DataFrame) and set(part) == set(kinds):
            part = part[kinds]  # noqa: PLW2901
        try:
            one = np.asarray(part, np.float32)
        except (TypeError, ValueError):
            msg = f"the {name} in protein_background_prior must be numbers, not {part!r}."
            raise TypeError(msg) from None
        values = one[:, None] if one.ndim == 1 else one
        try:
            parts.append(np.broadcast_to(values, shape).copy())
        except ValueError:
            msg = (
                f"the {name} in protein_background_prior has shape {one.shape}; give a number, one for each of the "
                f"{shape[0]} proteins, or an array of {shape[0]} proteins × {shape[1]} panels (or batches)."
            )
            raise ValueError(msg) from None
        if not np.isfinite(values).all() or (name != "mean" and (values <= 0).any()):
            msg = f"the {name} in protein_background_prior must be finite{'' if name == 'mean' else ' and above zero'}, for every protein."
            raise ValueError(msg)
    return dict(zip(("background_mean", "background_sd"), parts, strict=True))


def _of_droplets(
    adata: ad.AnnData, schema: Schema, raw: Any, counts: np.ndarray, n_panels: int
) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the log counts in droplets without a cell; ``counts`` (n, P) are those of the cells."""
    droplets, index = _droplets(raw, schema.proteins.key, list(schema.proteins.names))
    totals = np.asarray(droplets.sum(1), np.float64).ravel()
    outside = ~index.isin(adata.obs_names)
    if outside.all():
        logg.warning(
            f"none of the cells (such as {adata.obs_names[0]!r}) is among the droplets of raw (such as {index[0]!r}), "
            "so all are taken as empty: name both alike, unless raw has empty droplets alone"
        )
    empty = outside & (totals > 0)
    if empty.sum() < 2:
        msg = (
            f"raw has {len(index):,} droplets, but {empty.sum()} that are not among the cells and hold protein counts: "
            "pass all droplets, as the raw matrix of Cell Ranger has them, with the same barcodes as the cells."
        )
        raise ValueError(msg)
    of_cells = counts.sum(1)
    of_cell = np.median(of_cells[of_cells > 0]) if of_cells.any() else 0.0
    usual = empty & (totals >= USUAL[0] * of_cell) & (totals <= USUAL[1] * of_cell)
    empty = usual if usual.sum() > 1 else empty
    panel = schema.proteins.panel or schema.batch
    kinds = getattr(raw, "obs", pd.DataFrame(index=index))
    apart = panel is not None and panel.key in kinds
    parts = []
    for code in range(n_panels):
        own = empty
        if apart:
            own = empty & (kinds[panel.key].map(category_name) == panel.categories[code]).to_numpy(bool)
        if own.sum() < 2:
            msg = f"raw has no empty droplets with {panel.key!r} equal to {panel.categories[code]!r}; leave that column out of raw.obs to take all for all."
            raise ValueError(msg)
        logs = np.log1p(_dense(droplets[own]).astype(np.float64))
        parts.append((logs.mean(0), logs.std(0).clip(MIN_SD)))
    logg.info(
        f"    background of proteins from {empty.sum():,} droplets without a cell, with {totals[empty].min():,.0f} to "
        f"{totals[empty].max():,.0f} counts"
    )
    mean, sd = (np.stack(part, 1).astype(np.float32) for part in zip(*parts, strict=True))  # (P, M)
    return {"background_mean": mean, "background_sd": sd}


def _droplets(raw: Any, key: str, names: list[str]) -> tuple[Any, pd.Index]:
    """Checked counts of the proteins in all droplets, (droplets, P), sparse where they are, and the barcodes."""
    index = raw.index if isinstance(raw, pd.DataFrame) else raw.obs_names
    if not isinstance(raw, pd.DataFrame):
        if key in raw.obsm:
            values, given = table(raw, key, names)
            raw = pd.DataFrame(values, index, given)
        elif (of_proteins := raw.var.get("feature_types", pd.Series(dtype=str)) == ANTIBODIES).any():
            raw = raw[:, of_proteins.to_numpy()]
    there = pd.Index(map(str, raw.columns if isinstance(raw, pd.DataFrame) else raw.var_names))
    lost = [name for name in names if name not in there]
    if lost:
        msg = (
            f"raw lacks {len(lost)} of the {len(names)} proteins, such as {lost[0]!r}; it has "
            f"{', '.join(map(repr, there[:3]))}, …: name the proteins in both alike."
        )
        raise ValueError(msg)
    repeated = there[there.duplicated() & there.isin(names)]
    if len(repeated):
        msg = f"raw has several columns called {repeated[0]!r}: leave those of genes out, or rename them."
        raise ValueError(msg)
    at = there.get_indexer_for(names)
    values = raw.iloc[:, at].to_numpy() if isinstance(raw, pd.DataFrame) else in_memory(raw[:, at].X)
    check_counts(values.data if sp.issparse(values) else values.ravel(), "raw")
    return values, index


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def start_at(module: TOTALVAE, data: CellData, *, prior: bool) -> None:
    """Let the decoder of a new ``module`` begin where the cells are, and the ``prior`` of the background, too."""
    import torch

    totals = torch.from_numpy(np.asarray(data.counts.sum(0), np.float64).ravel() + 1)
    logs = torch.log1p(data.proteins).cpu()
    measured = module.protein_counts.measured.cpu()[data.panel.cpu()]
    masked = torch.where(measured, logs, torch.nan)
    low, high = torch.nanquantile(masked, torch.tensor([LOW, HIGH]), dim=0)
    module.start_at((totals / totals.sum()).float(), low, high, prior=prior)
