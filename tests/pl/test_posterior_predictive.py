from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sp

import scvitl
from scvitl.pl._posterior_predictive import PANELS


def dots(ax) -> np.ndarray:
    parts = {part.get_label(): np.asarray(part.get_offsets()) for part in ax.collections}
    return np.concatenate([parts["few counts"], parts["genes"]])


def by_place(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def test_measured_and_drawn(ranked):
    axes = scvitl.pl.posterior_predictive(ranked, random_state=5, show=False)
    measured = ranked.X.toarray().astype(float)
    drawn = scvitl.get.posterior_predictive(ranked, random_state=5).toarray().astype(float)
    assert [ax.get_title().strip() for ax in axes] == list(PANELS.values())
    for ax, statistic in zip(
        axes, (lambda x: x.mean(0), lambda x: x.var(0), lambda x: (x == 0).mean(0)), strict=True
    ):
        expected = np.column_stack([statistic(measured), statistic(drawn)])
        assert np.allclose(by_place(dots(ax)), by_place(expected))
        diagonal = ax.lines[0].get_xydata()
        assert (diagonal[:, 0] == diagonal[:, 1]).all()
        assert ax.get_xlim() == ax.get_ylim()
    assert [ax.get_xscale() for ax in axes] == ["log", "log", "linear"]


def test_by_how_much_it_is_off(ranked):
    axes = scvitl.pl.posterior_predictive(ranked, n_genes=0, show=False)
    counts = ranked.X.toarray().astype(float)
    drawn = scvitl.get.posterior_predictive(ranked).toarray()
    often = np.maximum(counts.sum(0), drawn.sum(0)) >= 100
    off = np.abs(np.log(drawn.mean(0) / counts.mean(0)))[often]
    (words,) = (text.get_text() for text in axes[0].texts)
    assert words.startswith(f"off by {np.expm1(np.median(off)):.0%};")
    zeros = np.abs((drawn == 0).mean(0) - (counts == 0).mean(0))[often]
    assert axes[2].texts[0].get_text().startswith(f"off by {100 * np.median(zeros):.1f} points")


def test_a_gene_that_the_model_misses_is_named(ranked, names_of):
    counts = ranked.X.toarray()
    often = counts.sum(0).argmax()
    counts[:, often] = 0
    ranked.X = sp.csr_matrix(counts)
    ranked.var["symbol"] = [f"S{i}" for i in range(ranked.n_vars)]
    for ax in scvitl.pl.posterior_predictive(ranked, n_genes=3, gene_symbols="symbol", show=False):
        names = names_of(ax)
        assert len(names) == 3
        measured, drawn = names[f"S{often}"].xy
        assert (measured > drawn) == (ax.get_xscale() == "linear")


def test_subset_in_other_order_of_genes_with_a_layer(ranked, names_of):
    other = ranked[:, ::-1].copy()
    axes = scvitl.pl.posterior_predictive(other, indices="batch == 'batch_0'", show=False)
    counts = ranked[ranked.obs["batch"] == "batch_0"].X.toarray().astype(float)
    assert np.allclose(np.sort(dots(axes[2])[:, 0]), np.sort((counts == 0).mean(0)))
    for ax in axes:
        names_of(ax)


def test_genes_without_counts_stay_in_the_picture(ranked):
    counts = ranked.X.toarray()
    counts[:, :5] = 0
    ranked.X = sp.csr_matrix(counts)
    for ax in scvitl.pl.posterior_predictive(ranked, show=False):
        points = dots(ax)
        assert len(points) == ranked.n_vars
        low, high = ax.get_xlim()
        assert (points > low).all()
        assert (points < high).all()


def test_few_cells(ranked, names_of):
    axes = scvitl.pl.posterior_predictive(ranked, indices=[0, 1], show=False)
    for ax in axes:
        assert len(dots(ax)) == ranked.n_vars
        names_of(ax)


@pytest.mark.parametrize("n", [1, 2])
def test_few_genes(toy, n, names_of):
    toy = toy[:, np.argsort(toy.X.sum(0).A1)[-n:]].copy()
    toy = toy[toy.X.sum(1).A1 > 0].copy()
    scvitl.tl.scvi(toy, n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    for ax in scvitl.pl.posterior_predictive(toy, show=False):
        assert len(dots(ax)) == n
        names_of(ax)


def test_minified_cells_have_no_counts(ranked):
    scvitl.tl.minify(ranked)
    with pytest.raises(ValueError, match=r"pl\.posterior_predictive looks at counts"):
        scvitl.pl.posterior_predictive(ranked, show=False)


def test_no_model(toy):
    with pytest.raises(KeyError, match="no fitted model"):
        scvitl.pl.posterior_predictive(toy, show=False)


def test_show(ranked, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert scvitl.pl.posterior_predictive(ranked, show=True) is None
    assert shown == [1]
