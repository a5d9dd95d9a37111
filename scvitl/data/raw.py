"""The droplets of an experiment before cells were called: opened from what the user passes, by batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import columns

if TYPE_CHECKING:
    import anndata as ad

    from .columns import Category

ALL = slice(None)
RAW = "the raw (unfiltered) matrix"


def by_batch(raw: object, batch: Category | None) -> Iterator[tuple[str, ad.AnnData, np.ndarray | slice]]:
    """For every batch (one if there is no column) what to call its droplets, the AnnData, and where in it they are.

    Files that are opened for this are closed again. What can be wrong is looked for before the first is read.
    """
    if isinstance(raw, Mapping):
        named = _named(raw, batch)
        for argument, value in named.items():
            _kind(value, argument)
        for argument, value in named.items():
            with opened(value, argument=argument) as found:
                yield argument, found, ALL
    else:
        _kind(raw)
        with opened(raw) as found:
            for title, rows in ({"raw": ALL} if batch is None else _rows(found, batch)).items():
                yield title, found, rows


@contextmanager
def opened(raw: object, *, argument: str = "raw") -> Iterator[ad.AnnData]:
    """``raw`` as AnnData: as it is, or read from a file of 10x Genomics or of anndata, or a folder with ``matrix.mtx``."""
    import anndata as ad

    kind = _kind(raw, argument)
    if kind == "AnnData":
        yield raw
    elif kind == "h5ad":
        found = ad.read_h5ad(raw, backed="r")
        try:
            yield found
        finally:
            found.file.close()
    else:
        import scanpy as sc

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            found = (sc.read_10x_mtx if kind == "mtx" else sc.read_10x_h5)(raw, gex_only=False)
        # as users do with the cells, so that the names are the same
        found.var_names_make_unique()
        yield found


def _kind(raw: object, argument: str = "raw") -> str:
    """What ``raw`` is: "AnnData", or the path of an "h5ad", "10x" or "mtx" that exists."""
    import anndata as ad

    if isinstance(raw, ad.AnnData):
        return "AnnData"
    if not isinstance(raw, (str, PathLike)):
        hint = ": pass a modality of it, such as raw['rna']" if type(raw).__name__ == "MuData" else ""
        msg = (
            f"{argument} takes all droplets before cells were called, as AnnData or as path of an .h5 or .h5ad file or an "
            f"mtx folder, not {type(raw).__name__}{hint}."
        )
        raise TypeError(msg)
    path = Path(raw)
    if not path.exists():
        msg = f"{argument}={str(raw)!r} does not exist: pass {RAW}, such as raw_feature_bc_matrix.h5."
        raise FileNotFoundError(msg)
    if path.is_dir() and any(path.glob("matrix.mtx*")):
        return "mtx"
    if path.is_dir() or path.suffix not in {".h5ad", ".h5", ".hdf5"}:
        msg = f"{argument}={str(raw)!r} is no .h5 or .h5ad file and no folder with matrix.mtx: read it first, and pass the AnnData."
        raise ValueError(msg)
    import h5py

    try:
        with h5py.File(path) as file:
            return "h5ad" if "obs" in file else "10x"
    except OSError as error:
        msg = f"{argument}={str(raw)!r} cannot be read ({error}): is it all there?"
        raise ValueError(msg) from error


def _named(raw: Mapping, batch: Category | None) -> dict[str, object]:
    """What is given for every batch, by how to call it in an error."""
    if batch is None:
        msg = "raw has droplets by batch, so name the obs column of the batches with batch_key."
        raise ValueError(msg)
    given = {columns.category_name(name): value for name, value in raw.items()}
    missing = [name for name in batch.categories if name not in given]
    if missing:
        msg = (
            f"raw has no droplets for {', '.join(map(repr, missing))} of adata.obs[{batch.key!r}]; "
            f"it has {', '.join(map(repr, given)) or 'none'}."
        )
        raise KeyError(msg)
    return {f"raw[{name!r}]": given[name] for name in batch.categories}


def _rows(raw: ad.AnnData, batch: Category) -> dict[str, np.ndarray]:
    """Positions of the droplets of every batch, by what to call them."""
    if batch.key not in raw.obs:
        msg = (
            f"raw.obs has no {batch.key!r}, so which batch a droplet is of is not known: add it, or pass the raw matrices "
            f"by batch, raw={{{batch.categories[0]!r}: …}}."
        )
        raise KeyError(msg)
    labels = raw.obs[batch.key].astype(object).map(columns.category_name, na_action="ignore")
    rows = {name: np.flatnonzero(labels == name) for name in batch.categories}
    missing = [name for name, at in rows.items() if not len(at)]
    if missing:
        there = ", ".join(map(repr, labels.dropna().unique())) or "none"
        msg = f"raw.obs[{batch.key!r}] has no droplets of {', '.join(map(repr, missing))}; it has {there}."
        raise KeyError(msg)
    return {f"{name!r} of raw": at for name, at in rows.items()}
