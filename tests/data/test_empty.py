from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from scvitl.data import empty
from scvitl.data.droplets import Droplets

N_GENES = 40
OPTIONS = {"prob": None, "iterations": 3, "sample": None, "cells_may_be_empty": False}


def simulated(totals, *, n_cells=60, n_uncalled=0, rng=None):
    """Droplets of the ambient profile with these totals, after cells of two types; and the profile."""
    rng = rng or np.random.default_rng(0)
    native = rng.dirichlet(np.full(N_GENES, 0.3), 2)
    profile = rng.dirichlet(np.full(N_GENES, 2))
    n = n_cells + n_uncalled
    cells = rng.multinomial(rng.integers(700, 1500, n), native[np.arange(n) % 2])
    counts = np.vstack([cells + rng.multinomial(50, profile, n), rng.multinomial(totals, profile)])
    return of(counts, np.arange(len(counts)) < n_cells), profile


def of(counts, is_cell, lost=()):
    counts = sp.csr_matrix(counts, dtype=np.float32)
    return Droplets(counts, np.asarray(is_cell), counts.shape[1], pd.Index(lost, dtype=object))


def profile_of(found, **options):
    part = empty.ambient(found, rng=np.random.default_rng(0), **{**OPTIONS, **options})
    return part, part.counts / part.counts.sum()


def off(shares, profile):
    """Total variation."""
    return abs(shares - profile).sum() / 2


def reference(counts, maybe, prob, iterations):
    """The procedure, plainly: dense, by scipy's multinomial."""
    counts = counts[maybe]
    chosen = np.ones(len(counts), bool)
    for _ in range(iterations):
        shares = counts[chosen].sum(0) / counts[chosen].sum()
        likely = stats.multinomial.logpmf(counts, counts.sum(1), shares)
        chosen = likely >= np.log(prob) * counts.shape[1]
    return counts[chosen].sum(0), chosen


def test_log_likelihoods():
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.lognormal(0, 1, (30, 1)) * rng.lognormal(0, 1.5, (30, N_GENES)))
    counts = counts[counts.sum(1) > 0]
    summed = counts.sum(0) + 1
    ours = empty._Multinomial(sp.csr_matrix(counts, dtype=np.float64), counts.sum(1)).log_likelihoods(summed)
    assert np.allclose(
        ours, stats.multinomial.logpmf(counts, counts.sum(1), summed / summed.sum()), rtol=1e-10
    )


def test_log_coefficients_in_parts(monkeypatch):
    monkeypatch.setattr(empty, "BLOCK", 7)
    test_log_likelihoods()


def test_genes_that_empty_droplets_lack():
    counts = sp.csr_matrix([[1.0, 0], [0, 2.0]])
    likely = empty._Multinomial(counts, np.array([1, 2])).log_likelihoods(np.array([3.0, 0]))
    assert np.allclose(likely, [0, 2 * np.log(np.finfo(np.float32).eps)], atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("cells_may_be_empty", [False, True])
def test_by_the_plain_procedure(iterations, cells_may_be_empty):
    totals = np.random.default_rng(2).integers(5, 60, 300)
    found, _ = simulated(totals, n_uncalled=20)
    counts = found.counts.toarray().astype(np.int64)
    maybe = np.full(len(counts), True) if cells_may_be_empty else ~found.is_cell
    part, _ = profile_of(found, prob=0.3, iterations=iterations, cells_may_be_empty=cells_may_be_empty)
    summed, chosen = reference(counts, maybe, 0.3, iterations)
    assert 50 < chosen.sum() < maybe.sum()
    assert np.array_equal(part.counts, summed)
    assert np.array_equal(part.classes == 1, np.isin(np.arange(len(counts)), np.flatnonzero(maybe)[chosen]))
    assert np.array_equal(part.classes[part.classes != 1] == 0, found.is_cell[part.classes != 1])
    assert np.array_equal(part.totals, counts.sum(1))
    assert part.prob == 0.3


def test_cells_can_be_empty_on_request():
    found, _ = simulated(np.full(300, 30))
    found = of(found.counts, np.arange(found.counts.shape[0]) >= 260)
    part, _ = profile_of(found, prob=0.2, cells_may_be_empty=True)
    assert (part.classes[260:] == 1).all()
    part, _ = profile_of(found, prob=0.2)
    assert (part.classes[260:] == 0).all()


def test_default_takes_nearly_all_that_are_smaller_than_cells():
    totals = np.random.default_rng(3).integers(5, 60, 400)
    found, profile = simulated(totals)
    part, shares = profile_of(found)
    assert (part.classes[:60] == 0).all()
    assert (part.classes == 1).sum() == 380
    assert off(shares, profile) < 0.03
    # The threshold is told, and taking it as prob finds the same.
    again, _ = profile_of(found, prob=part.prob * (1 - 1e-9), iterations=1)
    assert abs((again.classes == 1).sum() - 380) <= 5


def test_cells_that_were_not_called_do_no_harm():
    totals = np.random.default_rng(3).integers(5, 60, 400)
    found, profile = simulated(totals, n_uncalled=100)
    part, shares = profile_of(found)
    assert (part.classes[60:160] != 1).all()
    assert off(shares, profile) < 0.03
    # They hold ten times as many counts as all empty droplets.
    everything = np.ravel(found.counts[60:].sum(0))
    assert off(everything / everything.sum(), profile) > 0.2


@pytest.mark.parametrize("lost", [30, 60])
def test_cells_under_other_names(lost):
    totals = np.random.default_rng(3).integers(5, 60, 400)
    found, profile = simulated(totals)
    unnamed = of(found.counts, found.is_cell & (np.arange(460) >= lost), [f"c{i}" for i in range(lost)])
    part, shares = profile_of(unnamed)
    assert (part.classes[:lost] == 2).all()
    assert (part.classes[lost:60] == 0).all()
    assert off(shares, profile) < 0.03


def test_small_droplets_do_not_dominate():
    rng = np.random.default_rng(4)
    found, profile = simulated(rng.integers(40, 80, 1500))
    foreign = rng.dirichlet(np.full(N_GENES, 0.5))
    tiny = rng.multinomial(rng.integers(2, 4, 8000), foreign)
    found = of(np.vstack([found.counts.toarray(), tiny]), np.arange(9560) < 60)
    part, shares = profile_of(found)
    totals = part.totals[part.classes == 1]
    assert totals[totals < 4].sum() < 0.3 * totals.sum()
    assert off(shares, profile) < 0.4 * off(shares, foreign)


def test_few_genes_do_not_mean_few_droplets():
    rng = np.random.default_rng(5)
    counts = rng.multinomial(rng.integers(400, 700, 2000), rng.dirichlet(np.full(N_GENES, 2)))
    part, _ = profile_of(of(counts, np.zeros(2000, bool), range(500)))
    assert (part.classes == 1).sum() >= 0.7 * 2000


def test_cells_as_small_as_droplets():
    # Half of the droplets are in any case not too large.
    rng = np.random.default_rng(6)
    counts = rng.multinomial(np.repeat([3, 6], [100, 400]), np.full(N_GENES, 1 / N_GENES))
    part, _ = profile_of(of(counts, np.arange(500) < 100))
    assert (part.classes == 1).sum() == 380


def test_sample():
    totals = np.random.default_rng(3).integers(5, 60, 400)
    found, profile = simulated(totals)
    part, shares = profile_of(found, sample=200)
    assert (part.classes == 1).sum() == 190
    assert off(shares, profile) < 0.05
    assert np.array_equal(profile_of(found, sample=200)[1], shares)
    other = empty.ambient(found, rng=np.random.default_rng(1), **{**OPTIONS, "sample": 200})
    assert not np.array_equal(other.classes, part.classes)
    assert np.array_equal(profile_of(found, sample=400)[1], profile_of(found)[1])


@pytest.mark.parametrize("iterations", [1, 3])
def test_too_few_are_empty(iterations):
    totals = np.random.default_rng(3).integers(5, 60, 400)
    found, _ = simulated(totals)
    with pytest.raises(
        ValueError, match=r"empty droplets are found in raw with prob=0\.999, fewer than 50"
    ) as error:
        profile_of(found, prob=0.999, iterations=iterations)
    most = float(re.search(r"largest prob that works is (0\.\d+)\.", str(error.value))[1])
    part, _ = profile_of(found, prob=most, iterations=iterations)
    assert (part.classes == 1).sum() >= 50
    with pytest.raises(ValueError, match=re.escape(f"largest prob that works is {most:g}.")):
        profile_of(found, prob=most + 1e-6, iterations=iterations)


def test_no_prob_that_works():
    # Of a single feature; two shares of it are far from the others.
    counts = np.zeros((100, 2), int)
    counts[:, 0] = np.arange(1, 101) * 10
    counts[np.arange(100), 1] = np.arange(100, 0, -1) * 10
    found = Droplets(sp.csr_matrix(counts, dtype=np.float32), np.zeros(100, bool), 2, pd.Index([]))
    with pytest.raises(ValueError, match=r"too few for a profile: leave prob out\."):
        profile_of(found, prob=0.9)
    profile_of(found)


def test_too_few_droplets():
    found, _ = simulated(np.full(49, 30))
    with pytest.raises(
        ValueError, match="raw has only 49 droplets that are not cells of adata, too few for a profile"
    ):
        profile_of(found)
    with pytest.raises(ValueError, match="raw\\['b'\\] has only 49 droplets"):
        profile_of(found, title="raw['b']")
    found, _ = simulated(np.full(50, 30))
    assert (profile_of(found)[0].classes == 1).sum() == 50
