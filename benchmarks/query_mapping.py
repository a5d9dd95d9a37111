"""Labels of a batch that is mapped onto a reference of the others, beside training on all batches.

    python benchmarks/query_mapping.py --seeds 0 1 2

prints a table in Markdown: each of the two labelled PBMC batches in turn loses its labels, and is either in the training or
mapped afterwards; once by the default model and once by one whose encoder sees the batch.
"""

from __future__ import annotations

import argparse
import time

import anndata as ad
import pandas as pd
import torch
from integration import machine, markdown
from score import mixing, pbmc

import scvitl

BATCHES = ("inhouse_v2_cite", "pbmc4k_v2")


def accuracy(adata: ad.AnnData) -> float:
    known = adata.obs["cell_type_coarse"] != "Unknown"
    return float((adata.obs["scanvi"].astype(str) == adata.obs["cell_type_coarse"].astype(str))[known].mean())


def fit(adata: ad.AnnData, seed: int, **options) -> float:
    start = time.perf_counter()
    scvitl.tl.scanvi(adata, "known", batch_key="batch", random_state=seed, progress=False, **options)
    return time.perf_counter() - start


def together(adata: ad.AnnData, new: pd.Series, seed: int) -> dict[str, float]:
    adata = adata.copy()
    seconds = fit(adata, seed)
    mixed = mixing(adata.obsm["X_scanvi"], adata.obs["batch"].to_numpy())
    return {"accuracy": accuracy(adata[new]), "same-batch neighbours": mixed, "seconds": seconds}


def mapped(adata: ad.AnnData, new: pd.Series, seed: int, **options) -> dict[str, float]:
    reference, query = adata[~new].copy(), adata[new].copy()
    fit(reference, seed, **options)
    start = time.perf_counter()
    scvitl.tl.map_query(query, reference, key="scanvi", progress=False)
    seconds = time.perf_counter() - start
    both = ad.concat([reference, query])
    mixed = mixing(both.obsm["X_scanvi"], both.obs["batch"].to_numpy())
    return {"accuracy": accuracy(query), "same-batch neighbours": mixed, "seconds": seconds}


METHODS = {
    "trained on all batches": together,
    "mapped": mapped,
    "mapped, the encoder sees the batch": lambda *args: mapped(*args, encode_covariates=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    adata = pbmc()
    torch.set_num_threads(1)
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    rows = []
    for batch in BATCHES:
        new = adata.obs["batch"] == batch
        adata.obs["known"] = adata.obs["cell_type_coarse"].astype(str).mask(new, "Unknown")
        rows += [
            {"new batch": batch, "method": name, "seed": seed, **method(adata, new, seed)}
            for name, method in METHODS.items()
            for seed in seeds
        ]
    print(markdown(pd.DataFrame(rows)))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
