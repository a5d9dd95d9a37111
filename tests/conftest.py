from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import scanpy as sc

import scvitl


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
