"""Time, memory and quality beside scvi-tools: every figure of RESULTS.md.

    python benchmarks/speed.py                         everything, added to RESULTS.md (hours, most of it scvi-tools)
    python benchmarks/speed.py --tasks step latents    some of it, printed

Every measurement is a process of its own, ours and theirs in turn, so that neither finds the caches, threads or memory of
the other. Figures are medians over the pairs; the ratio is the median of the ratios of pairs. Needs no network; without the
folder of data sets (SCVITL_DATA), cells are simulated. On a machine with CUDA, ``--device cuda`` measures there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
WHO = "scvitl", "scvi-tools"
TIMES = ("seconds", "step", "MB", "cells/s")  # of these, a ratio says something
# What a task measures, on what, and how many pairs of it.
TASKS = {
    "step": ("training, minibatches of 128, 2,000 genes, same architecture and schedule", 5),
    "step bfloat16": ("the same, products of both in bfloat16", 3),
    "quality": ("default run, 9,144 PBMC × 2,000 genes in six batches", 1),
    "quality 50k": ("default run, 50,000 × 4,000 in six batches", 1),
    "latents": ("latent space of 50,000 cells × 2,000 genes", 3),
    "expression": ("normalised expression of 20,000 cells × 2,000 genes", 3),
    "differential": ("differential expression, 12 groups, 10,000 cells × 2,000 genes", 3),
    "totalvi": ("totalVI, default run, 1,372 PBMC × 2,000 genes and their proteins", 1),
    "scar": (
        "scAR, human and mouse cells with ambient counts; theirs for 100 epochs, with the true profile",
        1,
    ),
    "memory": ("peak memory while training 50,000 × 4,000", 1),
    "growth": ("training, one epoch of 10,000 to 200,000 cells × 2,000 genes", 1),
    "import": ("import after scanpy; ours leaves torch to the first call", 5),
}


def measure(task: str, who: str, options: argparse.Namespace) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, str(HERE / "measure.py"), task, who, "--device", options.device]
    command += ["--threads", str(options.threads), "--seed", str(options.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def pairs(task: str, options: argparse.Namespace) -> list[tuple[dict, dict]]:
    """Ours and theirs in turn."""
    found = []
    for i in range(options.pairs or TASKS[task][1]):
        options.seed = i
        found.append(tuple(measure(task, who, options) for who in WHO))
        print(task, i, *found[-1], sep="\n    ", flush=True)
    return found


def table(task: str, found: list[tuple[dict, dict]]) -> list[str]:
    """Rows in Markdown: a figure of ours, theirs, and the ratio."""
    rows = []
    for name in found[0][0]:
        ours, theirs = (np.array([pair[side].get(name, np.nan) for pair in found], float) for side in (0, 1))
        ratio = ours / theirs if name.endswith("/s") else theirs / ours
        times = f"{np.median(ratio):.3g}" if name.endswith(TIMES) else ""
        rows.append(f"| {TASKS[task][0]} | {name} | {number(ours)} | {number(theirs)} | {times} |")
    return rows


def number(values: np.ndarray) -> str:
    """The median, and the range where there are several."""
    median = f"{np.median(values):,.4g}"
    return median if len(values) == 1 else f"{median} ({values.min():,.3g} to {values.max():,.3g})"


def machine(options: argparse.Namespace) -> str:
    """Where and with what this was measured."""
    names = {line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")}
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "scvitl", "scvi-tools", "scanpy", "anndata")
    )
    return (
        f"{datetime.now(UTC):%d %B %Y}; {', '.join(names) or platform.processor()}, {os.cpu_count()} cores, "
        f"{options.threads} threads, device {options.device}; Python {platform.python_version()}, {packages}"
    )


def cpu_info() -> list[str]:
    """What Linux says of the processor."""
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--pairs", type=int, help="in place of the number of the task")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    if options.device != "cpu" and {"totalvi", "scar"} & set(options.tasks):
        parser.error("totalvi and scar are measured on the CPU alone: name the other --tasks.")
    options.seed = 0
    rows = [row for task in options.tasks for row in table(task, pairs(task, options))]
    text = "\n".join(["| | | scvitl | scvi-tools | times |", "|---|---|---|---|---|", *rows])
    text = f"{text}\n\n{machine(options)}\n"
    print(f"\n{text}")
    if options.tasks == list(TASKS):
        before = RESULTS.read_text() if RESULTS.exists() else "# Beside scvi-tools\n"
        RESULTS.write_text(f"{before}\n{text}")


if __name__ == "__main__":
    main()
