"""One measurement of `speed.py`, printed as a line of JSON: a task, and who does it."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

GROWTH = 10_000, 50_000, 200_000
BATCH = "batch"


def cells(n_cells: int, n_genes: int) -> ad.AnnData:
    """Real cells, halves of neighbours (see `score.enlarged`), or simulated ones where the data sets are absent.

    Made once, in a process of its own, whose memory does not count.
    """
    import anndata as ad

    file = Path(tempfile.gettempdir()) / f"scvitl_{n_cells}_{n_genes}.h5ad"
    if not file.exists():
        subprocess.run([sys.executable, __file__, "make", str(file), str(n_cells), str(n_genes)], check=True)
    return ad.read_h5ad(file)


def make(file: str, n_cells: str, n_genes: str) -> None:
    """Write such cells to a file."""
    import score

    if score.DATA.exists():
        adata = score.enlarged(int(n_cells), int(n_genes))
    else:
        import scvitl

        sizes = {"n_cells": int(n_cells), "n_genes": int(n_genes)}
        adata = scvitl.datasets.toy(**sizes, n_types=12, n_factors=11, n_batches=6)
    adata.write_h5ad(file)


class Either:
    """What both need."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.n_threads = options.threads
        self.precision = "medium" if "bfloat16" in options.task else "highest"
        self.threads()

    def threads(self) -> None:
        """Set threads and precision of torch, also after loading: scanpy's numba code changes the former behind torch's back."""
        import torch

        torch.set_num_threads(self.n_threads)
        torch.set_float32_matmul_precision(self.precision)

    def timed(self, function: Callable, *args) -> float:
        """Seconds that it takes."""
        self.threads()
        start = time.perf_counter()
        function(*args)
        return time.perf_counter() - start


class Ours(Either):
    """scvitl, by its public functions."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.options = {"device": options.device, "random_state": options.seed}

    def fit(self, adata: ad.AnnData, **training) -> None:
        import scvitl

        scvitl.tl.scvi(adata, batch_key=BATCH, progress=False, **self.options, **training)

    def reference(self, adata: ad.AnnData, epochs: int) -> None:
        """The schedule of scvi-tools."""
        self.fit(adata, plan="reference", max_epochs=epochs)

    def latents(self, adata: ad.AnnData) -> None:
        import scvitl

        scvitl.get.latent(adata)

    def expression(self, adata: ad.AnnData) -> None:
        import scvitl

        scvitl.get.normalized_expression(adata)

    def differential(self, adata: ad.AnnData) -> None:
        import scvitl

        scvitl.tl.rank_genes_groups(adata, "cell_type")


class Theirs(Either):
    """scvi-tools, in the way of its tutorials."""

    def __init__(self, options: argparse.Namespace) -> None:
        import scvi

        super().__init__(options)
        scvi.settings.seed, scvi.settings.verbosity = options.seed, 40
        self.device = "gpu" if options.device == "cuda" else "cpu"

    def fit(self, adata: ad.AnnData, **training) -> None:
        import scvi

        scvi.model.SCVI.setup_anndata(adata, batch_key=BATCH)
        self.model = scvi.model.SCVI(adata)
        self.model.train(accelerator=self.device, enable_progress_bar=False, **training)

    def reference(self, adata: ad.AnnData, epochs: int) -> None:
        self.fit(adata, max_epochs=epochs)

    def latents(self, adata: ad.AnnData) -> None:
        self.model.get_latent_representation()

    def expression(self, adata: ad.AnnData) -> None:
        self.model.get_normalized_expression(return_numpy=True)

    def differential(self, adata: ad.AnnData) -> None:
        self.model.differential_expression(groupby="cell_type", mode="change", delta=0.25, silent=True)


def step(who: Ours | Theirs) -> dict[str, float]:
    """The whole loop: of eight epochs less two, so that what comes before and after falls out."""
    import score

    adata = score.pbmc()
    who.reference(adata.copy(), 1)  # what is compiled, or imported, on first use
    seconds = [who.timed(who.reference, adata.copy(), epochs) for epochs in (2, 8)]
    n_train = -(-adata.n_obs * 9 // 10)
    per_epoch = (seconds[1] - seconds[0]) / 6
    return {"ms a step": 1e3 * per_epoch / -(-n_train // 128), "cells/s": n_train / per_epoch}


def quality(options: argparse.Namespace) -> dict[str, float]:
    """A run at the defaults, from the AnnData to the latent space, and how good that is."""
    import integration

    method = "fast" if options.who == "scvitl" else options.who
    how = {"seed": options.seed, "threads": options.threads, "device": options.device}
    row = integration.run(options.task.replace("quality", "pbmc"), method, **how)
    return {name: value for name, value in row.items() if name not in {"data", "cells", "method", "seed"}}


def totalvi(options: argparse.Namespace) -> dict[str, float]:
    """A default run on PBMC with proteins, and what it is worth."""
    import proteins

    method = "fast" if options.who == "scvitl" else options.who
    row = next(proteins.in_house(method, seed=options.seed, threads=options.threads))
    return {
        "seconds": row["seconds"],
        **{name: row[name] for name in ("epochs", "held-out loss", "accuracy")},
    }


def scar(options: argparse.Namespace) -> dict[str, float]:
    """Ambient counts told apart; ours finds the ambient profile itself, scvi-tools is given the true one."""
    import ambient

    cells, raw = ambient.mixture()
    rows = (ambient.ours if options.who == "scvitl" else ambient.peer)(cells, raw, seed=options.seed)
    return {"seconds": rows[0]["seconds"], **{name: rows[0][name] for name in ("epochs", "removed", "kept")}}


def posterior(who: Ours | Theirs, what: str) -> dict[str, float]:
    """Reading a model that was fitted for two epochs; the first call, which compiles, does not count.

    What takes a fraction of a second is read five times: on a virtual machine, pages of memory that nobody had before
    can take longer than all else.
    """
    import scvitl

    if what == "differential":
        adata = scvitl.datasets.toy(n_cells=10_000, n_genes=2_000, n_types=12, n_factors=11)
    else:
        adata = cells(50_000 if what == "latents" else 20_000, 2_000)
    who.reference(adata, 2)
    read = getattr(who, what)
    read(adata)
    times = [who.timed(read, adata) for _ in range(1 if what == "differential" else 5)]
    return {"seconds": statistics.median(times)}


def memory(who: Ours | Theirs) -> dict[str, float]:
    """The most that the process ever held, and what it held before training: cells and imports."""
    adata = cells(50_000, 4_000)
    import scanpy  # noqa: F401

    before = rss()
    who.reference(adata, 1)
    return {"peak, MB": rss(), "before training, MB": before}


def rss() -> float:
    """The most memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def growth(who: Ours | Theirs) -> dict[str, float]:
    """Cells that a second of training takes, by the number of cells there are."""
    found = {}
    for n_cells in GROWTH:
        adata = cells(n_cells, 2_000)
        more = max(1, 100_000 // n_cells)  # epochs, of a few seconds at least
        seconds = [who.timed(who.reference, adata, epochs) for epochs in (1, 1, 1 + more)]
        found[f"{n_cells:,}, cells/s"] = 0.9 * n_cells * more / (seconds[2] - seconds[1])
    return found


def importing(who: str) -> dict[str, float]:
    """In a fresh process, which has scanpy already."""
    package = {"scvitl": "scvitl", "scvi-tools": "scvi"}[who]
    code = f"import scanpy, time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {"seconds": float(out.splitlines()[-1])}


def main() -> None:
    if sys.argv[1] == "make":
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("who")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.task == "import":
        print(json.dumps(importing(options.who)))
        return
    task = options.task.split()[0]  # what follows says on what
    if task in {"quality", "totalvi", "scar"}:
        found = {"quality": quality, "totalvi": totalvi, "scar": scar}[task](options)
        print(json.dumps(found, default=float))
        return
    who = (Ours if options.who == "scvitl" else Theirs)(options)
    if task in {"step", "memory", "growth"}:
        found = {"step": step, "memory": memory, "growth": growth}[task](who)
    else:
        found = posterior(who, options.task)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
