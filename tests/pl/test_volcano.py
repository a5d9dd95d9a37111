from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import scvitl
from scvitl.pl._volcano import COLORS


def dots(ax) -> dict[str, np.ndarray]:
    return {collection.get_label(): np.asarray(collection.get_offsets()) for collection in ax.collections}


def test_places_and_colours(ranked):
    ax = scvitl.pl.volcano(ranked, "type_2", show=False)
    table = scvitl.get.rank_genes_groups(ranked, groups="type_2")
    flagged, up = table["is_de_fdr_0.05"], table["lfc_median"] > 0
    found = dots(ax)
    for kind, mask in {"higher": flagged & up, "lower": flagged & ~up, "not flagged": ~flagged}.items():
        assert mask.any()
        assert np.allclose(found[kind][:, 0], table["lfc_median"][mask])
        proba = np.minimum(table["proba_de"][mask], 1 - 0.5 / 1000)
        assert np.allclose(1 - 10 ** -found[kind][:, 1], proba)
    for collection in ax.collections:
        assert to_hex(collection.get_facecolor()[0]) == COLORS[collection.get_label()]
    counts = {text.get_text() for text in ax.texts}
    assert {f"{(flagged & up).sum()} higher", f"{(flagged & ~up).sum()} lower"} <= counts
    assert ax.get_title() == "type_2 vs Rest"


def test_thresholds(ranked):
    ax = scvitl.pl.volcano(ranked, "type_2", show=False)
    table = scvitl.get.rank_genes_groups(ranked, groups="type_2")
    *vertical, horizontal = ax.lines
    assert {line.get_xdata()[0] for line in vertical} == {-0.25, 0.25}
    threshold = min(table["proba_de"][table["is_de_fdr_0.05"]].min(), 1 - 0.5 / 1000)
    assert 1 - 10 ** -horizontal.get_ydata()[0] == pytest.approx(threshold)
    assert "0.25" in ax.get_xlabel()
    assert "FDR 0.05" in ax.get_ylabel()


def test_ticks_are_probabilities(ranked):
    ax = scvitl.pl.volcano(ranked, "type_2", show=False)
    for y, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        assert 1 - 10**-y == pytest.approx(float(text.get_text()), abs=0.5 / 1000 + 1e-9)


def test_names_of_the_most_telling_genes(ranked, names_of):
    ax = scvitl.pl.volcano(ranked, "type_2", n_genes=4, show=False)
    names, table = names_of(ax), scvitl.get.rank_genes_groups(ranked, groups="type_2")
    assert len(names) == 8
    assert table.loc[list(names), "is_de_fdr_0.05"].all()
    low, high = ax.get_xlim()
    for name, text in names.items():
        assert text.xy[0] == table.loc[name, "lfc_median"]
        assert low < text.xy[0] < high
    assert not names_of(scvitl.pl.volcano(ranked, "type_2", n_genes=0, show=False))


def test_names_lie_beside_the_cloud(ranked, names_of):
    ranked.var["long"] = [f"a_rather_long_name_$of$_{i}" for i in range(ranked.n_vars)]
    ax = scvitl.pl.volcano(ranked, "type_2", gene_symbols="long", show=False)
    names = names_of(ax)
    assert set(names) <= {name[:23] + "…" for name in ranked.var["long"]}
    points = ax.transData.transform(np.concatenate(list(dots(ax).values())))
    for text in names.values():
        box = text.get_bbox_patch().get_window_extent()
        assert not ((points > box.min) & (points < box.max)).all(1).any()


def test_genes_asked_for(ranked, names_of):
    genes = list(ranked.var_names[[3, 1]])
    assert set(names_of(scvitl.pl.volcano(ranked, "type_2", genes=genes, show=False))) == set(genes)
    with pytest.raises(KeyError, match="'nonsense'"):
        scvitl.pl.volcano(ranked, "type_2", genes=["nonsense"], show=False)


def test_vanilla(ranked, names_of):
    ax = scvitl.pl.volcano(ranked, "type_2", key="vanilla", show=False)
    table = scvitl.get.rank_genes_groups(ranked, groups="type_2", key="vanilla")
    found = dots(ax)
    assert np.allclose(
        found["higher"][:, 0], np.log2(table["scale1"] / table["scale2"])[table["proba_m1"] >= 0.95]
    )
    assert len(found["lower"]) == (table["proba_m2"] >= 0.95).sum()
    assert [line.get_xdata()[0] for line in ax.lines[:-1]] == [0]
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(-np.log10(0.05))
    assert names_of(ax)


def test_no_gene_stands_out(ranked, names_of):
    ranked.uns["rank_genes_groups"]["table"]["is_de_fdr_0.05"] = False
    ax = scvitl.pl.volcano(ranked, "type_2", show=False)
    assert len(dots(ax)["not flagged"]) == ranked.n_vars
    assert len(ax.lines) == 2
    assert "dashed" not in ax.get_ylabel()
    assert not names_of(ax)


def test_no_gene_moves_at_all(ranked, names_of):
    scvitl.tl.rank_genes_groups(ranked, "cell_type", groups=["type_0"], delta=50, n_samples=100)
    ax = scvitl.pl.volcano(ranked, show=False)
    assert (dots(ax)["not flagged"][:, 1] == 0).all()
    low, high = ax.get_ylim()
    assert low < 0 < high
    assert not names_of(ax)


@pytest.mark.parametrize("n", [1, 2])
def test_few_genes(ranked, names_of, n):
    table = scvitl.get.rank_genes_groups(ranked, groups="type_2").iloc[:n]
    ranked.uns["rank_genes_groups"]["table"] = table
    assert len(names_of(scvitl.pl.volcano(ranked, show=False))) == n


def test_which_group(ranked):
    with pytest.raises(ValueError, match=r"group=.*'type_0', 'type_1'"):
        scvitl.pl.volcano(ranked, show=False)
    with pytest.raises(KeyError, match="Did you mean 'type_2'"):
        scvitl.pl.volcano(ranked, "typ_2", show=False)
    with pytest.raises(KeyError, match="rank_genes_groups"):
        scvitl.pl.volcano(ranked, key="nothing", show=False)


def test_the_only_group_need_not_be_named(ranked):
    scvitl.tl.rank_genes_groups(ranked, cells1="cell_type == 'type_1'", n_samples=200, delta="auto")
    assert scvitl.pl.volcano(ranked, show=False).get_title() == "cells1 vs cells2"


def test_given_axes_and_show(ranked, names_of, monkeypatch):
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    assert scvitl.pl.volcano(ranked, "type_2", ax=axes[1], show=False) is axes[1]
    names_of(axes[1])
    part = figure.subfigures(1, 2)[0].subplots()
    assert scvitl.pl.volcano(ranked, "type_2", ax=part, show=False) is part
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert scvitl.pl.volcano(ranked, "type_2", show=True) is None
    assert shown == [1]
