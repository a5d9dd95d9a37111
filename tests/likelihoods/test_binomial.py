"""The binomial, against torch, SciPy and its own draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scvitl.likelihoods import binomial

EPS = torch.finfo(torch.float32).eps


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def counts_and_shares(*samples, n_cells=5, n_genes=7, dtype=torch.float64):
    """Sparse counts, and shares that sum to one, with dimensions of samples first."""
    generator = noise()
    p = torch.rand(*samples, n_cells, n_genes, generator=generator, dtype=dtype) ** 2
    p = p / p.sum(-1, keepdim=True)
    rates = 20 * torch.rand(n_cells, n_genes, generator=generator, dtype=dtype) ** 4
    x = torch.poisson(rates, generator=generator)
    x[:, 1] += 1
    return x, p


def torchs(x, p):
    total = x.sum(-1, keepdim=True)
    return torch.distributions.Binomial(total, p, validate_args=False).log_prob(x).sum(-1)


@pytest.mark.parametrize("samples", [(), (3,), (2, 3)], ids=str)
def test_agrees_with_torch(samples):
    x, p = counts_and_shares(*samples)
    assert (x == 0).any()
    assert (x > 1).any()
    found = binomial.log_likelihood(x, p)
    assert found.shape == (*samples, 5)
    torch.testing.assert_close(found, torchs(x, p))


def test_samples_are_like_single_ones():
    x, p = counts_and_shares(3)
    found = binomial.log_likelihood(x, p)
    for i in range(3):
        torch.testing.assert_close(found[i], binomial.log_likelihood(x, p[i]))


@pytest.mark.parametrize("samples", [(), (2,)], ids=str)
def test_gradients(samples):
    x, p = counts_and_shares(*samples, n_cells=3, n_genes=4)
    assert torch.autograd.gradcheck(lambda p: binomial.log_likelihood(x, p), (p.requires_grad_(),))
    binomial.log_likelihood(x, p).square().sum().backward()
    again = p.detach().clone().requires_grad_()
    torchs(x, again).square().sum().backward()
    torch.testing.assert_close(p.grad, again.grad)


@pytest.mark.parametrize("n_cells", [4, 400], ids=["few counts", "many counts"])
def test_single_precision_is_enough_for_large_counts(n_cells):
    """Of 200 000 counts, logarithms of factorials are millions, and their differences some."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(30, 0.3), n_cells) * 0.999 + 0.001 / 30
    x = np.stack([rng.multinomial(int(10 ** rng.uniform(3, 5.3)), row) for row in p])
    expected = stats.binom.logpmf(x, x.sum(1, keepdims=True), np.float32(p).astype(np.float64)).sum(1)
    x, p = torch.tensor(x, dtype=torch.float32), torch.tensor(p, dtype=torch.float32)
    errors = [np.abs(f(x, p).numpy() - expected).max() for f in (binomial.log_likelihood, torchs)]
    assert errors[0] < 0.1
    assert errors[0] < errors[1] / 5


def test_one_gene_may_hold_all_counts():
    x = torch.tensor([[9.0, 0, 0], [0, 4, 0]])
    p = torch.tensor([[1.0, 0, 0], [0.2, 0.5, 0.3]], requires_grad=True)
    found = binomial.log_likelihood(x, p)
    expected = [0.0, 4 * np.log(0.5) + 4 * np.log(0.8) + 4 * np.log(0.7)]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert p.grad.isfinite().all()


def test_impossible_counts_are_rare_rather_than_impossible():
    """A share of zero counts as the smallest that is not; so does what is left beside a share of one."""
    x, p = torch.tensor([[2.0, 3.0]]), torch.tensor([[0.0, 1.0]], requires_grad=True)
    found = binomial.log_likelihood(x, p)
    expected = 2 * (np.log(10) + 2 * np.log(EPS))
    assert found.item() == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert p.grad.isfinite().all()


def test_cells_without_counts():
    x, p = torch.zeros(2, 3), torch.full((2, 3), 1 / 3, requires_grad=True)
    found = binomial.log_likelihood(x, p)
    found.sum().backward()
    assert (found == 0).all()
    assert (p.grad == 0).all()


def test_pairs_of_counts_and_shares():
    x, p = counts_and_shares(dtype=torch.float32)
    p = torch.cat([p, p.flip(0)[:2]])
    found = binomial.log_likelihood_of_pairs(x, p)
    expected = torch.stack([binomial.log_likelihood(x.double(), row.double().expand(5, 7)) for row in p])
    assert found.shape == (7, 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(found[:5].diagonal(), binomial.log_likelihood(x, p[:5]))


def test_it_sums_to_one():
    n, p = 60, 0.13
    x = torch.arange(n + 1, dtype=torch.float64)
    # A second gene takes the other counts; its own probability is taken off again.
    both = torch.stack([x, n - x], 1)
    logs = binomial.log_likelihood(both, torch.tensor([[p, 0.5]], dtype=torch.float64).expand(n + 1, 2))
    other = stats.binom.logpmf(n - x.numpy(), n, 0.5)
    assert np.exp(logs.numpy() - other).sum() == pytest.approx(1, abs=1e-9)


def test_draws_have_the_mean_and_the_variance_of_their_distribution():
    n, shares = 100_000, torch.tensor([0.0, 1e-4, 0.03, 0.5, 0.97, 1.0])
    total = 200.0
    x = binomial.sample(shares.expand(n, 6), torch.full((n, 1), total), generator=noise()).double()
    assert torch.equal(x, x.round())
    assert ((x >= 0) & (x <= total)).all()
    mean, variance = total * shares.double(), total * (shares * (1 - shares)).double()
    # Five standard errors, of a variance by the fourth moment of the draws.
    assert ((x.mean(0) - mean).abs() <= 5 * (variance / n).sqrt()).all()
    fourth = ((x - x.mean(0)) ** 4).mean(0)
    assert ((x.var(0) - variance).abs() <= 5 * ((fourth - x.var(0) ** 2).clamp(min=0) / n).sqrt()).all()


def test_draws_agree_with_the_log_likelihood():
    n, total, p = 200_000, 9, 0.2
    x = binomial.sample(torch.full((n, 1), p), torch.full((n, 1), float(total)), generator=noise())
    expected = stats.binom.pmf(np.arange(total + 1), total, p)
    found = np.bincount(x.long().ravel().numpy(), minlength=total + 1) / n
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-4).all()


@pytest.mark.parametrize("samples", [(), (3,), (2, 3)], ids=str)
def test_draws_have_the_shape_of_the_shares(samples):
    x, p = counts_and_shares(*samples, dtype=torch.float32)
    drawn = binomial.sample(p, x.sum(-1, keepdim=True), generator=noise())
    assert drawn.shape == p.shape
    assert drawn.dtype == torch.float32
    assert (drawn <= x.sum(-1, keepdim=True)).all()


def test_draws_follow_the_generator_and_leave_the_global_one_alone():
    x, p = counts_and_shares(n_cells=50, dtype=torch.float32)
    total, before = x.sum(-1, keepdim=True), torch.get_rng_state()
    first, again, other = (binomial.sample(p, total, generator=noise(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
