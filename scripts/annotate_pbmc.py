"""Make the data set behind ``scvitl.datasets.pbmc``: choose batches and genes, call cell types from markers.

    python scripts/annotate_pbmc.py SOURCE.h5ad scvitl/datasets/pbmc.h5ad

SOURCE needs raw counts in ``X``, gene symbols in ``var_names`` and ``obs["batch"]`` that holds the batches
below; any other batch and any label is ignored. Needs scikit-misc beside the dependencies of the package.

A cell takes the lineage whose marker panel is highest on average over the cell and its nearest neighbours, in
a space where every gene was standardised within its batch. The average over neighbours makes markers usable
that are missed in many of the cells that express them, as CD8A and CD8B are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.neighbors import NearestNeighbors

BATCHES = ["pbmc3k_v1", "pbmc1k_v2", "pbmc1k_v3", "pbmc_5prime"]
CELL_TYPES = ["B", "CD4 T", "CD8 T", "NK", "Monocyte", "DC", "Platelet", "Unknown"]

# GNLY, NKG7 and PRF1 are left out of the NK panel: cytotoxic T cells express them as strongly.
PANELS = {
    "B": ["MS4A1", "CD79A", "CD79B", "CD19", "BANK1", "TNFRSF13C"],
    "T": ["CD3D", "CD3E", "CD3G", "CD2", "IL32", "BCL11B"],
    "NK": ["KLRF1", "NCR1", "KLRD1", "SPON2", "SH2D1B", "KLRC1", "FCER1G", "TYROBP"],
    "Monocyte": ["CD14", "LYZ", "S100A8", "S100A9", "VCAN", "FCN1", "CST3", "MS4A7", "LST1", "CTSS"],
    "DC": ["FCER1A", "CLEC10A", "CD1C", "ENHO", "LILRA4", "IL3RA", "CLEC4C", "SERPINF1"],
    "Platelet": ["PPBP", "PF4", "GP9", "ITGA2B", "TUBB1", "GNG11"],
}
CD8_GENES = ["CD8A", "CD8B"]
# Kept for users to look at, though no call rests on them.
SHOWN_GENES = ["CD4", "IL7R", "CCR7", "LTB", "GZMK", "GZMH", "CCL5", "GNLY", "NKG7", "PRF1", "GZMB", "FCGR3A"]
# A cell that scores highly in two of these at once is no doublet: the panels overlap in biology.
RELATED = [{"T", "NK"}, {"Monocyte", "DC"}]

N_GENES = 2000
MIN_CELLS = 10
N_COMPONENTS = 30
N_NEIGHBORS = 15
# Below these a lineage is not called. Panel scores are in within-batch standard deviations.
MIN_SCORE = 0.2
MIN_MARGIN = 0.2
# Share of a T cell's neighbours with CD8 transcripts. The two modes lie below the first and above the second.
CD8_BOUNDS = (0.27, 0.5)

SOURCE = (
    "10x Genomics public data sets, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): "
    "3k PBMCs from a healthy donor (pbmc3k_v1); 1k PBMCs from a healthy donor, v2 chemistry (pbmc1k_v2); "
    "1k PBMCs from a healthy donor, v3 chemistry (pbmc1k_v3); 8k PBMCs from a healthy donor, 5' gene "
    "expression, 1000 of its cells (pbmc_5prime). Changed: cut to 2000 genes. obs['cell_type'] was not "
    "published by 10x Genomics; scripts/annotate_pbmc.py of scvitl called it from canonical markers."
)


def read_batches(path: Path) -> ad.AnnData:
    """Counts and batch names of the wanted batches, over the genes seen often enough."""
    source = ad.read_h5ad(path)
    missing = sorted(set(BATCHES) - set(source.obs["batch"]))
    if missing:
        msg = f"{path} has no cells of the batches {missing}."
        raise ValueError(msg)
    source = source[source.obs["batch"].isin(BATCHES)]
    batch = pd.Categorical(source.obs["batch"].astype(str), categories=BATCHES)
    obs = pd.DataFrame({"batch": batch}, index=source.obs_names)
    adata = ad.AnnData(source.X.astype(np.float32), obs=obs, var=source.var[[]])
    sc.pp.filter_genes(adata, min_cells=MIN_CELLS)
    adata.var = adata.var[[]]
    return adata


def log_normalized(counts: ad.AnnData) -> ad.AnnData:
    """Log of counts per ten thousand, as a new object."""
    log = counts.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    return log


def standardized_within_batch(log: ad.AnnData, genes: list[str]) -> np.ndarray:
    """Dense z-scores of some genes, taken batch by batch and clipped at ten."""
    values = log[:, genes].X.toarray()
    for rows in log.obs.groupby("batch", observed=True).indices.values():
        block = values[rows]
        values[rows] = np.clip((block - block.mean(axis=0)) / (block.std(axis=0) + 1e-8), -10, 10)
    return values


def variable_genes(counts: ad.AnnData, n_genes: int) -> list[str]:
    """Genes that vary in most batches, most variable first."""
    found = sc.pp.highly_variable_genes(
        counts, n_top_genes=n_genes, flavor="seurat_v3", batch_key="batch", inplace=False
    )
    found.index = counts.var_names
    return found[found["highly_variable"]].sort_values("highly_variable_rank").index.tolist()


def nearest_neighbors(counts: ad.AnnData, log: ad.AnnData) -> np.ndarray:
    """Row numbers of each cell and its nearest cells, itself first."""
    values = standardized_within_batch(log, variable_genes(counts, N_GENES))
    space = sc.pp.pca(values, n_comps=N_COMPONENTS, random_state=0)
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS, algorithm="brute").fit(space)
    return search.kneighbors(space, return_distance=False)


def panel_scores(log: ad.AnnData) -> pd.DataFrame:
    """One column per lineage: the mean z-score of its markers in each cell."""
    scores = {}
    for lineage, genes in PANELS.items():
        present = [gene for gene in genes if gene in log.var_names]
        scores[lineage] = standardized_within_batch(log, present).mean(axis=1)
    return pd.DataFrame(scores, index=log.obs_names)


def call_lineages(scores: pd.DataFrame, neighbors: np.ndarray) -> pd.Series:
    """The lineage that leads in the neighbourhood, or Unknown where none does clearly."""
    smooth = scores.to_numpy()[neighbors].mean(axis=1)
    ordered = np.sort(smooth, axis=1)
    clear = (ordered[:, -1] >= MIN_SCORE) & (ordered[:, -1] - ordered[:, -2] >= MIN_MARGIN)
    leading = scores.columns.to_numpy()[smooth.argmax(axis=1)]
    return pd.Series(np.where(clear, leading, "Unknown"), index=scores.index)


def find_doublets(scores: pd.DataFrame, lineages: pd.Series) -> np.ndarray:
    """Cells that also score half as high as a typical member of an unrelated lineage."""
    doublet = np.zeros(len(scores), dtype=bool)
    for other in scores.columns:
        typical = scores.loc[lineages == other, other].median()
        kin = {other, "Unknown"}.union(*(pair for pair in RELATED if other in pair))
        doublet |= ((scores[other] > typical / 2) & ~lineages.isin(kin)).to_numpy()
    return doublet


def split_t_cells(log: ad.AnnData, lineages: pd.Series, neighbors: np.ndarray) -> pd.Series:
    """Replace T by CD4 T, CD8 T or Unknown, by how many neighbours show CD8 transcripts."""
    shows_cd8 = (log[:, CD8_GENES].X.toarray() > 0).any(axis=1)
    share = shows_cd8[neighbors].mean(axis=1)
    low, high = CD8_BOUNDS
    kind = np.select([share < low, share >= high], ["CD4 T", "CD8 T"], default="Unknown")
    return lineages.where(lineages != "T", kind)


def call_cell_types(counts: ad.AnnData) -> pd.Categorical:
    """Cell types of all cells, from the counts and the marker panels alone."""
    log = log_normalized(counts)
    neighbors = nearest_neighbors(counts, log)
    scores = panel_scores(log)
    lineages = call_lineages(scores, neighbors)
    types = split_t_cells(log, lineages, neighbors)
    types[find_doublets(scores, lineages)] = "Unknown"
    return pd.Categorical(types, categories=CELL_TYPES)


def chosen_genes(counts: ad.AnnData) -> list[str]:
    """All marker genes there are, filled up with the most variable genes, in the order of the source."""
    markers = set(CD8_GENES).union(SHOWN_GENES, *PANELS.values()) & set(counts.var_names)
    ranked = [gene for gene in variable_genes(counts, N_GENES) if gene not in markers]
    chosen = markers.union(ranked[: N_GENES - len(markers)])
    return [gene for gene in counts.var_names if gene in chosen]


def report(adata: ad.AnnData) -> str:
    """Tables to judge the calls by: means of the markers by type, shares of the types by batch."""
    genes = [gene for panel in PANELS.values() for gene in panel[:4]] + CD8_GENES + SHOWN_GENES
    genes = [gene for gene in genes if gene in adata.var_names]
    log = log_normalized(adata)
    expression = pd.DataFrame(log[:, genes].X.toarray(), columns=genes, index=adata.obs_names)
    means = expression.groupby(adata.obs["cell_type"], observed=True).mean().T
    shares = pd.crosstab(adata.obs["cell_type"], adata.obs["batch"], normalize="columns")
    return f"{means.round(2).to_string()}\n\n{shares.round(3).to_string()}\n"


def main() -> None:
    """Read the source, call cell types, write the cut file and print what to judge it by."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    counts = read_batches(arguments.source)
    counts.obs["cell_type"] = call_cell_types(counts)
    adata = counts[:, chosen_genes(counts)].copy()
    adata.uns["source"] = SOURCE
    adata.write_h5ad(arguments.target, compression="gzip", compression_opts=9)
    sys.stdout.write(report(adata))


if __name__ == "__main__":
    main()
