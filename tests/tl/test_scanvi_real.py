"""On real counts: cell lines of a plate, carried over to another technology."""

from __future__ import annotations

import anndata as ad
import scanpy as sc

import scvitl


def test_cell_lines_from_plates_to_droplets(real_data):
    adata = ad.read_h5ad(real_data / "cell_line_mixture_5batches.h5ad")
    adata = adata[adata.obs["demuxlet_class"] == "SNG"].copy()
    sc.pp.filter_genes(adata, min_cells=10)
    log = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(log, n_top_genes=2000, batch_key="batch")
    adata = adata[:, log.var["highly_variable"]].copy()
    adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "celseq2_5cl_p1")
    scvitl.tl.scanvi(adata, "known", batch_key="batch", progress=False)
    right = (adata.obs["scanvi"].astype(str) == adata.obs["cell_type"].astype(str)).to_numpy()
    assert right[adata.obs["batch"] == "dropseq_3cl"].mean() >= 0.99
    # Confidence says how often labels are right, in the batches without any, too.
    new = (adata.obs["batch"] != "celseq2_5cl_p1").to_numpy()
    assert abs(adata.obs["scanvi_confidence"][new].mean() - right[new].mean()) < 0.03
    # Two of the five lines are not among the droplets.
    droplets = adata[adata.obs["batch"] == "dropseq_3cl"]
    assert len(scvitl.get.confusion(droplets, "cell_type")) == 3
