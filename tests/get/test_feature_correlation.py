from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import scvitl
from scvitl import get, store
from scvitl.likelihoods import nb
from scvitl.posterior import correlation, draws, engine

SMALL = {"n_hidden": 16, "n_latent": 3, "max_epochs": 3, "progress": False}


@pytest.fixture
def drawn(monkeypatch):
    """Mean, dispersion and result of every call that draws rates, each (draws, genes)."""
    calls = []
    gamma = nb.gamma

    def recording(mu, theta, **options):
        rates = gamma(mu, theta, **options)
        calls.append([values.expand_as(mu).numpy().T.copy() for values in (mu, theta, rates)])
        return rates

    monkeypatch.setattr(nb, "gamma", recording)
    return calls


def together(calls, k):
    """One of the recorded arrays for all genes."""
    return np.concatenate([call[k] for call in calls], axis=1)


def by_scipy(rates, method):
    return stats.spearmanr(rates).statistic if method == "spearman" else np.corrcoef(rates.astype(float).T)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_is_the_correlation_of_the_draws(fitted, drawn, method):
    frame = get.feature_correlation(fitted, method=method, n_samples=3)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == list(frame.index) == list(fitted.var_names)
    rates = together(drawn, 2)
    assert rates.shape == (600, 40)
    np.testing.assert_allclose(frame, by_scipy(rates, method), atol=1e-5)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("genes_together", [1, 7, 16])
def test_blocks_of_genes_do_not_show(fitted, drawn, monkeypatch, method, genes_together):
    monkeypatch.setattr(correlation, "BLOCK_ENTRIES", genes_together * 600)
    monkeypatch.setattr(correlation, "DRAWN_TOGETHER", 5 * 600)
    frame = get.feature_correlation(fitted, method=method, n_samples=3)
    assert len(drawn) > 1
    np.testing.assert_allclose(frame, by_scipy(together(drawn, 2), method), atol=1e-5)


def test_rates_are_drawn_for_cells_of_one_size_with_the_dispersions_of_the_genes(fitted, drawn):
    get.feature_correlation(fitted, n_samples=2)
    mean, theta, rates = (together(drawn, k) for k in range(3))
    assert mean.sum(1) == pytest.approx(np.ones(400), rel=1e-4)
    np.testing.assert_allclose(theta[0], np.exp(fitted.uns["scvi"]["weights"]["px_r"]), rtol=1e-5)
    # 16,000 gamma draws of mean one and variance 1 / theta, which is up to ten
    assert (rates / mean).mean() == pytest.approx(1, abs=0.05)


def test_symmetric_with_ones_on_the_diagonal(fitted):
    for method in ("spearman", "pearson"):
        values = get.feature_correlation(fitted, method=method, n_samples=1).to_numpy()
        assert np.array_equal(values, values.T)
        assert (np.diag(values) == 1).all()
        assert (np.abs(values) <= 1).all()


def test_genes_that_share_a_factor_go_together():
    """And those that it drives apart go against each other."""
    adata = scvitl.datasets.toy(n_cells=400, n_genes=60, n_batches=1, random_state=0)
    scvitl.tl.scvi(adata, n_hidden=32, n_latent=5, max_epochs=60, gene_likelihood="nb", progress=False)
    values = get.feature_correlation(adata, n_samples=3).to_numpy()
    driven = adata.varm["loadings"][:, 0]
    up, down = np.flatnonzero(driven > 0), np.flatnonzero(driven < 0)
    assert values[np.ix_(up, up)].min() > 0.3
    assert values[np.ix_(up, down)].max() < -0.3


def test_several_batches_give_the_mean_of_their_correlations(fitted):
    options = {"n_samples": 20, "genes": list(fitted.var_names[:8])}
    first, second, both = (
        get.feature_correlation(fitted, transform_batch=batch, **options)
        for batch in ("batch_0", "batch_1", "all")
    )
    # correlations of 4,000 draws: a standard error of 0.016 each
    np.testing.assert_allclose(both, (first + second) / 2, atol=0.07)


def test_cells_keep_their_own_batch_unless_told_otherwise(fitted, said):
    get.feature_correlation(fitted, n_samples=1)
    assert said().count("the result is not batch-corrected") == 1


def test_genes_in_the_order_asked_for(fitted, drawn):
    genes = ["gene_012", "gene_000", "gene_033"]
    frame = get.feature_correlation(fitted, genes=genes, n_samples=2)
    assert list(frame) == list(frame.index) == genes
    assert together(drawn, 0).shape == (400, 3), "no other gene is drawn"
    with pytest.raises(KeyError, match="genes has 'gene_77'"):
        get.feature_correlation(fitted, genes=["gene_77"])


def shares(adata, key, n_samples):
    """What is decoded of ``n_samples`` draws of every cell, in the order of `feature_correlation`, (draws, genes)."""
    fitted, data = store.open_cells(adata, key=key)
    index = torch.arange(adata.n_obs).repeat_interleave(n_samples)
    drawn = draws.draw(fitted.module, data, index, engine.noise(data, 0))
    with torch.no_grad():
        return fitted.module.decoder.scale(fitted.module.decode(drawn.z, drawn.cells)).numpy()


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_without_dispersions_shares_are_correlated(toy, method):
    scvitl.tl.scvi(toy, gene_likelihood="poisson", **SMALL)
    frame = get.feature_correlation(toy, method=method, n_samples=3)
    # ranks of shares that differ in the last digit
    np.testing.assert_allclose(frame, by_scipy(shares(toy, "scvi", 3), method), atol=1e-3)


def test_the_limit_of_vanishing_dispersion(toy):
    """A negative binomial whose variance is next to its mean is a Poisson."""
    scvitl.tl.scvi(toy, gene_likelihood="nb", **SMALL)
    toy.uns["scvi"]["weights"]["px_r"][:] = 25
    frame = get.feature_correlation(toy, method="pearson", n_samples=3)
    model = get.model(toy)
    model.module.px_r, model.module.gene_likelihood = None, "poisson"
    np.testing.assert_allclose(
        frame, get.feature_correlation(toy, model=model, method="pearson", n_samples=3), atol=1e-3
    )


@pytest.mark.parametrize("likelihood", ["b", "poisson", "nb", "zinb"])
def test_of_native_expression_where_some_is_ambient(toy, drawn, likelihood):
    scvitl.tl.scar(toy, ambient=np.full(40, 1 / 40), gene_likelihood=likelihood, **SMALL)
    frame = get.feature_correlation(toy, key="scar", n_samples=2)
    native = shares(toy, "scar", 2)
    if likelihood in {"nb", "zinb"}:
        np.testing.assert_allclose(together(drawn, 0), native, rtol=1e-4, atol=1e-8)
        native = together(drawn, 2)
    else:
        assert not drawn
    np.testing.assert_allclose(frame, by_scipy(native, "spearman"), atol=1e-3)


def test_a_likelihood_without_rates_is_refused(toy):
    scvitl.tl.scvi(toy, gene_likelihood="normal", **SMALL)
    text = "draws the rates of counts, which gene_likelihood='normal' has not: fit with 'nb', 'zinb' or 'poisson'"
    with pytest.raises(ValueError, match=text):
        get.feature_correlation(toy)


def test_a_gene_that_never_varies_correlates_with_none(fitted, monkeypatch):
    gamma = nb.gamma

    def constant(mu, theta, **options):
        rates = gamma(mu, theta, **options)
        rates[0] = 2.5
        return rates

    monkeypatch.setattr(nb, "gamma", constant)
    values = get.feature_correlation(fitted, method="pearson", n_samples=1).to_numpy()
    assert np.isfinite(values).all()
    assert (values[0, 1:] == 0).all()


def test_equal_rates_share_a_rank(fitted, monkeypatch):
    """As Spearman's correlation has it: a gene whose rates underflow to zero must not rank cells by their order."""
    gamma = nb.gamma
    rates = []

    def rounded(mu, theta, **options):
        rates.append((100 * gamma(mu, theta, **options)).round_())
        return rates[-1].clone()

    monkeypatch.setattr(nb, "gamma", rounded)
    frame = get.feature_correlation(fitted, n_samples=1, genes=list(fitted.var_names[:6]))
    expected = stats.spearmanr(rates[0].numpy().T).statistic
    np.testing.assert_allclose(frame, expected, atol=1e-5)


def test_memory_goes_with_blocks_not_with_all_genes(monkeypatch):
    """Draws of all genes would take 16 MB in float32 and twice that while ranked."""
    import tracemalloc

    adata = scvitl.datasets.toy(n_cells=200, n_genes=1000, random_state=0)
    scvitl.tl.scvi(adata, batch_key="batch", **{**SMALL, "max_epochs": 1})
    monkeypatch.setattr(correlation, "BLOCK_ENTRIES", 100 * 4000)
    monkeypatch.setattr(correlation, "DRAWN_TOGETHER", 25 * 4000)
    tracemalloc.start()
    get.feature_correlation(adata, n_samples=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = 8 * 1000**2
    # NumPy alone is traced: the result four times over, two blocks, and the ranks of a few genes
    assert peak < 4.5 * result + 4 * 4 * 100 * 4000 + 6 * 8 * 25 * 4000


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"method": "kendall"},
            ValueError,
            "method='kendall' is not known. Use one of 'spearman', 'pearson'",
        ),
        ({"n_samples": 0}, ValueError, "n_samples=0 is too small"),
        ({"n_samples": 10**9}, MemoryError, "the computation needs .* GB .*: take fewer cells"),
    ],
    ids=str,
)
def test_bad_options(fitted, options, error, text):
    with pytest.raises(error, match=text):
        get.feature_correlation(fitted, **options)
