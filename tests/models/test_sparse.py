"""A linear layer on counts of which most are zero does what a dense one does."""

from __future__ import annotations

import dataclasses

import pytest
import scipy.sparse as sp
import torch

from scvitl.compiled.stored import Stored
from scvitl.models import Cells, sparse

B, G, H = 5, 40, 6


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((B, G), 0.1), generator=generator)
    x[2] = 0
    none = torch.zeros(B, 0)
    return Cells(Stored.of(sp.csr_matrix(x.numpy())), none, none, none, none, none)


def layer(n_in, *, bias=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = torch.nn.Linear(n_in, H, bias=bias)
    sparse.by_row(linear)
    return linear


@pytest.mark.parametrize("n_columns", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("laid_out", [True, False], ids=["by row", "by unit"])
def test_value_and_gradient(cells, n_columns, bias, laid_out):
    columns = torch.linspace(-1, 1, B * n_columns).view(B, n_columns)
    linear = layer(G + n_columns, bias=bias)
    if not laid_out:
        linear.weight.data = linear.weight.data.contiguous()
    found = sparse.counts(cells).log1p()
    if n_columns:
        found = found.append(columns)
    weight = torch.linspace(-1, 2, B * H).view(B, H)
    results = []
    for h in (found.through(linear), linear(torch.cat([cells.x.log1p(), columns], 1))):
        linear.zero_grad()
        (h * weight).sum().backward()
        results.append([h, *(p.grad.clone() for p in linear.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_counts_divided_by_cell(cells):
    sizes, linear = torch.arange(1.0, B + 1)[:, None], layer(G)
    torch.testing.assert_close((sparse.counts(cells) / sizes).through(linear), linear(cells.x / sizes))


def test_gradients_take_the_place_that_weights_have(cells):
    """Else every step would make a copy, and the optimiser work on two orders."""
    linear = layer(G)
    sparse.counts(cells).through(linear).sum().backward()
    assert linear.weight.stride() == linear.weight.grad.stride() == (1, H)


def test_dense_counts_are_taken_as_they_are(cells, monkeypatch):
    assert isinstance(sparse.counts(cells), sparse.Counts)
    monkeypatch.setattr(sparse, "MAX_DENSITY", 0.01)
    assert sparse.counts(cells) is cells.x
    alone = dataclasses.replace(cells, counts=cells.x)
    monkeypatch.setattr(sparse, "MAX_DENSITY", 1)
    assert sparse.counts(alone) is cells.x


def test_other_counts_take_the_place_of_those_that_are_stored(cells):
    """As of cells imagined in another batch."""
    other = dataclasses.replace(cells, counts=cells.x + 1)
    assert other.stored is None
    assert torch.equal(sparse.counts(other), cells.x + 1)


def test_counts_are_laid_out_once_and_only_if_read(cells):
    sparse.counts(cells).through(layer(G))
    assert "dense" not in vars(cells.stored)
    assert cells.x is cells.x
