"""A MuData of genes and proteins as one AnnData that shares its memory, and where results go in it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd
import scipy.sparse as sp

from .. import _checks
from .counts import in_memory, locate

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

    from .proteins import Proteins

GENES, _ = MODALITIES = "rna", "prot"  # names that muon gives them


def is_mudata(value: object) -> bool:
    """Whether ``value`` is a MuData, found out without importing mudata."""
    return any(kind.__module__.partition(".")[0] == "mudata" for kind in type(value).__mro__)


def joined(adata: ad.AnnData, modalities: tuple[str, str], protein_key: str) -> ad.AnnData:
    """An AnnData as it is; of a MuData one that has the proteins in ``obsm[protein_key]``.

    It has the genes, with their layers, of the first modality. Where ``obs`` of the MuData and of that modality have a
    column of the same name, the former counts.
    """
    if not is_mudata(adata):
        return adata
    import anndata

    _checks.unique_names(adata, "obs")
    genes, proteins = _parts(adata, modalities)
    at = _rows(genes, adata.obs_names)
    own = genes.obs.drop(columns=genes.obs.columns.intersection(adata.obs.columns))
    own = pd.DataFrame(own if at is None else own.iloc[at])
    return anndata.AnnData(
        None if genes.X is None else _take(genes.X, at),
        layers={name: _take(layer, at) for name, layer in genes.layers.items()},
        obs=pd.concat([pd.DataFrame(adata.obs), own], axis=1),
        var=pd.DataFrame(genes.var),
        # Of every modality, mudata keeps there which cells it has.
        obsm={
            **{name: value for name, value in adata.obsm.items() if name not in adata.mod},
            protein_key: _table(proteins, adata.obs_names, modalities[1]),
        },
        uns=dict(adata.uns),
    )


def as_read(adata: ad.AnnData, proteins: Proteins | None) -> ad.AnnData:
    """An AnnData as it is, or a MuData as a model of ``proteins`` reads it."""
    if not is_mudata(adata):
        return adata
    if proteins is None:
        refuse(adata, "the model has no proteins, so it")
    return joined(adata, proteins.modalities or MODALITIES, proteins.key)


def refuse(
    adata: ad.AnnData, what: str, *, remedy: str = f"pass one of its modalities, such as mdata[{GENES!r}]."
) -> None:
    """Refuse a MuData where there is no use for one."""
    if is_mudata(adata):
        msg = f"{what} takes an AnnData, not a MuData: {remedy}"
        raise TypeError(msg)


def variables(adata: ad.AnnData) -> list[pd.DataFrame]:
    """The table ``var``, or those of all modalities of a MuData."""
    return [part.var for part in adata.mod.values()] if is_mudata(adata) else [adata.var]


def copied(adata: ad.AnnData) -> ad.AnnData:
    """A copy."""
    with warnings.catch_warnings():
        _silence()
        return adata.copy()


def make_actual(adata: ad.AnnData) -> None:
    """Let a view of a MuData become an object of its own, with its modalities, before it is written to."""
    if is_mudata(adata) and adata.is_view:
        with warnings.catch_warnings():
            _silence()
            adata.obs = pd.DataFrame(adata.obs, copy=True)


def place(adata: ad.AnnData, slot: str, proteins: Proteins | None) -> tuple[ad.AnnData, np.ndarray | None]:
    """What has the ``slot`` for results of a model: ``adata``, or the modality of genes of a MuData; and its order of cells.

    `None` is the order that `joined` has.
    """
    if not is_mudata(adata) or slot not in {"layers", "varm"}:
        return adata, None
    genes = adata.mod[(getattr(proteins, "modalities", None) or MODALITIES)[0]]
    same = slot == "varm" or genes.obs_names.equals(adata.obs_names)
    return genes, None if same else adata.obs_names.get_indexer(genes.obs_names)


def reading(adata: ad.AnnData) -> str:
    """How to read a backed object into memory, for errors."""
    return "mdata = mudata.read_h5mu(path)" if is_mudata(adata) else "adata = adata.to_memory()"


def _silence() -> None:
    """Leave out what mudata says of its coming versions whenever it makes an object."""
    warnings.filterwarnings("ignore", module=r"mudata\b")


def _parts(mdata: ad.AnnData, modalities: tuple[str, str]) -> list[ad.AnnData]:
    """The modalities of genes and proteins, which have all cells."""
    if isinstance(modalities, str) or len(modalities) != 2 or len({*modalities}) != 2:
        msg = (
            f"modalities takes two names, of genes and of proteins, such as {MODALITIES}, not {modalities!r}."
        )
        raise TypeError(msg)
    there = list(mdata.mod)
    lost = [name for name in modalities if name not in there]
    if lost:
        hint = _checks.did_you_mean(lost[0], there)
        rest = [name for name in there if name not in modalities]
        if len(lost) == len(rest) == 1:
            hint = f" Is it {rest[0]!r}? Then modalities={tuple(rest[0] if name in lost else name for name in modalities)}."
        msg = (
            f"the MuData has no modality {' and no '.join(map(repr, lost))}.{hint} There are "
            f"{', '.join(map(repr, there)) or 'none'}. scvitl.tl.totalvi takes the names of genes and proteins, in this "
            "order, as modalities=(…, …), and a model finds them by these names again."
        )
        raise KeyError(msg)
    parts = [mdata.mod[name] for name in modalities]
    cells = mdata.obs_names
    for name, part in zip(modalities, parts, strict=True):
        _checks.unique_names(part, "obs")
        if not part.obs_names.isin(cells).all():
            msg = f"mdata[{name!r}] has {(~part.obs_names.isin(cells)).sum()} cells that mdata.obs_names lacks: run mdata.update() first."
            raise ValueError(msg)
    lacking = {name: cells[~cells.isin(part.obs_names)] for name, part in zip(modalities, parts, strict=True)}
    if any(map(len, lacking.values())):
        who = " and ".join(
            f"{len(lost)} of {len(cells)} cells are not in {name!r} (such as {lost[0]!r})"
            for name, lost in lacking.items()
            if len(lost)
        )
        first, second = modalities
        msg = (
            f"{who}, but both are needed. Take the cells that are in both: muon.pp.intersect_obs(mdata), or mdata = "
            f"mdata[mdata[{first!r}].obs_names.intersection(mdata[{second!r}].obs_names)].copy(). Cells that were not "
            f"stained can stay as a batch of their own, with rows of zeros in mdata[{second!r}]."
        )
        raise ValueError(msg)
    return parts


def _rows(part: ad.AnnData, cells: pd.Index) -> np.ndarray | None:
    """Positions of ``cells`` in a modality; `None` if they are in this order."""
    return None if part.obs_names.equals(cells) else part.obs_names.get_indexer(cells)


def _take(matrix, at: np.ndarray | None):
    """Rows of a matrix, or all of it as it is."""
    return in_memory(matrix) if at is None else in_memory(matrix)[at]


def _table(part: ad.AnnData, cells: pd.Index, name: str) -> pd.DataFrame:
    """The counts of proteins, of which ``attrs`` says where they are."""
    layer = locate(part, None)
    matrix, where = (
        (part.X, f"mdata[{name!r}].X")
        if layer is None
        else (part.layers[layer], f"mdata[{name!r}].layers[{layer!r}]")
    )
    if matrix is None:
        msg = (
            f"mdata[{name!r}].X is empty, and there is no layer 'counts': raw counts of proteins are needed."
        )
        raise ValueError(msg)
    values = _take(matrix, _rows(part, cells))
    frame = pd.DataFrame(
        values.toarray() if sp.issparse(values) else values, cells, part.var_names, copy=False
    )
    frame.attrs["where"] = where
    return frame
