"""Data sets and scores of integration: label transfer, batch mixing, types told apart.

`DATA` is the folder of the data sets; the variable SCVITL_DATA names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(os.environ.get("SCVITL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def variable_genes(adata: ad.AnnData, n_genes: int = 2000, batch_key: str | None = "batch") -> ad.AnnData:
    """Counts of the most variable genes among those in at least ten cells; cells left without counts are dropped."""
    adata = adata.copy()
    sc.pp.filter_genes(adata, min_cells=10)
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    sc.pp.highly_variable_genes(log, n_top_genes=min(n_genes, log.n_vars), batch_key=batch_key)
    adata = adata[:, log.var["highly_variable"]]
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def pbmc() -> ad.AnnData:
    """Six PBMC batches, two of them labelled: 9144 × 2000."""
    return variable_genes(ad.read_h5ad(DATA / "pbmc_multibatch.h5ad"))


def enlarged(n_cells: int = 50_000, n_genes: int = 4_000, seed: int = 0) -> ad.AnnData:
    """As many cells as wanted of the kind of `pbmc`: half of the counts of a cell and half of those of a neighbour.

    A neighbour is one of the ten nearest cells of the same batch in PCA, so that depth, zeros, types and batches are real
    ones. A new cell has the label of the first of the two.
    """
    adata = variable_genes(ad.read_h5ad(DATA / "pbmc_multibatch.h5ad"), n_genes)
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    sc.pp.pca(log, n_comps=30, random_state=0)
    rng = np.random.default_rng(seed)
    near = np.empty((adata.n_obs, 10), np.int64)
    for cells in adata.obs.groupby("batch", observed=True).indices.values():
        pca = log.obsm["X_pca"][cells]
        found = NearestNeighbors(n_neighbors=11).fit(pca).kneighbors(pca, return_distance=False)
        near[cells] = cells[found[:, 1:]]
    first = rng.integers(adata.n_obs, size=n_cells)
    second = near[first, rng.integers(10, size=n_cells)]
    counts = (adata.X[first] + adata.X[second]).tocsr()
    counts.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(np.float32)
    counts.eliminate_zeros()
    many = ad.AnnData(counts, obs=adata.obs.iloc[first].reset_index(drop=True), var=adata.var[[]])
    many.obs_names = "cell_" + many.obs_names
    return many[np.asarray(many.X.sum(1)).ravel() > 0].copy()


def lines() -> ad.AnnData:
    """Five lung cancer lines in five batches, deep, single cells only: 1021 × 2000."""
    adata = ad.read_h5ad(DATA / "cell_line_mixture_5batches.h5ad")
    return variable_genes(adata[adata.obs["demuxlet_class"] == "SNG"])


def starmap() -> ad.AnnData:
    """Three sections of mouse cortex, 158 genes in situ."""
    adata = ad.read_h5ad(DATA / "starmap_mpfc.h5ad")
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def two_panels() -> ad.AnnData:
    """Two small PBMC batches without labels: 400 × 2000."""
    return variable_genes(ad.read_h5ad(DATA / "citeseq_pbmc_two_panels_400.h5ad"))


def single(name: str) -> Callable[[], ad.AnnData]:
    """A data set of one batch."""
    return lambda: variable_genes(ad.read_h5ad(DATA / f"{name}.h5ad"), batch_key=None)


DATASETS: dict[str, tuple[Callable[[], ad.AnnData], str | None, str | None]] = {
    "pbmc": (pbmc, "batch", "cell_type_coarse"),
    "pbmc 50k": (enlarged, "batch", "cell_type_coarse"),
    "lines": (lines, "batch", "cell_type"),
    "starmap": (starmap, "batch", "cell_type"),
    "two panels": (two_panels, "batch", None),
    "pancreas": (single("mouse_pancreas_endocrinogenesis"), None, "cell_type"),
    "worm": (single("worm_neuron_sparse"), None, "cell_type"),
}  # how to load it, batches, labels


def transfer(
    latent: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, k: int = 15
) -> float:
    """Accuracy of label transfer from ``train`` to ``test`` cells by k nearest neighbours."""
    predicted = KNeighborsClassifier(k).fit(latent[train], labels[train]).predict(latent[test])
    return float((predicted == labels[test]).mean())


def mixing(latent: np.ndarray, batch: np.ndarray, k: int = 30) -> float:
    """Share of a cell's k nearest neighbours that come from its own batch (lower is better mixed)."""
    k = min(k, len(batch) // 10)
    near = NearestNeighbors(n_neighbors=k + 1).fit(latent).kneighbors(latent, return_distance=False)[:, 1:]
    return float((batch[near] == batch[:, None]).mean())


def told_apart(latent: np.ndarray, labels: np.ndarray, k: int = 15) -> float:
    """Accuracy of 15 nearest neighbours in five-fold cross-validation over the labelled cells."""
    known = labels != "Unknown"
    return float(cross_val_score(KNeighborsClassifier(k), latent[known], labels[known], cv=5).mean())


def scores(name: str, adata: ad.AnnData, latent: np.ndarray) -> dict[str, float]:
    """What can be said of ``latent`` on the data set called ``name``."""
    _, batch_key, labels_key = DATASETS[name]
    batch = adata.obs[batch_key].astype(str).to_numpy() if batch_key else None
    labels = adata.obs[labels_key].astype(str).to_numpy() if labels_key else None
    result = {}
    if name.startswith("pbmc"):
        known = labels != "Unknown"
        a, b = known & (batch == "pbmc4k_v2"), known & (batch == "inhouse_v2_cite")
        result |= {"transfer 4k → in-house": transfer(latent, labels, a, b)}
        result |= {"transfer in-house → 4k": transfer(latent, labels, b, a)}
    elif name == "lines":
        a, b = batch == "celseq2_5cl_p1", batch == "dropseq_3cl"
        result["transfer CEL-seq2 → Drop-seq"] = transfer(latent, labels, a, b)
    if labels is not None:
        result["types told apart"] = told_apart(latent, labels)
    if batch is not None:
        result["same-batch neighbours"] = mixing(latent, batch)
    return result
