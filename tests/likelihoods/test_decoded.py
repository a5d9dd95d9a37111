"""The compiled likelihood against the plain one in double precision, and the latter's gradients."""

from __future__ import annotations

import pytest
import scipy.sparse as sp
import torch

from scvitl.compiled import negative_binomial
from scvitl.compiled.stored import Stored
from scvitl.likelihoods import decoded

B, G = 9, 70


def stored(x):
    return Stored.of(sp.csr_matrix(x.numpy()))


def given(*, draws=(), theta=(), inflated=True, n_genes=G):
    """Counts, some of them large, of cells one of which has none; logits, library, theta and logits of dropout."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    shape = B, n_genes
    x = torch.poisson(torch.exp(normal(*shape)), generator=generator) * (normal(*shape) > 0.8)
    x[2] = 0
    x[4, 7], x[5, :] = 4000, 1
    dropout = 3 * normal(*draws, *shape) if inflated else None
    return x, 2 * normal(*draws, *shape), 4 + normal(B, 1), torch.exp(1.5 * normal(*theta, n_genes)), dropout


def value_and_gradients(counts, parts, dtype, weight, **options):
    parts = [None if part is None else part.detach().to(dtype).requires_grad_() for part in parts]
    value = decoded.log_likelihood(counts, *parts, **options)
    (value * weight.to(dtype)).sum().backward()
    return value, [part.grad for part in parts if part is not None]


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("inflated", [True, False])
@pytest.mark.parametrize("theta", [(), (B,)], ids=["by gene", "by cell"])
@pytest.mark.parametrize("draws", [(), (3,)], ids=["one", "draws"])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("n_genes", [G, negative_binomial.TILE + 1, 2 * negative_binomial.TILE + 6])
def test_compiled(softmax, inflated, theta, draws, even, n_genes):
    """Of single cells and of several draws of each, as a mean over cells and with weights of their own."""
    x, *parts = given(draws=draws, theta=theta, inflated=inflated, n_genes=n_genes)
    weight = (
        torch.full((*draws, B), -1 / B)
        if even
        else torch.linspace(-2, 1, 3 * B)[: 3 ** len(draws) * B].view(*draws, B)
    )
    value, gradients = value_and_gradients(stored(x), parts, torch.float32, weight, softmax=softmax)
    expected, exact = value_and_gradients(x.double(), parts, torch.float64, weight, softmax=softmax)
    # of a count of 4000, terms of 33,000 are subtracted from each other
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-2)
    for found, gradient in zip(gradients, exact, strict=True):
        # rounding errors are those of the largest terms of a sum
        atol = 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(found.double(), gradient, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_threads_share_the_cells(n_threads, threads):
    x, *parts = given()
    threads(n_threads)
    _, gradients = value_and_gradients(stored(x), parts, torch.float32, torch.ones(B))
    _, exact = value_and_gradients(x.double(), parts, torch.float64, torch.ones(B))
    for found, gradient in zip(gradients, exact, strict=True):
        torch.testing.assert_close(
            found.double(), gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item()
        )


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("inflated", [True, False])
def test_gradients_are_differences(softmax, inflated):
    x, *parts = given(inflated=inflated)
    parts = [part.double().requires_grad_() for part in parts if part is not None]
    assert torch.autograd.gradcheck(
        lambda *parts: decoded.log_likelihood(x.double(), *parts, softmax=softmax), parts
    )


@pytest.mark.parametrize("draws", [(), (3,)], ids=["one", "draws"])
def test_known_zeros_need_not_be_looked_for(draws, monkeypatch):
    """As on a GPU, which would be waited for."""
    x, *parts = given(draws=draws)
    expected = decoded.log_likelihood(x.double(), *(part.double() for part in parts))
    monkeypatch.setattr(torch.Tensor, "nonzero", None)
    found = decoded.log_likelihood(stored(x.double()), *(part.double() for part in parts))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("theta", [(), (B,)], ids=["by gene", "by cell"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_one_cell(theta, n_threads, threads):
    """With a theta of its own, which is not one for all cells, nor added up by thread."""
    x, *parts = given(theta=theta)
    x, parts = x[:1], [part[:1] if part.shape[0] == B else part for part in parts]
    threads(n_threads)
    _, gradients = value_and_gradients(stored(x), parts, torch.float32, torch.ones(1))
    _, exact = value_and_gradients(x.double(), parts, torch.float64, torch.ones(1))
    for found, gradient in zip(gradients, exact, strict=True):
        torch.testing.assert_close(
            found.double(), gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item()
        )


def test_a_second_backward_gives_the_same():
    x, *parts = given()
    logits = parts[0].requires_grad_()
    value = decoded.log_likelihood(stored(x), logits, *parts[1:]).mean()
    first, again = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("theta", [1e3, 1e5])
def test_nearly_poisson(theta):
    """Where theta is large, theta log(theta / (theta + mu)) is -mu, and not what is left of a rounded logarithm."""
    logits = torch.zeros(1, 1000)
    nothing = stored(torch.zeros(1, 1000))
    value = decoded.log_likelihood(nothing, logits, torch.tensor([[0.5]]).log(), torch.full((1000,), theta))
    torch.testing.assert_close(value, torch.tensor([-0.5]), rtol=1e-4, atol=0)


def test_only_values_where_no_gradient_is_wanted(monkeypatch):
    wanted = []
    run = decoded.run
    monkeypatch.setattr(decoded, "run", lambda *given: (wanted.append(given[7].numel()), run(*given)))
    x, *parts = given()
    with torch.no_grad():
        value = decoded.log_likelihood(stored(x), *parts)
    decoded.log_likelihood(stored(x), parts[0].requires_grad_(), *parts[1:])
    assert wanted == [0, B * G]
    torch.testing.assert_close(value, decoded.log_likelihood(x, *parts), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("part", [0, 3], ids=["share", "dropout"])
def test_extremes_stay_finite(logit, part):
    x, *parts = given()
    parts[part][:, 7] = logit
    value, gradients = value_and_gradients(stored(x), parts, torch.float32, torch.ones(B))
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", [0, 3], ids=["share", "dropout"])
def test_what_is_not_finite_shows(bad, part):
    """In the loss of the cell, by which training knows that it diverged."""
    x, *parts = given()
    parts[part][3, 5] = bad
    value = decoded.log_likelihood(stored(x), *parts)
    assert value.isfinite().tolist() == [cell != 3 for cell in range(B)]


@pytest.mark.parametrize("inflated", [True, False])
def test_a_dispersion_that_is_no_number_shows(inflated):
    x, *parts = given(inflated=inflated)
    parts[2][5] = float("nan")
    assert not decoded.log_likelihood(stored(x), *parts).isfinite().any()


def test_no_cells():
    x, *parts = given()
    logits = parts[0][:0].requires_grad_()
    value = decoded.log_likelihood(stored(x[:0]), logits, parts[1][:0], parts[2], parts[3][:0])
    value.sum().backward()
    assert len(value) == 0
    assert logits.grad.shape == (0, G)
