from __future__ import annotations

import numpy as np
import pytest

import scvitl


def test_is_what_the_fit_wrote(fitted):
    assert np.array_equal(scvitl.get.latent(fitted), fitted.obsm["X_scvi"])


def test_mean_and_variance(fitted):
    mean, variance = scvitl.get.latent(fitted, return_dist=True)
    assert np.array_equal(mean, fitted.obsm["X_scvi"])
    draws = np.stack([scvitl.get.latent(fitted, give_mean=False, random_state=seed) for seed in range(200)])
    # 200 draws: the standard error of a mean is 0.07 deviations, of a variance a tenth of it
    assert np.abs((draws.mean(0) - mean) / np.sqrt(variance)).max() < 0.4
    assert np.median(draws.var(0) / variance) == pytest.approx(1, abs=0.05)


def test_draws_follow_the_seed(fitted):
    first, again, other = (
        scvitl.get.latent(fitted, give_mean=False, random_state=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_logistic_normal(toy):
    scvitl.tl.scvi(toy, latent_distribution="ln", n_hidden=16, n_latent=3, max_epochs=2, progress=False)
    latent = toy.obsm["X_scvi"]
    assert np.allclose(latent.sum(1), 1, atol=1e-5)
    mean, variance = scvitl.get.latent(toy, return_dist=True)
    normal = np.random.default_rng(0).normal(size=(20_000, 3))
    draws = np.exp(mean[0] + np.sqrt(variance[0]) * normal)
    expected = (draws / draws.sum(1, keepdims=True)).mean(0)
    assert np.allclose(scvitl.get.latent(toy, mc_samples=20_000)[0], expected, atol=0.01)
    assert np.allclose(scvitl.get.latent(toy, mc_samples=250).sum(1), 1, atol=1e-5)
    assert np.allclose(scvitl.get.latent(toy, give_mean=False).sum(1), 1, atol=1e-5)


def test_genes_in_another_order_and_more_of_them(fitted):
    assert np.array_equal(scvitl.get.latent(fitted[:, ::-1].copy()), fitted.obsm["X_scvi"])


def test_a_subset_of_cells(fitted):
    some = fitted[[5, 3, 100]].copy()
    assert np.allclose(scvitl.get.latent(some), fitted.obsm["X_scvi"][[5, 3, 100]], atol=1e-5)


def test_normalised_afterwards(fitted):
    import scanpy as sc

    fitted.layers["counts"] = fitted.X.copy()
    sc.pp.log1p(fitted)
    assert np.array_equal(scvitl.get.latent(fitted), fitted.obsm["X_scvi"])
    del fitted.layers["counts"]
    with pytest.raises(ValueError, match="raw counts are needed"):
        scvitl.get.latent(fitted)


def test_other_genes(fitted):
    with pytest.raises(ValueError, match="5 of the 40 genes of the model are not in"):
        scvitl.get.latent(fitted[:, 5:].copy())


def test_unseen_batch(fitted):
    fitted.obs["batch"] = "new"
    with pytest.raises(ValueError, match="has 'new', which the model was not fitted to"):
        scvitl.get.latent(fitted)


def test_batch_column_gone(fitted):
    del fitted.obs["batch"]
    with pytest.raises(KeyError, match=r"batch_key='batch' is not in adata\.obs"):
        scvitl.get.latent(fitted)


def test_nothing_changes(fitted):
    before = fitted.copy()
    scvitl.get.latent(fitted, return_dist=True)
    assert set(fitted.uns) == set(before.uns)
    assert fitted.obs.equals(before.obs)
