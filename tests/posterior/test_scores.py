"""Scores against the integral that they estimate, taken on a grid."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import scvitl
from scvitl import posterior, store
from scvitl.models.records import Posterior
from scvitl.posterior import scores

CELLS = 12  # enough to look at; the fit sees more

KINDS = {
    "zinb": {},
    "nb": {"gene_likelihood": "nb", "dispersion": "gene-batch"},
    "poisson": {"gene_likelihood": "poisson"},
    "two dimensions": {"n_latent": 2},
    "ln": {"latent_distribution": "ln", "n_latent": 2},
    "latent library": {"use_observed_lib_size": False},
}


def small(n_cells=64):
    """Few counts of few genes, so that posteriors are wide and a grid can be coarse."""
    rng = np.random.default_rng(0)
    state = rng.normal(size=(n_cells, 1))
    counts = rng.poisson(np.exp(0.3 + state * np.linspace(-0.8, 0.8, 8)) * rng.gamma(5, 0.2, (n_cells, 8)))
    counts[:, 0] += 1
    obs = pd.DataFrame({"batch": np.where(np.arange(n_cells) % 2, "b", "a")}, index=map(str, range(n_cells)))
    return ad.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=[f"g{i}" for i in range(8)]))


@cache
def fit(kind="zinb", max_epochs=60):
    adata = small()
    options = {"n_hidden": 8, "n_latent": 1, "batch_key": "batch", **KINDS[kind]}
    scvitl.tl.scvi(adata, max_epochs=max_epochs, progress=False, **options)
    model = scvitl.get.model(adata)
    with torch.no_grad():
        # A posterior unlike the prior, and no more than roughly right: the estimates must not need a good one.
        model.module.decoder.heads["scale"].weight.mul_(6)
        model.module.z_encoder.mean.weight.mul_(3)
        model.module.z_encoder.variance.bias.sub_(0.3)
    return model.module, store.load(adata[:CELLS].copy(), model)


def on_grid(model, data, z, library=None):
    """Log p(x, z) of every cell at states ``z`` (S, D), by SciPy, (S, n)."""
    cells = data.gather(torch.arange(data.n_cells))
    states = torch.from_numpy(np.float32(z))[:, None].expand(-1, data.n_cells, -1)
    size = cells.library if library is None else torch.from_numpy(np.float32(library))[:, None, None]
    with torch.no_grad():
        p = model.generative(states, size.expand(len(z), data.n_cells, 1), cells)
    x, mean = cells.x.numpy(), p.rate.double().numpy()
    if model.gene_likelihood == "poisson":
        logs = stats.poisson.logpmf(x, mean)
    else:
        theta = p.theta.detach().double().numpy()
        logs = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    if model.gene_likelihood == "zinb":
        lost = torch.sigmoid(p.dropout.double()).numpy()
        logs = np.log(lost * (x == 0) + (1 - lost) * np.exp(logs))
    return logs.sum(-1) + stats.norm.logpdf(z).sum(-1)[:, None]


def integral(model, data):
    """Log p(x) of every cell, (n,)."""
    if model.latent_library:
        z, library = np.meshgrid(np.linspace(-6, 6, 121), np.linspace(0, 6, 121))
        z, library = z.reshape(-1, 1), library.ravel()
        cells = data.gather(torch.arange(data.n_cells))
        mean, variance = (v.numpy()[:, 0] for v in model.library_prior(cells))
        prior = stats.norm.logpdf(library[:, None], mean, np.sqrt(variance))
        return logsumexp(on_grid(model, data, z, library) + prior, axis=0) + np.log(0.1 * 0.05)
    line = np.linspace(-7, 7, 141)
    z = np.stack([axis.ravel() for axis in np.meshgrid(*[line] * model.z_encoder.mean.out_features)], 1)
    return logsumexp(on_grid(model, data, z), axis=0) + z.shape[1] * np.log(0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_marginal_ll_is_the_integral_over_the_latent_states(kind):
    model, data = fit(kind)
    exact = integral(model, data)
    values = posterior.marginal_ll(model, data, n_mc_samples=4000)
    # The noise of 4,000 draws with uneven weights: up to 0.13 for a cell. Densities taken after the softmax of "ln"
    # would be off by 0.6, and by 0.45 on average.
    assert np.abs(values - exact).max() < 0.25
    assert values.mean() == pytest.approx(exact.mean(), abs=0.04)


@pytest.mark.parametrize("kind", ["zinb", "ln", "latent library"])
def test_elbo_lies_below_the_integral_by_the_gap_of_the_posterior(kind):
    model, data = fit(kind)
    exact = integral(model, data)
    bounds = np.mean([posterior.elbo(model, data, random_state=seed) for seed in range(300)], axis=0)
    # 300 draws of a log-likelihood with a deviation of about one
    assert (bounds < exact + 0.2).all()
    assert bounds.mean() < exact.mean()
    # how far depends on the fit, which in turn depends on the number of threads
    assert bounds.mean() > exact.mean() - 6


def test_marginal_ll_rises_with_the_draws_towards_the_integral():
    """With one draw it is the ELBO on average, with more it comes closer."""
    model, data = fit()
    exact = integral(model, data).mean()
    few, more, many = (
        np.mean([posterior.marginal_ll(model, data, n_mc_samples=n, random_state=s) for s in range(100)])
        for n in (1, 5, 50)
    )
    # 100 repeats of 12 cells: a standard error below 0.03
    assert few < more < many < exact + 0.03


def test_marginal_ll_of_a_few_draws_is_the_mean_of_their_weights():
    model, data = fit()
    q = posterior.engine.posterior(model, data)
    z = q.draw(3, posterior.engine.noise(data, 2))[0].numpy()  # (3, n, 1)
    rows = np.arange(data.n_cells)
    joint = np.stack([on_grid(model, data, draw)[rows, rows] for draw in z])
    log_q = stats.norm.logpdf(z, q.mean.numpy(), q.variance.sqrt().numpy()).sum(-1)
    values = posterior.marginal_ll(model, data, n_mc_samples=3, random_state=2)
    # float32
    assert values == pytest.approx(logsumexp(joint - log_q, axis=0) - np.log(3), abs=1e-4)


@pytest.mark.parametrize("n", [1, 7, 99, 100, 101, 250])
@pytest.mark.parametrize("entries", [1, 12 * 8 * 3, 12 * 8 * 100, 2**23])
def test_marginal_ll_takes_exactly_as_many_draws_as_asked_for(monkeypatch, n, entries):
    model, data = fit(max_epochs=1)
    drawn = []
    draw = Posterior.draw

    def counting(self, n_samples=None, generator=None):
        drawn.append(n_samples * len(self.mean))
        return draw(self, n_samples, generator)

    monkeypatch.setattr(Posterior, "draw", counting)
    monkeypatch.setattr(scores, "BLOCK_ENTRIES", entries)
    for batch_size in (None, 5):
        drawn.clear()
        posterior.marginal_ll(model, data, n_mc_samples=n, batch_size=batch_size)
        assert sum(drawn) == n * data.n_cells


def test_the_blocks_that_draws_come_in_do_not_bias_marginal_ll(monkeypatch):
    model, data = fit()
    exact = integral(model, data)
    for entries in (12 * 8 * 3, 12 * 8 * 1000):
        monkeypatch.setattr(scores, "BLOCK_ENTRIES", entries)
        # as above; blocks of 3 and of 1,000 draws
        assert np.abs(posterior.marginal_ll(model, data, n_mc_samples=4000) - exact).max() < 0.15


def test_elbo_is_the_log_likelihood_less_the_kl():
    for kind in ("zinb", "ln"):
        model, data = fit(kind)
        mean, variance = posterior.latent_distribution(model, data)
        kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1)
        elbo = posterior.elbo(model, data, random_state=3)
        assert elbo == pytest.approx(
            -posterior.reconstruction_error(model, data, random_state=3) - kl, abs=1e-4
        )


def test_reconstruction_error_is_the_negative_log_likelihood_by_scipy():
    model, data = fit()
    z, _ = posterior.engine.posterior(model, data).draw(generator=posterior.engine.noise(data, 5))
    rows = np.arange(data.n_cells)
    joint = on_grid(model, data, z.numpy())[rows, rows] - stats.norm.logpdf(z.numpy()).sum(1)
    error = posterior.reconstruction_error(model, data, random_state=5)
    assert error == pytest.approx(-joint, rel=1e-5)
    assert (error > 0).all()
