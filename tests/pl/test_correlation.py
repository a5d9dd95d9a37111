from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import scvitl


@pytest.fixture
def blocks() -> pd.DataFrame:
    """Two sets of genes that go together, shuffled."""
    of = np.arange(12) % 2
    values = np.where(of[:, None] == of, 0.6, -0.3)
    np.fill_diagonal(values, 1)
    names = [f"gene_{i}" for i in range(12)]
    return pd.DataFrame(values, index=names, columns=names)


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def test_like_genes_stand_side_by_side(ranked, blocks):
    ax = scvitl.pl.correlation(ranked, correlation=blocks, show=False)
    order = labels(ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == order
    assert len({int(name.split("_")[1]) % 2 for name in order[:6]}) == 1
    (image,) = ax.images
    drawn = image.get_array()
    assert np.ma.getmaskarray(drawn).diagonal().all()
    assert np.allclose(drawn.filled(1), blocks.loc[order, order])
    assert image.get_clim() == (-0.6, 0.6)


def test_the_tree_stands_on_its_columns(ranked, blocks):
    ax = scvitl.pl.correlation(ranked, correlation=blocks, show=False)
    tree = next(child for child in ax.child_axes if child.collections and child.get_xlim() == ax.get_xlim())
    ends = {x for path in tree.collections[0].get_segments() for x, y in path if y == 0}
    assert ends == set(range(12))


def test_names_do_not_overlap(ranked):
    genes = ranked.var_names[:60]
    ax = scvitl.pl.correlation(ranked, genes=genes, n_samples=1, show=False)
    ax.figure.draw_without_rendering()
    assert set(labels(ax)) == set(genes)
    for texts in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        for box in boxes:
            assert ax.figure.bbox.x0 <= box.x0 <= box.x1 <= ax.figure.bbox.x1
            assert ax.figure.bbox.y0 <= box.y0 <= box.y1 <= ax.figure.bbox.y1


def test_more_genes_than_names_fit(ranked):
    n = 70
    names = [f"gene_{i}" for i in range(n)]
    values = np.corrcoef(np.random.default_rng(0).normal(size=(n, 50)))
    ax = scvitl.pl.correlation(ranked, correlation=pd.DataFrame(values, names, names), show=False)
    assert labels(ax) == []
    assert ax.get_xlabel() == "70 genes"
    assert len(ax.child_axes) == 1


@pytest.mark.parametrize("n", [1, 2])
def test_few_genes(ranked, n):
    ax = scvitl.pl.correlation(ranked, genes=ranked.var_names[:n], n_samples=1, show=False)
    assert ax.images[0].get_array().shape == (n, n)
    low, high = ax.images[0].get_clim()
    assert low == -high < 0


def test_what_was_computed_is_what_is_drawn(ranked):
    options = {"n_samples": 2, "method": "pearson", "transform_batch": "all", "random_state": 3}
    genes = list(ranked.var_names[:5])
    table = scvitl.get.feature_correlation(ranked, genes=genes, **options)
    ax = scvitl.pl.correlation(ranked, genes=genes, show=False, **options)
    drawn = ax.images[0].get_array().filled(1)
    assert np.allclose(drawn, table.loc[labels(ax), labels(ax)])


def test_genes_and_symbols_of_a_given_table(ranked, blocks):
    blocks.index = blocks.columns = ranked.var_names[:12]
    ranked.var["symbol"] = [f"S{i}" for i in range(ranked.n_vars)]
    ax = scvitl.pl.correlation(
        ranked, correlation=blocks, genes=ranked.var_names[:4], gene_symbols="symbol", show=False
    )
    assert set(labels(ax)) == {"S0", "S1", "S2", "S3"}


def test_not_a_table_of_correlations(ranked, blocks):
    for wrong in (blocks.to_numpy(), blocks.iloc[:3]):
        with pytest.raises(ValueError, match="genes × genes"):
            scvitl.pl.correlation(ranked, correlation=wrong, show=False)
    blocks.iloc[0, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        scvitl.pl.correlation(ranked, correlation=blocks, show=False)


def test_given_axes_and_show(ranked, blocks, monkeypatch):
    _, ax = plt.subplots()
    assert scvitl.pl.correlation(ranked, correlation=blocks, ax=ax, show=False) is ax
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert scvitl.pl.correlation(ranked, correlation=blocks, show=True) is None
    assert shown == [1]
