from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

from scvitl.likelihoods import nb, normal, poisson, zinb

# One cell per row, one gene, so that the sums over genes are single terms.
X = torch.tensor([[0.0], [1], [7]])
MU = torch.tensor([[0.5], [2], [3]])
THETA = torch.tensor([[1.0], [0.3], [10]])
PI = torch.tensor([[-1.0], [0], [2]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (nb.log_likelihood(X, MU, THETA), [-0.405465, -1.954799, -3.543130]),
        (zinb.log_likelihood(X, MU, THETA, PI), [-0.279299, -2.647946, -5.670057]),
        (poisson.log_likelihood(X, MU), [-0.5, -1.306853, -3.834876]),
    ],
    ids=["nb", "zinb", "poisson"],
)
def test_reference_values(values, expected):
    torch.testing.assert_close(values, torch.tensor(expected), atol=2e-6, rtol=0)


def counts_and_parameters(*, per_cell: bool):
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    mu = 0.1 + 3 * uniform(2, 4, 6)
    x = torch.poisson(mu[0], generator=generator)
    return x, mu, 0.2 + uniform(*((4, 6) if per_cell else (6,))), 4 * uniform(2, 4, 6) - 2


def plain_nb(x, mu, theta):
    log_total = torch.log(theta + mu + 1e-8)
    return (
        theta * (torch.log(theta + 1e-8) - log_total)
        + x * (torch.log(mu + 1e-8) - log_total)
        + torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
    )


def plain_zinb(x, mu, theta, pi):
    zero = softplus(plain_nb(torch.zeros_like(x), mu, theta) - pi) - softplus(-pi)
    return torch.where(x == 0, zero, -pi - softplus(-pi) + plain_nb(x, mu, theta))


@pytest.mark.parametrize("per_cell", [False, True])
def test_agrees_with_the_plain_formula(per_cell):
    x, mu, theta, pi = counts_and_parameters(per_cell=per_cell)
    assert (x == 0).any()
    assert (x > 1).any()
    torch.testing.assert_close(nb.log_likelihood(x, mu, theta), plain_nb(x, mu, theta).sum(-1))
    torch.testing.assert_close(zinb.log_likelihood(x, mu, theta, pi), plain_zinb(x, mu, theta, pi).sum(-1))


@pytest.mark.parametrize("per_cell", [False, True])
def test_gradients(per_cell):
    x, *parameters = counts_and_parameters(per_cell=per_cell)
    mu, theta, pi = (p.requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(lambda a, b: nb.log_likelihood(x, a, b), (mu, theta))
    assert torch.autograd.gradcheck(lambda a, b, c: zinb.log_likelihood(x, a, b, c), (mu, theta, pi))


@pytest.mark.parametrize("logit", [-200.0, -61, 61, 200])
def test_extreme_dropout_stays_finite(logit):
    pi = torch.full_like(MU, logit).requires_grad_()
    value = zinb.log_likelihood(X, MU, THETA, pi)
    value.sum().backward()
    assert value.isfinite().all()
    assert (value <= 1e-6).all(), "a probability above one"
    assert pi.grad.isfinite().all()


def test_without_dropout_zinb_is_nb():
    pi = torch.full_like(MU, -40)
    torch.testing.assert_close(zinb.log_likelihood(X, MU, THETA, pi), nb.log_likelihood(X, MU, THETA))


def test_a_mean_of_zero_stays_finite():
    mu = torch.zeros_like(MU)
    for value in (
        nb.log_likelihood(X, mu, THETA),
        zinb.log_likelihood(X, mu, THETA, PI),
        poisson.log_likelihood(X, mu),
    ):
        assert value.isfinite().all()


def test_nb_sums_to_one():
    x = torch.arange(400, dtype=torch.float64)[:, None]
    total = nb.log_likelihood(x, torch.full_like(x, 7), torch.full_like(x, 1.5)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-7)  # the guard of the logarithms is 1e-8


def test_normal_is_torchs():
    expected = torch.distributions.Normal(MU, THETA).log_prob(X).sum(-1)
    torch.testing.assert_close(normal.log_likelihood(X, MU, THETA), expected)
