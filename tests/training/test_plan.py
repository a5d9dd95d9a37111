from __future__ import annotations

import numpy as np
import pytest
import torch

from scvitl.training.adam import Adam
from scvitl.training.plan import (
    fast_epochs,
    reference_epochs,
    resolve,
    split,
    split_by_label,
    supervised_epochs,
)


@pytest.mark.parametrize(
    ("n_cells", "epochs"),
    [
        (100, 400),
        (20_001, 400),
        (25_000, 320),
        (50_000, 160),
        (100_000, 80),
        (500_000, 16),
        (1_000_000, 8),
        (8_000_000, 1),
    ],
)
def test_epochs_of_the_reference(n_cells, epochs):
    assert reference_epochs(n_cells) == epochs


def test_reference_numbers():
    plan = resolve("reference", 5000)
    assert (plan.max_epochs, plan.batch_size, plan.learning_rate, plan.weight_decay) == (400, 128, 1e-3, 1e-6)
    assert (plan.eps, plan.n_epochs_kl_warmup, plan.one_cycle, plan.restore_best) == (1e-2, 400, False, False)


def test_kl_weight_of_the_reference():
    plan = resolve("reference", 5000)
    assert [plan.kl_weight(epoch, 0.5) for epoch in (0, 100, 399, 400)] == [0, 0.25, 0.9975, 1]
    assert resolve("reference", 5000, n_epochs_kl_warmup=0).kl_weight(0, 0) == 1


def test_fast_plan_by_size():
    numbers = {
        n: (resolve("fast", n).max_epochs, resolve("fast", n).batch_size)
        for n in (500, 3000, 9000, 40_000, 10**7)
    }
    assert numbers == {500: (60, 32), 3000: (60, 64), 9000: (100, 128), 40_000: (50, 128), 10**7: (8, 128)}


def test_fast_plan_without_labels():
    """Of enough cells, few epochs in large steps; else as with labels."""
    numbers = {n: resolve("fast", n, plain=True) for n in (4999, 5000, 50_000, 200_000, 10**7)}
    assert numbers[4999] == resolve("fast", 4999)
    assert [plan.starts_at_shares for plan in numbers.values()] == [False, True, True, True, True]
    assert [plan.max_epochs for plan in numbers.values()] == [60, 60, 16, 4, 3]
    assert {(plan.batch_size, plan.learning_rate) for plan in list(numbers.values())[1:]} == {(256, 2e-2)}
    assert [numbers[5000].kl_weight(epoch, 0) for epoch in (0, 6, 12, 59)] == pytest.approx(
        [0, 1.25, 2.5, 2.5]
    )
    # within a quarter of the epochs at most
    assert [numbers[200_000].kl_weight(epoch, 0) for epoch in (0, 1)] == [0, 1.5]
    assert resolve("fast", 5000, plain=True, max_epochs=20).n_epochs_kl_warmup == 5
    assert resolve("reference", 50_000, plain=True) == resolve("reference", 50_000)


def test_kl_weight_of_the_fast_plan():
    plan = resolve("fast", 9000)
    assert [plan.kl_weight(epoch, 0.5) for epoch in (0, 1, 2, 99)] == pytest.approx([0.375, 1.125, 1.5, 1.5])
    assert resolve("fast", 3000).kl_weight(50, 0) == 1.3


def test_what_the_user_gives_is_taken():
    given = {
        "max_epochs": 7,
        "batch_size": 64,
        "learning_rate": 0.5,
        "weight_decay": 0.0,
        "n_epochs_kl_warmup": 3,
    }
    for name in ("fast", "reference"):
        plan = resolve(name, 1000, **given)
        assert {key: getattr(plan, key) for key in given} == given


def test_early_stopping_keeps_the_best_weights():
    plan = resolve("reference", 1000, early_stopping=True, early_stopping_patience=9)
    assert plan.restore_best
    assert plan.early_stopping_patience == 9
    assert not resolve("reference", 1000).early_stopping


def test_split_of_the_reference():
    train, held_out = split(10, 128, None, 0)
    assert held_out.tolist() == [2]
    assert train.tolist() == [8, 4, 9, 1, 6, 7, 3, 0, 5]


@pytest.mark.parametrize(
    ("n", "sizes"), [(129, (117, 12)), (1423, (1280, 143)), (142, (128, 14)), (5, (5, 0))]
)
def test_leftover_cells_are_held_out(n, sizes):
    """Of 1423 cells, 1281 would be trained on, one more than ten minibatches."""
    train, held_out = split(n, 128, None, 0)
    assert (len(train), len(held_out)) == sizes
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(n))


def test_a_train_size_that_was_given_is_kept():
    assert [len(part) for part in split(1423, 128, 0.9, 0)] == [1281, 142]
    assert [len(part) for part in split(10, 4, 1.0, 0)] == [10, 0]


def test_split_follows_the_seed_and_leaves_numpy_alone():
    state = np.random.get_state()[1].copy()
    assert split(50, 8, None, 1)[0].tolist() == split(50, 8, None, 1)[0].tolist()
    assert split(50, 8, None, 1)[0].tolist() != split(50, 8, None, 2)[0].tolist()
    assert np.array_equal(np.random.get_state()[1], state)


def test_every_label_is_trained_on():
    labels = torch.tensor([3] * 100 + [0] * 40 + [1] * 2 + [2] * 11)
    train, held_out = split_by_label(labels, None, 0)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(len(labels)))
    assert torch.bincount(labels[train]).tolist() == [36, 2, 10, 90]
    assert torch.bincount(labels[held_out]).tolist() == [4, 0, 1, 10]


@pytest.mark.parametrize(
    ("train_size", "sizes"), [(0.5, [20, 1, 6]), (1.0, [40, 2, 11]), (0.01, [1, 1, 1]), (None, [36, 2, 10])]
)
def test_shares_of_every_label(train_size, sizes):
    labels = torch.tensor([0] * 40 + [1] * 2 + [2] * 11)
    assert torch.bincount(labels[split_by_label(labels, train_size, 0)[0]]).tolist() == sizes


def test_split_by_label_follows_the_seed_and_leaves_numpy_alone():
    labels, state = torch.arange(90) % 4, np.random.get_state()[1].copy()
    first, again, other = (split_by_label(labels, None, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert np.array_equal(np.random.get_state()[1], state)


def test_epochs_with_labels():
    """From a trained scVI, as in the reference; anew, the fast plan needs fewer than without labels."""
    for n_cells, epochs in {500: 10, 20_000: 10, 500_000: 5, 10**7: 2}.items():
        assert supervised_epochs("reference", n_cells, pretrained=True) == epochs
    assert supervised_epochs("reference", 500, pretrained=False) == 400
    for n_cells in (500, 9000, 100_000, 10**7):
        trained, anew = (supervised_epochs("fast", n_cells, pretrained=p) for p in (True, False))
        assert 2 <= trained <= anew <= fast_epochs(n_cells)


def test_reference_numbers_with_proteins():
    plan = resolve("reference", 1372, proteins=True, early_stopping=None)
    assert (plan.max_epochs, plan.batch_size, plan.learning_rate, plan.eps) == (400, 256, 4e-3, 1e-2)
    assert (plan.early_stopping, plan.early_stopping_patience, plan.plateau_patience) == (True, 45, 30)
    # The KL weight grows with every step, over three quarters as many as there are cells: five in an epoch here.
    assert plan.kl_weight(100, 0) == pytest.approx(500 / 1029)
    assert plan.kl_weight(100, 0.4) == pytest.approx(502 / 1029)
    assert plan.kl_weight(300, 0) == 1
    # Steps of the classifier count as well.
    against = resolve("reference", 1372, proteins=True, early_stopping=None, adversary=True)
    assert against.kl_weight(100, 0) == pytest.approx(1000 / 1029)


def test_epochs_given_for_the_warm_up_hold_the_weight_for_an_epoch():
    plan = resolve("reference", 1372, proteins=True, n_epochs_kl_warmup=10)
    assert plan.kl_weight(5, 0.8) == plan.kl_weight(5, 0) == 0.5


@pytest.mark.parametrize(
    ("n_cells", "epochs", "batch_size"),
    [(180, 80, 64), (400, 40, 64), (1372, 12, 64), (5000, 12, 128), (60_000, 12, 128), (1_000_000, 8, 128)],
)
def test_the_fast_plan_with_proteins(n_cells, epochs, batch_size):
    plan = resolve("fast", n_cells, proteins=True, early_stopping=None)
    assert (plan.max_epochs, plan.batch_size) == (epochs, batch_size)
    assert (plan.max_kl_weight, plan.early_stopping, plan.restore_best) == (1.0, False, True)


def test_several_batches_get_more_epochs_to_mix():
    sizes = 400, 3500, 20_000, 1_000_000
    epochs = [resolve("fast", n, proteins=True, several=True).max_epochs for n in sizes]
    assert epochs == [50, 30, 30, 8]


def test_steps_get_smaller_where_the_loss_stays():
    weight = torch.nn.Parameter(torch.zeros(1))
    plan = resolve("reference", 1000, proteins=True)
    optimizer = Adam([{"params": [weight]}], lr=plan.learning_rate)
    plateau = plan.plateau()
    for _ in range(32):
        plateau.step(5.0, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.6 * 4e-3)
    assert resolve("reference", 1000).plateau() is None


@pytest.mark.parametrize(
    ("n_cells", "epochs", "batch_size"), [(300, 40, 64), (1735, 8, 64), (20_000, 8, 128), (500_000, 8, 128)]
)
def test_the_fast_plan_that_tells_ambient_counts(n_cells, epochs, batch_size):
    plan = resolve("fast", n_cells, ambient=True)
    assert (plan.max_epochs, plan.batch_size) == (epochs, batch_size)
    assert plan.max_kl_weight == 1
    assert plan.n_epochs_kl_warmup == min(2, epochs / 4)


def test_larger_minibatches_take_more_epochs_to_tell_ambient_counts():
    for batch_size in (32, 64, 512, 4096):
        plan = resolve("fast", 3000, ambient=True, batch_size=batch_size)
        assert plan.max_epochs * plan.n_minibatches(2700) >= 200
        assert plan.max_epochs >= 8


def test_the_reference_plan_is_the_same_with_ambient_counts():
    assert resolve("reference", 1735, ambient=True) == resolve("reference", 1735)
