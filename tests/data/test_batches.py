from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scvitl.data import learn
from scvitl.data.batches import CellData, WithLabelled, bounds, minibatches, singles


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


def test_what_is_stored_is_known(toy):
    """Also where genes come in another order, so that columns do."""
    for cells in (toy, toy[:, ::-1]):
        found = CellData(cells, learn(toy)).gather(torch.tensor([5, 0, 117, 5]))
        expected = found.x.flatten().nonzero().squeeze(-1)
        assert torch.equal(found.stored.at().sort().values, expected)
        assert torch.equal(found.stored.values, found.x.view(-1)[found.stored.at()])
    assert found.take(torch.tensor([1])).stored is None


def test_counts_are_gathered_alike_on_another_device(toy, monkeypatch):
    """By what a GPU does, done here."""
    data, index = CellData(toy, learn(toy)), torch.tensor([5, 0, 117, 5])
    here = data._stored(index)
    monkeypatch.setattr(data, "_pick", data._pick_there)
    there = data._stored(index)
    assert torch.equal(there.dense, here.dense)
    for name in ("start", "columns", "values"):
        assert torch.equal(getattr(there, name), getattr(here, name))
        assert getattr(there, name).dtype == getattr(here, name).dtype


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


def tuples(n_samples_per_label=None, n_cells=60, batch_size=16, labelled=None, epochs=1, labels=None):
    """Minibatches of several epochs over every second of the cells, most of which lack labels."""
    if labels is None:
        labels = torch.full((n_cells,), 3)
        labels[:24] = torch.arange(24) // 2 % 3
    make = WithLabelled(labels, 3, labelled or batch_size, n_samples_per_label)
    index, generator = torch.arange(0, n_cells, 2), torch.Generator().manual_seed(0)
    return labels, index, [make(index, batch_size, generator) for _ in range(epochs)]


def test_singles():
    index = torch.arange(5, 38)
    parts = singles(index, 8, torch.Generator().manual_seed(0))
    assert all(len(part) == 1 for part in parts)
    expected = minibatches(index, 8, torch.Generator().manual_seed(0))
    assert [part.tolist() for (part,) in parts] == [part.tolist() for part in expected]


def test_every_minibatch_comes_with_labelled_cells():
    """All cells once; the labelled ones of the same cells as often as needed."""
    labels, index, (epoch,) = tuples(batch_size=4)
    first, second = (torch.cat(parts) for parts in zip(*epoch, strict=True))
    assert sorted(first.tolist()) == index.tolist()
    known = {i for i in index.tolist() if labels[i] < 3}
    assert len(known) == 12
    assert set(second.tolist()) == known
    assert [len(part) for _, part in epoch] == [4] * 8
    # Twelve cells are three minibatches, which come again in the same order.
    assert torch.equal(second[:12], second[12:24])
    assert len(set(second[:12].tolist())) == 12


def test_labelled_cells_of_a_minibatch_may_be_fewer():
    labels, index, (epoch,) = tuples(batch_size=10, labelled=4)
    assert [(len(first), len(second)) for first, second in epoch] == [(10, 4)] * 3
    assert {i for _, part in epoch for i in part.tolist()} == {i for i in index.tolist() if labels[i] < 3}


def test_few_labelled_cells_come_in_every_minibatch():
    labels = torch.full((60,), 3)
    labels[[0, 2]], labels[[4, 6]] = 0, 1
    _, _, (epoch,) = tuples(labels=labels)
    assert [sorted(part.tolist()) for _, part in epoch] == [[0, 2, 4, 6]] * 2


def test_no_labelled_minibatch_of_one():
    """Batch norm has no variance of a single cell."""
    labels = torch.full((60,), 3)
    labels[[0, 2, 4, 6, 8]] = torch.tensor([0, 1, 2, 0, 1])
    _, _, (epoch,) = tuples(labels=labels, batch_size=4)
    assert {len(part) for _, part in epoch} == {5}


def test_as_many_cells_of_every_label():
    labels, _, epochs = tuples(n_samples_per_label=2, epochs=8)
    drawn = [torch.cat([part for _, part in epoch]) for epoch in epochs]
    for cells in drawn:
        assert torch.bincount(labels[cells.unique()], minlength=3).tolist() == [2, 2, 2]
    assert len({tuple(sorted(set(cells.tolist()))) for cells in drawn}) > 1, "drawn anew in every epoch"
    # 4 cells of each label, of which half are drawn: after 8 epochs, a cell was left out with a probability of 0.4 %.
    assert len(torch.cat(drawn).unique()) == 12


def test_labels_with_fewer_cells_than_asked_for():
    labels, _, (epoch,) = tuples(n_samples_per_label=100)
    assert torch.bincount(labels[torch.cat([part for _, part in epoch]).unique()]).tolist() == [4, 4, 4]


def test_minibatches_with_labels_follow_the_generator():
    first, again = (tuples(n_samples_per_label=3, epochs=2)[2] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        for a, b in zip(chain(*one), chain(*other), strict=True):
            assert torch.equal(a, b)
