from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scvitl.datasets import toy
from scvitl.datasets._simulate import _fill_empty


def expected_counts(adata: ad.AnnData) -> np.ndarray:
    """Means of the counts, from the truth alone."""
    shift = adata.varm["batch_shift"].T[adata.obs["batch"].cat.codes]
    logits = adata.var["intercept"].to_numpy() + adata.obsm["factors"] @ adata.varm["loadings"].T + shift
    rates = np.exp(logits)
    return adata.obs["library"].to_numpy()[:, None] * rates / rates.sum(axis=1, keepdims=True)


def same_counts(a: ad.AnnData, b: ad.AnnData) -> bool:
    return a.shape == b.shape and (a.X != b.X).nnz == 0


def assert_counts(values: np.ndarray) -> None:
    assert (values >= 0).all()
    np.testing.assert_array_equal(values, np.round(values))


def test_slots() -> None:
    adata = toy(n_cells=50, n_genes=30, n_types=3, n_factors=2, n_batches=2)
    assert adata.shape == (50, 30)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert_counts(adata.X.data)
    assert adata.obsm["factors"].shape == (50, 2)
    assert adata.obsm["factors"].dtype == np.float32
    assert type(adata.varm["loadings"]) is np.ndarray
    assert adata.varm["loadings"].shape == (30, 2)
    assert adata.varm["loadings"].dtype == np.float32
    assert adata.obs["batch"].cat.categories.tolist() == ["batch_0", "batch_1"]
    assert adata.obs["cell_type"].cat.categories.tolist() == ["type_0", "type_1", "type_2"]
    assert [adata.obs_names[0], adata.var_names[-1]] == ["cell_0000", "gene_029"]
    assert adata.uns == {}
    assert set(adata.obsm) == {"factors"}


def test_groups_are_balanced_and_crossed() -> None:
    table = pd.crosstab(*(toy().obs[key] for key in ("cell_type", "batch")))
    assert (table.sum(axis=1) == 150).all()
    assert (table.sum(axis=0) == 300).all()
    assert table.to_numpy().min() > 50


def test_random_state() -> None:
    assert same_counts(toy(random_state=3), toy(random_state=3))
    assert not same_counts(toy(random_state=3), toy(random_state=4))


def test_global_random_state_is_unchanged() -> None:
    before = np.random.get_state()
    toy(n_cells=50, n_proteins=2, n_empty_droplets=5)
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


@pytest.mark.parametrize(("n_types", "n_factors"), [(4, 3), (4, 5), (8, 2), (1, 2), (2, 1)])
def test_factors_are_uncorrelated(n_types: int, n_factors: int) -> None:
    factors = toy(n_types=n_types, n_factors=n_factors).obsm["factors"]
    np.testing.assert_allclose(factors.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(factors.T, ddof=0), np.eye(n_factors).squeeze(), atol=1e-5)


def test_types_are_apart() -> None:
    adata = toy(n_types=6, n_factors=2)
    factors = pd.DataFrame(adata.obsm["factors"], index=adata.obs_names)
    centers = factors.groupby(adata.obs["cell_type"], observed=True).mean().to_numpy()
    distances = np.linalg.norm(adata.obsm["factors"][:, None] - centers, axis=2)
    # The noise is wide enough for a few strays.
    assert (distances.argmin(axis=1) == adata.obs["cell_type"].cat.codes).mean() > 0.8


def test_further_factors_vary_within_types() -> None:
    adata = toy(n_types=2, n_factors=2)
    factors = pd.DataFrame(adata.obsm["factors"], index=adata.obs_names)
    within = factors.groupby(adata.obs["cell_type"], observed=True).std()
    assert (within[0] < 0.4).all()
    assert (within[1] > 0.8).all()


def test_loadings_are_disjoint_and_ordered() -> None:
    loadings = toy(n_genes=100).varm["loadings"]
    driven = loadings != 0
    assert driven.sum(axis=1).max() == 1
    assert (~driven.any(axis=1)).sum() >= 40
    np.testing.assert_array_equal((loadings > 0).sum(axis=0), (loadings < 0).sum(axis=0))
    strength = np.linalg.norm(loadings, axis=0)
    assert (np.diff(strength) < 0).all()


@pytest.mark.parametrize("factor", [0, 1, 2])
def test_loadings_show_in_expression(factor: int) -> None:
    adata = toy()
    counts = adata.X.toarray()
    log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    loadings = adata.varm["loadings"][:, factor]
    contrast = log[:, loadings > 0].mean(axis=1) - log[:, loadings < 0].mean(axis=1)
    correlations = np.corrcoef(contrast, adata.obsm["factors"].T)[0, 1:]
    assert correlations[factor] > 0.95
    assert np.abs(np.delete(correlations, factor)).max() < 0.2


def test_counts_have_the_means_and_variances_of_the_model() -> None:
    adata = toy(n_cells=2000, n_genes=100)
    mean = expected_counts(adata)
    variance = mean + mean**2 / adata.var["dispersion"].to_numpy()
    residuals = adata.X.toarray() - mean
    z = residuals.sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert np.abs(z).max() < 4.5
    assert 0.75 < z.std() < 1.25
    np.testing.assert_allclose((residuals**2 / variance).mean(), 1, atol=0.05)


def test_batches_differ_in_library_and_expression() -> None:
    adata = toy()
    medians = adata.obs.groupby("batch", observed=True)["library"].median()
    assert 1.1 < medians["batch_1"] / medians["batch_0"] < 1.7
    np.testing.assert_allclose(adata.varm["batch_shift"].mean(axis=1), 0, atol=1e-6)
    assert adata.varm["batch_shift"].std() > 0.1
    assert not toy(n_batches=1).varm["batch_shift"].any()


def test_no_cell_is_empty() -> None:
    adata = toy(n_cells=3000, n_genes=12)
    assert adata.X.sum(axis=1).min() >= 1


def test_cell_without_counts_gets_its_likeliest_gene() -> None:
    counts = np.array([[0, 0, 0], [0, 2, 0]])
    _fill_empty(counts, np.array([[0.2, 0.1, 0.7], [0.1, 0.1, 0.8]]))
    np.testing.assert_array_equal(counts, [[0, 0, 1], [0, 2, 0]])


def test_proteins() -> None:
    adata = toy(n_proteins=12)
    counts, foreground = adata.obsm["protein_expression"], adata.obsm["protein_foreground"]
    assert counts.index.equals(adata.obs_names)
    assert counts.columns.tolist() == [f"protein_{number:02}" for number in range(12)]
    assert counts.index.equals(foreground.index)
    assert counts.columns.equals(foreground.columns)
    assert (counts.dtypes == np.int64).all()
    assert foreground.to_numpy().dtype == bool
    assert_counts(counts.to_numpy())
    by_type = foreground.groupby(adata.obs["cell_type"], observed=True).mean()
    assert set(np.unique(by_type)) == {0.0, 1.0}
    assert by_type.sum().between(1, 3).all()
    # The background is seen without foreground too, and the foreground is well above it.
    assert (counts.mask(foreground).mean() > 1).all()
    assert (counts.where(foreground).mean() > 3 * counts.mask(foreground).mean()).all()


def test_proteins_leave_the_genes_alone() -> None:
    assert same_counts(toy(), toy(n_proteins=4))


def test_droplets() -> None:
    adata = toy(n_cells=100, n_empty_droplets=40, n_proteins=2)
    assert adata.n_obs == 140
    cells, droplets = adata[adata.obs["is_cell"]], adata[~adata.obs["is_cell"]]
    assert [cells.n_obs, droplets.n_obs] == [100, 40]
    assert adata.obs["is_cell"].dtype == bool
    assert set(droplets.obs["cell_type"]) == {"Empty"}
    assert "Empty" not in set(cells.obs["cell_type"])
    assert set(droplets.obs["batch"]) == {"batch_0", "batch_1"}
    totals = droplets.X.sum(axis=1)
    assert 10 <= totals.min() < totals.max() <= 200
    assert droplets.layers["native"].nnz == 0
    assert np.isnan(droplets.obsm["factors"]).all()
    assert not droplets.obsm["protein_foreground"].to_numpy().any()


def test_ambient_counts_are_accounted_for() -> None:
    adata = toy(n_empty_droplets=200)
    ambient = adata.X - adata.layers["native"]
    assert_counts(ambient.data)
    share = np.asarray(ambient.sum(axis=1) / adata.X.sum(axis=1)).ravel()
    np.testing.assert_allclose(share, adata.obs["ambient_fraction"], atol=1e-6)
    in_cells = adata.obs.loc[adata.obs["is_cell"], "ambient_fraction"]
    assert in_cells.quantile(0.1) > 0.04
    assert in_cells.quantile(0.9) < 0.11
    assert (adata.obs.loc[~adata.obs["is_cell"], "ambient_fraction"] == 1).all()
    observed = np.asarray(ambient.sum(axis=0)).ravel()
    np.testing.assert_allclose(observed / observed.sum(), adata.var["ambient_profile"], atol=0.003)


def test_ambient_profile_follows_the_cells_without_equalling_them() -> None:
    adata = toy(n_empty_droplets=10)
    pooled = np.asarray(adata.layers["native"].sum(axis=0)).ravel()
    profile = adata.var["ambient_profile"]
    assert profile.sum() == pytest.approx(1)
    assert 0.6 < np.corrcoef(pooled, profile)[0, 1] < 0.99


def test_native_counts_are_those_of_the_cells_alone() -> None:
    adata = toy(n_empty_droplets=10)
    native = adata[adata.obs["is_cell"]].layers["native"]
    assert (native != toy().X).nnz == 0


def test_round_trip(tmp_path) -> None:
    adata = toy(n_cells=60, n_proteins=3, n_empty_droplets=20)
    adata.write_h5ad(tmp_path / "toy.h5ad")
    again = ad.read_h5ad(tmp_path / "toy.h5ad")
    assert same_counts(adata, again)
    pd.testing.assert_frame_equal(adata.obs, again.obs)
    pd.testing.assert_frame_equal(adata.var, again.var)
    for key in ("protein_expression", "protein_foreground"):
        pd.testing.assert_frame_equal(adata.obsm[key], again.obsm[key])
    np.testing.assert_array_equal(adata.obsm["factors"], again.obsm["factors"])
    np.testing.assert_array_equal(adata.varm["loadings"], again.varm["loadings"])


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_types": 1, "n_proteins": 3},
        {"n_factors": 1},
        {"n_batches": 1},
        {"n_genes": 12},
        {"n_cells": 4, "n_genes": 12, "n_empty_droplets": 1},
    ],
)
def test_small_sizes(sizes: dict[str, int]) -> None:
    adata = toy(**sizes)
    assert adata.X.sum(axis=1).min() >= 1
    assert np.isfinite(adata.obsm["factors"][: sizes.get("n_cells", 600)]).all()


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"n_types": 0}, "`n_types` must be at least 1, not 0"),
        ({"n_factors": 0}, "`n_factors` must be at least 1"),
        ({"n_batches": -1}, "`n_batches` must be at least 1, not -1"),
        ({"n_proteins": -1}, "`n_proteins` must be at least 0"),
        ({"n_empty_droplets": -2}, "`n_empty_droplets` must be at least 0, not -2"),
        ({"n_cells": 3}, "Pass at least n_cells=4"),
        ({"n_genes": 11}, "Pass at least n_genes=12, or fewer factors"),
    ],
)
def test_impossible_sizes(sizes: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        toy(**sizes)
