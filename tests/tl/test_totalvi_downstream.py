"""What follows a fit of totalVI: ranking, correlation, mapping, minifying, expression."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.stats import spearmanr

import scvitl
from scvitl import posterior

KEY = {"key": "totalvi"}
MARKERS = ["CD3D", "CD3E", "CD14", "LYZ", "CD79A", "MS4A1", "NKG7", "GNLY", "IL7R", "CD8A", "S100A8", "FCN1"]


def cite():
    """Real cells with a few hundred genes, and a column of rough types by a protein and a gene."""
    adata = scvitl.datasets.cite()
    names = dict.fromkeys([*MARKERS, *adata.var_names[:300]])
    adata = adata[:, [name for name in names if name in adata.var_names]].copy()
    proteins = adata.obsm["protein_expression"]
    kinds = np.where(proteins["CD14"] > 300, "myeloid", np.where(proteins["CD3"] > 300, "T", "other"))
    adata.obs["kind"] = pd.Categorical(kinds)
    return adata


def fit(adata, **options):
    small = {"n_hidden": 32, "n_latent": 6, "max_epochs": 40, "progress": False, "batch_key": "batch"}
    scvitl.tl.totalvi(adata, **{**small, **options})
    return adata


@pytest.fixture(scope="module")
def _both():
    return fit(cite())


@pytest.fixture
def both(_both):
    return _both.copy()


@pytest.fixture(scope="module")
def _reference():
    adata = cite()
    return fit(adata[adata.obs["batch"] == "pbmc5k"].copy(), max_epochs=60)


@pytest.fixture
def reference(_reference):
    return _reference.copy()


@pytest.fixture
def query():
    adata = cite()
    return adata[adata.obs["batch"] == "pbmc10k"].copy()


def test_ranking_finds_the_proteins_of_a_type(both):
    scvitl.tl.rank_genes_groups(both, "kind", n_samples=1000, **KEY)
    genes, proteins = (both.uns[name] for name in ("rank_genes_groups", "rank_genes_groups_protein"))
    assert len(genes["names"]) == both.n_vars
    assert len(proteins["names"]) == 29
    # CD3 tells T cells, CD14 myeloid ones.
    assert "CD3" in proteins["names"]["T"][:5]
    assert "CD14" in proteins["names"]["myeloid"][:5]
    table = scvitl.get.rank_genes_groups(both, groups="T", key="rank_genes_groups_protein")
    assert table.loc["CD3", "lfc_median"] > 1
    assert table.loc["CD14", "lfc_median"] < -1
    assert set(table.index) == set(both.obsm["protein_expression"].columns)
    assert proteins["params"]["protein_prior_count"] == 0.1
    assert list(sc.get.rank_genes_groups_df(both, "T", key="rank_genes_groups_protein"))[:2] == [
        "names",
        "scores",
    ]


def test_statistics_of_proteins_are_over_the_cells_that_were_measured(both):
    scvitl.tl.rank_genes_groups(both, "kind", groups=["T"], n_samples=200, **KEY)
    table = scvitl.get.rank_genes_groups(both, key="rank_genes_groups_protein")
    counts, T = both.obsm["protein_expression"], both.obs["kind"] == "T"
    there = both.obs["batch"] == "pbmc5k"
    assert table.loc["CD3", "raw_mean1"] == pytest.approx(counts.loc[T, "CD3"].mean())
    assert table.loc["CD20", "raw_mean1"] == pytest.approx(counts.loc[T & there, "CD20"].mean())
    assert table.loc["CD20", "raw_mean2"] == pytest.approx(counts.loc[~T & there, "CD20"].mean())
    share = (counts.loc[T & there, "CD20"] > 0).mean()
    assert table.loc["CD20", "non_zeros_proportion1"] == pytest.approx(share)


def test_a_prior_count_damps_fold_changes_of_what_is_next_to_absent(both):
    found = []
    for prior in (0.1, 100.0):
        scvitl.tl.rank_genes_groups(both, "kind", n_samples=500, protein_prior_count=prior, **KEY)
        found.append(scvitl.get.rank_genes_groups(both, key="rank_genes_groups_protein"))
    assert found[1]["lfc_median"].abs().max() < 0.7 * found[0]["lfc_median"].abs().max()
    # The prior is not part of the level that is told.
    means = [table[table["group1"] == "T"].loc["CD3", "scale1"] for table in found]
    assert means[1] == pytest.approx(means[0], rel=1e-3)


def test_scales_of_proteins_are_denoised_counts(both):
    scvitl.tl.rank_genes_groups(both, "kind", groups=["T"], n_samples=4000, **KEY)
    table = scvitl.get.rank_genes_groups(both, key="rank_genes_groups_protein")
    T = (both.obs["kind"] == "T").to_numpy()
    # Those that a batch lacks are decoded as of the other, as in the table of the fit.
    for name in ("CD28", "CD278"):
        expected = both.obsm["totalvi_protein"].loc[T, name].mean()
        assert table.loc[name, "scale1"] == pytest.approx(expected, rel=0.15)


def test_vanilla_and_batch_correction(both):
    options = {"mode": "vanilla", "batch_correction": True, "n_samples": 300, "key_added": "mine", **KEY}
    scvitl.tl.rank_genes_groups(both, "kind", **options)
    table = scvitl.get.rank_genes_groups(both, groups="T", key="mine_protein")
    assert table.loc["CD3", "proba_m1"] > 0.8
    assert "mine" in both.uns


def test_a_ranking_without_proteins_leaves_none_behind(both):
    scvitl.tl.rank_genes_groups(both, "kind", n_samples=100, **KEY)
    scvitl.tl.scvi(both, max_epochs=1, n_hidden=8, progress=False)
    scvitl.tl.rank_genes_groups(both, "kind", n_samples=100)
    assert "rank_genes_groups_protein" not in both.uns
    assert "protein_prior_count" not in both.uns["rank_genes_groups"]["params"]


def test_what_is_not_a_ranking_of_proteins_is_not_replaced(both):
    both.uns["rank_genes_groups_protein"] = "mine"
    with pytest.raises(ValueError, match="choose another key_added"):
        scvitl.tl.rank_genes_groups(both, "kind", **KEY)
    assert "rank_genes_groups" not in both.uns


def test_correlation_of_genes_and_proteins(both):
    table = scvitl.get.feature_correlation(
        both, genes=["CD3D", "CD14"], n_samples=3, transform_batch="all", **KEY
    )
    assert table.shape == (31, 31)
    assert list(table.columns[:4]) == ["CD3D", "CD14", "CD3", "CD4"]
    assert "CD14_protein" in table.columns
    np.testing.assert_allclose(np.diag(table), 1)
    np.testing.assert_allclose(table, table.T)
    assert table.loc["CD3D", "CD3"] > 0.3
    assert table.loc["CD14", "CD3"] < 0
    part = scvitl.get.feature_correlation(both, genes=["CD3D"], proteins=["CD3", "CD19"], n_samples=1, **KEY)
    assert list(part) == ["CD3D", "CD3", "CD19"]
    alone = scvitl.get.feature_correlation(both, genes=["CD3D", "LYZ"], proteins=[], n_samples=1, **KEY)
    assert list(alone) == ["CD3D", "LYZ"]
    others = scvitl.get.feature_correlation(both, genes=[], proteins=["CD3", "CD19"], n_samples=1, **KEY)
    assert list(others) == ["CD3", "CD19"]


def test_correlation_of_proteins_needs_proteins(fitted):
    with pytest.raises(ValueError, match="no proteins"):
        scvitl.get.feature_correlation(fitted, proteins=["CD3"])


def test_mapping_places_the_query_and_imputes_what_it_lacks(reference, query):
    scvitl.tl.map_query(query, reference, progress=False, **KEY)
    for name in ("totalvi_protein", "totalvi_protein_foreground"):
        assert query.obsm[name].shape == (200, 29)
        assert np.isfinite(query.obsm[name]).all(axis=None)
    given, found = query.obsm["protein_expression"], query.obsm["totalvi_protein"]
    assert spearmanr(found["CD3"], given["CD3"]).statistic > 0.5
    # Not measured in the query: told by its genes and other proteins.
    lymphoid, myeloid = (found.loc[query.obs["kind"] == kind, "CD28"].median() for kind in ("T", "myeloid"))
    assert lymphoid > myeloid
    model = scvitl.get.model(query, **KEY)
    assert [sum(measured) for measured in model.schema.proteins.measured] == [29, 14]
    assert np.isfinite(scvitl.get.elbo(query, **KEY))


def test_mapping_without_any_protein(reference, query, said):
    truth = query.obsm["protein_expression"].copy()
    del query.obsm["protein_expression"]
    scvitl.tl.map_query(query, reference, progress=False, **KEY)
    assert "all are imputed" in said()
    assert spearmanr(query.obsm["totalvi_protein"]["CD3"], truth["CD3"]).statistic > 0.3


def test_mapping_leaves_cells_of_the_reference_where_they_are(reference, query):
    query.obsm["protein_expression"] *= 5
    scvitl.tl.map_query(query, reference, max_epochs=3, progress=False, **KEY)
    model = scvitl.get.model(query, **KEY)
    there = scvitl.get.latent(reference, model=model)
    np.testing.assert_allclose(there, reference.obsm["X_totalvi"], atol=1e-4)
    proteins = scvitl.get.protein_expression(reference, model=model)
    np.testing.assert_allclose(proteins, reference.obsm["totalvi_protein"], rtol=1e-3)
    scvitl.tl.map_query(
        other := query[:50].copy(), query, max_epochs=1, progress=False, key_added="foo", **KEY
    )
    assert scvitl.get.model(other, key="foo").schema.proteins.n_mapped == 1


def test_a_query_that_lacks_proteins_in_a_batch_of_the_reference(reference, query):
    query.obs["batch"] = reference.obs["batch"].iloc[0]
    del query.obsm["protein_expression"]
    scvitl.tl.map_query(query, reference, progress=False, **KEY)
    assert scvitl.get.reconstruction_error(query, modality="protein", **KEY) == 0
    scvitl.tl.rank_genes_groups(query, "kind", n_samples=100, **KEY)
    assert query.uns["rank_genes_groups_protein"]["table"]["raw_mean1"].isna().all()


def test_rankings_by_models_without_proteins_leave_those_of_other_names(both):
    options = {"n_samples": 50}
    scvitl.tl.rank_genes_groups(both, "kind", **KEY, **options)
    scvitl.tl.scvi(both, max_epochs=1, n_hidden=8, progress=False)
    both.uns["own_protein"] = "mine"
    scvitl.tl.rank_genes_groups(both, "kind", key_added="own", **options)
    assert both.uns["own_protein"] == "mine"
    scvitl.tl.rank_genes_groups(both, "kind", **options)
    assert "rank_genes_groups_protein" not in both.uns, "it went with the ranking of genes"


def test_minified_cells_decode_as_before(both):
    small = scvitl.tl.minify(both, copy=True, **KEY)
    assert small.X is None
    options = {"transform_batch": "all", "genes": ["CD3D"], **KEY}
    before, after = (scvitl.get.normalized_expression(adata, **options) for adata in (both, small))
    np.testing.assert_allclose(after, before, rtol=1e-4)
    _, data = scvitl.store.open_cells(small, **KEY)
    module = scvitl.get.model(small, **KEY).module
    (values,) = posterior.protein_quantities(module, data, [posterior.foreground], give_mean=True)
    assert values.shape == (400, 29)
    scvitl.tl.rank_genes_groups(small, "kind", n_samples=100, **KEY)
    assert "raw_mean1" not in small.uns["rank_genes_groups_protein"]["table"]
    with pytest.raises(ValueError, match="looks at counts"):
        scvitl.get.elbo(small, **KEY)


def test_expression_of_genes_and_proteins_is_kept(both):
    before = both.obsm["totalvi_protein"].copy()
    scvitl.tl.normalized_expression(both, library_size=100.0, transform_batch="all", n_samples=2, **KEY)
    # Averages over two batches are not sums.
    np.testing.assert_allclose(both.layers["totalvi_normalized"].sum(1), 100, rtol=1e-4)
    assert not np.allclose(before["CD28"], both.obsm["totalvi_protein"]["CD28"])
    scvitl.tl.normalized_expression(both, key_added="own", **KEY)
    assert both.obsm["own_protein"].shape == (400, 29)
    np.testing.assert_allclose(both.obsm["own_protein"], before, rtol=1e-4)
