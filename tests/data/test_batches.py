from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scvitl.data import learn
from scvitl.data.batches import CellData, bounds, minibatches


def test_gather(toy):
    store = CellData(toy, learn(toy, batch_key="batch"))
    index = torch.tensor([5, 0, 117, 5])
    cells = store.gather(index)
    dense = toy.X[index.numpy()].toarray()
    assert np.array_equal(cells.x, dense)
    assert np.allclose(cells.library[:, 0].exp(), dense.sum(1))
    assert np.array_equal(cells.batch, toy.obs["batch"].cat.codes.to_numpy()[index])


def test_gather_rows_of_one_stored_value(toy):
    toy.X = sp.csr_matrix((np.arange(1.0, 121), (np.arange(120), np.arange(120) % 40)))
    cells = CellData(toy, learn(toy)).gather(torch.tensor([47, 3]))
    assert cells.x.nonzero().tolist() == [[0, 7], [1, 3]]
    assert cells.x.sum(1).tolist() == [48, 4]


def test_genes_are_reordered(toy):
    schema = learn(toy)
    expected = CellData(toy, schema).gather(torch.arange(4)).x
    assert torch.equal(CellData(toy[:, ::-1], schema).gather(torch.arange(4)).x, expected)


def test_genes_that_the_model_does_not_know_do_not_count(toy):
    """A cell is empty, and its counts are counts, by the genes of the model."""
    schema = learn(toy[:, :20].copy())
    toy.X = toy.X.toarray()
    toy.X[5, :20] = 0
    with pytest.raises(ValueError, match=r"1 cell has no counts in the 20 genes given \('cell_"):
        CellData(toy, schema)
    toy.X[5, :20] = 1
    toy.X[:, 20:] = 0.5
    assert CellData(toy, schema).n_genes == 20


def test_read_only_counts(toy):
    toy.X.data.flags.writeable = False
    assert CellData(toy, learn(toy)).n_cells == 120


def test_size_factors_take_the_place_of_totals(toy):
    toy.obs["factor"] = np.linspace(0.5, 2, toy.n_obs)
    store = CellData(toy, learn(toy, size_factor_key="factor"))
    assert np.allclose(store.library[:, 0], np.log(toy.obs["factor"]))


@pytest.mark.parametrize(
    ("n", "sizes"), [(10, [4, 4, 2]), (9, [4, 5]), (8, [4, 4]), (3, [3]), (1, [1]), (0, [])]
)
def test_no_trailing_minibatch_of_one(n, sizes):
    assert [stop - start for start, stop in bounds(n, 4)] == sizes


def test_minibatches_cover_every_cell_once():
    index = torch.arange(100, 133)
    parts = list(minibatches(index, 8, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(parts).tolist()) == index.tolist()
    assert torch.cat(parts).tolist() != index.tolist()
    assert torch.cat(list(minibatches(index, 8))).tolist() == index.tolist()
