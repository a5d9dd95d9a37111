"""Which cells the draws of either side come from, seen through what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scvitl
from scvitl import posterior, store
from scvitl.posterior import differential, pools
from scvitl.posterior.draws import spread

SETS = [np.arange(0, 10), np.arange(10, 40), np.arange(40, 45), np.arange(45, 100)]
N_CELLS = 100
ONE_VS_REST = [(i, tuple(j for j in range(4) if j != i)) for i in range(4)]
OWN = ((None,), (None,))


class Marked:
    """In place of decoded draws: a gene per cell, which only its draws express, and one that tells the batch."""

    def __init__(self, index, batch):
        level = [1.0 if code is None else 2.0**code for code in batch]
        self.values = torch.tensor(np.vstack([np.eye(N_CELLS)[:, index], level]), dtype=torch.float32)
        self.hidden = torch.zeros(len(index), 1)
        self.n_genes = len(self.values)

    def scale(self, genes=None):
        return self.values if genes is None else self.values[genes]


def look(pairs, *, sets=SETS, n_draws=1000, batches=OWN, seed=0):
    """Share of the draws of either side that come from each cell, and the table, for every pair."""
    rng = np.random.default_rng(seed)
    plan = pools.plan(sets, pairs, n_draws=n_draws, batches=batches)
    drawn = [pools.cells_and_batches(pool, rng) for pool in plan.pools]
    marked = Marked(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    counts = [(np.ones(N_CELLS + 1),) * 2] * len(pairs)
    tables = differential.change(pools.Sides(plan, marked), mean_counts=counts, pseudocounts=1e-20)
    return [(table["scale1"][:N_CELLS], table["scale2"][:N_CELLS], table) for table in tables]


def test_draws_come_from_the_cells_of_their_side_alone():
    for (group, reference), (first, second, _) in zip(ONE_VS_REST, look(ONE_VS_REST), strict=True):
        assert first[SETS[group]].sum() == pytest.approx(1, abs=1e-5)
        assert second[SETS[group]].sum() == 0
        rest = np.concatenate([SETS[i] for i in reference])
        assert second[rest].sum() == pytest.approx(1, abs=1e-5)


def test_every_set_has_its_proportion_of_the_rest():
    for (_, reference), (_, second, _) in zip(ONE_VS_REST, look(ONE_VS_REST, n_draws=900), strict=True):
        total = sum(len(SETS[i]) for i in reference)
        for i in reference:
            # to the nearest whole draw
            assert second[SETS[i]].sum() == pytest.approx(len(SETS[i]) / total, abs=1 / 900 + 1e-6)


def test_cells_of_a_set_are_drawn_as_evenly_as_can_be():
    for n_draws in (1000, 37):
        for (group, reference), (first, second, _) in zip(
            ONE_VS_REST, look(ONE_VS_REST, n_draws=n_draws), strict=True
        ):
            # draws of a group are taken twice
            for side, names, uses in ((first, (group,), pools.PARTNERS), (second, reference, 1)):
                for i in names:
                    times = np.rint(side[SETS[i]] * n_draws)
                    assert np.ptp(times) <= uses


def test_one_set_against_another():
    ((first, second, _),) = look([(2, (0,))])
    assert first[SETS[2]].sum() == pytest.approx(1, abs=1e-5)
    assert second[SETS[0]].sum() == pytest.approx(1, abs=1e-5)


def test_the_seed_decides_which_cells_are_drawn():
    one, again, other = (look([(1, (3,))], n_draws=7, seed=seed)[0][0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("n_draws", [1000, 1001, 3 * 7])
def test_both_sides_are_decoded_from_the_same_batches_draw_by_draw(n_draws):
    batches = ((0, 1, 2), (0, 1, 2))
    for first, second, table in look(ONE_VS_REST, n_draws=n_draws, batches=batches):
        assert table["lfc_min"][-1] == table["lfc_max"][-1] == 0
        # levels 1, 2 and 4, as many draws of each
        for side, cells in (("scale1", first), ("scale2", second)):
            assert table[side][-1] == pytest.approx(7 / 3, abs=1e-5)
            assert cells.sum() == pytest.approx(1, abs=1e-5)


def test_sides_decoded_from_other_batches():
    for _, _, table in look(ONE_VS_REST, batches=((0, 3), (1,))):
        assert table["scale1"][-1] == pytest.approx((1 + 8) / 2, abs=1e-5)
        assert table["scale2"][-1] == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(("n_first", "n_second"), [(3, 1), (1, 3), (2, 7), (7, 4)])
def test_every_batch_has_its_share_where_sides_have_different_numbers_of_them(n_first, n_second):
    first, second = range(n_first), range(n_first, n_first + n_second)
    for *_, table in look(ONE_VS_REST, n_draws=5000, batches=(tuple(first), tuple(second))):
        # all but a few of 5,000 draws, which do not divide evenly
        assert table["scale1"][-1] == pytest.approx(np.mean(2.0 ** np.array(first)), rel=0.005)
        assert table["scale2"][-1] == pytest.approx(np.mean(2.0 ** np.array(second)), rel=0.005)


def test_no_more_pools_than_sets():
    """What makes all groups against the rest cost as much as the groups, not their square."""
    plan = pools.plan(SETS, ONE_VS_REST, n_draws=1000)
    assert len(plan.pools) == 4
    # half of the draws for the group itself, or what the largest rest takes
    sizes = {len(pool.cells): pool.size for pool in plan.pools}
    assert sizes == {10: 500, 30: round(1000 * 30 / 45), 5: 500, 55: round(1000 * 55 / 70)}
    both = ((0, 1), (0, 1))
    assert all(pool.size <= 500 for pool in pools.plan(SETS, ONE_VS_REST, n_draws=1000, batches=both).pools)


@pytest.mark.parametrize("batches", [OWN, ((0, 1, 2), (0, 1, 2)), ((0, 1), (2,))])
@pytest.mark.parametrize("pairs", [ONE_VS_REST, [(0, (1,)), (1, (0,))]])
def test_a_draw_that_comes_again_meets_another(pairs, batches):
    plan = pools.plan(SETS, pairs, n_draws=1001, batches=batches)
    n = sum(pool.size * len(pool.batches) for pool in plan.pools)
    for stretches in pools.Sides(plan, Marked(np.zeros(n, int), [None] * n)).stretches:
        met = [(a + i, b + i) for a, b, size in stretches for i in range(size)]
        assert len(met) == len(set(met)) >= 999
        assert max(np.unique([a for a, _ in met], return_counts=True)[1]) <= pools.PARTNERS
        assert max(np.unique([b for _, b in met], return_counts=True)[1]) == 1


def test_a_group_of_many_cells_is_drawn_once_per_cell():
    large = [np.arange(0, 700), np.arange(700, 2000)]
    plan = pools.plan([*large, np.arange(2000, 3000)], [(0, (1, 2)), (1, (0, 2))], n_draws=1000)
    assert [pool.size for pool in plan.pools[:2]] == [700, 1000]


def test_apportion_splits_in_proportion():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.integers(1, 50, rng.integers(1, 12))
        total = int(rng.integers(2, 100))
        parts = pools.apportion(total, weights)
        assert parts.sum() == total
        assert (parts >= 0).all()
        assert (np.abs(parts - total * weights / weights.sum()) < 1).all()
    assert pools.apportion(10, np.array([1, 1, 2])).sum() == 10
    assert pools.apportion(4, np.array([1, 1, 2])).tolist() == [1, 1, 2]


def test_spread_takes_every_cell_once_before_any_twice():
    rng = np.random.default_rng(0)
    for n_cells, n_draws in ((5, 3), (5, 5), (5, 17), (1, 4)):
        drawn = spread(n_cells, n_draws, rng)
        assert len(drawn) == n_draws
        for start in range(0, n_draws, n_cells):
            part = drawn[start : start + n_cells]
            assert len(set(part)) == len(part)
    firsts = [spread(50, 1, rng)[0] for _ in range(30)]
    assert len(set(firsts)) > 10, "at random"


@pytest.fixture
def groups(fitted):
    model = scvitl.get.model(fitted)
    sets = [np.flatnonzero(fitted.obs["cell_type"] == f"type_{i}") for i in range(4)]
    return model.module, store.load(fitted, model), sets


def compare(groups, sets, pairs, **options):
    model, data, _ = groups
    counts = [(np.ones(40), np.ones(40))] * len(pairs)
    tables, of_proteins = posterior.compare(model, data, sets, pairs, mean_counts=counts, **options)
    assert of_proteins is None
    return tables


def test_shared_draws_of_the_rest_are_as_good_as_draws_of_their_own(groups):
    _, _, sets = groups
    options = {"pseudocounts": 1e-5, "n_samples": 4000}
    together = compare(groups, sets, ONE_VS_REST, **options)
    for (group, reference), shared in zip(ONE_VS_REST, together, strict=True):
        rest = np.concatenate([sets[i] for i in reference])
        (own,) = compare(groups, [sets[group], rest], [(0, (1,))], random_state=9, **options)
        # two means of 4,000 draws with the spread of the fold changes: five standard errors
        error = np.sqrt(2 / 4000) * own["lfc_std"]
        assert (np.abs(shared["lfc_mean"] - own["lfc_mean"]) < 5 * error).all()
        assert (np.abs(shared["lfc_std"] - own["lfc_std"]) < 5 * error).all()
        # a probability of 4,000 draws
        assert np.abs(shared["proba_up"] - own["proba_up"]).max() < 5 * np.sqrt(0.25 * 2 / 4000)


def test_expression_of_a_side_is_the_mean_over_its_cells(groups, fitted):
    _, _, sets = groups
    (table,) = compare(groups, sets, [(0, (1, 2, 3))], n_samples=5000)
    frame = scvitl.get.normalized_expression(fitted, n_samples=100)
    for name, mask in (
        ("scale1", fitted.obs["cell_type"] == "type_0"),
        ("scale2", fitted.obs["cell_type"] != "type_0"),
    ):
        # 5,000 draws; shares vary by less than their mean
        np.testing.assert_allclose(table[name], frame[mask].mean(), rtol=0.1)


def test_blocks_that_are_decoded_again_give_the_same(groups, monkeypatch):
    _, _, sets = groups
    kept = compare(groups, sets, ONE_VS_REST, n_samples=300)
    monkeypatch.setattr(pools, "KEPT_ENTRIES", 0)
    monkeypatch.setattr(pools, "BLOCK_ENTRIES", 7 * 1200)
    for one, other in zip(kept, compare(groups, sets, ONE_VS_REST, n_samples=300), strict=True):
        for name, values in one.items():
            # the softmax taken apart: float32. A draw in 300 may lie on the threshold.
            np.testing.assert_allclose(values, other[name], rtol=1e-3, atol=1.01 / 300, err_msg=name)
