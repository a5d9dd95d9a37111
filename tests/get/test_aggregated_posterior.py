from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from scvitl import get


@pytest.mark.parametrize("dof", [3.0, 1.5, None])
def test_density_is_the_mixture_of_the_posteriors(fitted, dof):
    density = get.aggregated_posterior(fitted, dof=dof, indices="cell_type == 'type_2'")
    mean, variance = get.latent(fitted, return_dist=True, indices="cell_type == 'type_2'")
    states = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
    component = stats.norm if dof is None else stats.t(dof)
    scaled = (states[:, None] - mean) / np.sqrt(variance)
    logs = (component.logpdf(scaled) - 0.5 * np.log(variance)).sum(-1)
    expected = logsumexp(logs, axis=1) - np.log(len(mean))
    # float32
    assert density.log_prob(torch.from_numpy(states)).numpy() == pytest.approx(expected, rel=1e-4)


def test_three_degrees_of_freedom_unless_told_otherwise(fitted):
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    default, three, normal = (
        get.aggregated_posterior(fitted, **options).log_prob(states)
        for options in ({}, {"dof": 3}, {"dof": None})
    )
    assert torch.equal(default, three)
    assert not torch.allclose(default, normal)


def test_cells_of_the_set_are_likelier_than_others(fitted):
    density = get.aggregated_posterior(fitted, indices=[0])
    own, far = (torch.from_numpy(get.latent(fitted, indices=[0])), torch.full((1, 4), 20.0))
    assert density.log_prob(own) > density.log_prob(far)


def test_draws_come_from_the_set(fitted):
    density = get.aggregated_posterior(fitted, dof=None)
    mean, variance = get.latent(fitted, return_dist=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = density.sample((20_000,)).numpy()
    # law of total variance; 20,000 draws
    assert draws.mean(0) == pytest.approx(mean.mean(0), abs=0.05)
    assert draws.var(0) == pytest.approx(variance.mean(0) + mean.var(0), rel=0.05)


@pytest.mark.parametrize(("dof", "error"), [(0, ValueError), (-1, ValueError), ("3", TypeError)])
def test_bad_degrees_of_freedom(fitted, dof, error):
    with pytest.raises(error, match="dof"):
        get.aggregated_posterior(fitted, dof=dof)


def test_of_genes_and_proteins(fitted_proteins):
    mean, _ = get.latent(fitted_proteins, key="totalvi", return_dist=True)
    density = get.aggregated_posterior(fitted_proteins, key="totalvi", indices="cell_type == 'type_1'")
    inside = (fitted_proteins.obs["cell_type"] == "type_1").to_numpy()
    log_p = density.log_prob(torch.from_numpy(mean)).numpy()
    assert np.median(log_p[inside]) > np.median(log_p[~inside])
