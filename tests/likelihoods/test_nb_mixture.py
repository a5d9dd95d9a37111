"""The mixture of two negative binomials, against SciPy and against its own draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import nbinom

from scvitl.likelihoods import nb, nb_mixture


def parameters(*shape, seed=0):
    rng = np.random.default_rng(seed)
    background, times = rng.uniform(0.5, 20, shape), rng.uniform(1, 30, shape)
    return background, background * times, rng.uniform(0.3, 8, shape[-1]), rng.normal(0, 3, shape)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def scipy(y, background, foreground, theta, pi):
    parts = [nbinom.pmf(y, theta, theta / (theta + mean)) for mean in (background, foreground)]
    return np.log(expit(pi) * parts[0] + expit(-pi) * parts[1])


def test_it_is_the_log_of_the_mixture():
    background, foreground, theta, pi = parameters(6, 4)
    y = np.random.default_rng(1).poisson(15, (6, 4)).astype(float)
    y[0] = 0
    expected = scipy(y, background, foreground, theta, pi)
    found = nb_mixture.log_likelihood(*tensors(y, background, foreground, theta, pi))
    np.testing.assert_allclose(found.numpy(), expected.sum(-1), rtol=1e-6)


def test_proteins_that_were_not_measured_have_no_part():
    background, foreground, theta, pi = parameters(5, 3)
    y = np.random.default_rng(2).poisson(5, (5, 3)).astype(float)
    measured = np.array([[True, False, True]] * 3 + [[False, False, False], [True, True, True]])
    expected = (scipy(y, background, foreground, theta, pi) * measured).sum(-1)
    arguments = tensors(y, background, foreground, theta, pi, measured)
    np.testing.assert_allclose(nb_mixture.log_likelihood(*arguments).numpy(), expected, rtol=1e-6)
    assert nb_mixture.log_likelihood(*arguments)[3] == 0


def test_samples_come_first_in_the_shape():
    background, foreground, theta, pi = parameters(7, 5, 3)
    y = np.random.default_rng(3).poisson(5, (5, 3)).astype(float)
    found = nb_mixture.log_likelihood(*tensors(y, background, foreground, theta, pi))
    assert found.shape == (7, 5)
    one = nb_mixture.log_likelihood(*tensors(y, background[2], foreground[2], theta, pi[2]))
    np.testing.assert_allclose(found[2].numpy(), one.numpy())


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_a_certain_mixture_is_one_negative_binomial(logit):
    background, foreground, theta, _ = tensors(*parameters(6, 4))
    y = torch.arange(24.0, dtype=torch.float64).view(6, 4)
    found = nb_mixture.log_likelihood(y, background, foreground, theta, torch.full((6, 4), logit))
    expected = nb.log_likelihood(y, background if logit > 0 else foreground, theta)
    torch.testing.assert_close(found, expected)


def test_gradients():
    values = tensors(*parameters(3, 2))
    for value in values:
        value.requires_grad_()
    y = torch.tensor([[0.0, 3.0], [12.0, 1.0], [40.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *p: nb_mixture.log_likelihood(y, *p), values)


def test_extreme_values_stay_finite_in_float32():
    background = torch.tensor([[1e-8, 1e-3, 1e5]], requires_grad=True)
    foreground = torch.tensor([[1e-8, 1e6, 1e7]], requires_grad=True)
    pi = torch.tensor([[-50.0, 50.0, 0.0]], requires_grad=True)
    theta = torch.tensor([1e-4, 1.0, 1e4], requires_grad=True)
    y = torch.tensor([[0.0, 5e5, 3.0]])
    total = nb_mixture.log_likelihood(y, background, foreground, theta, pi).sum()
    total.backward()
    assert total.isfinite()
    assert all(value.grad.isfinite().all() for value in (background, foreground, pi, theta))


def test_draws_have_the_distribution_that_they_are_drawn_from():
    background, foreground, theta, pi = 4.0, 60.0, 2.0, -0.5
    shape = (200_000, 1)
    arguments = [torch.full(shape, value) for value in (background, foreground)]
    generator = torch.Generator().manual_seed(0)
    y = nb_mixture.sample(
        *arguments, torch.tensor([theta]), torch.full(shape, pi), generator=generator
    ).numpy()
    counts = np.arange(8)
    expected = np.exp(scipy(counts, background, foreground, theta, pi))
    # Five standard errors of a share.
    np.testing.assert_allclose(
        [(y == count).mean() for count in counts], expected, atol=5 * 0.5 / 200_000**0.5
    )
    share = expit(pi)
    np.testing.assert_allclose(y.mean(), share * background + (1 - share) * foreground, rtol=0.01)
