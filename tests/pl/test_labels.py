from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scvitl
from scvitl.pl._labels import gene_labels, name_at_side, name_nearby, spread


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_order_distance_and_bounds(seed):
    wanted = np.sort(np.random.default_rng(seed).uniform(0, 1, 10))[::-1]
    at = spread(wanted, 0.08, 0.05, 0.95)
    assert (-np.diff(at) >= 0.08 - 1e-12).all()
    assert 0.05 - 1e-12 <= at.min() <= at.max() <= 0.95 + 1e-12


def test_spread_leaves_what_has_room():
    assert spread(np.array([0.9, 0.5, 0.1]), 0.1, 0.05, 0.95).tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert spread(np.array([0.5, 0.5]), 0.1, 0.05, 0.95).tolist() == pytest.approx([0.55, 0.45])
    assert spread(np.array([1.0, 1.0]), 0.1, 0.05, 0.95).tolist() == pytest.approx([0.95, 0.85])
    assert spread(np.array([0.0, 0.0]), 0.1, 0.05, 0.95).tolist() == pytest.approx([0.15, 0.05])


@pytest.mark.parametrize("n", [1, 12, 80])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_column_never_overlaps(names_of, n, side):
    _, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    names = [f"Åg|{i}" for i in range(n)]
    name_at_side(ax, np.full(n, 0.5), np.full(n, 0.9), names, side=side)
    assert list(names_of(ax)) == names


def test_names_nearby_never_overlap_nor_hide_points(names_of):
    _, ax = plt.subplots(figsize=(3, 3), layout="constrained")
    x, y = np.random.default_rng(0).uniform(0.4, 0.6, (2, 40))
    names = [f"gene_{i}" for i in range(40)]
    name_nearby(ax, x, y, names, which=np.arange(40), angles=np.zeros(40))
    found = names_of(ax)
    assert 5 < len(found) < 40
    points = ax.transData.transform(np.column_stack([x, y]))
    for text in found.values():
        box = text.get_tightbbox() if text.arrow_patch is None else text.get_bbox_patch().get_window_extent()
        assert not ((points > box.min + 1) & (points < box.max - 1)).all(1).any()


def test_symbols_stand_in_for_names(toy):
    toy.var["symbol"] = [None, "S1", *toy.var_names[2:]]
    assert gene_labels(toy, [*toy.var_names[:2], "not here"], "symbol") == [
        toy.var_names[0],
        "S1",
        "not here",
    ]
    with pytest.raises(KeyError, match="Did you mean 'symbol'"):
        gene_labels(toy, toy.var_names, "symbols")


def test_long_names_are_shortened(toy):
    (label,) = gene_labels(toy, ["x" * 100], None)
    assert len(label) == 24
    assert label.endswith("…")


def test_plots_are_where_their_data_come_from():
    assert set(scvitl.pl.__all__) >= {"correlation", "history", "posterior_predictive", "volcano"}
