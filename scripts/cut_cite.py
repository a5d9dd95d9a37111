"""Make the data set behind ``scvitl.datasets.cite``: choose genes, shorten names of proteins, drop labels.

    python scripts/cut_cite.py SOURCE.h5ad scvitl/datasets/cite.h5ad

SOURCE needs raw counts in ``X``, gene symbols in ``var_names``, ``obs["batch"]`` that holds the batches below
and counts of proteins in ``obsm["protein_expression"]``, with zeros where a protein was not measured. Nothing
else is read, labels of cells least of all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

BATCHES = ["pbmc10k", "pbmc5k"]
N_GENES = 4000
MIN_CELLS = 10

# The genes of the proteins; the source has no CD34 and no count of CD80. CD15 is a sugar, which FUT4 makes.
# CD45RA and CD45RO are two forms of one protein.
CODING_GENES = {
    "CD3": ["CD3D", "CD3E", "CD3G"],
    "CD4": ["CD4"],
    "CD8a": ["CD8A", "CD8B"],
    "CD14": ["CD14"],
    "CD15": ["FUT4"],
    "CD16": ["FCGR3A", "FCGR3B"],
    "CD56": ["NCAM1"],
    "CD19": ["CD19"],
    "CD25": ["IL2RA"],
    "CD45RA": ["PTPRC"],
    "CD45RO": ["PTPRC"],
    "PD-1": ["PDCD1"],
    "TIGIT": ["TIGIT"],
    "CD127": ["IL7R"],
    "CD11b": ["ITGAM"],
    "CD20": ["MS4A1"],
    "CD27": ["CD27"],
    "CD28": ["CD28"],
    "CD34": ["CD34"],
    "CD62L": ["SELL"],
    "CD69": ["CD69"],
    "CD80": ["CD80"],
    "CD86": ["CD86"],
    "CD137": ["TNFRSF9"],
    "CD197": ["CCR7"],
    "CD274": ["CD274"],
    "CD278": ["ICOS"],
    "CD335": ["NCR1"],
    "HLA-DR": ["HLA-DRA", "HLA-DRB1", "HLA-DRB5"],
}
# Markers of the types of blood cells, as users look for them.
MARKERS = [
    *["CD79A", "CD79B", "BANK1", "TCL1A", "IGHM", "IGHD", "TNFRSF13C", "MZB1", "JCHAIN", "CD40", "CXCR5"],
    *["CD2", "IL32", "LTB", "TCF7", "LEF1", "FOXP3", "CTLA4", "GZMK", "GZMH", "CCL5", "TRAC", "KLRB1"],
    *["GNLY", "NKG7", "PRF1", "GZMB", "KLRF1", "KLRD1", "KLRC1", "SPON2", "TYROBP", "FCER1G"],
    *["LYZ", "S100A8", "S100A9", "VCAN", "FCN1", "CST3", "MS4A7", "LST1", "CTSS", "CD68", "ITGAX"],
    *["FCER1A", "CLEC10A", "CD1C", "ENHO", "LILRA4", "IL3RA", "CLEC4C", "PPBP", "PF4", "GNG11", "TUBB1"],
]

SOURCE = (
    "10x Genomics public data sets, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): "
    "10k PBMCs from a Healthy Donor - Gene Expression with a Panel of TotalSeq-B Antibodies, 2018, 200 of "
    "its cells (pbmc10k); 5k Peripheral blood mononuclear cells (PBMCs) from a healthy donor with cell "
    "surface proteins (v3 chemistry), 2019, 200 of its cells (pbmc5k). Changed: cut to 4000 genes; names of "
    "proteins shortened; proteins that were not measured in pbmc10k filled with zeros."
)


def read_batches(path: Path) -> ad.AnnData:
    """Counts, batches and proteins of the cells, and no more."""
    source = ad.read_h5ad(path)
    if set(source.obs["batch"]) != set(BATCHES):
        msg = f"{path} must hold the batches {BATCHES} and no others."
        raise ValueError(msg)
    batch = pd.Categorical(source.obs["batch"].astype(str), categories=BATCHES)
    obs = pd.DataFrame({"batch": batch}, index=source.obs_names)
    adata = ad.AnnData(source.X.astype(np.float32), obs=obs, var=source.var[[]])
    proteins = source.obsm["protein_expression"].astype(np.int32)
    adata.obsm["protein_expression"] = proteins.rename(columns=lambda name: name.removesuffix("_TotalSeqB"))
    return adata


def variable_genes(counts: ad.AnnData) -> list[str]:
    """Genes seen in enough cells, those that vary in most batches first."""
    log = ad.AnnData(counts.X.copy(), obs=counts.obs, var=counts.var)
    sc.pp.filter_genes(log, min_cells=MIN_CELLS)
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    found = sc.pp.highly_variable_genes(log, n_top_genes=N_GENES, batch_key="batch", inplace=False)
    found.index = log.var_names
    order = ["highly_variable_nbatches", "dispersions_norm"]
    return found[found["highly_variable"]].sort_values(order, ascending=False, kind="stable").index.tolist()


def chosen_genes(counts: ad.AnnData) -> list[str]:
    """Genes of the proteins and markers that were seen, filled up with the most variable genes, in order."""
    seen = counts.var_names[np.asarray(counts.X.sum(axis=0)).ravel() > 0]
    wanted = set(MARKERS).union(*CODING_GENES.values()) & set(seen)
    ranked = [gene for gene in variable_genes(counts) if gene not in wanted]
    chosen = wanted.union(ranked[: N_GENES - len(wanted)])
    return [gene for gene in counts.var_names if gene in chosen]


def report(adata: ad.AnnData) -> str:
    """Of each protein the sum by batch, and the rank correlation with its genes in the second batch."""
    proteins = adata.obsm["protein_expression"]
    table = proteins.groupby(adata.obs["batch"], observed=True).sum().T
    last = adata[adata.obs["batch"] == BATCHES[-1]]
    for protein in proteins:
        genes = [gene for gene in CODING_GENES[protein] if gene in adata.var_names]
        expression = pd.Series(np.asarray(last[:, genes].X.sum(axis=1)).ravel(), index=last.obs_names)
        table.loc[protein, "genes"] = " ".join(genes)
        table.loc[protein, "cells"] = (expression > 0).sum()
        if expression.std() > 0:
            values = last.obsm["protein_expression"][protein]
            table.loc[protein, "correlation"] = round(expression.corr(values, method="spearman"), 2)
    return f"{table.to_string()}\n"


def main() -> None:
    """Read the source, write the cut file and print what to judge it by."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    counts = read_batches(arguments.source)
    adata = counts[:, chosen_genes(counts)].copy()
    adata.uns["source"] = SOURCE
    adata.write_h5ad(arguments.target, compression="gzip", compression_opts=9)
    sys.stdout.write(report(adata))


if __name__ == "__main__":
    main()
