"""Ambient RNA removal beside scvi-tools' SCAR, on cells of which every ambient count is known.

    python benchmarks/ambient.py --seeds 0 1 2 --threads 2

The data are human and mouse cells with ambient counts added (`ambient_hgmm_semisynthetic_*`, genes in at least 20 cells).
"ours" has the raw droplets alone. SCAR is given the true ambient profile and trained for 100 epochs; "generative" is what its
`get_denoised_counts` returns, "thinned" the same weights read by `io.read_scvi_tools`. With D the denoised, X the observed and
N the native counts: kept = sum min(D, N) / sum N, removed = 1 - sum (D - min(D, N)) / sum (X - N), foreign = share removed of
the counts of the other species in a cell. "ceiling" is how the rule of "ours" fares on counts that are drawn from the fitted
model and told apart with that model itself, with the true profile and the true share of ambient counts: nothing reads counts
better than the model that made them. `--tasks adt` and `--tasks pbmc` print tables without a peer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import torch
from integration import machine, markdown
from score import DATA
from sklearn.metrics import roc_auc_score

import scvitl

EPOCHS = 100  # of the peer
EXCESSES = (0.0, 0.01, 0.02, 0.03)


def mixture() -> tuple[ad.AnnData, ad.AnnData]:
    cells, raw = (
        ad.read_h5ad(DATA / f"ambient_hgmm_semisynthetic_{name}.h5ad") for name in ("filtered", "raw")
    )
    sc.pp.filter_genes(cells, min_cells=20)
    return cells, raw


def scores(adata: ad.AnnData, denoised: sp.csr_matrix, noise: np.ndarray | None = None) -> dict[str, float]:
    observed, native = adata.X.tocsr(), adata.layers["native"].tocsr()
    both = denoised.minimum(native)
    cells, genes = ((table["species"] == "human").to_numpy() for table in (adata.obs, adata.var))

    def foreign(counts: sp.csr_matrix) -> float:
        return counts[cells][:, ~genes].sum() + counts[~cells][:, genes].sum()

    found = {
        "removed": float(1 - (denoised - both).sum() / (observed - native).sum()),
        "kept": float(both.sum() / native.sum()),
        "foreign": float(1 - foreign(denoised) / foreign(observed)),
    }
    if noise is not None:
        truth = adata.obs["ambient_fraction_true"].to_numpy()
        found |= {"noise r": np.corrcoef(noise, truth)[0, 1], "noise error": np.abs(noise - truth).mean()}
    return found


def ours(cells: ad.AnnData, raw: ad.AnnData, *, seed: int, **options) -> list[dict]:
    adata = cells.copy()
    start = time.perf_counter()
    scvitl.tl.scar(adata, raw, random_state=seed, progress=False, device="cpu", **options)
    seconds = time.perf_counter() - start
    history, truth = scvitl.get.history(adata, key="scar"), adata.var["ambient_profile_true"]
    facts = {
        "seconds": seconds,
        "epochs": len(history),
        "held-out loss": history["elbo_validation"].loc[history.attrs["restored_epoch"]],
        "profile r": np.corrcoef(adata.varm["scar_ambient"]["ambient"], truth)[0, 1],
    }
    rows = [
        {"method": "ours", **scores(adata, adata.layers["scar"], adata.obs["scar_noise"].to_numpy()), **facts}
    ]
    for excess in EXCESSES:
        counts = scvitl.get.denoised(adata, excess=excess)
        rows.append({"method": f"ours, excess {excess}", **scores(adata, counts)})
    rows.append({"method": "ours, drawn", **scores(adata, scvitl.get.denoised(adata, excess=None))})
    rows.append({"method": "ceiling", **ceiling(adata, seed)})
    return rows


def ceiling(adata: ad.AnnData, seed: int) -> dict[str, float]:
    """The same rule where model, profile and share of ambient counts are the true ones."""
    from scvitl.posterior import thinning

    rng = np.random.default_rng(seed)
    shares = scvitl.get.normalized_expression(adata, key="scar", give_mean=True).to_numpy()
    profile = adata.var["ambient_profile_true"].to_numpy()
    profile = profile / profile.sum()
    noise, total = (
        adata.obs["ambient_fraction_true"].to_numpy(),
        np.asarray(adata.X.sum(1)).ravel().astype(int),
    )
    drawn = adata[:, :].copy()
    n_ambient = np.rint(noise * total).astype(int)
    native = np.array(
        [
            rng.multinomial(n, p / p.sum())
            for n, p in zip(total - n_ambient, shares.astype(float), strict=True)
        ]
    )
    drawn.layers["native"] = sp.csr_matrix(native.astype(np.float32))
    drawn.X = sp.csr_matrix((native + rng.multinomial(n_ambient, profile)).astype(np.float32))
    counts = drawn.X
    rows = np.repeat(np.arange(drawn.n_obs), np.diff(counts.indptr))
    probability, kept = np.empty(counts.nnz), np.empty(counts.nnz, np.float32)
    thinning.probabilities(
        shares[rows, counts.indices], profile[counts.indices], counts.indptr, noise, probability
    )
    thinning.kept(counts.data, probability, counts.indptr, 0.01, kept)
    return scores(drawn, sp.csr_matrix((kept, counts.indices, counts.indptr), shape=counts.shape))


def peer(cells: ad.AnnData, raw: ad.AnnData, *, seed: int, epochs: int = EPOCHS) -> list[dict]:
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = 40
    adata = cells.copy()
    profile = adata.var["ambient_profile_true"].to_numpy()[None]
    start = time.perf_counter()
    scvi.external.SCAR.setup_anndata(adata)
    model = scvi.external.SCAR(adata, ambient_profile=profile)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    denoised = model.get_denoised_counts()
    facts = {
        "seconds": time.perf_counter() - start,
        "epochs": epochs,
        "held-out loss": -float(model.get_elbo(indices=model.validation_indices)),
    }
    rows = [{"method": "scvi-tools, generative", **scores(adata, sp.csr_matrix(denoised)), **facts}]
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        read = cells.copy()
        scvitl.io.read_scvi_tools(folder, read)
    noise = read.obs["scar_noise"].to_numpy()
    rows.append({"method": "scvi-tools, thinned", **scores(read, read.layers["scar"], noise)})
    return rows


def adt() -> pd.DataFrame:
    """Share of the counts of each protein that is kept; isotype controls bind nothing."""
    cells, empty = (ad.read_h5ad(DATA / f"adt_{name}_dsb.h5ad") for name in ("cells", "empty"))
    scvitl.tl.scar(cells, empty, feature_type="ADT", progress=False, device="cpu")
    kept = np.asarray(cells.layers["scar"].sum(0) / cells.X.sum(0)).ravel()
    control = cells.var["is_isotype_control"].to_numpy()
    table = pd.Series(kept, cells.var_names)
    print(table[control].round(3).to_dict())
    row = {"isotype controls": np.median(kept[control]), "others": np.median(kept[~control])}
    return pd.DataFrame([{**row, "AUC": roc_auc_score(~control, kept)}])


def pbmc() -> pd.DataFrame:
    """Counts of markers inside and outside their cell types, before and after."""
    adata = ad.read_h5ad(DATA / "pbmc4k_with_ambient_profile.h5ad")
    sc.pp.filter_genes(adata, min_cells=3)
    scvitl.tl.scar(adata, ambient=adata.var["ambient_profile"], progress=False, device="cpu")
    report = scvitl.get.removed(adata, groupby="cell_type", genes=MARKERS)
    print(f"{float(adata.obs['scar_noise'].median()):.3f} median share of ambient counts")
    return report.reset_index()


MARKERS = ["LYZ", "S100A8", "S100A9", "HBA1", "CD3E", "CD79A", "MS4A1", "NKG7", "GNLY", "PPBP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["mixture"], choices=["mixture", "adt", "pbmc"])
    parser.add_argument("--methods", nargs="+", default=["ours", "peer"], choices=["ours", "peer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--rows", type=Path, help="append every run to this file, a line of JSON each")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{machine()}, {args.threads} threads\n")
    torch.set_num_threads(args.threads)
    for task in {"adt": adt, "pbmc": pbmc}.items():
        if task[0] in args.tasks:
            print(markdown(task[1]().round(3)), "\n")
    if "mixture" not in args.tasks:
        return
    cells, raw = mixture()
    # what is loaded and compiled once is not a part of either
    scvitl.tl.scar(cells.copy(), raw, max_epochs=1, progress=False, device="cpu")
    if "peer" in args.methods:
        peer(cells[:200].copy(), raw, seed=0, epochs=1)
    rows = []
    for seed in args.seeds:  # methods in turn, so that a change in the machine's speed meets all of them
        for method in args.methods:
            torch.set_num_threads(args.threads)
            for row in (ours if method == "ours" else peer)(cells, raw, seed=seed):
                rows.append({"seed": seed, "threads": args.threads, **row})
                print(json.dumps(rows[-1], default=float), flush=True)
                if args.rows:
                    with args.rows.open("a") as file:
                        file.write(json.dumps(rows[-1], default=float) + "\n")
    table = pd.DataFrame(rows).groupby("method", sort=False).median(numeric_only=True).drop(columns=["seed"])
    print("\n" + markdown(table.reset_index()))


if __name__ == "__main__":
    main()
