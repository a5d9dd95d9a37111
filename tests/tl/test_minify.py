from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import scvitl


@pytest.fixture
def small(fitted):
    fitted.layers["lognorm"] = sc.pp.log1p(fitted.X.copy())
    fitted.raw = fitted
    return scvitl.tl.minify(fitted, copy=True)


def test_counts_are_gone_and_the_posterior_is_there(fitted, small):
    assert small.X is None
    assert small.raw is None
    assert not list(small.layers)
    mean, variance = scvitl.get.latent(fitted, return_dist=True)
    assert np.array_equal(small.obsm["scvi_latent_mean"], mean)
    assert np.array_equal(small.obsm["scvi_latent_variance"], variance)
    # The library size goes through a float32 logarithm.
    assert np.allclose(small.obs["scvi_library"], np.asarray(fitted.X.sum(1)).ravel(), rtol=1e-6)
    assert fitted.X is not None
    assert "lognorm" in fitted.layers


def test_in_place(fitted):
    n_obs, n_vars = fitted.shape
    assert scvitl.tl.minify(fitted) is None
    assert fitted.X is None
    assert fitted.shape == (n_obs, n_vars)


def test_decoding_goes_on_as_before(fitted, small):
    """The same draws of the same posterior."""
    get = scvitl.get
    assert np.array_equal(get.latent(small), get.latent(fitted))
    for read in (
        lambda adata: get.normalized_expression(adata, transform_batch="all", library_size="latent"),
        lambda adata: get.normalized_expression(adata, n_samples_overall=20, transform_batch="all"),
        lambda adata: get.likelihood_parameters(adata, n_samples=2)["mean"],
        lambda adata: get.feature_correlation(adata, genes=adata.var_names[:4], n_samples=2),
        lambda adata: get.aggregated_posterior(adata).log_prob(__import__("torch").zeros(4)),
    ):
        # The library size goes through a float32 logarithm once more.
        assert np.allclose(read(small), read(fitted), rtol=1e-5)
    assert get.posterior_predictive(small).shape == small.shape


def test_survives_files(small, tmp_path):
    small.write_h5ad(tmp_path / "small.h5ad")
    again = ad.read_h5ad(tmp_path / "small.h5ad")
    assert again.X is None
    first, second = (
        scvitl.get.normalized_expression(adata, transform_batch="all") for adata in (small, again)
    )
    assert np.array_equal(first, second)


def test_differential_expression_lacks_only_the_counts(fitted, small, said):
    scvitl.tl.rank_genes_groups(fitted, "cell_type", n_samples=500, pseudocounts=1e-6)
    scvitl.tl.rank_genes_groups(small, "cell_type", n_samples=500, pseudocounts=1e-6)
    assert "no statistics of counts" in said()
    whole, table = (scvitl.get.rank_genes_groups(adata) for adata in (fitted, small))
    assert set(whole) - set(table) == {
        f"{name}{side}"
        for name in ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
        for side in (1, 2)
    }
    assert np.allclose(whole["lfc_mean"], table["lfc_mean"], atol=1e-5)


def test_pseudocounts_come_from_expected_counts(fitted, small):
    """Without counts the model tells which genes are next to absent; here none is, by either."""
    for adata in (fitted, small):
        scvitl.tl.rank_genes_groups(adata, "cell_type", n_samples=200)
    first, second = (
        scvitl.get.rank_genes_groups(adata)["pseudocounts"].unique() for adata in (fitted, small)
    )
    assert np.allclose(first, second)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("elbo", {}),
        ("reconstruction_error", {}),
        ("marginal_ll", {"n_mc_samples": 2}),
        ("latent_library_size", {}),
        ("importance_weights", {}),
        ("normalized_expression", {"n_samples_overall": 5, "weights": "importance"}),
    ],
)
def test_what_needs_counts_says_so(small, function, options):
    with pytest.raises(ValueError, match=r"looks at counts, which scvitl\.tl\.minify replaced"):
        getattr(scvitl.get, function)(small, **options)


def test_training_and_minifying_again_are_refused(small):
    with pytest.raises(ValueError, match="use the AnnData that still has them"):
        scvitl.tl.scvi(small)
    with pytest.raises(ValueError, match=r"tl\.minify looks at counts"):
        scvitl.tl.minify(small)
    with pytest.raises(ValueError, match=r"weights='importance' looks at counts"):
        scvitl.tl.rank_genes_groups(small, "cell_type", weights="importance")


def test_a_latent_library_needs_the_counts(toy):
    scvitl.tl.scvi(toy, use_observed_lib_size=False, n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="infers library sizes from the counts"):
        scvitl.tl.minify(toy)
    assert toy.X is not None


def test_some_cells_and_genes(small):
    some = small[10:30, ::-1].copy()
    frame = scvitl.get.normalized_expression(some, transform_batch="all", give_mean=True)
    every = scvitl.get.normalized_expression(small, transform_batch="all", give_mean=True)
    assert np.allclose(frame, every.iloc[10:30], rtol=1e-5)
    scvitl.tl.normalized_expression(some[:, :5].copy(), transform_batch="all")


def test_other_models_are_named(fitted, said):
    fitted.uns["second"] = fitted.uns["scvi"]
    scvitl.tl.minify(fitted)
    assert "other models lose their counts, too: 'second'" in said()


def test_a_view_becomes_a_copy_of_its_own(fitted):
    view = fitted[:50]
    scvitl.tl.minify(view)
    assert view.X is None
    assert fitted.X is not None


def test_minified_cells_belong_to_one_model(fitted, small):
    """The posterior of one model means nothing to another."""
    other = fitted.copy()
    scvitl.tl.scvi(other, batch_key="batch", n_hidden=8, n_latent=4, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="other models need the counts"):
        scvitl.get.latent(small, model=scvitl.get.model(other))
    same = scvitl.get.latent(small, model=scvitl.get.model(fitted))
    assert np.array_equal(same, fitted.obsm["X_scvi"])


def test_a_new_fit_reads_the_counts_again(fitted, small):
    small.X = fitted.X.copy()
    scvitl.tl.scvi(small, batch_key="batch", n_hidden=8, n_latent=3, max_epochs=1, progress=False)
    assert np.array_equal(scvitl.get.latent(small), small.obsm["X_scvi"])
    assert np.isfinite(scvitl.get.elbo(small))


def test_a_lost_part_is_named(small):
    del small.obs["scvi_library"]
    with pytest.raises(KeyError, match="'scvi_library' is gone"):
        scvitl.get.latent(small)
