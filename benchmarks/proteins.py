"""RNA and protein together (CITE-seq) beside scvi-tools, at the defaults of each: fit, cell types, imputation, time.

    python benchmarks/proteins.py --methods fast scvi-tools --seeds 0 1 2

prints four tables in Markdown, medians over seeds. "in-house": 1,372 cells with ten proteins; the held-out loss is the
negative ELBO of the same held-out cells by the same formula, and the accuracy that of 15 nearest neighbours in the latent
space, in five folds. "masked": of two batches of 200 cells, three proteins that both measured are hidden in one, three
times three in turn, and imputed; Spearman's correlation with what was measured there. "missing": the 15 proteins that one
of the batches lacks, imputed there, against the expression of their genes in the same cells. "unstained": two batches, of which
one has no proteins at all; label transfer by 15 nearest neighbours either way, and the area under the curve of imputed
proteins that tell a type.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from integration import machine, markdown
from scipy.stats import spearmanr
from score import DATA, mixing, told_apart, transfer, two_panels, variable_genes
from sklearn.metrics import roc_auc_score

import scvitl

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("fast", "reference", "scvi-tools")
BATCH = "pbmc5k"  # where proteins are hidden
HIDDEN = (("CD3", "CD19", "CD14"), ("CD4", "CD16", "CD45RA"), ("CD8a", "CD56", "CD127"))
STAINED, UNSTAINED = "inhouse_v2_cite", "pbmc4k_v2"
TELLS = {
    "CD3": ("CD4 T", "CD8 T"),
    "CD4": ("CD4 T",),
    "CD8a": ("CD8 T",),
    "CD14": ("Myeloid",),
    "CD19": ("B",),
    "CD56": ("NK",),
}
# Genes of the proteins that the other batch lacks; two of the fifteen have none among the genes measured.
GENES = {
    "CD11b": "ITGAM",
    "CD20": "MS4A1",
    "CD27": "CD27",
    "CD28": "CD28",
    "CD62L": "SELL",
    "CD69": "CD69",
    "CD80": "CD80",
    "CD86": "CD86",
    "CD137": "TNFRSF9",
    "CD197": "CCR7",
    "CD274": "CD274",
    "CD278": "ICOS",
    "CD335": "NCR1",
    "HLA-DR": "HLA-DRA",
}


def ours(adata: ad.AnnData, batch_key: str | None, *, plan: str, seed: int) -> dict:
    start = time.perf_counter()
    scvitl.tl.totalvi(adata, batch_key=batch_key, plan=plan, random_state=seed, progress=False, device="cpu")
    seconds = time.perf_counter() - start
    history = scvitl.get.history(adata, key="totalvi")
    return {
        "held-out loss": history["elbo_validation"].loc[history.attrs["restored_epoch"]],
        "epochs": len(history),
        "seconds": seconds,
        "latent": adata.obsm["X_totalvi"],
        "proteins": adata.obsm["totalvi_protein"],
    }


def peer(adata: ad.AnnData, batch_key: str | None, *, seed: int) -> dict:
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = 40
    start = time.perf_counter()
    keys = {"batch_key": batch_key, "protein_expression_obsm_key": "protein_expression"}
    scvi.model.TOTALVI.setup_anndata(adata, **keys)
    model = scvi.model.TOTALVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    latent = model.get_latent_representation()
    # As its tutorial imputes: from the batches that measured the protein, 25 draws.
    counts = adata.obsm["protein_expression"]
    batches = [None] if batch_key is None else sorted(adata.obs[batch_key].astype(str).unique())
    tables = {
        batch: model.get_normalized_expression(
            n_samples=25, return_mean=True, transform_batch=batch, gene_list=adata.var_names[:2].tolist()
        )[1]
        for batch in batches
    }
    seconds = time.perf_counter() - start
    measured = {
        batch: counts[adata.obs[batch_key] == batch].sum() > 0 if batch else counts.sum() > 0
        for batch in batches
    }
    proteins = pd.DataFrame(
        {
            name: np.mean([table[name] for batch, table in tables.items() if measured[batch][name]], axis=0)
            for name in counts
        },
        index=adata.obs_names,
    )
    return {
        "held-out loss": -float(model.get_elbo(indices=model.validation_indices)),
        "epochs": len(model.history["elbo_train"]),
        "seconds": seconds,
        "latent": latent,
        "proteins": proteins,
    }


def fitted(adata: ad.AnnData, batch_key: str | None, method: str, *, seed: int, threads: int) -> dict:
    # After loading, since scanpy's numba code changes the number behind torch's back.
    torch.set_num_threads(threads)
    if method == "scvi-tools":
        return peer(adata, batch_key, seed=seed)
    return ours(adata, batch_key, plan=method, seed=seed)


def in_house(method: str, **how: int) -> Iterator[dict]:
    adata = variable_genes(ad.read_h5ad(DATA / "citeseq_pbmc_inhouse.h5ad"), batch_key=None)
    fit = fitted(adata, None, method, **how)
    latent, _ = fit.pop("latent"), fit.pop("proteins")
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    yield {"task": "in-house", "method": method, **fit, "accuracy": told_apart(latent, labels)}


def masked(method: str, **how: int) -> Iterator[dict]:
    for names in HIDDEN:
        adata = short_names(two_panels())
        rows = (adata.obs["batch"] == BATCH).to_numpy()
        truth = adata.obsm["protein_expression"].loc[rows, list(names)].copy()
        adata.obsm["protein_expression"].loc[rows, list(names)] = 0
        fit = fitted(adata, "batch", method, **how)
        latent, proteins = fit.pop("latent"), fit.pop("proteins")
        own = mixing(latent, adata.obs["batch"].astype(str).to_numpy())
        agreement = {name: spearmanr(proteins.loc[rows, name], truth[name]).statistic for name in names}
        mean = float(np.mean(list(agreement.values())))
        yield {"task": "masked", "method": method, **fit, "own batch": own, "mean": mean, **agreement}


def unstained(method: str, **how: int) -> Iterator[dict]:
    """Two batches of blood cells, of which one was stained; what is imputed in the other tells types there."""
    adata = ad.read_h5ad(DATA / "pbmc_multibatch.h5ad")
    adata = variable_genes(adata[adata.obs["batch"].isin([STAINED, UNSTAINED])])
    counts = ad.read_h5ad(DATA / "citeseq_pbmc_inhouse.h5ad").obsm["protein_expression"]
    table = counts.reindex(adata.obs_names.str.removesuffix(f"_{STAINED}")).set_axis(adata.obs_names)
    adata.obsm["protein_expression"] = table.fillna(0).astype(int)
    fit = fitted(adata, "batch", method, **how)
    latent, proteins = fit.pop("latent"), fit.pop("proteins")
    batch, labels = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type_coarse"))
    first, second = ((batch == name) & (labels != "Unknown") for name in (STAINED, UNSTAINED))
    found = {
        f"{name} of {' and '.join(types)}": roc_auc_score(
            np.isin(labels[second], types), proteins.loc[second, name]
        )
        for name, types in TELLS.items()
    }
    yield {
        "task": "unstained",
        "method": method,
        **fit,
        "own batch": mixing(latent, batch),
        "transfer to stained": transfer(latent, labels, second, first),
        "transfer to unstained": transfer(latent, labels, first, second),
        **found,
    }


def missing(method: str, **how: int) -> Iterator[dict]:
    adata = short_names(ad.read_h5ad(DATA / "citeseq_pbmc_two_panels_400.h5ad"))
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    adata = short_names(two_panels())
    rows = (adata.obs["batch"] != BATCH).to_numpy()
    fit = fitted(adata, "batch", method, **how)
    for name, gene in GENES.items():
        if gene in log.var_names and (expression := log[adata.obs_names[rows], gene].X.toarray()).any():
            value = spearmanr(fit["proteins"].loc[rows, name], expression.ravel()).statistic
            yield {"task": "missing", "method": method, "protein": f"{name} ({gene})", "Spearman": value}


def short_names(adata: ad.AnnData) -> ad.AnnData:
    table = adata.obsm["protein_expression"]
    adata.obsm["protein_expression"] = table.rename(columns=lambda name: name.removesuffix("_TotalSeqB"))
    return adata


TASKS = {"in-house": in_house, "masked": masked, "missing": missing, "unstained": unstained}


def report(rows: list[dict]) -> None:
    """Medians over seeds of means over what is hidden, a table for every task."""
    for task, part in pd.DataFrame(rows).groupby("task", sort=False):
        if task == "missing":
            wide = part.pivot_table("Spearman", "protein", "method", aggfunc="median", sort=False)
            print("\n" + markdown(wide[[method for method in METHODS if method in wide]].reset_index()))
            continue
        own = part.dropna(axis=1, how="all")
        mean = own.groupby(["task", "method", "seed"], sort=False).mean(numeric_only=True)
        median = mean.groupby(["task", "method"], sort=False).median()
        print("\n" + markdown(median.reset_index()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=["fast", "scvi-tools"], choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rows", type=Path, help="append every run to this file, a line of JSON each")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for task in args.tasks:
        for seed in args.seeds:  # methods in turn, so that a change in the machine's speed meets all of them
            for method in args.methods:
                for row in TASKS[task](method, seed=seed, threads=args.threads):
                    rows.append({"seed": seed, **row})
                    if args.rows:
                        with args.rows.open("a") as file:
                            file.write(json.dumps(rows[-1], default=float) + "\n")
    print(machine())
    report(rows)


if __name__ == "__main__":
    main()
