from __future__ import annotations

import numpy as np
import pytest

import scvitl
from scvitl import get, store
from scvitl.posterior import engine

SMALL = {"n_hidden": 16, "n_latent": 3, "max_epochs": 4, "progress": False}


def totals(adata):
    return np.asarray(adata.X.sum(1)).reshape(-1, 1)


def test_observed_it_is_the_total_of_the_counts(fitted):
    size = get.latent_library_size(fitted)
    assert size.shape == (200, 1)
    assert size.dtype == np.float32
    # through a logarithm and back in float32
    assert size == pytest.approx(totals(fitted), rel=1e-5)
    assert np.array_equal(get.latent_library_size(fitted, give_mean=False), size)


def test_observed_it_counts_the_genes_of_the_model_alone(fitted):
    model = get.model(fitted)
    more = scvitl.datasets.toy(n_cells=50, n_genes=60, random_state=4)
    more.var_names = [*fitted.var_names, *(f"other_{i}" for i in range(20))]
    expected = totals(more[:, :40])
    assert get.latent_library_size(more, model=model) == pytest.approx(expected, rel=1e-5)


def test_a_size_factor_is_returned_as_it_is(toy):
    toy.obs["factor"] = np.linspace(0.5, 3, toy.n_obs)
    scvitl.tl.scvi(toy, size_factor_key="factor", **SMALL)
    size = get.latent_library_size(toy, indices=[5, 100])
    assert size[:, 0] == pytest.approx(toy.obs["factor"].to_numpy()[[5, 100]], rel=1e-5)


def test_inferred_it_is_the_mean_of_a_log_normal(toy):
    scvitl.tl.scvi(toy, batch_key="batch", use_observed_lib_size=False, **SMALL | {"max_epochs": 40})
    mean = get.latent_library_size(toy)
    assert mean.shape == (120, 1)
    model = get.model(toy)
    posterior = engine.posterior(model.module, store.load(toy, model))
    logs, variance = posterior.library.numpy(), posterior.library_variance.numpy()
    assert mean == pytest.approx(np.exp(logs + variance / 2), rel=1e-5)
    assert np.corrcoef(mean[:, 0], totals(toy)[:, 0])[0, 1] > 0.5
    draws = np.stack([get.latent_library_size(toy, give_mean=False, random_state=s) for s in range(300)])
    # 300 draws of each of 120 cells: five standard errors
    assert (np.abs(np.log(draws).mean(0) - logs) < 5 * np.sqrt(variance / 300)).all()
    assert np.median(np.log(draws).var(0) / variance) == pytest.approx(1, abs=0.05)


def test_of_genes_and_proteins_it_is_that_of_the_genes(fitted_proteins, toy, stain):
    size = get.latent_library_size(fitted_proteins, key="totalvi")
    assert size == pytest.approx(totals(fitted_proteins), rel=1e-5)
    assert np.array_equal(get.latent_library_size(fitted_proteins, key="totalvi", give_mean=False), size)
    options = SMALL | {"key_added": "inferred", "batch_key": "batch"}
    scvitl.tl.totalvi(stain(toy), use_observed_lib_size=False, **options)
    mean, drawn = (get.latent_library_size(toy, key="inferred", give_mean=mean) for mean in (True, False))
    model = get.model(toy, key="inferred")
    posterior = engine.posterior(model.module, store.load(toy, model, key="inferred"))
    expected = np.exp(posterior.library.numpy() + posterior.library_variance.numpy() / 2)
    assert mean == pytest.approx(expected, rel=1e-5)
    assert drawn.shape == mean.shape
    assert not np.allclose(drawn, mean, rtol=1e-3)
