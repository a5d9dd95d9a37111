from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.colors import to_rgba
from matplotlib.text import Text

import scvitl
from scvitl import get, pl
from scvitl.pl import _denoising


@pytest.fixture(scope="module")
def _scarred():
    raw = scvitl.datasets.toy(n_cells=200, n_genes=60, n_empty_droplets=1000, random_state=1)
    adata = raw[raw.obs["is_cell"].to_numpy()].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    scvitl.tl.scar(adata, raw, n_hidden=16, n_latent=4, max_epochs=3, progress=False)
    return adata


@pytest.fixture
def scarred(_scarred):
    return _scarred.copy()


def texts(figure) -> list[str]:
    """All that is written, none upon another and none out of the figure."""
    figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        found += [*ax.texts, ax.title, ax.xaxis.label]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            found += [tick.label1 for tick in axis.get_major_ticks()]
    found = [text for text in found if text.get_visible() and text.get_text()]
    boxes = [Text.get_window_extent(text) for text in found]
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one.get_text(), other.get_text())
    for text, box in zip(found, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()
    return [text.get_text() for text in found]


def circles(ax) -> dict[str, np.ndarray]:
    """Where the circles before and after are, by row."""
    return {line.get_label(): np.array(line.get_data()) for line in ax.lines}


def values(ax, x) -> np.ndarray:
    """What is at places on the axis, by its ticks: a zero and means on a logarithmic scale."""
    ticks = {tick.get_text(): tick.get_position()[0] for tick in ax.get_xticklabels()}
    (low, a), (high, b) = [(float(text), place) for text, place in ticks.items() if text != "0"][:2]
    logs = np.log10(low) + (x - a) / (b - a) * np.log10(high / low)
    return np.where(x == ticks["0"], 0, 10.0**logs)


def numbers(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text() != "removed"]


def test_circles_are_the_means(scarred):
    some = list(scarred.var_names[[12, 3, 40]])
    axes = pl.denoising(scarred, some, "cell_type", show=False)
    assert [ax.get_title() for ax in axes] == some
    types = list(scarred.obs["cell_type"].cat.categories)
    assert [text.get_text() for text in axes[0].get_yticklabels()] == types
    for ax, gene in zip(axes, some, strict=True):
        found = circles(ax)
        for when, counts in {"before": scarred.X, "after": scarred.layers["scar"]}.items():
            column = counts[:, scarred.var_names.get_loc(gene)].toarray().ravel()
            means = [column[scarred.obs["cell_type"] == name].mean() for name in types]
            x, y = found[when]
            assert list(y) == [0, 1, 2, 3]
            np.testing.assert_allclose(values(ax, x), means, rtol=1e-3)
    low, high = axes[0].get_ylim()
    assert low > high, "the first group is above"


def test_before_is_open_and_after_is_filled(scarred):
    (ax,) = pl.denoising(scarred, scarred.var_names[0], "cell_type", show=False)
    before, after = ax.lines
    assert (before.get_label(), after.get_label()) == ("before", "after")
    assert to_rgba(before.get_markerfacecolor()) == to_rgba("white")
    assert to_rgba(after.get_markerfacecolor()) == to_rgba(_denoising.COLORS["after"])
    assert before.get_markersize() > after.get_markersize(), "both show where nothing changed"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]


def test_what_was_removed_is_written(scarred):
    some = list(scarred.var_names[:2])
    axes = pl.denoising(scarred, some, "cell_type", show=False)
    table = get.removed(scarred, by="group", groupby="cell_type", genes=some)
    for ax, gene in zip(axes, some, strict=True):
        shares = table.loc[table["gene"] == gene, "removed"]
        assert numbers(ax) == [_denoising._percent(share) for share in shares]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (0.001, "<1%"), (0.42, "42%"), (0.998, ">99%"), (1, "100%"), (-0.2, "−20%")],
)
def test_percents(share, text):
    assert _denoising._percent(share) == text


def test_shares_of_cells(scarred):
    gene = scarred.var_names[5]
    (ax,) = pl.denoising(scarred, gene, "cell_type", value="cells", show=False)
    table = get.removed(scarred, by="group", groupby="cell_type", genes=gene)
    for when, (x, _) in circles(ax).items():
        np.testing.assert_allclose(x, table[f"cells_{when}"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "50%", "100%"]
    assert ax.get_xlabel() == "cells with counts"
    gone = 1 - table["cells_after"] / table["cells_before"]
    assert numbers(ax) == [_denoising._percent(share) for share in gone]


def test_zero_has_a_place_of_its_own(scarred):
    gene, home = scarred.var_names[4], (scarred.obs["cell_type"] == "type_2").to_numpy()
    counts = scarred.X.toarray()
    counts[:, 4] = np.where(home, 30, 1)
    scarred.X = sp.csr_matrix(counts)
    counts[:, 4] = np.where(home, 30, 0)
    scarred.layers["scar"] = sp.csr_matrix(counts)
    (ax,) = pl.denoising(scarred, gene, "cell_type", show=False)
    found = circles(ax)
    assert list(found["after"][0]) == [0, 0, 1, 0]
    assert (found["before"][0][[0, 1, 3]] > 0.1).all()
    assert numbers(ax) == ["100%", "100%", "0%", "100%"]
    texts(ax.figure)


def test_tiny_means_are_drawn_as_zero():
    before, after = np.array([[1000.0, 50.0]]), np.array([[1000.0, 0.01]])
    scale = _denoising._Scale(before, after, shares=False)
    assert scale(after)[0, 1] == 0
    assert scale(before)[0, 0] == 1
    assert scale(np.array(0.1)) > 0


@pytest.mark.parametrize(
    "means", [[[0.0]], [[3.0]], [[3.0, 3.1]], [[0.4, 9]], [[0.01, 70]], [[1e-5, 1e3]], [[0.02, 0, 0.03]]]
)
def test_ticks(means):
    """Few, rising, and at round numbers or at the top, whatever the range."""
    scale = _denoising._Scale(np.array(means), np.array(means), shares=False)
    places = list(scale.ticks)
    assert 2 <= len(places) <= 4
    assert places[0] == 0
    assert sorted(places) == sorted(set(places))
    assert np.diff(sorted(places)).min() > 0.1
    assert max(places) <= 1 + 1e-9
    for place, text in scale.ticks.items():
        if place:
            assert place == pytest.approx(float(scale(np.array(float(text)))), abs=0.05)


@pytest.mark.parametrize(("n_genes", "n_groups"), [(1, 2), (2, 15), (12, 15), (12, 2), (5, 40)])
def test_readable(scarred, n_genes, n_groups):
    scarred.obs["group"] = [f"a rather long $name$ of group {i % n_groups}" for i in range(200)]
    scarred.var["symbol"] = [f"a long $name$ of a gene {i}" for i in range(60)]
    some = list(scarred.var_names[:n_genes])
    axes = pl.denoising(scarred, some, "group", gene_symbols="symbol", show=False)
    found = texts(axes[0].figure)
    for word in ("before", "after", "a long $name$ of a gene…"):
        assert word in found
    assert found.count("removed") == n_genes
    rows = {ax.get_position().y0 for ax in axes}
    assert sum(text.startswith("a rather long") for text in found) == n_groups * len(rows)
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert max(axes[0].figure.get_size_inches()) < 25


def test_short_names_leave_room_for_everything(scarred):
    scarred.obs["group"] = pd.Categorical(np.arange(200) % 3)
    for value in ("mean", "cells"):
        axes = pl.denoising(scarred, scarred.var_names[:2], "group", value=value, show=False)
        assert {"0", "1", "2"} <= set(texts(axes[0].figure))


def test_a_gene_without_counts(scarred):
    for counts in (scarred.X, scarred.layers["scar"]):
        counts[:, 3] = 0
        counts.eliminate_zeros()
    some = list(scarred.var_names[[3, 4]])
    without, other = pl.denoising(scarred, some, "cell_type", show=False)
    assert "no counts" in texts(without.figure)
    assert [text for text in numbers(without) if text != "no counts"] == ["–"] * 4
    assert all(len(x) == 0 for x, _ in circles(without).values())
    assert "no counts" not in numbers(other)


def test_cells_without_a_group_are_left_out(scarred):
    scarred.obs["group"] = scarred.obs["cell_type"].where(scarred.obs["cell_type"] != "type_1")
    (ax,) = pl.denoising(scarred, scarred.var_names[0], "group", show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["type_0", "type_2", "type_3"]


def test_axes_that_are_given(scarred):
    figure, (ax, other) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    assert pl.denoising(scarred, scarred.var_names[0], "cell_type", ax=ax, show=False) == [ax]
    assert not other.has_data()
    other.remove()
    texts(figure)
    with pytest.raises(ValueError, match="ax holds a single gene, but there are 2: name one"):
        pl.denoising(scarred, scarred.var_names[:2], "cell_type", ax=ax, show=False)


def test_bad_input(scarred, monkeypatch):
    gene = scarred.var_names[0]
    for arguments, options, error, text in (
        ((gene, "cel_type"), {}, KeyError, "Did you mean 'cell_type'"),
        ((gene, "library"), {}, ValueError, "holds numbers"),
        ((["LYZ"], "cell_type"), {}, KeyError, "genes has 'LYZ', not among the genes of the model"),
        (([], "cell_type"), {}, ValueError, "genes is empty"),
        ((gene, "cell_type"), {"key": "scvi"}, KeyError, "no fitted model"),
        ((gene, "cell_type"), {"value": "median"}, ValueError, "Use one of 'mean', 'cells'"),
        (
            (gene, "cell_type"),
            {"gene_symbols": "symbol"},
            KeyError,
            "gene_symbols='symbol' is not in adata.var",
        ),
    ):
        with pytest.raises(error, match=text):
            pl.denoising(scarred, *arguments, show=False, **options)
    monkeypatch.setattr(_denoising, "MOST_PANELS", 5)
    with pytest.raises(ValueError, match="6 genes are too many for a figure, which holds 5: name fewer"):
        pl.denoising(scarred, scarred.var_names[:6], "cell_type", show=False)
    assert not plt.get_fignums()


def test_show(scarred, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert pl.denoising(scarred, scarred.var_names[0], "cell_type", show=True) is None
    assert shown == [1]
