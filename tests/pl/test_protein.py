from __future__ import annotations

from itertools import combinations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

import scvitl
from scvitl import get, pl, store
from scvitl.pl import _protein
from scvitl.pl._split import BELOW, COLORS


def texts(figure) -> list[str]:
    """All that is written, none upon another and none out of the figure."""
    figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        found += [*ax.texts, ax.title, ax.xaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            found += [tick.label1 for tick in axis.get_major_ticks()]
    found = [text for text in found if text.get_visible() and text.get_text()]
    boxes = [Text.get_window_extent(text) for text in found]
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one.get_text(), other.get_text())
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    return [text.get_text() for text in found]


def written(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def part(ax, name):
    """Left edges, right edges and heights of a histogram."""
    (found,) = (patch for patch in ax.patches if patch.get_label() == name)
    values, edges, base = found.get_data()
    return edges[:-1], edges[1:], values - (0 if base is None else base)


def area(ax, name) -> float:
    left, right, height = part(ax, name)
    return float(np.abs(height) @ (right - left))


def curve_area(ax, name) -> float:
    """Cells under a curve, which has a point in the middle of every bin and one more at the left end."""
    left, right, _ = part(ax, "measured")
    (line,) = (line for line in ax.lines if line.get_label() == name)
    return float(np.nan_to_num(line.get_ydata()[1:]) @ (right - left))


def test_histogram_has_the_counts_of_measured_cells(fitted_proteins):
    axes = pl.protein(fitted_proteins, ["CD1", "CD5"], show=False)
    assert [ax.get_title() for ax in axes] == ["CD1", "CD5"]
    counts = fitted_proteins.obsm["protein_expression"]
    measured = fitted_proteins.obs["batch"] == "batch_0"
    for ax, values in zip(axes, (counts["CD1"], counts.loc[measured, "CD5"]), strict=True):
        left, right, height = part(ax, "measured")
        edges = [*left, right[-1]]
        assert np.allclose(height * (right - left), np.histogram(np.log1p(values), edges)[0])
        # A bin holds whole numbers: it goes from one half to another.
        halves = np.expm1(edges) + 0.5
        assert np.allclose(halves, np.rint(halves), rtol=1e-6)
    assert "200 cells" in written(axes[0])
    n = (~measured).sum()
    assert f"{measured.sum()} cells; outline: {n} imputed (batch_1)" in written(axes[1])


def test_areas_of_the_parts_are_numbers_of_cells(fitted_proteins):
    (ax,) = pl.protein(fitted_proteins, "CD2", random_state=3, show=False)
    assert area(ax, "measured") == pytest.approx(200)
    read = {"key": "totalvi", "random_state": 3}
    mixing = get.likelihood_parameters(fitted_proteins, parameters="protein_mixing", **read)
    expected = mixing["protein_mixing"][:, 2].sum()
    # what is in the tails is not drawn
    assert curve_area(ax, "background") == pytest.approx(expected, rel=0.03)
    assert curve_area(ax, "foreground") == pytest.approx(200 - expected, rel=0.03)
    for line, color in zip(ax.lines, COLORS.values(), strict=False):
        assert to_hex(line.get_color()) == color


def test_curves_are_the_distribution_of_the_counts(fitted_proteins):
    """As many counts drawn from the model fall into every bin."""
    (ax,) = pl.protein(fitted_proteins, "CD0", show=False)
    left, right, _ = part(ax, "measured")
    both = sum(np.nan_to_num(line.get_ydata()[1:]) for line in ax.lines[:2]) * (right - left)
    options = {"key": "totalvi", "modality": "protein", "genes": ["CD0"], "n_samples": 200}
    samples = get.posterior_predictive(fitted_proteins, **options)
    drawn = np.concatenate([x.toarray().ravel() for x in samples])
    expected = np.histogram(np.log1p(drawn), [*left, right[-1]])[0] / 200
    # one draw of the latent state per cell in the plot, many here
    assert np.abs(both - expected).sum() < 0.1 * 200


def test_below_is_what_is_left(fitted_proteins):
    (ax,) = pl.protein(fitted_proteins, "CD3", show=False)
    present = get.protein_foreground(fitted_proteins)["CD3"] > 0.5
    denoised = get.protein_expression(fitted_proteins)["CD3"]
    areas = {name: area(ax, name) for name in ("absent", "present")}
    assert areas["present"] / sum(areas.values()) == pytest.approx(present.mean())
    for name, cells in {"absent": ~present, "present": present}.items():
        left, right, height = part(ax, name)
        assert (height <= 0).all()
        counted = np.histogram(np.log1p(denoised[cells]), [*left, right[-1]])[0]
        share = -height * (right - left) / areas[name]
        np.testing.assert_allclose(share, counted / cells.sum(), atol=1e-6)
    assert f"{present.mean():.0%} present" in written(ax)
    assert f"{1 - present.mean():.0%} absent" in written(ax)
    top = max(part(ax, "measured")[2].max(), *(np.nanmax(line.get_ydata()) for line in ax.lines[:2]))
    deepest = min(part(ax, "absent")[2].min(), (part(ax, "absent")[2] + part(ax, "present")[2]).min())
    assert deepest == pytest.approx(-BELOW * top)


def test_what_was_imputed_is_an_outline(fitted_proteins):
    measured, partly = pl.protein(fitted_proteins, ["CD0", "CD4"], show=False)
    assert "imputed" not in [patch.get_label() for patch in measured.patches]
    missing = (fitted_proteins.obs["batch"] == "batch_1").to_numpy()
    ratio = area(partly, "imputed") / (area(partly, "absent") + area(partly, "present"))
    assert ratio == pytest.approx(missing.sum() / (~missing).sum())
    share = (get.protein_foreground(fitted_proteins)["CD4"] > 0.5)[~missing].mean()
    assert f"{share:.0%} present" in written(partly)


def test_cells_that_were_not_measured_at_all(fitted_proteins):
    fitted_proteins.obs["other"] = fitted_proteins.obs["batch"] == "batch_1"
    (ax,) = pl.protein(fitted_proteins, "CD4", indices="other", show=False)
    n = fitted_proteins.obs["other"].sum()
    assert f"imputed in {n} cells (batch_1)" in texts(ax.figure)
    assert area(ax, "measured") == 0
    assert {"background", "foreground"}.isdisjoint(written(ax))
    assert area(ax, "absent") + area(ax, "present") > 0


def test_all_proteins_in_a_grid(fitted_proteins):
    axes = pl.protein(fitted_proteins, show=False)
    assert [ax.get_title() for ax in axes] == [f"CD{i}" for i in range(6)]
    assert {ax.get_xlim() for ax in axes} == {axes[0].get_xlim()}, "panels can be compared"
    found = texts(axes[0].figure)
    for word in ("measured", "denoised", "counts", "1,000"):
        assert word in found
    assert found.count("background") == found.count("foreground") == 6


def test_ticks_are_counts(fitted_proteins):
    (ax,) = pl.protein(fitted_proteins, "CD0", show=False)
    shown = {tick.get_text(): tick.get_position()[0] for tick in ax.get_xticklabels()}
    assert list(shown) == ["0", "10", "100", "1,000"]
    assert np.allclose(np.expm1([*shown.values()]), [0, 10, 100, 1000])


def test_axes_that_are_given(fitted_proteins):
    figure, (ax, other) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    assert pl.protein(fitted_proteins, "CD4", ax=ax, show=False) == [ax]
    assert ax.get_title() == "CD4"
    assert not other.has_data()
    other.remove()
    texts(figure)
    with pytest.raises(ValueError, match="ax holds a single protein, but there are 2: name one"):
        pl.protein(fitted_proteins, ["CD4", "CD1"], ax=ax, show=False)


def test_names_and_batches_that_are_long(toy, stain):
    stain(toy)
    table = toy.obsm["protein_expression"]
    toy.obsm["protein_expression"] = table.set_axis(
        [f"a $very$ long name_of_a_protein {i}" for i in range(6)], axis=1
    )
    toy.obs["batch"] = toy.obs["batch"].cat.rename_categories(lambda name: f"{name} of the second hospital")
    scvitl.tl.totalvi(toy, batch_key="batch", n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    axes = pl.protein(toy, show=False)
    found = texts(axes[0].figure)
    assert "a $very$ long name_of_a…" in found
    assert any(text.endswith("imputed (1 batch)") for text in found)


def test_counts_near_zero(fitted_proteins):
    table = fitted_proteins.obsm["protein_expression"]
    fitted_proteins.obsm["protein_expression"] = (table > 100).astype(int)
    (ax,) = pl.protein(fitted_proteins, "CD1", show=False)
    left, right, height = part(ax, "measured")
    counts = fitted_proteins.obsm["protein_expression"]["CD1"]
    assert np.allclose((height * (right - left))[:2], [(counts == 0).sum(), (counts == 1).sum()])
    texts(ax.figure)


def test_of_many_cells_some_are_drawn(fitted_proteins, monkeypatch, said):
    monkeypatch.setattr(_protein, "MOST_CELLS", 50)
    (ax,) = pl.protein(fitted_proteins, "CD0", show=False)
    assert "drawing 50 of 200 cells, taken at random" in said()
    assert area(ax, "measured") == pytest.approx(50)
    (ax,) = pl.protein(fitted_proteins, "CD0", indices=range(30), show=False)
    assert area(ax, "measured") == pytest.approx(30)


def test_too_many_proteins(fitted_proteins, monkeypatch):
    monkeypatch.setattr(_protein, "MOST_PANELS", 5)
    with pytest.raises(ValueError, match="6 proteins are too many for a figure, which holds 5: name some"):
        pl.protein(fitted_proteins, show=False)


def test_what_cannot_be_drawn(fitted, fitted_proteins):
    with pytest.raises(KeyError, match=r"proteins has 'CD7', not among the proteins of the model\. Did you"):
        pl.protein(fitted_proteins, ["CD7"], show=False)
    with pytest.raises(KeyError, match=r"no fitted model in adata\.uns\['totalvi'\]"):
        pl.protein(fitted, show=False)
    with pytest.raises(ValueError, match=r"the model in uns\['scvi'\] is scVI, which has no proteins"):
        pl.protein(fitted, key="scvi", show=False)
    with pytest.raises(TypeError, match="random_state must be a whole number"):
        pl.protein(fitted_proteins, random_state=None, show=False)
    scvitl.tl.minify(fitted_proteins, key="totalvi")
    with pytest.raises(ValueError, match=r"pl\.protein looks at counts"):
        pl.protein(fitted_proteins, show=False)


def test_nothing_changes_and_the_model_is_read_once(fitted_proteins, monkeypatch):
    read, from_uns = [], store.from_uns
    monkeypatch.setattr(store, "from_uns", lambda *args: read.append(1) or from_uns(*args))
    before = fitted_proteins.copy()
    pl.protein(fitted_proteins, "CD1", show=False)
    assert read == [1]
    for slot in ("obsm", "uns"):
        assert set(getattr(fitted_proteins, slot)) == set(getattr(before, slot))


def test_a_mudata(fitted_proteins):
    mudata = pytest.importorskip("mudata")
    table = fitted_proteins.obsm["protein_expression"]
    genes = ad.AnnData(fitted_proteins.X, fitted_proteins.obs[["library"]], fitted_proteins.var)
    proteins = ad.AnnData(table.to_numpy(np.float32), genes.obs[[]], table.T[[]])
    with mudata.set_options(pull_on_update=False):
        cells = mudata.MuData({"rna": genes, "prot": proteins})
        cells.obs["batch"] = fitted_proteins.obs["batch"]
        model = get.model(fitted_proteins, key="totalvi")
        some = {"indices": "batch == 'batch_0'", "show": False}
        (ax,) = pl.protein(cells, "CD1", model=model, **some)
    (same,) = pl.protein(fitted_proteins, "CD1", **some)
    for name in ("measured", "present"):
        assert np.array_equal(part(ax, name), part(same, name))
    assert written(ax) == written(same)


def test_show(fitted_proteins, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert pl.protein(fitted_proteins, "CD1", show=True) is None
    assert shown == [1]
