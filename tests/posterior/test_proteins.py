"""Scores of a model of proteins against the integral that they estimate, taken on a grid, and its draws."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch import distributions as D

import scvitl
from scvitl import posterior, store
from scvitl.posterior import draws, engine, expression, proteins

CELLS = 8  # enough to look at; the fit sees more


def small(n_cells=64, missing=True):
    """Few counts of few genes and proteins, so that posteriors are wide and a grid can be coarse."""
    rng = np.random.default_rng(0)
    state = rng.normal(size=(n_cells, 1))
    counts = rng.poisson(np.exp(0.3 + state * np.linspace(-0.8, 0.8, 5)) * rng.gamma(5, 0.2, (n_cells, 5)))
    counts[:, 0] += 1
    batch = np.where(np.arange(n_cells) % 2, "b", "a")
    stained = rng.poisson(rng.gamma(2, np.where(state > 0, [9, 1, 5], [1, 6, 5]) / 2))
    if missing:
        stained[batch == "b", 2] = 0
    table = pd.DataFrame(stained, map(str, range(n_cells)), ["CD1", "CD2", "CD3"])
    obs = pd.DataFrame({"batch": batch}, table.index)
    genes = pd.DataFrame(index=[f"g{i}" for i in range(5)])
    return ad.AnnData(counts.astype(np.float32), obs, genes, obsm={"protein_expression": table})


@cache
def fit(missing=True, **options):
    adata = small(missing=missing)
    small_model = {"n_hidden": 8, "n_latent": 1, "batch_key": "batch", "progress": False}
    scvitl.tl.totalvi(adata, max_epochs=60, batch_size=32, **small_model, **options)
    model = scvitl.get.model(adata, key="totalvi")
    with torch.no_grad():
        # A posterior unlike the prior: the estimates must not need a good one.
        model.module.decoder.heads["scale"].weight.mul_(3)
        model.module.decoder.heads["background_sd"].bias.add_(0.3)
        model.module.z_encoder.mean.weight.mul_(3)
    return model.module, store.load(adata[:CELLS].copy(), model)


def counted(mean, theta, y):
    """Log-probability of counts, by torch's own negative binomial."""
    return D.NegativeBinomial(theta, logits=torch.log(mean / theta), validate_args=False).log_prob(y)


def on_grid(model, data):
    """Log p(x, y) of every cell, (n,): sums over the latent state and the background of each protein."""
    cells = data.gather(torch.arange(data.n_cells))
    z = torch.linspace(-7, 7, 281)
    states = z[:, None, None].expand(-1, data.n_cells, 1)
    t = torch.linspace(-7, 7, 141)  # standard deviations from the prior mean of the log background
    with torch.no_grad():
        x = model.generative(states, cells.library.expand(281, -1, 1), cells)
        log_p = counted(x.rate, x.theta, cells.x).sum(-1) + D.Normal(0, 1).log_prob(z)[:, None]
        _, _, times, mixing = model.decoder.proteins(*model.state(states, cells))  # (Z, n, P)
        counts = model.protein_counts
        mean, sd = counts.background_mean.T[cells.panel], counts.background_log_sd.T[cells.panel].exp()
        background = torch.exp(mean + sd * t[:, None, None]) * counts.log_efficiency.T[cells.batch].exp()
        theta, y = torch.exp(counts.py_r), cells.proteins
        for p in np.flatnonzero(counts.measured.any(0)):
            b = background[:, None, :, p]  # (T, 1, n)
            low = counted(b, theta[p], y[:, p]) + torch.log(torch.sigmoid(mixing[..., p]))
            high = counted(b * times[..., p], theta[p], y[:, p]) + torch.log(torch.sigmoid(-mixing[..., p]))
            inside = torch.logaddexp(low, high) + D.Normal(0, 1).log_prob(t)[:, None, None]
            log_y = torch.logsumexp(inside, 0) + torch.log(t[1] - t[0])  # (Z, n)
            log_p = log_p + log_y * counts.measured[cells.panel, p]
    return (torch.logsumexp(log_p, 0) + torch.log(z[1] - z[0])).numpy()


@pytest.mark.parametrize("missing", [True, False])
def test_marginal_likelihood_is_the_integral(missing):
    model, data = fit(missing)
    assert model.protein_counts.measured.all() == (not missing)
    estimate = posterior.marginal_ll(model, data, n_mc_samples=20_000)
    np.testing.assert_allclose(estimate, on_grid(model, data), atol=0.05)


@pytest.mark.parametrize("missing", [True, False])
def test_elbo_is_no_higher(missing):
    model, data = fit(missing)
    values = np.mean([posterior.elbo(model, data, random_state=seed) for seed in range(100)], 0)
    assert (values < on_grid(model, data) + 0.05).all()


def test_what_was_not_measured_has_no_say():
    """Another count of a protein that a panel lacks changes nothing but what the encoder sees."""
    model, data = fit()
    cells = data.gather(torch.arange(CELLS))
    lacking = ~model.protein_counts.measured[cells.panel]
    assert lacking.any()
    with torch.no_grad():
        z, library = model.encode(cells).draw(generator=engine.noise(data, 0))
        before = model.explain_apart(z, library, cells, engine.noise(data, 1))
        cells.proteins[lacking] = 77.0
        after = model.explain_apart(z, library, cells, engine.noise(data, 1))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_parts_of_the_reconstruction_error_add_up():
    model, data = fit()
    whole, rna, protein = (
        posterior.reconstruction_error(model, data, modality=modality, random_state=3)
        for modality in (None, "rna", "protein")
    )
    np.testing.assert_allclose(rna + protein, whole, rtol=1e-5)
    assert (protein > 0).all()


def test_draws_of_parameters_are_those_of_the_genes():
    """Which latent state a draw of a cell has depends on the seed alone."""
    model, data = fit()
    seen = []

    def state(self, z, cells, batch=None):
        seen.append(z)
        return type(self).state(self, z, cells, batch)

    model.state, options = state.__get__(model), {"n_samples": 3, "random_state": 5}
    try:
        expression.likelihood_parameters(model, data, ["mean"], **options)
        proteins.protein_parameters(model, data, ["protein_mixing"], **options)
    finally:
        del model.state
    of_genes, of_proteins = seen
    assert of_genes.shape == (3, CELLS, 1)
    assert torch.equal(of_genes, of_proteins)


def test_draws_from_all_cells_are_those_of_the_genes(monkeypatch):
    model, data = fit()
    made = []
    for module in (expression, proteins):
        monkeypatch.setattr(module, "draw", lambda *args: made.append(draws.draw(*args)) or made[-1])
    options = {"batches": [0, 1], "random_state": 4}
    expression.expression_draws(model, data, 50, **options)
    values = proteins.protein_values(model, data, proteins.Expression(), 50, **options)
    of_genes, of_proteins = made
    assert torch.equal(of_genes.z, of_proteins.z)
    assert torch.equal(of_genes.cells.batch, of_proteins.cells.batch)
    assert values.shape == (50, 3)
