"""Bayes factors against SciPy's Poisson, and where its distribution function underflows against an exact sum."""

from __future__ import annotations

from fractions import Fraction
from math import log

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scvitl
from scvitl import get
from scvitl.posterior import assignment

LARGEST = np.exp(709.78)


def expected(adata, adjust, names=slice(None)):
    """The formula, cell by cell and feature by feature."""
    x = adata[:, names].X.toarray().astype(float)
    total, noise = x.sum(1), adata.obs["scar_noise"].to_numpy(float)
    profile = adata.uns["scar"]["weights"]["ambient"].astype(float)
    batch = adata.obs["batch"].cat.codes if len(profile) > 1 else np.zeros(len(x), int)
    mean = (total * noise)[:, None] * profile[batch]
    if adjust == "micro":
        mean += ((total - mean.sum(1)) / x.shape[1])[:, None]
    elif adjust == "global":
        mean += (total.sum() - mean.sum()) / x.size
    factor = stats.poisson.logcdf(x, mean) - stats.poisson.logpmf(x, mean)
    return np.exp(np.clip(factor, -709.78, 709.78))


@pytest.mark.parametrize("adjust", ["micro", "global", None, False])
def test_are_those_of_a_poisson(guided, adjust):
    found = get.bayes_factors(guided, adjust=adjust)
    assert isinstance(found, pd.DataFrame)
    assert found.index.equals(guided.obs_names)
    assert list(found) == list(guided.var_names)
    assert (found.dtypes == np.float64).all()
    np.testing.assert_allclose(np.log(found), np.log(expected(guided, adjust)), rtol=1e-4, atol=1e-6)
    assert (found >= 1).all(axis=None)
    assert (found.to_numpy()[guided.X.toarray() == 0] == 1).all()
    assert found.max(axis=None) > 1e20
    assert np.isfinite(found).all(axis=None)


def test_tell_what_cells_have_from_what_is_ambient(guided):
    factors, there = get.bayes_factors(guided).to_numpy(), guided.obsm["guides"]
    assert np.median(factors[there]) > 1e6
    assert np.median(factors[~there]) < 3


def test_every_batch_has_a_profile_of_its_own(screen):
    adata, _ = screen()
    adata.obs["batch"] = pd.Categorical(np.arange(300) % 2)
    shares = np.random.default_rng(0).dirichlet(np.full(12, 3), size=2)
    ambient = pd.DataFrame(shares.T, adata.var_names, ["0", "1"])
    options = {"feature_type": "sgRNA", "batch_key": "batch", "max_epochs": 2, "progress": False}
    scvitl.tl.scar(adata, ambient=ambient, **options)
    np.testing.assert_allclose(
        np.log(get.bayes_factors(adata)), np.log(expected(adata, "micro")), rtol=1e-4, atol=1e-6
    )


def test_genes_beside_the_guides_do_not_count(screen):
    adata, raw = screen()
    both = scvitl.datasets.toy(n_cells=300, n_genes=20, random_state=0)
    import anndata as ad

    both.obs_names = adata.obs_names
    both.var["feature_types"], adata.var["feature_types"] = "Gene Expression", "CRISPR Guide Capture"
    both = ad.concat([both, adata], axis="var", merge="first")
    scvitl.tl.scar(both, raw, feature_type="sgRNA", max_epochs=2, progress=False)
    found = get.bayes_factors(both)
    assert list(found) == list(adata.var_names)
    np.testing.assert_allclose(
        np.log(found), np.log(expected(both, "micro", found.columns)), rtol=1e-4, atol=1e-6
    )


def test_other_cells_by_a_model_given(guided, screen):
    model = get.model(guided, key="scar")
    other, _ = screen(60, random_state=3)
    found = get.bayes_factors(other, model=model)
    turned = get.bayes_factors(other[:, ::-1].copy(), model=model)
    pd.testing.assert_frame_equal(found, turned)
    some = get.bayes_factors(other, model=model, indices=[5, 3], adjust="global")
    pd.testing.assert_frame_equal(some, get.bayes_factors(other[[5, 3]].copy(), model=model, adjust="global"))
    pd.testing.assert_frame_equal(get.bayes_factors(other, model=model, batch_size=7), found, rtol=1e-3)


def test_so_many_counts_that_no_number_is_large_enough(guided):
    guided.X = guided.X.toarray()
    guided.X[0, 3] = 100_000
    found = get.bayes_factors(guided)
    assert found["guide_03"].iloc[0] == pytest.approx(LARGEST)
    assert np.isfinite(found).all(axis=None)


def exact(x, rate):
    """The logarithm of the sum of P(X = k) / P(X = x) for k from 0 to x, in whole numbers."""
    term = total = Fraction(1)
    for k in range(x, 0, -1):
        term *= Fraction(k) / Fraction(rate)
        total += term
    return log(total.numerator) - log(total.denominator)


@pytest.mark.parametrize(
    ("x", "rate"),
    [
        (0, 0.5),
        (1, 10),
        (3, 0.01),
        (10, 10),
        (200, 30),
        (0, 5000),
        (1, 2000),
        (40, 3000),
        (700, 3000),
    ],
)
def test_far_below_and_above_what_is_expected(x, rate):
    """SciPy's logarithm of P(X <= x) is minus infinity for 40 counts where 3,000 are expected."""
    found = assignment.log_tail_ratio(np.array([float(x)]), np.array([float(rate)]))
    assert found[0] == pytest.approx(exact(x, rate), rel=1e-9, abs=1e-9)


def test_nothing_expected():
    found = assignment.log_tail_ratio(np.array([0.0, 1.0, 50.0]), np.zeros(3))
    assert found[0] < 1e-15
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"adjust": "cell"}, ValueError, "adjust='cell' is not known. Use one of 'micro', 'global'"),
        ({"adjust": True}, ValueError, "adjust=True is not known"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small"),
        ({"indices": []}, ValueError, "indices selects no cells"),
        ({"key": "guides"}, KeyError, r"no fitted model in adata\.uns\['guides'\]. Models here: 'scar'"),
    ],
    ids=str,
)
def test_bad_options(guided, options, error, text):
    with pytest.raises(error, match=text):
        get.bayes_factors(guided, **options)


def test_other_models_and_counts_that_are_gone(fitted, guided):
    with pytest.raises(
        ValueError, match=r"the model in uns\['scvi'\] is scVI, which does not tell ambient counts"
    ):
        get.bayes_factors(fitted, key="scvi")
    scvitl.tl.minify(guided, key="scar")
    with pytest.raises(
        ValueError, match=r"get\.bayes_factors looks at counts, which scvitl\.tl\.minify replaced"
    ):
        get.bayes_factors(guided)
