from __future__ import annotations

import io
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scvitl
from scvitl.data import Labels, Schema


@pytest.fixture
def toy():
    """A fresh small AnnData of counts with two batches."""
    return scvitl.datasets.toy(n_cells=120, n_genes=40, random_state=1)


@pytest.fixture(scope="session")
def _fitted():
    adata = scvitl.datasets.toy(n_cells=200, n_genes=40, random_state=1)
    scvitl.tl.scvi(adata, batch_key="batch", n_hidden=16, n_latent=4, max_epochs=4, progress=False)
    return adata


@pytest.fixture
def fitted(_fitted):
    """A copy of an AnnData with a fitted model."""
    return _fitted.copy()


def stained_cells(adata, *, n_missing=2) -> ad.AnnData:
    """The same cells with six proteins, each in two cell types or so, the last of which batch_1 was not stained for."""
    rng = np.random.default_rng(0)
    types = adata.obs["cell_type"].cat.codes.to_numpy()[:, None]
    there = (types + np.arange(6)) % 4 < 2
    counts = rng.poisson(rng.gamma(4, np.where(there, 60, 3), there.shape))
    counts[np.ix_(adata.obs["batch"] == "batch_1", np.arange(6) >= 6 - n_missing)] = 0
    adata.obsm["protein_expression"] = pd.DataFrame(counts, adata.obs_names, [f"CD{i}" for i in range(6)])
    return adata


@pytest.fixture(scope="session")
def stain():
    """`stained_cells`, for tests that need cells of their own."""
    return stained_cells


@pytest.fixture(scope="session")
def _fitted_proteins():
    adata = stained_cells(scvitl.datasets.toy(n_cells=200, n_genes=40, random_state=1))
    options = {"n_hidden": 16, "n_latent": 4, "max_epochs": 60, "batch_size": 32, "progress": False}
    scvitl.tl.totalvi(adata, batch_key="batch", **options)
    return adata


@pytest.fixture
def fitted_proteins(_fitted_proteins):
    """A copy of an AnnData with a fitted totalVI model."""
    return _fitted_proteins.copy()


@pytest.fixture
def called():
    """An AnnData of nothing but given and predicted labels, as a function."""

    def make(given, predicted, labels, unlabeled="Unknown") -> ad.AnnData:
        index = [f"cell_{i}" for i in range(len(given))]
        obs = pd.DataFrame({"cell_type": given, "scanvi": pd.Categorical(predicted)}, index)
        schema = Schema(genes=("gene",), labels=Labels("cell_type", tuple(labels), unlabeled))
        record = {
            "params": {"model": "scANVI"},
            "schema": schema.to_json(),
            "history": pd.DataFrame(),
            "weights": {},
        }
        return ad.AnnData(np.ones((len(given), 1), np.float32), obs, uns={"scanvi": record})

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets, which are too large or not free to be part of the project."""
    folder = Path(os.environ.get("SCVITL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "pbmc_multibatch.h5ad").exists():
        pytest.skip("the real data sets are not here; SCVITL_DATA names their folder")
    return folder


@pytest.fixture
def said():
    """What scanpy's logger has said in the test, as a function."""
    settings = sc.settings
    before = settings.logfile, settings.verbosity
    settings.logfile, settings.verbosity = io.StringIO(), 3
    yield settings.logfile.getvalue
    settings.logfile, settings.verbosity = before
