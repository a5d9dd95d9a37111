"""Rankings that follow others, and selections that do not go together."""

from __future__ import annotations

import numpy as np
import pytest

import scvitl
from scvitl.posterior import pools


def test_the_column_of_two_sets_goes_with_their_ranking(fitted):
    rank = scvitl.tl.rank_genes_groups
    rank(fitted, cells1="cell_type == 'type_0'", n_samples=50)
    assert "rank_genes_groups" in fitted.obs
    rank(fitted, "cell_type", n_samples=50)
    assert "rank_genes_groups" not in fitted.obs
    rank(fitted, cells1="cell_type == 'type_1'", n_samples=50)
    assert (fitted.obs["rank_genes_groups"] == "cells1").sum() == (fitted.obs["cell_type"] == "type_1").sum()


def test_a_column_of_the_users_own_is_left_alone(fitted):
    fitted.obs["rank_genes_groups"] = "mine"
    with pytest.raises(ValueError, match="exists already"):
        scvitl.tl.rank_genes_groups(fitted, "cell_type", n_samples=50)


@pytest.mark.parametrize(
    "options", [{"cells2": [0, 1]}, {"groupby": None, "cells1": [0, 1], "groups": ["a"]}]
)
def test_what_does_not_go_together_is_said(fitted, options):
    with pytest.raises(ValueError, match="leave out what does not belong"):
        scvitl.tl.rank_genes_groups(fitted, **{"groupby": "cell_type", **options})


@pytest.mark.parametrize("values", [[1, "1"], ["", "a"]])
def test_groups_that_read_the_same_are_refused(fitted, values):
    fitted.obs["group"] = np.array(values * 100, dtype=object)
    with pytest.raises(ValueError, match="read the same"):
        scvitl.tl.rank_genes_groups(fitted, "group")


def test_sides_of_other_batches_meet_every_part_of_the_reference():
    """Draws of a batch must not meet one reference group only."""
    sets = [np.arange(0, 300), np.arange(300, 600), np.arange(600, 900), np.arange(900, 1200)]
    plan = pools.plan(sets, [(0, (1, 2, 3))], n_draws=3000, batches=((0, 1, 2), (3,)))
    rng = np.random.default_rng(0)
    index, batch = (
        np.concatenate(part)
        for part in zip(*(pools.cells_and_batches(pool, rng) for pool in plan.pools), strict=True)
    )

    class Decoded:
        hidden, n_genes = index, 1

    (stretches,) = pools.Sides(plan, Decoded()).stretches
    pairs = np.concatenate([np.stack([a + np.arange(n), b + np.arange(n)], 1) for a, b, n in stretches])
    assert len(pairs) == 3000
    met = np.zeros((3, 3))
    np.add.at(met, (batch[pairs[:, 0]].astype(int), index[pairs[:, 1]] // 300 - 1), 1)
    # 333 each, up to the order within rounds of three batches
    assert np.abs(met - 3000 / 9).max() < 5
