from __future__ import annotations

import io
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scvitl
from scvitl.data import Labels, Schema


@pytest.fixture
def toy():
    """A fresh small AnnData of counts with two batches."""
    return scvitl.datasets.toy(n_cells=120, n_genes=40, random_state=1)


@pytest.fixture
def threads():
    """Sets the number of torch's threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def _fitted_ambient():
    adata = scvitl.datasets.toy(n_cells=200, n_genes=40, random_state=1)
    options = {"n_hidden": 16, "n_latent": 4, "max_epochs": 4, "progress": False}
    scvitl.tl.scar(adata, ambient=np.full(40, 1 / 40), batch_key="batch", **options)
    return adata


@pytest.fixture
def fitted_ambient(_fitted_ambient):
    """A copy of an AnnData with a fitted scAR model."""
    return _fitted_ambient.copy()


def cells_in_soup(
    n_cells: int = 200, n_genes: int = 60, n_empty: int = 500, *, random_state: int = 0
) -> tuple[ad.AnnData, ad.AnnData]:
    """Cells of four types, each with genes of its own, in ambient RNA of all; and these with droplets that hold none.

    Of the cells, ``layers["native"]`` has the counts without the ambient ones, ``obs["ambient_fraction"]`` their share.
    """
    rng = np.random.default_rng(random_state)
    kind = np.arange(n_cells) % 4
    own = np.arange(n_genes) % 4 == np.arange(4)[:, None]
    profiles = rng.gamma(0.7, size=(4, n_genes)) * np.where(own, 5, rng.random((4, n_genes)) < 0.3) + 1e-6
    profiles /= profiles.sum(1, keepdims=True)
    soup = profiles.mean(0)
    total, share = rng.lognormal(7, 0.4, size=(n_cells, 1)), rng.beta(2, 8, size=(n_cells, 1))
    native = rng.poisson(total * (1 - share) * profiles[kind])
    ambient = rng.poisson(total * share * soup)
    empty = rng.poisson(rng.uniform(20, 100, (n_empty, 1)) * soup)
    raw = ad.AnnData(
        sp.csr_matrix(np.vstack([native + ambient, empty]), dtype=np.float32),
        pd.DataFrame(index=[f"droplet_{i:04d}" for i in range(n_cells + n_empty)]),
        pd.DataFrame(index=[f"gene_{i:03d}" for i in range(n_genes)]),
    )
    adata = raw[:n_cells].copy()
    adata.layers["native"] = sp.csr_matrix(native, dtype=np.float32)
    adata.obs["ambient_fraction"] = ambient.sum(1) / (native + ambient).sum(1)
    adata.obs["cell_type"] = pd.Categorical([f"type_{k}" for k in kind])
    adata.obs["batch"] = pd.Categorical(np.where(rng.random(n_cells) < 0.5, "batch_0", "batch_1"))
    return adata, raw


@pytest.fixture(scope="session")
def soup():
    """`cells_in_soup`, for tests of ambient RNA."""
    return cells_in_soup


def cells_with_guides(
    n_cells: int = 300, n_guides: int = 12, *, random_state: int = 0
) -> tuple[ad.AnnData, ad.AnnData]:
    """Counts of guides; and these with droplets that hold no cell.

    Of the cells, ``obsm["guides"]`` says which they have: the first tenth none, the next tenth two, the others one.
    """
    rng = np.random.default_rng(random_state)
    number = np.ones(n_cells, int)
    number[: n_cells // 10], number[n_cells // 10 : n_cells // 5] = 0, 2
    there = np.zeros((n_cells, n_guides), bool)
    for row, k in zip(there, number, strict=True):
        row[rng.choice(n_guides, k, replace=False)] = True
    level = rng.gamma(4, 15, size=(n_cells, 1)) * rng.lognormal(0, 0.3, size=there.shape)
    soup = rng.dirichlet(np.full(n_guides, 3))
    ambient = rng.poisson(rng.gamma(4, 2, size=(n_cells + 800, 1)) * soup)
    ambient[ambient.sum(1) == 0, 0] = 1
    ambient[:n_cells] += rng.poisson(level * there)
    raw = ad.AnnData(
        sp.csr_matrix(ambient, dtype=np.float32),
        pd.DataFrame(index=[f"droplet_{i:04d}" for i in range(len(ambient))]),
        pd.DataFrame(index=[f"guide_{i:02d}" for i in range(n_guides)]),
    )
    adata = raw[:n_cells].copy()
    adata.obsm["guides"] = there
    return adata, raw


@pytest.fixture(scope="session")
def screen():
    """`cells_with_guides`, for tests of guides and tags."""
    return cells_with_guides


@pytest.fixture(scope="session")
def _guided():
    adata, raw = cells_with_guides()
    scvitl.tl.scar(adata, raw, feature_type="sgRNA", n_hidden=32, n_latent=8, progress=False)
    return adata


@pytest.fixture
def guided(_guided):
    """A copy of an AnnData of guides with a fitted scAR model."""
    return _guided.copy()


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
