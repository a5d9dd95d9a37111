"""On real counts: the latent space keeps cell types apart and mixes batches better than PCA does."""

from __future__ import annotations

import anndata as ad
import scanpy as sc
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import scvitl


def test_five_cell_lines_in_five_batches(real_data):
    adata = ad.read_h5ad(real_data / "cell_line_mixture_5batches.h5ad")
    adata = adata[adata.obs["demuxlet_class"] == "SNG"].copy()
    log = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(log, n_top_genes=1000, batch_key="batch")
    adata, log = adata[:, log.var["highly_variable"]].copy(), log[:, log.var["highly_variable"]].copy()
    sc.pp.pca(log, n_comps=10)
    scvitl.tl.scvi(adata, batch_key="batch", max_epochs=30, progress=False)
    batch, line = (adata.obs[key].to_numpy() for key in ("batch", "cell_type"))

    def same_batch(space):
        near = NearestNeighbors(n_neighbors=30).fit(space).kneighbors(return_distance=False)
        return (batch[near] == batch[:, None]).mean()

    held_out = adata.obs_names.str.len() % 2 == 0
    classifier = KNeighborsClassifier(15).fit(adata.obsm["X_scvi"][~held_out], line[~held_out])
    assert classifier.score(adata.obsm["X_scvi"][held_out], line[held_out]) > 0.98
    assert same_batch(adata.obsm["X_scvi"]) < 0.6 * same_batch(log.obsm["X_pca"])
