from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scvitl.datasets import pbmc

BATCH_SIZES = {"pbmc3k_v1": 2700, "pbmc1k_v2": 996, "pbmc1k_v3": 906, "pbmc_5prime": 1000}
CELL_TYPES = ["B", "CD4 T", "CD8 T", "NK", "Monocyte", "DC", "Platelet", "Unknown"]


@pytest.fixture(scope="module")
def adata():
    return pbmc()


@pytest.fixture(scope="module")
def means(adata) -> pd.DataFrame:
    """Mean log expression, genes by cell types."""
    counts = adata.X.toarray()
    log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    table = pd.DataFrame(log, index=adata.obs_names, columns=adata.var_names)
    return table.groupby(adata.obs["cell_type"], observed=True).mean().T


def test_counts(adata) -> None:
    assert adata.shape == (5602, 2000)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.data.min() == 1
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.sum(axis=1).min() > 0
    assert (adata.X > 0).sum(axis=0).min() >= 10
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique


def test_columns(adata) -> None:
    assert adata.obs.columns.tolist() == ["batch", "cell_type"]
    assert adata.obs["batch"].value_counts(sort=False).to_dict() == BATCH_SIZES
    assert adata.obs["cell_type"].cat.categories.tolist() == CELL_TYPES
    assert not adata.obs.isna().to_numpy().any()


def test_source_gives_credit(adata) -> None:
    for part in ("10x Genomics", "CC BY 4.0", "scripts/annotate_pbmc.py", "canonical markers", *BATCH_SIZES):
        assert part in adata.uns["source"]


def test_file_is_small() -> None:
    assert len((files("scvitl.datasets") / "pbmc.h5ad").read_bytes()) <= 4e6


def test_each_call_gives_its_own_object(adata) -> None:
    other = pbmc()
    other.X.data[:] = 0
    other.obs["cell_type"] = "none"
    assert adata.X.data.min() == 1
    assert adata.obs["cell_type"].nunique() == len(CELL_TYPES)


@pytest.mark.parametrize(
    ("gene", "cell_type"),
    [
        ("MS4A1", "B"),
        ("CD79A", "B"),
        ("CD8B", "CD8 T"),
        ("KLRF1", "NK"),
        ("GNLY", "NK"),
        ("CD14", "Monocyte"),
        ("S100A8", "Monocyte"),
        ("FCER1A", "DC"),
        ("PPBP", "Platelet"),
    ],
)
def test_markers_are_highest_in_their_type(means: pd.DataFrame, gene: str, cell_type: str) -> None:
    others = means.loc[gene].drop([cell_type, "Unknown"])
    assert means.loc[gene, cell_type] > others.max() + 0.5


def test_markers_tell_t_cells_apart(means: pd.DataFrame) -> None:
    t_cells = ["CD4 T", "CD8 T"]
    assert means.loc["CD3D", t_cells].min() > means.loc["CD3D"].drop([*t_cells, "Unknown"]).max() + 1
    assert means.loc["CD4", "CD4 T"] > 5 * means.loc["CD4", "CD8 T"]
    assert means.loc["CD8A", "CD8 T"] > 5 * means.loc["CD8A", "CD4 T"]


@pytest.mark.parametrize("batch", BATCH_SIZES)
def test_shares_are_those_of_blood(adata, batch: str) -> None:
    shares = adata.obs.loc[adata.obs["batch"] == batch, "cell_type"].value_counts(normalize=True)
    assert shares["CD4 T"] + shares["CD8 T"] > 0.35
    assert shares["CD4 T"] > 2 * shares["CD8 T"]
    assert 0.10 < shares["B"] < 0.20
    assert 0.15 < shares["Monocyte"] < 0.35
    assert 0.05 < shares["NK"] < 0.10
    assert shares["DC"] < 0.03
    assert shares["Unknown"] < 0.10
