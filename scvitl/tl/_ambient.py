"""The ambient profile of a fit: from the droplets, from the user, or from the cells."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg
from ..data import ambient as profiles
from ..data import columns, empty, features
from ..data.droplets import droplets
from ..data.raw import RAW, by_batch

if TYPE_CHECKING:
    import anndata as ad
    from scipy.sparse import csr_matrix

    from .._keys import Keys
    from ..data import Category

PROFILE_ONLY = {"min_raw_counts": 2, "iterations": 3, "sample": None, "cells_may_be_empty": False}


@dataclass(frozen=True)
class Found:
    """What the empty droplets of every batch hold."""

    genes: pd.Index  # of the cells, all of them
    chosen: np.ndarray  # (G,), those that were looked at
    types: list[np.ndarray]  # masks (G,) of genes whose shares sum to one
    batches: tuple[str, ...] | None
    parts: list[empty.Ambient]  # by batch
    batch_key: str | None = None

    @property
    def counts(self) -> np.ndarray:
        """Counts of the chosen genes in the empty droplets, (K, g)."""
        return np.stack([part.counts for part in self.parts])

    def frame(self) -> pd.DataFrame:
        """The profiles as they go into ``varm``."""
        full = np.full((len(self.parts), len(self.genes)), np.nan)
        full[:, self.chosen] = self.counts
        for kind in self.types:
            of_type = kind & self.chosen
            total = full[:, of_type].sum(1, keepdims=True)
            full[:, of_type] /= np.where(total > 0, total, 1)
        return profiles.frame(full, self.genes, self.batches)

    def record(self) -> dict[str, Any]:
        """What goes into ``uns``."""
        names = self.batches or (profiles.ONE,)
        tables = []
        for name, part in zip(names, self.parts, strict=True):
            table = pd.DataFrame(
                {
                    "total": part.totals.astype(np.int64),
                    "class": pd.Categorical.from_codes(part.classes, list(empty.CLASSES)),
                }
            )
            tables.append(table if self.batches is None else table.assign(batch=name))
        table = pd.concat(tables, ignore_index=True)
        if self.batches is not None:
            table["batch"] = pd.Categorical(table["batch"], list(self.batches))
        # by name, so that it holds for a selection of the genes
        counts = profiles.frame(self.counts, self.genes[self.chosen], self.batches)
        record = {"droplets": table, "counts": counts, "prob": np.array([part.prob for part in self.parts])}
        return record if self.batch_key is None else {**record, "batch_key": self.batch_key}


def find(
    adata: ad.AnnData,
    raw: object,
    *,
    feature_type: str | None,
    batch: Category | None,
    layer: str | None,
    prob: float | None,
    min_raw_counts: int,
    random_state: int,
    **options,
) -> Found:
    """Look for the empty droplets of every batch."""
    _checks.unique_names(adata, "obs", "var")
    if any(part is adata for part in (raw.values() if isinstance(raw, Mapping) else [raw])):
        msg = f"raw is adata itself: pass {RAW}, with the droplets that hold no cell."
        raise ValueError(msg)
    chosen = np.ones(adata.n_vars, bool) if feature_type is None else features.chosen(adata, feature_type)
    genes = adata.var_names[chosen]
    batches, cells = None, [adata.obs_names]
    if batch is not None:
        codes, batches = columns.codes(adata, "batch_key", batch), batch.categories
        cells = [adata.obs_names[codes == code] for code in range(len(batches))]
    rng, parts, lost = np.random.default_rng(random_state), [], []
    with closing(by_batch(raw, batch)) as given:
        for label, names, (title, matrix, rows) in zip(batches or ("",), cells, given, strict=True):
            seen = droplets(matrix, rows, genes, names, layer=layer, min_counts=min_raw_counts, title=title)
            part = empty.ambient(seen, prob=prob, rng=rng, title=title, **options)
            parts.append(part)
            lost.extend(seen.lost)
            example = matrix.obs_names[0]
            n_empty = int((part.classes == empty.CLASSES.index("empty")).sum())
            logg.info(
                f"    {n_empty:,} of {len(part.classes):,} droplets{label and f' of {label}'} are empty, with {part.counts.sum():,.0f} counts "
                f"(prob {part.prob:.4g})"
            )
    if lost:
        found = adata.n_obs - len(lost)
        who = f"only {found:,} of the {adata.n_obs:,} cells of adata are" if found else "no cell of adata is"
        logg.warning(
            f"{who} found in raw by name (not {lost[0]!r}; raw has such as {example!r}), so cells are told from empty droplets by "
            "their counts alone"
        )
    key = None if batch is None else batch.key
    return Found(adata.var_names, chosen, features.types(adata), batches, parts, key)


def profile(
    adata: ad.AnnData,
    raw: object,
    ambient: object,
    *,
    names: Keys,
    genes: np.ndarray,
    counts: csr_matrix,
    feature_type: str,
    batch: Category | None,
    random_state: int,
) -> tuple[np.ndarray, Mapping[str, Any] | None]:
    """Ambient shares of the ``genes`` (a mask) in every batch, (K, g), and the record of the droplets they come from.

    ``counts`` (n, g) are those of the cells.
    """
    if raw is not None and ambient is not None:
        msg = "raw and ambient both say what the ambient profile is: leave one of them out."
        raise ValueError(msg)

    def pooled() -> np.ndarray:
        codes = np.zeros(adata.n_obs, int) if batch is None else columns.codes(adata, "batch_key", batch)
        return profiles.pooled(counts, codes, 1 if batch is None else len(batch.categories))

    def smoothed(of_droplets: np.ndarray) -> np.ndarray:
        return np.stack([profiles.smoothed(*pair) for pair in zip(of_droplets, pooled(), strict=True)])

    if raw is not None:
        found = find(
            adata,
            raw,
            feature_type=feature_type,
            batch=batch,
            layer=None,
            prob=None,
            random_state=random_state,
            **PROFILE_ONLY,
        )
        return smoothed(found.counts), found.record()
    if ambient is None and _measured(adata, names.ambient, adata.var_names[genes], batch):
        ambient = names.ambient
        logg.info(f"    ambient profile from varm[{ambient!r}]")
    if ambient is None:
        logg.warning(
            "no raw droplets and no ambient profile are given, so the cells of a batch together stand for what is ambient; "
            "raw= with the unfiltered matrix is better"
        )
        return pooled(), None
    shares = profiles.given(adata, ambient, adata.var_names[genes], batch)
    record = _record(adata, ambient) if isinstance(ambient, str) else None
    of_droplets = _counted(record, adata.var_names[genes], shares)
    return shares if of_droplets is None else smoothed(of_droplets), record


def _record(adata: ad.AnnData, key: str) -> Mapping[str, Any] | None:
    """What `Found.record` left in ``uns``, where the profile is still there."""
    saved = adata.uns.get(key)
    there = key in adata.varm and isinstance(saved, Mapping) and {"droplets", "counts"} <= saved.keys()
    return saved if there else None


def _measured(adata: ad.AnnData, key: str, genes: pd.Index, batch: Category | None) -> bool:
    """Whether ``varm[key]`` comes from droplets, for these batches and genes."""
    if _record(adata, key) is None:
        return False
    names = [profiles.ONE] if batch is None else list(batch.categories)
    table = adata.varm[key]
    return (
        isinstance(table, pd.DataFrame)
        and list(map(str, table.columns)) == names
        and bool(table.loc[genes].notna().to_numpy().all())
    )


def _counted(record: Mapping[str, Any] | None, genes: pd.Index, shares: np.ndarray) -> np.ndarray | None:
    """Counts (K, g) of empty droplets that a profile of ``shares`` is made of, where it is."""
    table = None if record is None else record["counts"]
    if not isinstance(table, pd.DataFrame) or not genes.isin(table.index).all():
        return None
    counts = table.loc[genes].to_numpy(np.float64).T
    if counts.shape != shares.shape or (counts.sum(1) == 0).any():
        return None
    return counts if np.allclose(counts / counts.sum(1, keepdims=True), shares) else None
