"""The decoder of a short training begins at what the genes are in all cells and in every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scvitl
from scvitl.data import learn
from scvitl.data.batches import CellData
from scvitl.models import VAE
from scvitl.tl import _start


@pytest.fixture
def many():
    """Two batches of unlike sizes, in which genes differ a lot."""
    adata = scvitl.datasets.toy(n_cells=400, n_batches=2, n_genes=60, random_state=1)
    adata = adata[
        np.r_[
            np.flatnonzero(adata.obs["batch"] == "batch_0")[:120],
            np.flatnonzero(adata.obs["batch"] == "batch_1"),
        ]
    ]
    return adata.copy()


def start(adata, **options):
    """A module without hidden noise: latent states play no part in it yet."""
    data = CellData(adata, learn(adata, batch_key="batch"))
    module = VAE(adata.n_vars, n_batch=2, **options)
    with torch.no_grad():
        module.decoder.heads["scale"].weight.zero_()
    _start._start_genes(module, data, torch.arange(data.n_cells))
    return module, data


@pytest.mark.parametrize("norm", ["both", "none"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_shares_are_those_of_the_batch(many, norm, n_layers):
    module, data = start(many, use_batch_norm=norm, n_layers=n_layers)
    for layer in module.decoder.hidden.layers:
        if layer.batch_norm is not None:
            layer.batch_norm.momentum = None  # the mean over minibatches
    cells = data.gather(torch.arange(many.n_obs))
    z = torch.randn(many.n_obs, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(2):  # so that batch norm knows the cells
            module.decode(z, cells)
        shares = module.eval().decoder.scale(module.decode(z, cells)).double().numpy()
    for batch in range(2):
        of = many[(data.batch == batch).numpy()].X.sum(0).A1
        expected = (of + 1000 * np.asarray(many.X.sum(0)).ravel() / many.X.sum()) / (of.sum() + 1000)
        found = shares[(data.batch == batch).numpy()]
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=0.02)


def test_nothing_but_shares_without_batches(many):
    data = CellData(many, learn(many))
    module = VAE(many.n_vars)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _start._start_genes(module, data, torch.arange(data.n_cells))
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["decoder.heads.scale.bias"]
    total = many.X.sum(0).A1
    np.testing.assert_allclose(
        module.decoder.heads["scale"].bias.detach().exp(), total / total.sum(), rtol=1e-3
    )


def test_cells_that_are_held_out_do_not_count(many):
    data, train = CellData(many, learn(many, batch_key="batch")), torch.arange(0, many.n_obs, 3)
    starts = []
    for cells, index in (
        (data, train),
        (CellData(many[train.numpy()].copy(), learn(many, batch_key="batch")), torch.arange(len(train))),
    ):
        module = VAE(many.n_vars, n_batch=2)
        _start._start_genes(module, cells, index)
        starts.append(module.decoder.heads["scale"].bias)
    torch.testing.assert_close(*starts)


def test_batches_without_columns_of_their_own(many):
    """Donors come first among the one-hot columns where batches are embedded; they are not taken for batches."""
    many.obs["donor"] = np.where(np.arange(many.n_obs) % 3, "x", "y")
    options = {"batch_key": "batch", "categorical_covariate_keys": ["donor"]}
    data = CellData(many, learn(many, **options))
    module = VAE(many.n_vars, n_batch=2, n_categories=[2], batch_representation="embedding")
    before = module.decoder.hidden.layers[0].linear.weight.clone()
    _start._start_genes(module, data, torch.arange(many.n_obs))
    assert torch.equal(module.decoder.hidden.layers[0].linear.weight, before)


def test_a_batch_without_cells_and_more_batches_than_units():
    module = VAE(30, n_batch=6, n_hidden=4)
    before = module.decoder.hidden.layers[0].linear.weight.clone()
    frequencies = torch.tensor([0.1, 0, 0.5, 0.2, 0.15, 0.05])
    module.decoder.start_at(torch.full((30,), 1 / 30), torch.zeros(6, 30), frequencies)
    weight = module.decoder.hidden.layers[0].linear.weight
    # half of the units, for the largest batches
    assert weight[:2, 10:].argmax(1).tolist() == [2, 3]
    assert weight[:2].count_nonzero() == 2
    assert torch.equal(weight[2:], before[2:])
