from __future__ import annotations

import numpy as np
import pytest

import scvitl


def test_elbo_is_the_negative_loss(toy):
    """All cells held out or trained on: the value agrees with the losses of the history, up to posterior noise."""
    scvitl.tl.scvi(
        toy, batch_key="batch", n_hidden=16, n_latent=4, max_epochs=3, train_size=0.5, progress=False
    )
    values = scvitl.get.elbo(toy, return_mean=False)
    assert values.shape == (120,)
    order = np.random.RandomState(0).permutation(120)  # the split: held-out cells first
    held_out = -values[order[:60]].mean()
    history = scvitl.get.history(toy)
    assert held_out == pytest.approx(
        history["elbo_validation"].loc[history.attrs["restored_epoch"]], rel=0.01
    )


def test_mean(fitted):
    values = scvitl.get.elbo(fitted, return_mean=False)
    assert scvitl.get.elbo(fitted) == pytest.approx(values.mean(dtype="float64"))
    assert isinstance(scvitl.get.elbo(fitted), float)
    assert scvitl.get.elbo(fitted, batch_size=7) == pytest.approx(values.mean(), rel=0.01)


def test_mean_counts_every_cell_once(fitted):
    """Also where the last block is smaller than the others."""
    values = scvitl.get.elbo(fitted, return_mean=False, batch_size=64)
    assert scvitl.get.elbo(fitted, batch_size=64) == pytest.approx(values.mean(dtype="float64"), rel=1e-9)


def test_lies_below_the_marginal_likelihood_cell_by_cell(fitted):
    bounds = [scvitl.get.elbo(fitted, return_mean=False, random_state=seed) for seed in range(50)]
    estimate = scvitl.get.marginal_ll(fitted, n_mc_samples=200, return_mean=False)
    # the mean of 50 draws with a deviation of about 2 each
    assert (np.mean(bounds, 0) < estimate + 1).all()
    assert np.mean(np.mean(bounds, 0) < estimate) > 0.95


def test_a_better_model_has_a_higher_elbo(toy):
    options = {"batch_key": "batch", "n_hidden": 16, "n_latent": 4, "progress": False}
    scvitl.tl.scvi(toy, max_epochs=1, key_added="short", **options)
    scvitl.tl.scvi(toy, max_epochs=40, key_added="long", **options)
    assert scvitl.get.elbo(toy, key="long") > scvitl.get.elbo(toy, key="short")


def test_bad_batch_size(fitted):
    with pytest.raises(ValueError, match="batch_size=0 is too small"):
        scvitl.get.elbo(fitted, batch_size=0)


def test_of_genes_and_proteins(fitted_proteins):
    """Lower than what is given the latent state, and than the marginal likelihood."""
    key = {"key": "totalvi"}
    elbo = scvitl.get.elbo(fitted_proteins, **key)
    assert elbo < -scvitl.get.reconstruction_error(fitted_proteins, **key)
    assert elbo < scvitl.get.marginal_ll(fitted_proteins, n_mc_samples=100, **key)
