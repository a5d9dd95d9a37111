"""Cells with genes and proteins, of which the truth is known."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

N_TYPES = 4
HIDDEN = ("P02", "P05")  # proteins that the second batch was not stained for


def simulated(
    n_cells: int = 120, n_genes: int = 40, n_proteins: int = 12, *, random_state: int = 0
) -> ad.AnnData:
    """Cells of four types in two batches; ``obsm["on"]`` says which proteins they have, ``obsm["signal"]`` how much.

    Every cell has some background of every protein. The two ``HIDDEN`` proteins are 0 in the second batch.
    """
    rng = np.random.default_rng(random_state)
    cell_type, batch = rng.integers(N_TYPES, size=n_cells), np.arange(n_cells) % 2
    profile = rng.gamma(0.7, size=(N_TYPES, n_genes)) + 0.02
    profile[:, : n_genes // 4] *= 1 + 4 * rng.random((N_TYPES, n_genes // 4))
    depth = rng.lognormal(6, 0.3, size=n_cells)
    effect = np.exp(0.3 * rng.standard_normal((2, n_genes)))
    share = profile[cell_type] * effect[batch]
    genes = rng.poisson(depth[:, None] * share / share.sum(1, keepdims=True))
    # Every protein is on in one or two types, and in each of them in another amount.
    of_type = np.arange(n_proteins) % N_TYPES == np.arange(N_TYPES)[:, None]
    of_type |= (np.arange(n_proteins) // N_TYPES % N_TYPES == np.arange(N_TYPES)[:, None]) & (
        rng.random(n_proteins) < 0.5
    )
    level = rng.uniform(10, 60, size=(N_TYPES, n_proteins)) * of_type
    background = rng.lognormal(rng.uniform(1, 2.5, n_proteins), 0.6, size=(n_cells, n_proteins))
    signal = level[cell_type] * rng.gamma(4, 1 / 4, size=(n_cells, n_proteins))
    names = [f"P{i:02d}" for i in range(n_proteins)]
    index = [f"cell_{i:04d}" for i in range(n_cells)]
    counts = pd.DataFrame(rng.poisson(background + signal), index, names)
    counts.loc[batch == 1, list(HIDDEN)] = 0
    obs = {
        "batch": pd.Categorical([f"batch_{b}" for b in batch]),
        "cell_type": pd.Categorical([f"type_{t}" for t in cell_type]),
        "donor": pd.Categorical([f"donor_{d}" for d in rng.integers(3, size=n_cells)]),
        "age": rng.normal(50, 10, size=n_cells),
    }
    return ad.AnnData(
        sp.csr_matrix(genes, dtype=np.float32),
        pd.DataFrame(obs, index),
        pd.DataFrame(index=[f"gene_{i:03d}" for i in range(n_genes)]),
        obsm={
            "protein_expression": counts,
            "on": pd.DataFrame(of_type[cell_type], index, names),
            "signal": pd.DataFrame(level[cell_type], index, names),
        },
    )


@pytest.fixture(scope="session")
def simulate():
    """`simulated`, for tests that need cells of their own."""
    return simulated


@pytest.fixture
def stained():
    """A fresh small AnnData of genes and proteins."""
    return simulated()
