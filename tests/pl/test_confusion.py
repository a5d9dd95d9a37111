from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import Normalize

import scvitl

WORDS = ["naive", "central memory", "effector", "CD4-positive,", "alpha-beta T", "$CD8^+$", "plasmacytoid"]


@pytest.fixture
def simulated(called):
    """Labels with long names, of which a tenth are wrong, as a function."""

    def make(n_labels, n_cells=600, wrong=0.1, unlabeled=0.02):
        rng = np.random.default_rng(0)
        names = np.array([f"{' '.join(rng.choice(WORDS, rng.integers(2, 6)))} {i}" for i in range(n_labels)])
        given = rng.integers(n_labels, size=n_cells)
        predicted = np.where(rng.random(n_cells) < wrong, rng.integers(n_labels, size=n_cells), given)
        called_so = np.where(rng.random(n_cells) < unlabeled, "Unknown", names[predicted])
        return called(names[given], called_so, names)

    return make


def names(axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def numbers(ax) -> dict[tuple[int, int], str]:
    """What is written into the cells, by row and column."""
    found = {}
    for text in ax.texts:
        if text.get_transform() == ax.transData:
            x, y = text.get_position()
            found[int(y), int(x)] = text.get_text()
    return found


def beside(ax) -> list[str]:
    """What stands at the right of the rows, from above."""
    ax.figure.draw_without_rendering()
    texts = [text for text in ax.texts if text.get_transform() != ax.transData]
    texts.sort(key=lambda text: -text.get_window_extent().y0)
    return [text.get_text() for text in texts]


def assert_readable(ax):
    """Names neither overlap nor leave the figure, and the numbers stay in their cells."""
    ax.figure.draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [text.get_window_extent() for text in axis.get_ticklabels()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        for box in boxes:
            assert ax.figure.bbox.x0 <= box.x0 <= box.x1 <= ax.figure.bbox.x1
            assert ax.figure.bbox.y0 <= box.y0 <= box.y1 <= ax.figure.bbox.y1
    for text in ax.texts:
        if text.get_transform() == ax.transData and text.get_text():
            box, (x, y) = text.get_window_extent(), text.get_position()
            left, right = ax.transData.transform([(x - 0.5, y), (x + 0.5, y)])[:, 0]
            assert left < box.x0 < box.x1 < right


def test_draws_the_table(simulated):
    adata = simulated(5)
    ax = scvitl.pl.confusion(adata, show=False)
    table = scvitl.get.confusion(adata)
    assert names(ax.yaxis) == list(table.index)
    assert names(ax.xaxis) == list(table.columns)
    (mesh,) = (c for c in ax.collections if c.get_array() is not None)
    assert np.allclose(mesh.get_array(), table.div(table.sum(axis=1), axis=0))
    assert mesh.get_clim() == (0, 1)
    written = {(row, column): f"{n:,}" for (row, column), n in np.ndenumerate(table.to_numpy()) if n}
    assert numbers(ax) == written
    low, high = ax.get_ylim()
    assert low > high, "the first row is above"


def test_title_and_recall(called):
    given = ["B"] * 4 + ["T"] * 1000 + ["new"] * 3
    predicted = ["B", "B", "B", "T", *["T"] * 999, "B", *["B"] * 3]
    ax = scvitl.pl.confusion(called(given, predicted, ["B", "T"]), show=False)
    assert ax.get_title() == "1,002 of 1,007 cells right (99.5%)"
    # Not all are right, so it is not 100 %; of names that the model does not know none can be right.
    assert beside(ax) == ["right", "75%", "99%", "–"]


def test_all_right(called):
    ax = scvitl.pl.confusion(called(["B", "T"] * 5, ["B", "T"] * 5, ["B", "T"]), show=False)
    assert ax.get_title() == "10 of 10 cells right (100.0%)"
    assert beside(ax) == ["right", "100%", "100%"]


def test_what_is_right_is_framed(called):
    """By name, also where rows and columns do not have the same names."""
    adata = called(["B", "T", "NK", "new"], ["B", "Unknown", "T", "T"], ["NK", "T", "B"])
    ax = scvitl.pl.confusion(adata, show=False)
    frames = next(c for c in ax.collections if c.get_array() is None)
    corners = {tuple(path.vertices.min(0)) for path in frames.get_paths()}
    assert names(ax.yaxis) == ["NK", "T", "B", "new"]
    assert names(ax.xaxis) == ["NK", "T", "B", "Unknown"]
    assert corners == {(0, 0), (1, 1), (2, 2)}


def test_nothing_is_right(called):
    ax = scvitl.pl.confusion(called(["x", "y"], ["B", "T"], ["B", "T"]), show=False)
    ax.figure.draw_without_rendering()
    assert ax.get_title().startswith("0 of 2 cells right")


@pytest.mark.parametrize("n_labels", [3, 40])
def test_readable(simulated, n_labels):
    ax = scvitl.pl.confusion(simulated(n_labels, n_cells=2000), show=False)
    assert_readable(ax)
    assert min(text.get_fontsize() for text in ax.yaxis.get_ticklabels()) >= 8
    assert not any("…" in name for name in names(ax.yaxis))
    assert len(numbers(ax)) >= n_labels
    assert max(ax.figure.get_size_inches()) < 18


def test_percents_where_counts_do_not_fit(called):
    labels = [f"type {i}" for i in range(30)]
    codes = np.repeat(np.arange(30), 10_000)
    given, predicted = (
        pd.Categorical.from_codes(c, labels)
        for c in (codes, np.where(np.arange(len(codes)) % 1000, codes, 0))
    )
    ax = scvitl.pl.confusion(called(given, predicted, labels), show=False)
    assert_readable(ax)
    written = numbers(ax)
    assert written[0, 0] == "100"
    assert written[5, 5] == "100"
    assert (5, 0) not in written, "a tenth of a percent would read 0"
    (bar,) = (child for child in ax.child_axes)
    assert "%" in bar.get_ylabel()


def test_numbers_are_left_out_where_none_fit(simulated):
    _, axes = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
    ax = scvitl.pl.confusion(simulated(40, n_cells=2000), ax=axes[0, 0], show=False)
    assert not numbers(ax)
    boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_numbers_stand_out_from_the_colours(simulated):
    adata = simulated(4)
    ax = scvitl.pl.confusion(adata, show=False)
    shares = scvitl.get.confusion(adata).pipe(lambda t: t.div(t.sum(axis=1), axis=0)).to_numpy()
    for text in ax.texts:
        if text.get_transform() == ax.transData:
            x, y = map(int, text.get_position())
            dark = np.mean(plt.get_cmap("Blues")(Normalize(0, 1)(shares[y, x]))[:3]) < 0.6
            assert (text.get_color() == "white") == dark


def test_another_column_and_key(simulated):
    adata = simulated(4)
    adata.obs["truth_$of$"] = adata.obs["cell_type"].iloc[::-1].to_numpy()
    ax = scvitl.pl.confusion(adata, "truth_$of$", show=False)
    assert ax.get_ylabel() == "given (truth_$of$)"
    assert ax.get_xlabel() == "predicted (scanvi)"
    ax.figure.draw_without_rendering()
    with pytest.raises(KeyError, match="truth='nothing' is not in"):
        scvitl.pl.confusion(adata, "nothing", show=False)


def test_given_axes_and_show(simulated, monkeypatch):
    adata = simulated(6)
    _, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    axes[1].text(0.5, 0.5, "mine", fontsize=20, transform=axes[1].transAxes)
    assert scvitl.pl.confusion(adata, ax=axes[1], show=False) is axes[1]
    assert_readable(axes[1])
    assert axes[1].texts[0].get_fontsize() == 20
    assert max(map(len, names(axes[1].yaxis))) == 24, "longer names are shortened"
    part = plt.figure(figsize=(14, 5), layout="constrained").subfigures(1, 2)[0].subplots()
    assert scvitl.pl.confusion(adata, ax=part, show=False) is part
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert scvitl.pl.confusion(adata, show=True) is None
    assert shown == [1]
