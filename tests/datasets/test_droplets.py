from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scvitl.datasets import droplets, pbmc


@pytest.fixture(scope="module")
def both():
    return droplets()


@pytest.fixture(scope="module")
def cells(both):
    return both[0]


@pytest.fixture(scope="module")
def raw(both):
    return both[1]


def total(counts: sparse.csr_matrix, axis: int = 1) -> np.ndarray:
    return np.asarray(counts.sum(axis=axis)).ravel()


def test_counts(cells, raw) -> None:
    for counts in (cells.X, cells.layers["native"], raw.X):
        assert isinstance(counts, sparse.csr_matrix)
        assert counts.dtype == np.float32
        assert counts.has_sorted_indices
        assert counts.data.min() == 1
        np.testing.assert_array_equal(counts.data, np.round(counts.data))
    assert cells.shape == (876, 2000)
    assert raw.shape == (4876, 2000)
    assert raw.obs_names.is_unique


def test_nothing_but_what_is_told(cells, raw) -> None:
    assert cells.obs.columns.tolist() == ["cell_type", "ambient_fraction"]
    assert cells.var.columns.tolist() == ["ambient_profile"]
    assert list(cells.layers) == ["native"]
    assert raw.obs.columns.tolist() == ["is_cell"]
    assert raw.var.columns.empty
    assert not raw.layers
    assert list(cells.uns) == list(raw.uns) == ["source"]


def test_cells_are_real(cells) -> None:
    real = pbmc()[cells.obs_names]
    assert (cells.layers["native"] != real.X).nnz == 0
    pd.testing.assert_series_equal(cells.obs["cell_type"], real.obs["cell_type"])
    assert set(real.obs["batch"]) == {"pbmc1k_v3"}
    assert total(cells.layers["native"]).min() >= 200


def test_cells_are_the_first_droplets(cells, raw) -> None:
    in_raw = raw[raw.obs["is_cell"]]
    assert raw.obs["is_cell"].dtype == bool
    assert in_raw.obs_names.equals(cells.obs_names)
    assert in_raw.var_names.equals(cells.var_names)
    assert (in_raw.X != cells.X).nnz == 0


def test_ambient_counts_are_added(cells) -> None:
    ambient = cells.X - cells.layers["native"]
    assert ambient.data.min() >= 0
    np.testing.assert_allclose(total(ambient) / total(cells.X), cells.obs["ambient_fraction"], rtol=1e-6)
    # An amount for each cell, whatever its depth.
    amount, depth = np.log(total(ambient)), np.log(total(cells.layers["native"]))
    assert np.median(amount) == pytest.approx(np.log(0.1) + np.median(depth), abs=0.05)
    assert amount.std() == pytest.approx(0.4, abs=0.03)
    assert abs(np.corrcoef(amount, depth)[0, 1]) < 0.1
    low, high = cells.obs["ambient_fraction"].quantile([0.05, 0.95])
    assert (round(low, 2), round(high, 2)) == (0.04, 0.21)


def test_profile_is_that_of_all_ambient_counts(cells, raw) -> None:
    profile = cells.var["ambient_profile"].to_numpy()
    assert profile.sum() == pytest.approx(1)
    ambient = cells.X - cells.layers["native"]
    for counts in (ambient, raw[~raw.obs["is_cell"]].X):
        seen, expected = total(counts, axis=0), profile * counts.sum()
        often = expected >= 5
        # The statistic of Pearson's test over its degrees of freedom.
        pearson = ((seen - expected)[often] ** 2 / expected[often]).mean()
        assert pearson == pytest.approx(1, abs=4 * np.sqrt(2 / often.sum()))


def test_profile_is_near_the_cells_but_not_theirs(cells) -> None:
    pooled = total(cells.layers["native"], axis=0)
    profile, seen = cells.var["ambient_profile"].to_numpy(), pooled > 0
    assert (profile[~seen] == 0).all()
    ratio = profile[seen] / pooled[seen]
    assert ratio.std() / ratio.mean() == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(pooled, cells.var["ambient_profile"])[0, 1] < 0.9


def test_empty_droplets(raw) -> None:
    sizes = total(raw[~raw.obs["is_cell"]].X)
    assert np.median(sizes) == 30
    assert np.log(sizes).std() == pytest.approx(0.6, abs=0.02)
    assert 100 < sizes.max() <= 200
    assert sizes.min() >= 1


@pytest.mark.parametrize(
    ("gene", "cell_type"),
    [("LYZ", "Monocyte"), ("S100A8", "Monocyte"), ("NKG7", "NK"), ("CD79A", "B"), ("CD3D", "CD4 T")],
)
def test_markers_leak(cells, gene: str, cell_type: str) -> None:
    """Outside of T and NK cells, which share genes with others, most counts of a marker are ambient."""
    lymphoid = ["CD4 T", "CD8 T", "NK"]
    own = lymphoid if cell_type in lymphoid else [cell_type]
    others = cells[~cells.obs["cell_type"].isin([*own, "DC", "Platelet", "Unknown"]), gene]
    assert others.layers["native"].sum() < 0.5 * others.X.sum()
    native = cells[cells.obs["cell_type"] == cell_type, gene]
    assert native.layers["native"].sum() > 0.7 * native.X.sum()


def test_source_gives_credit(both) -> None:
    for adata in both:
        for part in ("10x Genomics", "CC BY 4.0", "scripts/annotate_pbmc.py", "Changed further", "simulated"):
            assert part in adata.uns["source"]


def test_each_call_gives_equal_objects_of_its_own(cells, raw) -> None:
    others = droplets()
    for one, other in zip((cells, raw), others, strict=True):
        assert (one.X != other.X).nnz == 0
        pd.testing.assert_frame_equal(one.obs, other.obs)
        pd.testing.assert_frame_equal(one.var, other.var)
        other.X.data[:] = 0
        other.uns["source"] = ""
        assert one.X.data.min() == 1
    assert cells.layers["native"].data.min() == 1
    assert cells.uns["source"] == raw.uns["source"] != ""


def test_round_trip(cells, raw, tmp_path) -> None:
    import anndata as ad

    for adata in (cells, raw):
        adata.write_h5ad(tmp_path / "droplets.h5ad")
        again = ad.read_h5ad(tmp_path / "droplets.h5ad")
        assert (again.X != adata.X).nnz == 0
        pd.testing.assert_frame_equal(again.obs, adata.obs)
