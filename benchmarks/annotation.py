"""Label transfer beside scvi-tools: accuracy, calibration and time of scANVI, at the defaults of each.

    python benchmarks/annotation.py --tasks in-house 4k lines --methods scvitl scvi-tools --seeds 0 1 2

hides the labels of one batch, predicts them, and prints a table in Markdown: a row per task and method, medians over
seeds. The expected calibration error has 15 bins. scvi-tools trains SCVI once for a data set and seed, since it does not see
labels; its seconds are counted for every task. "nearest neighbours" is what scvitl's own scVI gives without scANVI:
15 neighbours in its latent space.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from integration import machine, markdown
from score import DATASETS, mixing, transfer

import scvitl

if TYPE_CHECKING:
    import anndata as ad

UNKNOWN = "Unknown"
# Data set, batch whose labels are hidden, and the only batch whose labels are seen, if not all others are.
TASKS = {
    "in-house": ("pbmc", "inhouse_v2_cite", None),
    "4k": ("pbmc", "pbmc4k_v2", None),
    "lines": ("lines", "dropseq_3cl", "celseq2_5cl_p1"),
}
METHODS = ("scvitl", "scvitl, from scVI", "nearest neighbours", "scvi-tools")


@cache
def data(name: str) -> ad.AnnData:
    return DATASETS[name][0]()


def hidden(task: str) -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """The cells with ``obs["seen"]``, true labels, and the cells to judge by."""
    name, hide, only = TASKS[task]
    _, batch_key, labels_key = DATASETS[name]
    adata = data(name).copy()
    truth, batch = (adata.obs[key].astype(str).to_numpy() for key in (labels_key, batch_key))
    test = (batch == hide) & (truth != UNKNOWN)
    seen = (batch != hide) if only is None else (batch == only)
    adata.obs["seen"] = pd.Categorical(np.where(seen, truth, UNKNOWN))
    return adata, truth, test


def calibration_error(probabilities: pd.DataFrame, truth: np.ndarray, n_bins: int = 15) -> float:
    confidence = probabilities.max(axis=1).to_numpy()
    right = probabilities.idxmax(axis=1).to_numpy() == truth
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return float(np.abs(np.bincount(bins, confidence - right, n_bins)).sum() / len(truth))


@cache
def scvi_of(name: str, seed: int):
    """SCVI of scvi-tools for a data set, and its seconds."""
    import scvi

    scvi.settings.seed = seed
    adata = data(name).copy()
    start = time.perf_counter()
    # The labels make no difference to it, but SCANVI wants the column to be set up; each task fills in its own.
    adata.obs["seen"] = UNKNOWN
    scvi.model.SCVI.setup_anndata(adata, batch_key=DATASETS[name][1], labels_key="seen")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model, time.perf_counter() - start


def peer(task: str, adata: ad.AnnData, seed: int) -> tuple[pd.DataFrame, np.ndarray, float]:
    import scvi

    first, seconds = scvi_of(TASKS[task][0], seed)
    scvi.settings.seed = seed
    start = time.perf_counter()
    scvi.model.SCVI.setup_anndata(adata, batch_key=DATASETS[TASKS[task][0]][1], labels_key="seen")
    copy = scvi.model.SCVI(adata)
    copy.module.load_state_dict(first.module.state_dict())
    copy.is_trained_ = True
    model = scvi.model.SCANVI.from_scvi_model(copy, unlabeled_category=UNKNOWN)
    model.train(accelerator="cpu", enable_progress_bar=False)
    probabilities, latent = model.predict(soft=True), model.get_latent_representation()
    return probabilities, latent, seconds + time.perf_counter() - start


def ours(
    adata: ad.AnnData, batch_key: str, *, seed: int, first: bool
) -> tuple[pd.DataFrame, np.ndarray, float]:
    options = {"batch_key": batch_key, "random_state": seed, "progress": False, "device": "cpu"}
    start = time.perf_counter()
    if first:
        scvitl.tl.scvi(adata, **options)
    scvitl.tl.scanvi(adata, "seen", scvi_key="scvi" if first else None, **options)
    return adata.obsm["scanvi_proba"], adata.obsm["X_scanvi"], time.perf_counter() - start


def run(task: str, method: str, *, seed: int, threads: int) -> dict[str, float | str]:
    adata, truth, test = hidden(task)
    torch.set_num_threads(threads)
    batch_key = DATASETS[TASKS[task][0]][1]
    row = {"labels hidden": task, "method": method, "seed": seed}
    seen = (adata.obs["seen"] != UNKNOWN).to_numpy()
    if method == "nearest neighbours":
        start = time.perf_counter()
        scvitl.tl.scvi(adata, batch_key=batch_key, random_state=seed, progress=False, device="cpu")
        accuracy = transfer(adata.obsm["X_scvi"], truth, seen, test)
        return {**row, "accuracy": accuracy, "seconds": time.perf_counter() - start}
    if method == "scvi-tools":
        probabilities, latent, seconds = peer(task, adata, seed)
    else:
        probabilities, latent, seconds = ours(adata, batch_key, seed=seed, first=method != "scvitl")
    probabilities = probabilities[test]
    return {
        **row,
        "accuracy": float((probabilities.idxmax(axis=1).to_numpy() == truth[test]).mean()),
        "calibration error": calibration_error(probabilities, truth[test]),
        "nearest neighbours": transfer(latent, truth, seen, test),
        "same-batch neighbours": mixing(latent, adata.obs[batch_key].astype(str).to_numpy()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rows", type=Path, help="append every run to this file, a line of JSON each")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for task in args.tasks:
        for seed in args.seeds:  # methods in turn, so that a change in the machine's speed meets all of them
            for method in args.methods:
                rows.append(run(task, method, seed=seed, threads=args.threads))
                if args.rows:
                    with args.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(machine())
    table = pd.DataFrame(rows).groupby(["labels hidden", "method"], sort=False).median(numeric_only=True)
    print("\n" + markdown(table.drop(columns="seed").reset_index()))


if __name__ == "__main__":
    main()
