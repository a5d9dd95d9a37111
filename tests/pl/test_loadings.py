from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

import scvitl
from scvitl import get, pl, store
from scvitl.pl._cards import COLORS


@pytest.fixture(scope="module")
def _factored():
    adata = scvitl.datasets.toy(n_cells=300, n_genes=60, random_state=1)
    scvitl.tl.ldvae(adata, batch_key="batch", n_hidden=32, n_latent=5, max_epochs=40, progress=False)
    return adata


@pytest.fixture
def factored(_factored):
    return _factored.copy()


def texts(figure) -> list[Text]:
    """All that is written, none upon another and none out of the figure."""
    figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        found += [*ax.texts, ax.title, ax.xaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    found = [text for text in found if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent() for text in found]
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one.get_text(), other.get_text())
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    return found


def genes(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if isinstance(text, Annotation)]


def lengths(ax) -> np.ndarray:
    return np.array([bar.get_width() for bar in ax.patches])


def written(axes) -> list[str]:
    return [text.get_text() for text in texts(axes[0].figure)]


def test_genes_of_either_end(factored):
    table = get.loadings(factored)
    axes = pl.loadings(factored, [0, "Z_2"], 4, show=False)
    assert len(axes) == 2
    for ax, factor in zip(axes, ["Z_0", "Z_2"], strict=True):
        ordered = table[factor].sort_values(ascending=False)
        expected = ordered.iloc[[0, 1, 2, 3, -4, -3, -2, -1]]
        assert genes(ax) == list(expected.index)
        assert np.allclose(lengths(ax), expected)
        colors = [to_hex(bar.get_facecolor()) for bar in ax.patches]
        assert colors == [COLORS["up"] if value >= 0 else COLORS["down"] for value in expected]
        low, high = ax.get_xlim()
        assert -low == high >= table[["Z_0", "Z_2"]].abs().max(None)


def test_names_are_on_the_other_side_of_zero(factored):
    (ax,) = pl.loadings(factored, 0, show=False)
    assert {"Z_0", "loading", "contribution"} <= set(written([ax]))
    zero = ax.transData.transform((0, 0))[0]
    for text, length in zip(ax.texts, lengths(ax), strict=True):
        box = text.get_window_extent()
        assert box.x1 < zero if length >= 0 else box.x0 > zero
        assert ax.bbox.x0 <= box.x0
        assert box.x1 <= ax.bbox.x1


@pytest.mark.parametrize(
    "asked", [[2, 0, 2], ["Z_2", 0, 2], ["Z_2", "Z_0", "Z_2"], np.array([2, 0, 0]), ("Z_2", 0)]
)
def test_no_factor_is_drawn_twice(factored, asked):
    axes = pl.loadings(factored, asked, 4, show=False)
    assert len(axes) == 2
    assert [ax.get_title() for ax in axes[0].figure.axes if ax.get_title()] == ["Z_2", "Z_0"]


def test_the_model_and_the_cells_are_read_once(factored, monkeypatch):
    read = []
    for name in ("from_uns", "load"):
        function = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda *args, f=function, n=name, **options: read.append(n) or f(*args, **options)
        )
    pl.loadings(factored, 0, groupby="cell_type", show=False)
    pl.loadings(factored, 0, obs_keys="library", show=False)
    assert read == ["from_uns", "load"] * 2


@pytest.mark.parametrize("n_genes", [1, 29, 30, 100])
def test_no_gene_is_drawn_twice(factored, n_genes):
    (ax,) = pl.loadings(factored, 1, n_genes, show=False)
    written([ax])
    drawn = genes(ax)
    assert len(drawn) == len(set(drawn)) == min(2 * n_genes, 60)


def test_idle_factors_are_left_out(factored, said):
    factored.obsm.pop("X_ldvae")
    weights = factored.uns["ldvae"]["weights"]
    weights["decoder.heads.scale.linear.weight"] = weights["decoder.heads.scale.linear.weight"].copy()
    weights["decoder.heads.scale.linear.weight"][:, 4] = 0
    axes = pl.loadings(factored, show=False)
    assert "Z_4" not in written(axes)
    assert "contribute less than 1 %: " in said()
    assert "Z_4" in said()
    (ax,) = pl.loadings(factored, 4, show=False)
    assert lengths(ax).max() == 0
    assert "0%" in written([ax])


def test_contributions_and_columns(factored):
    axes = pl.loadings(factored, [0, 1], show=False)
    cells, table = get.latent(factored, key="ldvae"), get.loadings(factored)
    variance = table.var(ddof=0) * cells.var(0)
    association = get.factor_association(factored)
    facts = [ax for ax in axes[0].figure.axes if ax.get_title()]
    assert [text.get_text() for text in facts[0].get_yticklabels()] == [
        "contribution",
        "explained by",
        *association,
    ]
    for ax, factor in zip(facts, ["Z_0", "Z_1"], strict=True):
        assert ax.get_title() == factor
        expected = [variance[factor] / variance.sum(), *association.loc[factor]]
        assert np.allclose(lengths(ax), expected, atol=1e-6)
        assert [text.get_text() for text in ax.texts] == [f"{value:.0%}" for value in expected]


def test_columns_asked_for(factored):
    def rows(**options):
        axes = pl.loadings(factored, 0, show=False, **options)
        texts(axes[0].figure)
        return [text.get_text() for text in axes[0].figure.axes[0].get_yticklabels()]

    assert rows(obs_keys=["library", "batch"]) == ["contribution", "explained by", "library", "batch"]
    assert rows(obs_keys="library") == ["contribution", "explained by", "library"]
    assert rows(obs_keys=[]) == ["contribution"]
    rng = np.random.default_rng(0)
    for i in range(8):
        factored.obs[f"noise_{i}"] = rng.normal(size=300)
    shown = rows()
    assert len(shown) == 8
    assert "cell_type" in shown
    factored.obs = factored.obs[["batch"]].assign(contribution=rng.normal(size=300))
    assert rows() == ["contribution", "explained by", "batch", "contribution"]


def test_groups_on_the_factors(factored):
    factored.uns["cell_type_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    factored.obs.loc[factored.obs_names[:30], "cell_type"] = np.nan
    factored.obs["cell_type"] = factored.obs["cell_type"].where(factored.obs["cell_type"] != "type_1")
    axes = pl.loadings(factored, [0, 1], groupby="cell_type", show=False)
    assert {"type_0", "type_2", "type_3", "factor"} <= set(written(axes))
    assert "type_1" not in written(axes)
    middle = [ax for ax in axes[0].figure.axes if len(ax.get_yticks()) == 3]
    assert len(middle) == 2
    cells = get.latent(factored, key="ldvae")
    for ax, z in zip(middle, cells.T, strict=False):
        assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == ["#111111", "#333333", "#444444"]
        for bar, group in zip(ax.patches, ["type_0", "type_2", "type_3"], strict=True):
            lower, upper = np.quantile(z[factored.obs["cell_type"] == group], [0.25, 0.75])
            assert np.isclose(bar.get_x(), lower, atol=1e-5)
            assert np.isclose(bar.get_x() + bar.get_width(), upper, atol=1e-5)
    assert "batch_colors" not in factored.uns
    pl.loadings(factored, 0, groupby="batch", show=False)
    assert "batch_colors" not in factored.uns


def test_groups_of_every_kind(factored):
    number = np.arange(300)
    factored.obs["flag"], factored.obs["whole"] = number % 2 == 0, number % 3 + 1
    factored.obs["cut"] = pd.cut(number, [-1, 100, 299])
    for groupby, expected in (
        ("flag", ["False", "True"]),
        ("whole", ["1", "2", "3"]),
        ("cut", ["(-1, 100]", "(100, 299]"]),
    ):
        axes = pl.loadings(factored, 0, groupby=groupby, show=False)
        assert [text.get_text() for text in axes[0].figure.axes[1].get_yticklabels()] == expected


def test_colours_are_those_that_scanpy_would_give(factored):
    from scanpy.plotting._utils import _set_default_colors_for_categorical_obs as set_colors

    for n in (3, 15, 25, 50):
        factored.obs["group"] = pd.Categorical((np.arange(300) % n).astype(str))
        axes = pl.loadings(factored, 0, groupby="group", show=False)
        drawn = [to_hex(bar.get_facecolor()) for bar in axes[0].figure.axes[1].patches]
        set_colors(factored, "group")
        assert drawn == [to_hex(color) for color in factored.uns.pop("group_colors")]


@pytest.mark.parametrize("n", [2, 25, 60, 110])
def test_many_groups_and_long_names_do_not_collide(factored, n):
    factored.obs["group"] = [f"a rather long $name$ of group {i % n}" for i in range(300)]
    factored.var["symbol"] = [f"a_long_$name$_of_a_gene_{i}" for i in range(60)]
    axes = pl.loadings(factored, groupby="group", gene_symbols="symbol", show=False)
    names = written(axes)
    assert sum(name.startswith("a rather long") for name in names) == n * len(
        {ax.get_position().y0 for ax in axes}
    )
    assert any(name.startswith("a_long_$name$_of_a_gene") for name in names)


def test_bad_input(factored):
    factored.obs["none"] = pd.Categorical([None] * 300, ["a", "b"])
    for options, error, message in (
        ({"factors": 5}, KeyError, "factors has 5, but the factors of the model are Z_0 to Z_4, or 0 to 4"),
        ({"factors": "Z_9"}, KeyError, "factors has 'Z_9'"),
        ({"factors": [-1]}, KeyError, "factors has -1"),
        ({"factors": True}, KeyError, "factors has True, but the factors of the model are Z_0 to Z_4"),
        ({"factors": [0, False]}, KeyError, "factors has False"),
        ({"factors": np.arange(5) == 1}, KeyError, "factors has .*False"),
        ({"factors": []}, ValueError, "factors is empty"),
        ({"n_genes": 0}, ValueError, "n_genes=0 is too small"),
        ({"groupby": "cel_type"}, KeyError, "Did you mean 'cell_type'"),
        ({"groupby": "library"}, ValueError, r"obs\['library'\] holds numbers: obs_keys is for these"),
        ({"groupby": "none"}, ValueError, r"no cell has a group in adata\.obs\['none'\]"),
        ({"obs_keys": ["cel_type"]}, KeyError, "Did you mean 'cell_type'"),
        ({"gene_symbols": "symbol"}, KeyError, "gene_symbols='symbol' is not in adata.var"),
        ({"key": "scvi"}, KeyError, r"no fitted model in adata\.uns\['scvi'\]"),
    ):
        with pytest.raises(error, match=message):
            pl.loadings(factored, show=False, **options)
    assert not plt.get_fignums()


def test_show(factored, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert pl.loadings(factored, 0, show=True) is None
    assert shown == [1]
