"""Time and agreement of differential expression beside scvi-tools, on the same weights.

    python benchmarks/differential_expression.py --cells 10000 --genes 2000 --groups 12 --repeats 3

scvi-tools fits and saves a model of simulated cells, scvitl reads it, and both test every group against the rest with
5,000 draws a side, mode "change", delta 0.25, even weights. Printed: seconds of paired runs and their medians; per group
Spearman's correlation of the log fold changes (posterior median) of both, and of two seeds of either; and the standard
deviation of the results over seeds, which is what the draws leave uncertain.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
import torch

import scvitl

STATISTIC = "lfc_median"


def simulated(n_cells: int, n_genes: int, n_groups: int):
    """Cells of ``n_groups`` types in two batches."""
    return scvitl.datasets.toy(
        n_cells=n_cells, n_genes=n_genes, n_types=n_groups, n_factors=n_groups - 1, random_state=0
    )


def fitted_peer(adata, epochs: int):
    import scvi

    scvi.settings.seed = 0
    scvi.settings.verbosity = 40
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    return model


def peer(model, seed: int) -> tuple[float, pd.DataFrame]:
    import scvi

    scvi.settings.seed = seed
    start = time.perf_counter()
    table = model.differential_expression(groupby="cell_type", mode="change", delta=0.25, silent=True)
    return time.perf_counter() - start, table


def ours(adata, seed: int) -> tuple[float, pd.DataFrame]:
    start = time.perf_counter()
    scvitl.tl.rank_genes_groups(adata, "cell_type", random_state=seed)
    return time.perf_counter() - start, scvitl.get.rank_genes_groups(adata)


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of the log fold changes, per group."""
    values = {}
    for group in first["group1"].unique():
        a, b = (table.loc[table["group1"] == group, STATISTIC] for table in (first, second))
        values[group] = a.corr(b.reindex(a.index), method="spearman")
    return pd.Series(values)


def spread(tables: list[pd.DataFrame]) -> pd.Series:
    """Standard deviation over seeds, root mean square over groups and genes."""
    ordered = [table.rename_axis("gene").reset_index().sort_values(["group1", "gene"]) for table in tables]
    return pd.Series(
        {
            name: float(np.sqrt(np.var([table[name] for table in ordered], axis=0, ddof=1).mean()))
            for name in ("lfc_mean", "lfc_median", "lfc_std", "proba_de")
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=20, help="of the fit that both use")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = simulated(options.cells, options.genes, options.groups)
    torch.set_num_threads(options.threads)
    model = fitted_peer(adata, options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        scvitl.io.read_scvi_tools(folder, adata)
    torch.set_num_threads(options.threads)
    rows, tables = [], []
    for seed in range(options.repeats):
        (fast, mine), (slow, theirs) = ours(adata, seed), peer(model, seed)
        rows.append({"seed": seed, "scvitl": fast, "scvi-tools": slow, "ratio": slow / fast})
        tables.append((mine, theirs))
        print(rows[-1], flush=True)
    times = pd.DataFrame(rows).set_index("seed")
    print(times.round(2).to_string(), "\nmedians", times.median().round(2).to_dict())
    same = agreement(*tables[0])
    print(
        f"\nSpearman of {STATISTIC} per group, scvitl and scvi-tools: min {same.min():.4f}, median {same.median():.4f}"
    )
    if options.repeats > 1:
        for i, name in enumerate(("scvitl", "scvi-tools")):
            itself = agreement(tables[0][i], tables[1][i])
            print(f"two seeds of {name}: min {itself.min():.4f}, median {itself.median():.4f}")
        between = {
            name: spread([pair[i] for pair in tables]) for i, name in enumerate(("scvitl", "scvi-tools"))
        }
        print("\nstandard deviation over seeds\n", pd.DataFrame(between).round(4).to_string(), "\n")
    flagged = np.mean(
        [
            (
                mine["is_de_fdr_0.05"]
                == theirs.set_index("group1", append=True)["is_de_fdr_0.05"]
                .reindex(pd.MultiIndex.from_arrays([mine.index, mine["group1"]]))
                .to_numpy()
            ).mean()
            for mine, theirs in tables[:1]
        ]
    )
    print(f"genes flagged alike at 5 %: {flagged:.4f}")
    print(
        f"\n{options.cells:,} cells × {options.genes:,} genes, {options.groups} groups; {platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch; Python {platform.python_version()}, "
        f"torch {torch.__version__}, scvitl {scvitl.__version__}"
    )


if __name__ == "__main__":
    main()
