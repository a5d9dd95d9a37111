"""Counts of proteins next to those of genes: which there are, and which were measured in which cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks
from .._logging import logg
from . import columns
from .columns import Category
from .protein_table import place, some, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

AUTO = "auto"
STRAY = 0.01  # mean count in a batch over that in another, below which it may come from other cells


@dataclass(frozen=True)
class Proteins:
    """Proteins that a model was fitted to.

    Cells were stained with one panel of antibodies or another. Where ``panel`` names no column, every batch is one.
    """

    key: str  # of obsm
    names: tuple[str, ...]
    panel: Category | None
    measured: tuple[tuple[bool, ...], ...]  # by panel and protein
    in_batch: tuple[tuple[bool, ...], ...]  # by batch and protein: whether any of its cells was measured
    absent: tuple[str, ...] = ()  # proteins that the cells may lack, which then count as not measured
    modalities: tuple[str, str] | None = None  # of genes and proteins, where the cells were in a MuData
    n_mapped: int = 0  # batches, the last ones, that came with queries
    names_key: str | None = None  # of uns, with the names for a table that has none

    @property
    def complete(self) -> bool:
        """Whether every protein was measured in every panel."""
        return all(map(all, self.measured))

    @property
    def decoded_from(self) -> np.ndarray:
        """Batches that a protein is decoded from by default, (K, P): those that measured it, in the reference of a query."""
        in_batch = np.array(self.in_batch)
        in_batch[len(in_batch) - self.n_mapped :] = False
        return in_batch

    @property
    def place(self) -> str:
        """Where they are in what the model was fitted to, in words."""
        return f"obsm[{self.key!r}]" if self.modalities is None else f"the modality {self.modalities[1]!r}"


def from_record(record: dict | None) -> Proteins | None:
    """The proteins of a schema that was read from JSON."""
    if record is None:
        return None
    panel = record["panel"]
    tables = {name: tuple(map(tuple, record[name])) for name in ("measured", "in_batch")}
    return Proteins(
        key=record["key"],
        names=tuple(record["names"]),
        panel=None if panel is None else Category(panel["key"], tuple(panel["categories"])),
        absent=tuple(record["absent"]),
        modalities=tuple(record.get("modalities") or ()) or None,
        n_mapped=record.get("n_mapped", 0),
        names_key=record.get("names_key"),
        **tables,
    )


def learn(
    adata: ad.AnnData,
    key: str,
    *,
    names: Sequence[str] | str | None,
    batch: Category | None,
    panel_key: str | None,
    missing: Mapping[str, Sequence[str]] | str,
) -> Proteins:
    """The proteins in ``obsm[key]``; the other arguments are those of `scvitl.tl.totalvi`."""
    names_key = names if isinstance(names, str) else None
    values, names = table(adata, key, names)
    automatic = isinstance(missing, str) and missing == AUTO
    n_batch = 1 if batch is None else len(batch.categories)
    batches = batch_codes(adata, batch)
    panel = None if panel_key is None else columns.category(adata, "panel_key", panel_key)
    panels = batches if panel is None else columns.codes(adata, "panel_key", panel)
    kinds = ("all cells",) if batch is None else batch.categories
    kinds = kinds if panel is None else panel.categories
    if automatic:
        empty = np.array(names)[values.sum(0) == 0].tolist()
        if empty:
            msg = (
                f"no cell has a count of {some(empty)}, so nothing can be learned about "
                f"{'it' if len(empty) == 1 else 'them'}: leave {'it' if len(empty) == 1 else 'them'} out of "
                f"{place(adata, key)}. Or say with missing_proteins={{}} that all proteins were measured everywhere."
            )
            raise ValueError(msg)
        measured = np.stack([values[panels == code].sum(0) > 0 for code in range(len(kinds))])
    else:
        measured = ~_listed(missing, kinds, names)
        hidden = measured.sum(0) == 0
        if hidden.any():
            msg = f"missing_proteins leaves {some(np.array(names)[hidden].tolist())} measured nowhere: leave such proteins out of the table."
            raise ValueError(msg)
    of_batch = np.stack([measured[np.unique(panels[batches == code])].any(0) for code in range(n_batch)])
    proteins = Proteins(key, tuple(names), panel, _tuples(measured), _tuples(of_batch), names_key=names_key)
    _say(adata, proteins, kinds, automatic=automatic)
    silent = np.flatnonzero((values.sum(1) == 0) & measured.any(1)[panels])
    if len(silent):
        logg.warning(
            f"{len(silent)} cells have no protein counts (such as {adata.obs_names[silent[0]]!r}), which is taken "
            "as measured: leave them out if their staining or sequencing failed"
        )
    if automatic:
        means = np.stack([values[panels == code].mean(0) for code in range(len(kinds))])
        _warn_of_stray(measured & (means < STRAY * means.max(0)), kinds, names)
    return proteins


def batch_codes(adata: ad.AnnData, batch: Category | None) -> np.ndarray:
    """Codes of the batches, (n,); 0 for all cells where there is no column."""
    return np.zeros(adata.n_obs, int) if batch is None else columns.codes(adata, "batch_key", batch)


def encode(adata: ad.AnnData, proteins: Proteins, batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the proteins, (n, P), and codes of the panels, (n,), of cells with the codes ``batches``.

    What is not measured is zero, whatever the table says: the encoder sees all counts.
    """
    values, panels = _counts(adata, proteins, batches)
    return values if proteins.complete else values * np.array(proteins.measured)[panels], panels


def _counts(adata: ad.AnnData, proteins: Proteins, batches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same as they are in the table."""
    panels = batches if proteins.panel is None else columns.codes(adata, "panel_key", proteins.panel)
    if len(proteins.absent) == len(proteins.names):
        return np.zeros((adata.n_obs, len(proteins.names)), np.float32), panels
    values, names = table(adata, proteins.key, _names(adata, proteins))
    if tuple(names) == proteins.names:
        return values, panels
    at = pd.Index(names).get_indexer(proteins.names)
    lost = [name for name, i in zip(proteins.names, at, strict=True) if i < 0 and name not in proteins.absent]
    if lost:
        msg = (
            f"{len(lost)} of the {len(proteins.names)} proteins of the model are not in {place(adata, proteins.key)} "
            f"({some(lost)}), which has {some(names)}: pass an AnnData with all proteins of the model, or map "
            "cells onto it with scvitl.tl.map_query."
        )
        raise ValueError(msg)
    return np.append(values, np.zeros((len(values), 1), np.float32), 1)[:, at], panels


def _names(adata: ad.AnnData, proteins: Proteins) -> Sequence[str] | str:
    """Names for a table that has none: where the model found them in ``uns``, those that are there now."""
    return proteins.names if proteins.names_key not in adata.uns else proteins.names_key


def grown(query: ad.AnnData, proteins: Proteins, batch: tuple[Category | None, Category | None]) -> Proteins:
    """What becomes of the ``proteins`` of a reference on a ``query``: those that it lacks, its new panels.

    ``batch`` is the column of batches as the reference has it, and with those of the query.
    """
    here = () if proteins.key not in query.obsm else table(query, proteins.key, _names(query, proteins))[1]
    absent = tuple(name for name in proteins.names if name not in here)
    if len(absent) == len(proteins.names):
        there = f", only {some(here)}" if here else ""
        logg.warning(
            f"query.obsm has none of the proteins of the reference under {proteins.key!r}{there}: all are imputed"
        )
    elif absent:
        logg.info(f"    not in the query, and imputed: {some(absent)}")
    new = replace(proteins, absent=absent)
    old_batch, new_batch = batch
    n_old = 1 if old_batch is None else len(old_batch.categories)
    kinds = ("all cells",) if new_batch is None else new_batch.categories
    if proteins.panel is not None:
        found = columns.category(query, "panel_key", proteins.panel.key).categories
        added = tuple(name for name in found if name not in set(proteins.panel.categories))
        new = replace(new, panel=replace(proteins.panel, categories=(*proteins.panel.categories, *added)))
    batches = batch_codes(query, new_batch)
    values, panels = _counts(query, new, batches)
    there = np.array([name not in absent for name in proteins.names])
    measured = np.array(proteins.measured)
    measured[np.unique(panels[panels < len(measured)])] &= there
    names = kinds if new.panel is None else new.panel.categories
    found = [values[panels == code].sum(0) > 0 for code in range(len(measured), len(names))]
    _say_missing(new, names[len(measured) :], [row | ~there for row in found], automatic=True)
    measured = _tuples(np.stack([*measured, *found]))
    in_batch = [*proteins.in_batch]
    for code in range(n_old, len(kinds)):
        of_panels = np.array(measured)[np.unique(panels[batches == code])]
        in_batch += _tuples(of_panels.any(0, keepdims=True))
    n_mapped = proteins.n_mapped + len(kinds) - n_old
    return replace(new, measured=measured, in_batch=tuple(in_batch), n_mapped=n_mapped)


def _listed(missing: Mapping[str, Sequence[str]], kinds: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Which proteins are listed as missing, by panel, (panels, P)."""
    mask = np.zeros((len(kinds), len(names)), bool)
    if not hasattr(missing, "items"):
        msg = f"missing_proteins takes 'auto', or a dictionary of lists of proteins by batch (or panel), not {missing!r}."
        raise TypeError(msg)
    for kind, proteins in missing.items():
        if str(kind) not in kinds:
            msg = f"missing_proteins has {kind!r}, which no cell is of.{_checks.did_you_mean(str(kind), kinds)} There are {some(kinds)}."
            raise KeyError(msg)
        for name in map(str, [proteins] if isinstance(proteins, str) else proteins):
            if name not in names:
                msg = f"missing_proteins has {name!r}, which is not a protein here.{_checks.did_you_mean(name, names)}"
                raise KeyError(msg)
            mask[list(kinds).index(str(kind)), list(names).index(name)] = True
    return mask


def _say(adata: ad.AnnData, proteins: Proteins, kinds: Sequence[str], *, automatic: bool) -> None:
    """What is taken as not measured."""
    logg.info(f"    {len(proteins.names)} proteins from {place(adata, proteins.key).removeprefix('adata.')}")
    _say_missing(proteins, kinds, proteins.measured, automatic=automatic)


def _say_missing(
    proteins: Proteins, kinds: Sequence[str], rows: Sequence[Sequence[bool]], *, automatic: bool
) -> None:
    """Which proteins are taken as not measured in panels (or batches), of which ``rows`` say what was."""
    for kind, measured in zip(kinds, rows, strict=True):
        missing = [name for name, there in zip(proteins.names, measured, strict=True) if not there]
        if not missing:
            continue
        why = "without a count, so taken as not measured" if automatic else "not measured"
        what = "all proteins" if len(missing) == len(proteins.names) else some(missing, 40)
        logg.info(f"    {kind!r}: {what} {why}, and imputed")


def _warn_of_stray(stray: np.ndarray, kinds: Sequence[str], names: Sequence[str]) -> None:
    """Proteins with next to no counts in a panel, (panels, P), may have been measured in others alone."""
    for kind, row in zip(kinds, stray, strict=True):
        if row.any():
            logg.warning(
                f"{kind!r} has next to no counts of {some(np.array(names)[row].tolist())}, taken as measured: if "
                "it was not, say so in missing_proteins, with a list for every batch (or panel)"
            )


def _tuples(mask: np.ndarray) -> tuple[tuple[bool, ...], ...]:
    return tuple(map(tuple, mask.tolist()))
