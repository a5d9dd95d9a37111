"""Empty droplets as scvi-tools tells them, where it does so rightly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import scvitl

AS_THEIRS = {"cells_may_be_empty": True, "sample": None}


@pytest.fixture(scope="module")
def _raw():
    return scvitl.datasets.toy(n_cells=150, n_genes=60, n_empty_droplets=1200, random_state=3)


@pytest.fixture
def raw(_raw):
    return _raw.copy()


@pytest.fixture
def adata(raw):
    return raw[raw.obs["is_cell"]].copy()


@pytest.fixture
def theirs(scvi):
    def profile(adata, raw, **options):
        adata = adata.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scvi.external.SCAR.get_ambient_profile(adata, raw.copy(), **options)
        return adata.varm["ambient_profile"][:, 0]

    return profile


def ours(adata, raw, **options):
    scvitl.tl.ambient_profile(adata, raw, **AS_THEIRS, **options)
    return adata.varm["scar_ambient"]["ambient"].to_numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"prob": 0.5},
        {"prob": 0.3, "iterations": 1},
        {"prob": 0.3, "iterations": 6},
        {"prob": 0.4, "min_raw_counts": 40},
    ],
)
def test_the_same_profile(raw, adata, theirs, options):
    assert np.allclose(ours(adata, raw, **options), theirs(adata, raw, **options), rtol=1e-5)
    empty = adata.uns["scar_ambient"]["droplets"]["class"] == "empty"
    assert 50 < empty.sum() < raw.n_obs


def test_cells_that_look_empty(raw, adata, theirs):
    # Droplets that were called cells, and are none.
    some = raw[-200:].copy()
    profile = ours(some, raw, prob=0.5)
    assert np.allclose(profile, theirs(some, raw, prob=0.5), rtol=1e-5)
    assert (some.uns["scar_ambient"]["droplets"]["class"][-200:] == "empty").sum() > 20
    assert not np.allclose(profile, ours(adata, raw, prob=0.5, iterations=1))


def test_genes_of_the_cells_only(raw, adata, theirs):
    some = adata[:, 5:35].copy()
    options = {"prob": 0.5}
    assert np.allclose(ours(some, raw, **options), theirs(some, raw, **options), rtol=1e-5)


def test_genes_in_another_order(raw, adata, theirs):
    expected = ours(adata, raw, prob=0.5)
    shuffled = raw[:, np.random.default_rng(0).permutation(raw.n_vars)].copy()
    assert np.allclose(ours(adata, shuffled, prob=0.5), expected, rtol=1e-12)
    # Theirs comes in the order of raw.
    wrong = theirs(adata, shuffled, prob=0.5)
    assert not np.allclose(wrong, expected, rtol=0.1)
    assert np.allclose(wrong[shuffled.var_names.get_indexer(adata.var_names)], expected, rtol=1e-5)


def test_too_few_in_both(raw, adata, theirs):
    with pytest.raises(Exception, match="Too few emptydroplets"):
        theirs(adata, raw, prob=0.995)
    with pytest.raises(ValueError, match="the largest prob that works is 0"):
        ours(adata, raw, prob=0.995)
