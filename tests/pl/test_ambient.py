from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

import scvitl
from scvitl import pl
from scvitl.pl._ambient import COLORS


@pytest.fixture(scope="module")
def _raw():
    return scvitl.datasets.toy(n_cells=200, n_genes=60, n_empty_droplets=1000, random_state=1)


@pytest.fixture(scope="module")
def _profiled(_raw):
    adata = _raw[_raw.obs["is_cell"].to_numpy()].copy()
    scvitl.tl.ambient_profile(adata, _raw)
    return adata


@pytest.fixture(scope="module")
def _by_batch(_raw):
    adata = _raw[_raw.obs["is_cell"].to_numpy()].copy()
    scvitl.tl.ambient_profile(adata, _raw, batch_key="batch")
    return adata


@pytest.fixture
def profiled(_profiled):
    return _profiled.copy()


@pytest.fixture
def by_batch(_by_batch):
    return _by_batch.copy()


def texts(figure) -> list[str]:
    """All that is written, none upon another and none out of the figure."""
    figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        found += [*ax.texts, ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
        found += ax.get_legend().get_texts()
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    found = [text for text in found if text.get_visible() and text.get_text()]
    boxes = [Text.get_window_extent(text) for text in found]
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one.get_text(), other.get_text())
    for text, box in zip(found, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()
    return [text.get_text() for text in found]


def dots(ax) -> dict[str, np.ndarray]:
    """Ranks and totals of the droplets that are drawn, by what the legend says of them."""
    return {
        found.get_label(): np.asarray(found.get_offsets())
        for found in ax.collections
        if not found.get_label().startswith("_")
    }


def names(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def lengths(ax) -> np.ndarray:
    return np.array([bar.get_width() for bar in ax.patches])


def droplets(n=30_000, seed=0):
    rng = np.random.default_rng(seed)
    total = np.concatenate([rng.lognormal(8, 0.4, n // 30), 2 + rng.exponential(30, n - n // 30)]).astype(int)
    kind = np.where(np.arange(n) < n // 30, "cell", rng.choice(["empty", "other"], n))
    return pd.DataFrame({"total": total, "class": pd.Categorical(kind, list(COLORS))})


def test_droplets_by_rank(profiled):
    knee, _ = pl.ambient(profiled, show=False)
    table = profiled.uns["scar_ambient"]["droplets"]
    assert (knee.get_xscale(), knee.get_yscale()) == ("log", "log")
    found = dots(knee)
    counts = table["class"].value_counts()
    assert list(found) == [
        f"{counts['cell']:,} cells",
        f"{counts['empty']:,} empty",
        f"{counts['other']:,} other",
    ]
    ordered = np.sort(table["total"])[::-1]
    for rank, total in np.concatenate(list(found.values())):
        assert ordered[int(rank) - 1] == total
    by_class = table.groupby("class", observed=True)["total"]
    for words, kind in zip(found, COLORS, strict=True):
        assert set(found[words][:, 1]) <= set(by_class.get_group(kind))
        # The ends are drawn whatever is left out between.
        assert found[words][:, 1].max() == by_class.max()[kind]
    for collection, color in zip(knee.collections, COLORS.values(), strict=True):
        assert to_hex(collection.get_facecolor()[0]) == color


def test_range_of_the_empty_droplets(profiled):
    knee, _ = pl.ambient(profiled, show=False)
    table = profiled.uns["scar_ambient"]["droplets"]
    empty = table.loc[table["class"] == "empty", "total"]
    (band,) = knee.patches
    box = band.get_bbox()
    assert (box.y0, box.y1) == (empty.min() - 0.5, empty.max() + 0.5)
    assert f"empty: {empty.min():,} to {empty.max():,} counts" in texts(knee.figure)


def test_genes_and_their_shares_in_the_cells(profiled):
    _, ax = pl.ambient(profiled, n_genes=7, show=False)
    shares = profiled.varm["scar_ambient"]["ambient"].nlargest(7)
    assert names(ax) == list(shares.index)
    np.testing.assert_allclose(lengths(ax), shares)
    (line,) = (line for line in ax.lines if line.get_label() == "cells")
    in_cells = pd.Series(profiled.X.sum(0).A1 / profiled.X.sum(), profiled.var_names)
    np.testing.assert_allclose(line.get_xdata(), in_cells[shares.index], rtol=1e-6)
    assert list(line.get_ydata()) == list(range(7))
    low, high = ax.get_xlim()
    assert low == 0
    assert high > max(shares.max(), in_cells[shares.index].max())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cells", "ambient"]


def test_more_genes_than_there_are(profiled):
    _, ax = pl.ambient(profiled, n_genes=1000, show=False)
    assert len(names(ax)) == 60
    texts(ax.figure)


def test_batches(by_batch):
    axes = pl.ambient(by_batch, n_genes=5, show=False)
    assert len(axes) == 4
    assert {"batch_0", "batch_1"} <= set(texts(axes[0].figure))
    table, profile = by_batch.uns["scar_ambient"]["droplets"], by_batch.varm["scar_ambient"]
    for knee, ax, batch in zip(axes[::2], axes[1::2], ["batch_0", "batch_1"], strict=True):
        own = table[table["batch"] == batch]
        assert f"{(own['class'] == 'cell').sum():,} cells" in dots(knee)
        top = profile[batch].nlargest(5)
        assert names(ax) == list(top.index)
        np.testing.assert_allclose(lengths(ax), top)
        cells = by_batch[by_batch.obs["batch"] == batch, top.index].X.sum(0).A1
        total = by_batch[by_batch.obs["batch"] == batch].X.sum()
        np.testing.assert_allclose(ax.lines[0].get_xdata(), cells / total, rtol=1e-6)
    axes = pl.ambient(by_batch, n_genes=5, batches="batch_1", show=False)
    assert len(axes) == 2
    assert names(axes[1]) == list(profile["batch_1"].nlargest(5).index)
    with pytest.raises(
        KeyError, match=r"batches has 'batch_2', which has no profile\. Did you mean 'batch_1'"
    ):
        pl.ambient(by_batch, batches=["batch_2"], show=False)


def test_too_many_batches(by_batch):
    wide = pd.DataFrame(np.full((60, 21), 1 / 60), by_batch.var_names, [f"batch_{i}" for i in range(21)])
    by_batch.varm["scar_ambient"] = wide
    with pytest.raises(ValueError, match="21 batches do not make a figure, which holds 1 to 20: name some"):
        pl.ambient(by_batch, show=False)


def test_batches_that_the_cells_lack(by_batch, said):
    del by_batch.obs["batch"]
    axes = pl.ambient(by_batch, show=False)
    assert not axes[1].lines
    assert "shares in the cells are not drawn: which batch they are of is not known" in said()
    texts(axes[0].figure)


def test_after_a_fit(profiled):
    """Counts and batches are those of the model, and a profile that was given has no droplets."""
    adata = profiled[:, ::-1].copy()
    del adata.uns["scar_ambient"]
    adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
    options = {"n_hidden": 8, "n_latent": 2, "max_epochs": 1, "progress": False}
    scvitl.tl.scar(adata, ambient=adata.var["ambient_profile"], layer="counts", batch_key="batch", **options)
    axes = pl.ambient(adata, n_genes=3, show=False)
    assert len(axes) == 2
    for ax, batch in zip(axes, ["batch_0", "batch_1"], strict=True):
        top = adata.var["ambient_profile"].nlargest(3).index
        assert names(ax) == list(top)
        cells = adata[adata.obs["batch"] == batch]
        shares = cells[:, top].layers["counts"].sum(0).A1 / cells.layers["counts"].sum()
        np.testing.assert_allclose(ax.lines[0].get_xdata(), shares, rtol=1e-6)
    assert {"batch_0", "batch_1", "share of the counts"} <= set(texts(axes[0].figure))


def test_cells_whose_counts_are_gone(profiled, said):
    profiled.X = np.log1p(profiled.X)
    _, ax = pl.ambient(profiled, show=False)
    assert not ax.lines
    assert "shares in the cells are not drawn: adata.X holds values that are not whole numbers" in said()
    profiled.X = None
    _, ax = pl.ambient(profiled, show=False)
    assert "adata.X is gone" in said()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ambient"]


def test_droplets_alone(profiled, by_batch):
    for adata, n in ((profiled, 1), (by_batch, 2)):
        del adata.varm["scar_ambient"]
        axes = pl.ambient(adata, show=False)
        assert len(axes) == n
        texts(axes[0].figure)


def test_droplets_of_another_profile(profiled):
    """What an earlier call left beside a profile that was given since."""
    profile = profiled.varm["scar_ambient"]["ambient"]
    profiled.varm["scar_ambient"] = pd.DataFrame({"a": profile, "b": profile})
    assert len(pl.ambient(profiled, show=False)) == 2
    assert len(pl.ambient(profiled, batches="a", show=False)) == 1


def test_types_of_features(profiled):
    profiled.var["feature_types"] = ["Gene Expression"] * 40 + ["Antibody Capture"] * 20
    profile = profiled.varm["scar_ambient"]["ambient"]
    profiled.varm["scar_ambient"]["ambient"] = np.where(np.arange(60) < 40, profile, 100 * profile)
    _, ax = pl.ambient(profiled, n_genes=60, show=False)
    assert set(names(ax)) == set(profiled.var_names[:40])
    total = profiled.X[:, :40].sum()
    assert ax.lines[0].get_xdata().sum() == pytest.approx(1)
    assert ax.lines[0].get_xdata()[0] == pytest.approx(profiled[:, names(ax)[0]].X.sum() / total)
    _, ax = pl.ambient(profiled[:, 40:].copy(), n_genes=60, show=False)
    assert set(names(ax)) == set(profiled.var_names[40:])
    profiled.varm["scar_ambient"].iloc[:40] = np.nan
    _, ax = pl.ambient(profiled, n_genes=60, show=False)
    assert set(names(ax)) == set(profiled.var_names[40:])


def test_many_droplets_are_thinned_and_none_is_lost_from_sight(profiled):
    table = profiled.uns["scar_ambient"]["droplets"] = droplets()
    knee, _ = pl.ambient(profiled, show=False)
    found = dots(knee)
    assert next(iter(found)) == "1,000 cells"
    assert sum(map(len, found.values())) < 2000
    table = table.sort_values("total", ascending=False, kind="stable")
    table["rank"] = np.arange(1, len(table) + 1)
    for kind, drawn in zip(COLORS, found.values(), strict=True):
        some = table[table["class"] == kind].iloc[::10]
        apart = np.abs(np.log10(some[["rank", "total"]].to_numpy())[:, None] - np.log10(drawn)).max(2)
        assert apart.min(1).max() < 0.011, "a hundredth of a power of ten, which is a pixel"


@pytest.mark.parametrize("n", [1, 3])
def test_few_droplets(profiled, n):
    for kind in COLORS:
        profiled.uns["scar_ambient"]["droplets"] = pd.DataFrame({"total": [5] * n, "class": [kind] * n})
        knee, _ = pl.ambient(profiled, n_genes=2, show=False)
        assert f"{n} {'cells' if kind == 'cell' else kind}" in texts(knee.figure)


def test_long_names(by_batch):
    by_batch.var["symbol"] = [f"a rather long $name$ of gene {i}" for i in range(60)]
    rename = {f"batch_{i}": f"the $batch$ {i} of the second hospital in the third week" for i in range(2)}
    by_batch.obs["batch"] = by_batch.obs["batch"].cat.rename_categories(rename)
    table = by_batch.uns["scar_ambient"]["droplets"]
    table["batch"] = table["batch"].cat.rename_categories(rename)
    by_batch.varm["scar_ambient"] = by_batch.varm["scar_ambient"].rename(columns=rename)
    axes = pl.ambient(by_batch, gene_symbols="symbol", show=False)
    found = texts(axes[0].figure)
    assert set(rename.values()) <= set(found)
    assert sum(text.startswith("a rather long $name$") for text in found) == 40


def test_nothing_to_draw(profiled, fitted):
    with pytest.raises(
        KeyError, match=r"no ambient profile in adata\.varm\['scar_ambient'\].*Run scvitl\.tl\.ambient"
    ):
        pl.ambient(fitted, show=False)
    with pytest.raises(KeyError, match=r"adata\.varm\['mine_ambient'\].*There is one with key='scar'"):
        pl.ambient(profiled, key="mine", show=False)
    with pytest.raises(KeyError, match=r"gene_symbols='symbol' is not in adata\.var"):
        pl.ambient(profiled, gene_symbols="symbol", show=False)
    with pytest.raises(ValueError, match="n_genes=0 is too small"):
        pl.ambient(profiled, n_genes=0, show=False)
    assert not plt.get_fignums()


def test_of_a_file(by_batch, tmp_path):
    import anndata as ad

    by_batch.write_h5ad(tmp_path / "a.h5ad")
    axes, again = (pl.ambient(adata, show=False) for adata in (by_batch, ad.read_h5ad(tmp_path / "a.h5ad")))
    assert texts(axes[0].figure) == texts(again[0].figure)
    for one, other in zip(axes, again, strict=True):
        np.testing.assert_array_equal(lengths(one), lengths(other))


def test_nothing_changes(by_batch):
    before = by_batch.copy()
    pl.ambient(by_batch, show=False)
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(by_batch, slot)) == set(getattr(before, slot))
    pd.testing.assert_frame_equal(by_batch.varm["scar_ambient"], before.varm["scar_ambient"])
    pd.testing.assert_frame_equal(
        by_batch.uns["scar_ambient"]["droplets"], before.uns["scar_ambient"]["droplets"]
    )


def test_show(profiled, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert pl.ambient(profiled, show=True) is None
    assert shown == [1]
