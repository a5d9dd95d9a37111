from __future__ import annotations

import numpy as np
import pytest

import scvitl


def test_lies_above_the_elbo(fitted):
    assert scvitl.get.marginal_ll(fitted, n_mc_samples=100) > scvitl.get.elbo(fitted)


def test_more_draws_agree_better(fitted):
    def spread(n):
        options = {"indices": range(20), "n_mc_samples": n, "return_mean": False}
        return np.std([scvitl.get.marginal_ll(fitted, random_state=seed, **options) for seed in range(10)], 0)

    assert np.median(spread(500)) < np.median(spread(10)) / 2


def test_mean_counts_every_cell_once(fitted):
    """Also where the last block is smaller than the others."""
    options = {"n_mc_samples": 5, "batch_size": 64}
    values = scvitl.get.marginal_ll(fitted, return_mean=False, **options)
    assert values.shape == (200,)
    mean = scvitl.get.marginal_ll(fitted, **options)
    assert isinstance(mean, float)
    assert mean == pytest.approx(values.mean(dtype="float64"), rel=1e-9)


def test_bad_number_of_draws(fitted):
    with pytest.raises(ValueError, match="n_mc_samples=0 is too small"):
        scvitl.get.marginal_ll(fitted, n_mc_samples=0)
    with pytest.raises(TypeError, match="n_mc_samples must be a whole number"):
        scvitl.get.marginal_ll(fitted, n_mc_samples=10.0)


def test_of_genes_and_proteins_more_draws_agree_better(fitted_proteins):
    def spread(n):
        options = {"key": "totalvi", "indices": range(20), "n_mc_samples": n, "return_mean": False}
        values = [scvitl.get.marginal_ll(fitted_proteins, random_state=seed, **options) for seed in range(10)]
        return np.std(values, 0)

    assert np.median(spread(500)) < np.median(spread(10)) / 2
