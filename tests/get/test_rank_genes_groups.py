"""The table of differential expression: its columns, its numbers, and whether it finds what is there."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scvitl
from scvitl import get

NAME = "rank_genes_groups"
CHANGE = [
    *("proba_de", "proba_not_de", "bayes_factor", "scale1", "scale2", "pseudocounts", "delta"),
    *("lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max"),
    *("raw_mean1", "raw_mean2", "non_zeros_proportion1", "non_zeros_proportion2"),
    *("raw_normalized_mean1", "raw_normalized_mean2"),
    *("is_de_fdr_0.05", "proba_up", "comparison", "group1", "group2"),
]
VANILLA = [
    *("proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2", *CHANGE[12:18]),
    *("comparison", "group1", "group2"),
]
FOLD = np.repeat([2.0, -2.0, 1.0, -1.0, 0.0], [5, 5, 5, 5, 40])  # log2, of a against b in `planted`


def rank(adata, *args, **options):
    scvitl.tl.rank_genes_groups(adata, *args, **{"n_samples": 500, **options})
    return get.rank_genes_groups(adata)


@cache
def _planted():
    rng = np.random.default_rng(0)
    kind, batch = np.repeat(["a", "b"], 150), np.tile(["x", "y"], 150)
    level = rng.lognormal(1, 0.7, 60)
    level[:20] = 6
    rates = level * 2 ** (np.where(kind == "a", 0.5, -0.5)[:, None] * FOLD)
    rates *= rng.lognormal(0, 0.3, (300, 1)) * 2 ** (
        np.where(batch == "x", 0.5, -0.5)[:, None] * np.tile([1, -1], 30)
    )
    adata = ad.AnnData(
        rng.poisson(rates * rng.gamma(5, 0.2, rates.shape)).astype(np.float32),
        pd.DataFrame({"kind": kind, "batch": batch}, index=[f"cell_{i}" for i in range(300)]),
        pd.DataFrame({"fold": FOLD}, index=[f"gene_{i:02}" for i in range(60)]),
    )
    scvitl.tl.scvi(
        adata, batch_key="batch", n_latent=4, n_hidden=32, max_epochs=60, gene_likelihood="nb", progress=False
    )
    return adata


@pytest.fixture
def planted():
    """Two kinds of cells between which some genes differ by a known fold change, in two batches that differ."""
    return _planted().copy()


def test_fold_changes_are_those_that_were_planted(planted):
    table = rank(planted, "kind", groups=["a"])
    lfc = table["lfc_mean"].reindex(planted.var_names)
    assert np.corrcoef(lfc, FOLD)[0, 1] > 0.95
    # means of 150 counts with their dispersion say little more, and the latent space shrinks them a little
    assert np.abs(lfc - FOLD).max() < 0.8
    assert (np.sign(lfc[FOLD != 0]) == np.sign(FOLD[FOLD != 0])).all()
    assert set(planted.uns[NAME]["names"]["a"][:10]) == set(planted.var_names[FOLD > 0])
    assert set(planted.uns[NAME]["names"]["a"][-10:]) == set(planted.var_names[FOLD < 0])
    assert (table["raw_mean1"] / table["raw_mean2"] > 1)[table["lfc_mean"] > 0.8].all()


def test_false_discoveries_are_few(planted):
    table = rank(planted, "kind", groups=["a"], batch_correction=True, delta=0.25)
    called = table.index[table["is_de_fdr_0.05"]]
    truth = pd.Series(np.abs(FOLD) > 0.25, index=planted.var_names)
    assert len(called) >= 15
    # of some twenty genes, one in twenty is expected and up to three are by chance
    assert (~truth[called]).sum() <= 3


def test_the_other_group_is_the_mirror_image(planted):
    rank(planted, "kind")
    a, b = (get.rank_genes_groups(planted, groups=group).sort_index() for group in "ab")
    # the same draws, paired the same
    np.testing.assert_allclose(a["lfc_mean"], -b["lfc_mean"], atol=0.02)
    np.testing.assert_allclose(a["proba_de"], b["proba_de"], atol=0.05)
    assert np.array_equal(a["raw_mean1"], b["raw_mean2"])


def test_batch_correction_takes_the_batch_out(planted):
    """Cells of one batch against those of the other, of the same kinds: what differs is the batch alone."""
    plain = rank(planted, "batch", groups=["x"])
    corrected = rank(planted, "batch", groups=["x"], batch_correction=True)
    assert plain["lfc_mean"].abs().mean() > 0.5
    assert corrected["lfc_mean"].abs().mean() < 0.2
    assert plain["is_de_fdr_0.05"].sum() > 30
    assert corrected["is_de_fdr_0.05"].sum() <= 3


def test_batches_to_decode_from_decide(planted):
    options = {"cells1": "kind == 'a'", "cells2": "kind == 'b'", "batch_correction": True}
    same = rank(planted, batches1=["x"], **options).sort_index()
    other = rank(planted, batches1=["x"], batches2=["y"], **options).sort_index()
    shift = other["lfc_mean"] - same["lfc_mean"]
    assert np.corrcoef(shift, np.tile([1, -1], 30))[0, 1] > 0.9
    assert shift.abs().mean() == pytest.approx(1, abs=0.25)
    again = rank(planted, batches1=["x"], batches2="x", **options).sort_index()
    pd.testing.assert_frame_equal(again, same)


def test_vanilla_finds_the_same_genes(planted):
    table = rank(planted, "kind", groups=["a"], mode="vanilla")
    assert set(table.index[:5]) <= set(planted.var_names[FOLD > 0])
    assert set(table.index[-5:]) <= set(planted.var_names[FOLD < 0])
    assert table["proba_m1"].iloc[0] > 0.9
    assert table["proba_m1"].iloc[-1] < 0.1


def test_columns_in_their_order(fitted):
    assert list(rank(fitted, "cell_type")) == CHANGE
    assert list(rank(fitted, cells1=range(50))) == CHANGE
    assert list(rank(fitted, "cell_type", mode="vanilla")) == VANILLA
    names = [f"lfc_confidence_interval_{level}_{end}" for level in (0.5, 0.95) for end in ("min", "max")]
    table = rank(fitted, "cell_type", cred_interval_lvls=[0.5, 0.95], fdr_target=0.1)
    assert list(table) == [*CHANGE[:12], *names, *CHANGE[12:18], "is_de_fdr_0.1", *CHANGE[19:]]
    assert table.index.name == "gene"
    assert (table["lfc_confidence_interval_0.95_min"] <= table["lfc_confidence_interval_0.5_max"]).all()


def test_rows_by_group_the_surest_first(fitted):
    for mode, column in (("change", "proba_de"), ("vanilla", "bayes_factor")):
        table = rank(fitted, "cell_type", mode=mode)
        assert len(table) == 4 * 40
        assert table["group1"].unique().tolist() == ["type_0", "type_1", "type_2", "type_3"]
        for group, part in table.groupby("group1", observed=True):
            assert (np.diff(part[column]) <= 0).all()
            assert set(part.index) == set(fitted.var_names)
            assert (part["comparison"] == f"{group} vs Rest").all()
            assert (part["group2"] == "Rest").all()


def test_names_of_the_comparison(fitted):
    table = rank(fitted, "cell_type", groups=["type_3"], reference="type_0")
    assert table["comparison"].unique().tolist() == ["type_3 vs type_0"]
    assert table["group2"].unique().tolist() == ["type_0"]
    assert rank(fitted, cells1=range(9))["comparison"].unique().tolist() == ["cells1 vs cells2"]


@pytest.mark.parametrize("reference", ["rest", "type_2"])
def test_count_statistics(fitted, reference):
    table = rank(fitted, "cell_type", groups=["type_1"], reference=reference).reindex(fitted.var_names)
    x, kind = fitted.X.toarray(), fitted.obs["cell_type"]
    scaled = x / x.sum(1, keepdims=True) * 1e4
    for side, mask in (
        ("1", kind == "type_1"),
        ("2", kind != "type_1" if reference == "rest" else kind == reference),
    ):
        np.testing.assert_allclose(table[f"raw_mean{side}"], x[mask].mean(0), rtol=1e-5)
        np.testing.assert_allclose(table[f"non_zeros_proportion{side}"], (x[mask] > 0).mean(0), rtol=1e-5)
        np.testing.assert_allclose(table[f"raw_normalized_mean{side}"], scaled[mask].mean(0), rtol=1e-4)
    assert list(fitted.obs) == ["batch", "cell_type", "library"], "no scaling is left behind"


def test_count_statistics_follow_the_counts(fitted):
    """Upstream's are stale when the counts change between two calls."""
    before = rank(fitted, "cell_type", groups=["type_1"]).sort_index()
    fitted.X = fitted.X * 2
    after = rank(fitted, "cell_type", groups=["type_1"]).sort_index()
    np.testing.assert_allclose(after["raw_mean1"], 2 * before["raw_mean1"])
    np.testing.assert_allclose(after["raw_normalized_mean1"], before["raw_normalized_mean1"])


def test_false_discovery_rate_is_the_running_mean_of_the_doubt(planted):
    table = rank(planted, "kind", groups=["a"], fdr_target=0.2)
    rate = (1 - table["proba_de"]).cumsum() / np.arange(1, 61)
    assert table["is_de_fdr_0.2"].tolist() == (rate <= 0.2).tolist()
    assert 0 < table["is_de_fdr_0.2"].sum() < 60
    scanpys = sc.get.rank_genes_groups_df(planted, "a").set_index("names")
    np.testing.assert_allclose(scanpys["pvals_adj"].reindex(table.index), rate, atol=1e-9)
    np.testing.assert_allclose(scanpys["pvals"].reindex(table.index), table["proba_not_de"], atol=1e-9)
    assert (scanpys["pvals_adj"] >= scanpys["pvals"].min()).all()


def test_what_scanpy_shows_comes_from_the_table(fitted):
    table = rank(fitted, "cell_type", groups=["type_1"])
    scanpys = sc.get.rank_genes_groups_df(fitted, "type_1").set_index("names").reindex(table.index)
    up = table["proba_up"]
    np.testing.assert_allclose(scanpys["logfoldchanges"], table["lfc_mean"], rtol=1e-5)
    np.testing.assert_allclose(scanpys["scores"], np.log(up + 1e-8) - np.log(1 - up + 1e-8), rtol=1e-5)
    table = rank(fitted, "cell_type", groups=["type_1"], mode="vanilla")
    scanpys = sc.get.rank_genes_groups_df(fitted, "type_1").set_index("names").reindex(table.index)
    np.testing.assert_allclose(scanpys["scores"], table["bayes_factor"], rtol=1e-5)
    np.testing.assert_allclose(
        scanpys["logfoldchanges"], np.log2(table["scale1"] / table["scale2"]), rtol=1e-4
    )


def test_a_pseudocount_and_a_delta_of_ones_own(fitted):
    table = rank(fitted, "cell_type", pseudocounts=1e-3, delta=0.7)
    assert table["pseudocounts"].unique().tolist() == [1e-3]
    assert table["delta"].unique().tolist() == [0.7]
    automatic = rank(fitted, "cell_type", delta="auto")
    assert automatic.groupby("group1", observed=True)["delta"].nunique().eq(1).all()
    assert (automatic["delta"] >= 0.1).all()
    strict, lax = (rank(fitted, "cell_type", delta=delta).sort_index()["proba_de"] for delta in (1, 0.1))
    assert (strict <= lax).all()
    two = rank(fitted, "cell_type", test_mode="two", delta=0.1).sort_index()["proba_de"]
    assert (two >= lax).all()


def test_cells_without_a_group_are_part_of_the_rest(fitted):
    complete = fitted.obs["cell_type"].copy()
    fitted.obs["cell_type"] = complete.where(complete != "type_3")
    table = rank(fitted, "cell_type").sort_index()
    assert set(table["group1"]) == {"type_0", "type_1", "type_2"}
    rest = fitted.X[(complete != "type_0").to_numpy()].toarray().mean(0)
    part = table[table["group1"] == "type_0"]
    np.testing.assert_allclose(part["raw_mean2"], rest, rtol=1e-5)
    shares = get.normalized_expression(fitted, indices=complete != "type_0", n_samples=20).mean()
    # 500 draws
    np.testing.assert_allclose(part["scale2"], shares, rtol=0.25)


def test_outliers_are_left_out(planted):
    """A group into which cells of the other kind were mixed."""
    planted.obs["mixed"] = planted.obs["kind"].to_numpy()
    planted.obs.loc[planted.obs_names[150:160], "mixed"] = "a"
    options = {"cells1": "mixed == 'a'", "cells2": "mixed == 'b'", "n_samples": 2000}
    every, inliers = (rank(planted, filter_outlier_cells=drop, **options) for drop in (False, True))
    up = planted.var_names[FOLD == 2]
    assert inliers["scale1"].reindex(up).mean() > 1.02 * every["scale1"].reindex(up).mean()


def test_small_groups_keep_their_outliers(fitted, said):
    rank(fitted, cells1=range(20), filter_outlier_cells=True)
    assert "a group of 20 cells is too small to tell its outliers; all are taken" in said()


def test_importance_weights(fitted):
    options = {"weights": "importance", "importance_options": {"max_cells": 10, "n_mc_samples": 20}}
    table = rank(fitted, "cell_type", n_samples=200, **options)
    assert np.isfinite(table["lfc_mean"]).all()
    assert fitted.uns[NAME]["params"]["weights"] == "importance"
    corrected = rank(fitted, "cell_type", n_samples=200, batch_correction=True, **options)
    assert not np.allclose(table["lfc_mean"].sort_index(), corrected["lfc_mean"].sort_index())


def test_importance_weights_do_not_turn_the_truth_around(planted):
    options = {"max_cells": 30, "n_mc_samples": 50}
    table = rank(planted, "kind", groups=["a"], weights="importance", importance_options=options)
    assert np.corrcoef(table["lfc_mean"].reindex(planted.var_names), FOLD)[0, 1] > 0.9


def test_a_model_of_other_cells(planted):
    model = get.model(planted)
    other = planted[100:200, ::-1].copy()
    del other.uns["scvi"]
    table = rank(other, "kind", groups=["a"], model=model)
    assert np.corrcoef(table["lfc_mean"].reindex(planted.var_names), FOLD)[0, 1] > 0.9
    expected = planted[100:150].X.mean(0)
    np.testing.assert_allclose(table["raw_mean1"].reindex(planted.var_names), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"gene_likelihood": "poisson"}, {"latent_distribution": "ln"}, {"size_factor_key": "library"}],
    ids=str,
)
def test_every_kind_of_model(toy, options):
    scvitl.tl.scvi(toy, n_hidden=16, n_latent=3, max_epochs=3, progress=False, **options)
    assert np.isfinite(rank(toy, "cell_type").select_dtypes("number")).all(axis=None)


def test_groups_asked_for(fitted):
    rank(fitted, "cell_type")
    assert len(get.rank_genes_groups(fitted, groups="type_2")) == 40
    both = get.rank_genes_groups(fitted, groups=["type_2", "type_0"])
    assert set(both["group1"]) == {"type_0", "type_2"}
    with pytest.raises(
        KeyError, match=r"groups has 'typ_2', which was not tested\. Did you mean 'type_2'\? Tested: 'type_0'"
    ):
        get.rank_genes_groups(fitted, groups="typ_2")


def test_a_table_is_a_copy(fitted):
    rank(fitted, "cell_type")["lfc_mean"] = 0
    assert (get.rank_genes_groups(fitted)["lfc_mean"] != 0).any()


def test_no_table(fitted):
    with pytest.raises(KeyError, match=r"no full table in adata\.uns\['rank_genes_groups'\]: run scvitl\.tl"):
        get.rank_genes_groups(fitted)
    sc.pp.log1p(fitted)
    sc.tl.rank_genes_groups(fitted, "cell_type", method="t-test")
    with pytest.raises(KeyError, match="no full table"):
        get.rank_genes_groups(fitted)
