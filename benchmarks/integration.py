"""Quality and time of the fast plan beside the reference plan and scvi-tools, at the defaults of each.

    python benchmarks/integration.py --datasets pbmc lines --methods fast reference scvi-tools --seeds 0 1

prints a table in Markdown: a row per data set and method, medians over seeds. All methods hold out the same cells
for a seed, and the held-out loss is the same formula: the negative ELBO per cell with one posterior draw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from score import DATASETS, scores

import scvitl

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np


def ours(
    adata: ad.AnnData, batch_key: str | None, *, plan: str, seed: int, device: str = "cpu"
) -> dict[str, float | np.ndarray]:
    start = time.perf_counter()
    scvitl.tl.scvi(adata, batch_key=batch_key, plan=plan, random_state=seed, progress=False, device=device)
    seconds = time.perf_counter() - start
    history = scvitl.get.history(adata)
    loss = history["elbo_validation"].loc[history.attrs["restored_epoch"]]
    return {"latent": adata.obsm["X_scvi"], "held-out loss": loss, "epochs": len(history), "seconds": seconds}


def peer(
    adata: ad.AnnData, batch_key: str | None, *, seed: int, device: str = "cpu"
) -> dict[str, float | np.ndarray]:
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = 40
    scvi.settings.progress_bar_style = "tqdm"
    start = time.perf_counter()
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch_key)
    model = scvi.model.SCVI(adata)
    model.train(accelerator="gpu" if device == "cuda" else device, enable_progress_bar=False)
    latent = model.get_latent_representation()
    seconds = time.perf_counter() - start
    loss = -float(model.get_elbo(indices=model.validation_indices))
    return {
        "latent": latent,
        "held-out loss": loss,
        "epochs": len(model.history["elbo_train"]),
        "seconds": seconds,
    }


def run(name: str, method: str, *, seed: int, threads: int, device: str = "cpu") -> dict[str, float | str]:
    """Fit ``method`` to the data set called ``name`` and score it."""
    load, batch_key, _ = DATASETS[name]
    adata = load()
    # After loading, since scanpy's numba code changes the number behind torch's back.
    torch.set_num_threads(threads)
    fitted = (
        peer(adata, batch_key, seed=seed, device=device)
        if method == "scvi-tools"
        else ours(adata, batch_key, plan=method, seed=seed, device=device)
    )
    latent = fitted.pop("latent")
    row = {"data": name, "cells": adata.n_obs, "method": method, "seed": seed, **fitted}
    return row | scores(name, adata, latent)


def machine() -> str:
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch; "
        f"Python {platform.python_version()}, torch {torch.__version__}, scvitl {scvitl.__version__}"
    )


def markdown(table: pd.DataFrame) -> str:
    """The table as text; numbers with four digits."""
    rows = [list(table.columns), ["---"] * table.shape[1]]
    rows += [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        for row in table.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument(
        "--methods", nargs="+", default=["fast", "reference"], choices=["fast", "reference", "scvi-tools"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rows", type=Path, help="append every run to this file, a line of JSON each")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in args.datasets:
        for seed in args.seeds:  # methods in turn, so that a change in the machine's speed meets all of them
            for method in args.methods:
                rows.append(run(name, method, seed=seed, threads=args.threads))
                if args.rows:
                    with args.rows.open("a") as file:
                        file.write(json.dumps(rows[-1], default=float) + "\n")
    print(machine())
    for _, table in pd.DataFrame(rows).groupby("data", sort=False):
        median = table.drop(columns="seed").groupby(["data", "method"], sort=False).median().dropna(axis=1)
        print("\n" + markdown(median.reset_index()))


if __name__ == "__main__":
    main()
