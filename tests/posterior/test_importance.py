"""Importance weights against the formula with every integral taken on a grid, and against true posteriors."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp, softmax

import scvitl
from scvitl import posterior, store
from scvitl.posterior import importance

LINE = np.linspace(-8, 8, 801)
STEP = LINE[1] - LINE[0]


@cache
def fit(likelihood="nb", shift=-0.5):
    """Twenty cells, one latent dimension, and approximate posteriors that are off by ``shift``."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(np.exp(0.5 + rng.normal(size=(20, 1)) * np.linspace(-0.7, 0.7, 6)))
    counts[:, 0] += 1
    adata = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=[f"g{i}" for i in range(6)]))
    scvitl.tl.scvi(
        adata, n_hidden=8, n_latent=1, max_epochs=60, gene_likelihood=likelihood, train_size=1, progress=False
    )
    model = scvitl.get.model(adata)
    with torch.no_grad():
        model.module.decoder.heads["scale"].weight.mul_(5)
        model.module.z_encoder.mean.bias.add_(shift)
    return model, adata, store.load(adata, model)


def log_likelihood(model, data, z):
    """Log p(x_a | z_i) with the library size of the cell a, by SciPy, (i, a)."""
    cells = data.gather(torch.arange(data.n_cells))
    states = torch.from_numpy(np.float32(z)).reshape(-1, 1, 1).expand(-1, data.n_cells, 1)
    with torch.no_grad():
        p = model.module.generative(states, cells.library, cells)
    mean, theta = p.rate.double().numpy(), p.theta.detach().double().numpy()
    return stats.nbinom.logpmf(cells.x.numpy(), theta, theta / (theta + mean)).sum(-1)


def evidence(model, data):
    logs = log_likelihood(model, data, LINE) + stats.norm.logpdf(LINE)[:, None]
    return logsumexp(logs, axis=0) + np.log(STEP)


def expected_weights(model, data, z):
    mean, variance = posterior.latent_distribution(model.module, data)
    log_q = stats.norm.logpdf(z[:, None], mean[:, 0], np.sqrt(variance[:, 0]))
    ratio = log_likelihood(model, data, z) - evidence(model, data)
    return softmax(stats.norm.logpdf(z) + logsumexp(ratio, axis=1) - logsumexp(log_q, axis=1))


def test_weights_follow_the_formula():
    model, adata, data = fit()
    weights, z = scvitl.get.importance_weights(adata, model=model, n_samples=30, n_mc_samples=5000)
    assert weights.shape == (30, 20)
    assert z.shape == (30, 20, 1)
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    expected = expected_weights(model, data, z.ravel()).reshape(30, 20)
    # marginal likelihoods by 5,000 draws: the weights are off by 1 %
    np.testing.assert_allclose(weights, expected, rtol=0.03)
    assert expected.max() > 3 / 600, "weights that are all alike would test nothing"


def test_weighted_draws_stand_for_the_true_posteriors():
    """Their mean and variance are those of the mixture of the true posteriors, which those of raw draws are not."""
    model, adata, data = fit()
    weights, z = scvitl.get.importance_weights(adata, model=model, n_samples=400, n_mc_samples=2000)
    truth = softmax(log_likelihood(model, data, LINE) + stats.norm.logpdf(LINE)[:, None], axis=0).mean(1)
    mean = (truth * LINE).sum()
    variance = (truth * (LINE - mean) ** 2).sum()
    weights, z = weights.ravel(), z.ravel()
    ours = (weights * z).sum()
    # 8,000 draws, worth 2,400 after weighting: a standard error of 0.014, and of 4 % of the variance
    assert ours == pytest.approx(mean, abs=0.06)
    assert (weights * (z - ours) ** 2).sum() == pytest.approx(variance, rel=0.15)
    assert abs(z.mean() - mean) > 0.4


def test_the_size_of_blocks_does_not_show(monkeypatch):
    model, adata, _ = fit()
    options = {"model": model, "n_samples": 2, "n_mc_samples": 20}
    whole, z = scvitl.get.importance_weights(adata, **options)
    for entries in (1, 20 * 6 * 3):
        monkeypatch.setattr(importance, "ENTRIES", entries)
        parts, states = scvitl.get.importance_weights(adata, **options)
        assert np.array_equal(z, states)
        # float32 sums in another order
        np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_truncation_caps_the_largest_weights():
    """At the root of the number of draws times the mean weight, from above (Ionides 2008)."""
    model, adata, _ = fit(shift=-3.0)
    options = {"model": model, "n_samples": 20, "n_mc_samples": 500}
    plain, _ = scvitl.get.importance_weights(adata, **options)
    capped, _ = scvitl.get.importance_weights(adata, truncation=True, **options)
    n = plain.size
    assert plain.max() > 1 / np.sqrt(n), "nothing to cap would test nothing"
    expected = np.minimum(plain, 1 / np.sqrt(n))
    np.testing.assert_allclose(capped, expected / expected.sum(), rtol=1e-4)


def test_truncation_leaves_even_weights_alone():
    model, adata, _ = fit(shift=0.5)
    options = {"model": model, "n_mc_samples": 500}
    plain, _ = scvitl.get.importance_weights(adata, **options)
    assert plain.max() < 1 / np.sqrt(plain.size)
    np.testing.assert_allclose(scvitl.get.importance_weights(adata, truncation=True, **options)[0], plain)


def test_fewer_anchors_are_cells_of_the_set_taken_at_random(monkeypatch):
    model, _, data = fit()
    seen = []
    stream = importance.stream

    def watching(*args, index, **options):
        seen.append(index.tolist())
        return stream(*args, index=index, **options)

    monkeypatch.setattr(importance, "stream", watching)
    draws = posterior.draws.draw(model.module, data, torch.arange(20), posterior.engine.noise(data, 0))
    cells = np.array([3, 5, 8, 13, 17])
    for seed in range(3):
        log_weights = importance.weigh(
            model.module, data, draws, cells, max_cells=3, n_mc_samples=10, random_state=seed
        )
        assert np.isfinite(log_weights).all()
    importance.weigh(model.module, data, draws, cells, max_cells=100, n_mc_samples=10)
    # Of the anchors, then of all cells that draws were made from.
    anchors, proposals = seen[::2], seen[1::2]
    assert all(len(set(some)) == 3 and set(some) <= set(cells) for some in anchors[:3])
    assert len({tuple(some) for some in anchors[:3]}) > 1
    assert sorted(anchors[3]) == cells.tolist()
    assert all(every == cells.tolist() for every in proposals)


@pytest.mark.parametrize("likelihood", ["poisson", "normal", "zinb"])
def test_every_likelihood_can_be_weighed(likelihood):
    model, adata, _ = fit(likelihood)
    weights, _ = scvitl.get.importance_weights(adata, model=model, n_mc_samples=50)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()
