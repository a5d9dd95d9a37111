from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

from scvitl.datasets import cite

if TYPE_CHECKING:
    import pandas as pd

BATCHES = ["pbmc10k", "pbmc5k"]
BOTH_PANELS = [
    *["CD3", "CD4", "CD8a", "CD14", "CD15", "CD16", "CD56"],
    *["CD19", "CD25", "CD45RA", "CD45RO", "PD-1", "TIGIT", "CD127"],
]
LARGE_PANEL_ONLY = [
    *["CD11b", "CD20", "CD27", "CD28", "CD34", "CD62L", "CD69", "CD80"],
    *["CD86", "CD137", "CD197", "CD274", "CD278", "CD335", "HLA-DR"],
]
TITLES = [
    "10k PBMCs from a Healthy Donor - Gene Expression with a Panel of TotalSeq-B Antibodies",
    "5k Peripheral blood mononuclear cells (PBMCs) from a healthy donor with cell surface proteins",
]


@pytest.fixture(scope="module")
def adata():
    return cite()


@pytest.fixture(scope="module")
def proteins(adata) -> pd.DataFrame:
    return adata.obsm["protein_expression"]


def correlation(adata, batch: str, protein: str, gene: str) -> float:
    """Of the logs of both counts, over the cells of a batch."""
    cells = adata[adata.obs["batch"] == batch]
    counts = cells.obsm["protein_expression"][protein].to_numpy()
    return np.corrcoef(np.log1p(counts), np.log1p(cells[:, gene].X.toarray().ravel()))[0, 1]


def test_counts(adata) -> None:
    assert adata.shape == (400, 4000)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.data.min() == 1
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.sum(axis=1).min() > 500
    assert (adata.X > 0).sum(axis=0).min() >= 1
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique


def test_counts_of_proteins(adata, proteins: pd.DataFrame) -> None:
    assert proteins.columns.tolist() == BOTH_PANELS + LARGE_PANEL_ONLY
    assert proteins.index.equals(adata.obs_names)
    assert (proteins.dtypes == np.int32).all()
    assert proteins.to_numpy().min() == 0
    assert (proteins[BOTH_PANELS].sum(axis=1) > 0).all()


def test_batches_have_panels_of_their_own(adata, proteins: pd.DataFrame) -> None:
    measured = proteins.groupby(adata.obs["batch"], observed=True).any()
    assert measured.columns[measured.loc["pbmc10k"]].tolist() == BOTH_PANELS
    assert measured.loc["pbmc5k"].all()


def test_nothing_but_batches_and_source(adata) -> None:
    """Labels of these cells exist, but do not come from 10x Genomics."""
    assert adata.obs.columns.tolist() == ["batch"]
    assert adata.obs["batch"].value_counts(sort=False).to_dict() == dict.fromkeys(BATCHES, 200)
    assert adata.var.columns.empty
    assert list(adata.obsm) == ["protein_expression"]
    assert list(adata.uns) == ["source"]
    assert not adata.layers
    assert adata.raw is None


def test_source_gives_credit(adata) -> None:
    for part in ("10x Genomics", "CC BY 4.0", "Changed", *BATCHES, *TITLES):
        assert part in adata.uns["source"]


def test_file_is_small() -> None:
    assert len((files("scvitl.datasets") / "cite.h5ad").read_bytes()) <= 2e6


def test_each_call_gives_its_own_object(adata, proteins: pd.DataFrame) -> None:
    other = cite()
    other.X.data[:] = 0
    other.obsm["protein_expression"]["CD3"] = 0
    assert adata.X.data.min() == 1
    assert proteins["CD3"].sum() > 0


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("protein", "gene"),
    [
        ("CD19", "CD79A"),
        ("CD19", "MS4A1"),
        ("CD3", "CD3D"),
        ("CD3", "CD3E"),
        ("CD8a", "CD8A"),
        ("CD14", "CD14"),
        ("CD14", "LYZ"),
        ("CD16", "FCGR3A"),
        ("CD56", "KLRF1"),
        ("CD127", "IL7R"),
    ],
)
def test_proteins_go_with_their_genes(adata, batch: str, protein: str, gene: str) -> None:
    assert correlation(adata, batch, protein, gene) > 0.6


@pytest.mark.parametrize(
    ("protein", "gene"), [("CD20", "MS4A1"), ("CD11b", "LYZ"), ("CD27", "CD27"), ("HLA-DR", "HLA-DRA")]
)
def test_proteins_of_the_large_panel_go_with_their_genes(adata, protein: str, gene: str) -> None:
    assert correlation(adata, "pbmc5k", protein, gene) > 0.6


@pytest.mark.parametrize("batch", BATCHES)
def test_lineages_exclude_each_other(adata, batch: str) -> None:
    for protein, gene in [("CD19", "CD3D"), ("CD14", "CD3D"), ("CD3", "LYZ"), ("CD3", "CD79A")]:
        assert correlation(adata, batch, protein, gene) < -0.1
