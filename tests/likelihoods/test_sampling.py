from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scvitl.likelihoods import nb, normal, poisson, zinb

N = 200_000
MU = torch.tensor([0.05, 0.5, 2, 30, 400])
THETA = torch.tensor([0.3, 5, 1, 0.8, 20])
PI = torch.tensor([-3.0, 0, 1, 2, -1])
ROWS = MU.expand(N, 5)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(name):
    """N draws of five genes, with their mean and variance by formula."""
    lost = torch.sigmoid(PI)
    variance = MU + MU**2 / THETA
    if name == "nb":
        return nb.sample(ROWS, THETA, generator=noise()), MU, variance
    if name == "zinb":
        x = zinb.sample(ROWS, THETA, PI.expand(N, 5), generator=noise())
        return x, (1 - lost) * MU, (1 - lost) * (variance + lost * MU**2)
    if name == "poisson":
        return poisson.sample(ROWS, generator=noise()), MU, MU
    return normal.sample(ROWS, THETA, generator=noise()), MU, THETA**2


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "normal"])
def test_draws_have_the_mean_and_the_variance_of_their_distribution(name):
    x, mean, variance = draws(name)
    x = x.double()
    # five standard errors of a mean; those of a variance by the fourth moment of the draws
    assert ((x.mean(0) - mean).abs() < 5 * (variance / N).sqrt()).all()
    fourth = ((x - x.mean(0)) ** 4).mean(0)
    assert ((x.var(0) - variance).abs() < 5 * ((fourth - x.var(0) ** 2) / N).sqrt()).all()


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_draws_are_counts(name):
    x, *_ = draws(name)
    assert x.dtype == torch.float32
    assert torch.equal(x, x.round())
    assert (x >= 0).all()


def test_the_share_of_zeros_follows_the_formula():
    zeros = (THETA / (THETA + MU)) ** THETA
    lost = torch.sigmoid(PI)
    for name, expected in (
        ("nb", zeros),
        ("zinb", lost + (1 - lost) * zeros),
        ("poisson", torch.exp(-MU)),
    ):
        share = (draws(name)[0] == 0).double().mean(0)
        # five standard errors of a share, and 1e-4 for events too rare to be seen
        assert ((share - expected).abs() < 5 * (expected * (1 - expected) / N).sqrt() + 1e-4).all()


def test_draws_agree_with_the_log_likelihood():
    """Frequencies of the counts 0, 1, 2, ... against exp(log_likelihood)."""
    mu, theta, pi = torch.tensor([2.0]), torch.tensor([0.7]), torch.tensor([-0.5])
    counts = torch.arange(12.0)[:, None]
    column = mu.expand(N, 1)
    for x, logs in (
        (nb.sample(column, theta, generator=noise()), nb.log_likelihood(counts, mu.expand(12, 1), theta)),
        (
            zinb.sample(column, theta, pi.expand(N, 1), generator=noise()),
            zinb.log_likelihood(counts, mu.expand(12, 1), theta, pi.expand(12, 1)),
        ),
        (poisson.sample(column, generator=noise()), poisson.log_likelihood(counts, mu.expand(12, 1))),
    ):
        frequency = (x == counts[:, 0]).double().mean(0)
        expected = logs.double().exp()
        assert ((frequency - expected).abs() < 5 * (expected * (1 - expected) / N).sqrt() + 1e-4).all()


def test_normal_draws_are_normal():
    x, *_ = draws("normal")
    assert stats.kstest(((x[:, 3] - MU[3]) / THETA[3]).numpy(), "norm").pvalue > 0.01


def test_gamma_rates_have_the_mean_and_the_variance_of_a_gamma():
    rates = nb.gamma(ROWS, THETA, generator=noise()).double()
    # the same margins as for counts; the variance is without the Poisson part
    assert ((rates.mean(0) - MU).abs() < 5 * (MU**2 / THETA / N).sqrt()).all()
    assert stats.kstest(rates[:, 2].numpy(), stats.gamma(a=1, scale=2).cdf).pvalue > 0.01


def test_rates_stop_where_a_float_loses_whole_numbers():
    huge = torch.full((100, 1), 1e12)
    theta = torch.tensor([2.0])
    assert nb.MAX_RATE == 1e8
    assert (nb.gamma(huge, theta, generator=noise()) == 1e8).all()
    for x in (
        nb.sample(huge, theta, generator=noise()),
        poisson.sample(huge, generator=noise()),
        zinb.sample(huge, theta, torch.full_like(huge, -50), generator=noise()),
    ):
        # a Poisson of rate 1e8 has a standard deviation of 1e4
        assert ((x - 1e8).abs() < 1e5).all()
    assert huge[0] == 1e12, "the argument stays as it was"


def test_dropout_without_doubt_keeps_or_loses_everything():
    mu, theta = torch.full((1000, 1), 100.0), torch.tensor([50.0])
    assert (zinb.sample(mu, theta, torch.full_like(mu, 60), generator=noise()) == 0).all()
    assert (zinb.sample(mu, theta, torch.full_like(mu, -60), generator=noise()) > 0).all()


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)], ids=["cells", "samples of cells"])
def test_parameters_per_gene_and_per_cell_give_draws_of_the_shape_of_the_mean(shape):
    mu = MU.expand(shape)
    for theta in (THETA, THETA.expand(4, 5), THETA.expand(shape)):
        assert nb.sample(mu, theta, generator=noise()).shape == shape
        assert zinb.sample(mu, theta, PI.expand(shape), generator=noise()).shape == shape
        assert normal.sample(mu, theta, generator=noise()).shape == shape
    assert poisson.sample(mu, generator=noise()).shape == shape


def test_dispersions_per_cell_are_those_of_the_cell():
    theta = torch.tensor([[0.1], [100.0]])
    x = nb.sample(torch.full((N // 4, 2, 1), 10.0), theta, generator=noise()).double()
    expected = 10 + 100 / theta[:, 0]
    # a variance of 1010 from so heavy a tail: its standard error is 2 %
    assert x.var(0)[:, 0].numpy() == pytest.approx(expected.numpy(), rel=0.1)


def test_draws_follow_the_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    functions = [
        lambda g: nb.sample(ROWS[:50], THETA, generator=g),
        lambda g: zinb.sample(ROWS[:50], THETA, PI.expand(50, 5), generator=g),
        lambda g: poisson.sample(ROWS[:50], generator=g),
        lambda g: normal.sample(ROWS[:50], THETA, generator=g),
        lambda g: nb.gamma(ROWS[:50], THETA, generator=g),
    ]
    for sample in functions:
        assert torch.equal(sample(noise(1)), sample(noise(1)))
        assert not torch.equal(sample(noise(1)), sample(noise(2)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
