"""Functions in float32 against SciPy's in double precision."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy import special

from scvitl.compiled import arithmetic

ULP = np.finfo(np.float32).eps
POSITIVE = np.concatenate([np.logspace(-30, 30, 20_001), 1 + np.linspace(-0.01, 0.01, 2001)]).astype(
    np.float32
)


def over(function):
    """A loop of the kind that the functions are made for."""

    @numba.njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def call(x):
        out = np.empty_like(x)
        loop(x, out)
        return out.astype(np.float64)

    return call


def test_exp():
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    assert np.abs(over(arithmetic.exp)(x) / np.exp(x.astype(np.float64)) - 1).max() < 2 * ULP
    beyond = over(arithmetic.exp)(np.array([-1e9, -88, 89, 1e9], np.float32))
    assert (beyond[:2] == over(arithmetic.exp)(np.array([-87], np.float32))).all()
    assert np.isfinite(beyond).all()


def test_log():
    expected = np.log(POSITIVE.astype(np.float64))
    assert (np.abs(over(arithmetic.log)(POSITIVE) - expected) <= 2 * ULP * np.abs(expected)).all()


def test_log1p():
    expected = np.log1p(POSITIVE.astype(np.float64))
    assert np.abs(over(arithmetic.log1p)(POSITIVE) / expected - 1).max() < 4 * ULP


@pytest.fixture(scope="module")
def pairs():
    """Counts from one to many, dispersions from tiny to large."""
    x, theta = np.meshgrid([1, 2, 3, 6, 7, 8, 9, 50, 3000, 100_000], np.logspace(-6, 4, 101))
    return x.ravel().astype(np.float32), theta.ravel().astype(np.float32)


def both(function, x, theta):
    @numba.njit
    def loop(x, theta, out):
        for i in range(x.size):
            out[i] = function(x[i], theta[i])

    out = np.empty_like(x)
    loop(x, theta, out)
    return out.astype(np.float64), x.astype(np.float64), theta.astype(np.float64)


def test_log_rising(pairs):
    found, x, theta = both(arithmetic.log_rising, *pairs)
    terms = special.gammaln(x + theta), special.gammaln(theta), special.gammaln(x + 1)
    # as exact as the largest term of Stirling's series
    size = (x + theta + 8) * np.log(x + theta + 8)
    assert (np.abs(found - (terms[0] - terms[1] - terms[2])) < 2 * ULP * size).all()


def test_harmonic(pairs):
    found, x, theta = both(arithmetic.harmonic, *pairs)
    expected = special.digamma(x + theta) - special.digamma(theta)
    # x + theta is rounded before anything else, which of x / theta is left where theta is far above x
    assert (np.abs(found - expected) < 8 * ULP * (1 + np.abs(expected))).all()
