from __future__ import annotations

import random
from functools import partial

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import scvitl

FEW = {"n_samples": 100}
NAME = "rank_genes_groups"
TYPES = ["type_0", "type_1", "type_2", "type_3"]


def rank(adata, *args, **options):
    scvitl.tl.rank_genes_groups(adata, *args, **{**FEW, **options})
    return adata.uns[options.get("key_added", NAME)]


def assert_unchanged(adata, before):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    assert (adata.X != before.X).nnz == 0


def write_and_read(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path)
    adata.write_zarr(path)
    return ad.read_zarr(path)


CALLS = {
    "groups against the rest": (("cell_type",), {}),
    "groups against one": (("cell_type",), {"reference": "type_2", "groups": ["type_3", "type_0"]}),
    "cells": ((), {"cells1": "cell_type == 'type_1'", "cells2": "cell_type == 'type_3'"}),
    "cells against the others": ((), {"cells1": "cell_type == 'type_1'"}),
    "vanilla": (("cell_type",), {"mode": "vanilla"}),
}


def every_call():
    return pytest.mark.parametrize(("args", "options"), CALLS.values(), ids=CALLS)


@every_call()
def test_has_the_structure_of_scanpy(fitted, args, options):
    ours = rank(fitted, *args, **options)
    groupby = args[0] if args else NAME
    normalised = sc.pp.log1p(fitted, copy=True)
    groups = list(ours["names"].dtype.names)
    sc.tl.rank_genes_groups(
        normalised, groupby, groups=groups, reference=ours["params"]["reference"], method="t-test"
    )
    theirs = normalised.uns[NAME]
    assert set(theirs) <= set(ours)
    assert set(ours) - set(theirs) == {"table"}
    assert set(theirs["params"]) <= set(ours["params"])
    for name in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj"):
        assert isinstance(ours[name], np.recarray)
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == theirs[name].shape == (40,)
    for group in groups:
        assert set(ours["names"][group]) == set(fitted.var_names)
        scores = ours["scores"][group]
        assert (np.diff(scores) <= 0).all()
        assert np.isfinite(scores).all()
        assert np.isfinite(ours["logfoldchanges"][group]).all()
        for pvals in (ours["pvals"][group], ours["pvals_adj"][group]):
            assert ((pvals >= 0) & (pvals <= 1)).all()


# scanpy 1.11 with matplotlib 3.11, in the violin plot
@pytest.mark.filterwarnings("ignore:set_ticklabels:UserWarning")
@every_call()
def test_scanpys_tables_and_plots_take_it(fitted, args, options):
    rank(fitted, *args, **options)
    sc.pp.normalize_total(fitted)
    sc.pp.log1p(fitted)
    # scanpy's dendrogram of so few genes needs a dense X
    fitted.X = fitted.X.toarray()
    groups = list(fitted.uns[NAME]["names"].dtype.names)
    for group in groups:
        table = sc.get.rank_genes_groups_df(fitted, group)
        assert table.columns.tolist() == ["names", "scores", "logfoldchanges", "pvals", "pvals_adj"]
        assert len(table) == 40
    plots = [
        sc.pl.rank_genes_groups,
        sc.pl.rank_genes_groups_dotplot,
        sc.pl.rank_genes_groups_matrixplot,
        sc.pl.rank_genes_groups_heatmap,
        sc.pl.rank_genes_groups_violin,
    ]
    if set(groups) == set(TYPES):
        # of other groups scanpy cannot show the fold changes, not even its own
        plots.append(partial(sc.pl.rank_genes_groups_dotplot, values_to_plot="logfoldchanges"))
    for plot in plots:
        # of fewer, all may be certain, and scanpy draws no axis of a single number
        plot(fitted, n_genes=5, show=False)
        assert plt.get_fignums()
        plt.close("all")
    sc.tl.filter_rank_genes_groups(fitted, min_fold_change=0.1, min_in_group_fraction=0.1)
    assert set(fitted.uns["rank_genes_groups_filtered"]["names"].dtype.names) == set(groups)


@pytest.mark.parametrize(
    ("call", "suffix"), [*((call, "h5ad") for call in CALLS), ("groups against the rest", "zarr")]
)
def test_survives_a_file(fitted, tmp_path, call, suffix):
    args, options = CALLS[call]
    rank(fitted, *args, cred_interval_lvls=[] if "mode" in options else [0.9, 0.5], **options)
    read = write_and_read(fitted, tmp_path / f"a.{suffix}")
    tables = [scvitl.get.rank_genes_groups(adata) for adata in (read, fitted)]
    pd.testing.assert_frame_equal(*tables, check_column_type=False)
    ours, theirs = fitted.uns[NAME], read.uns[NAME]
    for group in ours["names"].dtype.names:
        for name in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj"):
            assert np.array_equal(theirs[name][group], ours[name][group])
        pd.testing.assert_frame_equal(*(sc.get.rank_genes_groups_df(a, group) for a in (read, fitted)))
    rank(read, *args, **options)
    sc.pl.rank_genes_groups(read, n_genes=3, show=False)
    plt.close("all")


def test_params(fitted):
    params = rank(fitted, "cell_type", delta=0.5, batch_correction=True, random_state=3)["params"]
    expected = {
        "groupby": "cell_type",
        "reference": "rest",
        "method": "scvi",
        "use_raw": False,
        "layer": None,
        "corr_method": "posterior expected false discovery rate",
        "model": "scvi",
        "mode": "change",
        "delta": 0.5,
        "batch_correction": True,
        "n_samples": 100,
        "random_state": 3,
    }
    assert {name: params[name] for name in expected} == expected
    assert "pseudocounts" not in params, "what was not set is left out"


def test_writes_one_entry_and_nothing_else(fitted):
    before = fitted.copy()
    assert scvitl.tl.rank_genes_groups(fitted, "cell_type", **FEW) is None
    del fitted.uns[NAME]
    assert_unchanged(fitted, before)


def test_selected_cells_are_told_in_obs(fitted):
    rank(fitted, cells1="cell_type == 'type_1'", cells2=range(3))
    column = fitted.obs[NAME]
    assert column.cat.categories.tolist() == ["cells1", "cells2", "other"]
    assert (column[:3] == "cells2").all()
    assert ((column == "cells1") == (fitted.obs["cell_type"] == "type_1")).all()
    rank(fitted, cells1=range(100))
    assert fitted.obs[NAME].cat.categories.tolist() == ["cells1", "cells2"]
    assert (fitted.obs[NAME] == "cells1").sum() == 100


def test_copy(fitted):
    before = fitted.copy()
    result = scvitl.tl.rank_genes_groups(fitted, cells1=range(50), copy=True, **FEW)
    assert_unchanged(fitted, before)
    assert NAME in result.uns
    assert NAME in result.obs


def test_key_added(fitted):
    rank(fitted, cells1=range(50), key_added="de")
    assert NAME not in fitted.uns
    assert fitted.obs["de"].cat.categories.tolist() == ["cells1", "cells2"]
    assert len(sc.get.rank_genes_groups_df(fitted, "cells1", key="de")) == 40
    rank(fitted, cells1=range(20), key_added="de")
    assert (fitted.obs["de"] == "cells1").sum() == 20, "a result of ours may be replaced"


@pytest.mark.parametrize("name", ["scvi", "batch", "", "a/b", 3])
def test_key_added_must_not_hide_anything(fitted, name):
    before = fitted.copy()
    with pytest.raises(ValueError, match="key_added"):
        scvitl.tl.rank_genes_groups(fitted, cells1=range(50), key_added=name)
    assert_unchanged(fitted, before)


def test_a_result_of_scanpy_is_replaced(fitted):
    sc.tl.rank_genes_groups(sc.pp.log1p(fitted, copy=True), "cell_type", method="t-test")
    fitted.uns[NAME] = {"params": {}, "names": np.array([])}
    assert "table" in rank(fitted, "cell_type")


def test_the_seed_decides_and_no_global_state_moves(fitted):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (
        scvitl.tl.rank_genes_groups(fitted, "cell_type", copy=True, random_state=seed, **FEW)
        for seed in (1, 1, 2)
    )
    tables = [scvitl.get.rank_genes_groups(adata) for adata in (first, again, other)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not np.allclose(tables[0]["lfc_mean"].sort_index(), tables[2]["lfc_mean"].sort_index())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_column_of_any_type(fitted):
    """Numbers, text and truth become names of groups."""
    fitted.obs["number"] = fitted.obs["cell_type"].cat.codes.astype(int)
    fitted.obs["text"] = fitted.obs["cell_type"].astype(str)
    fitted.obs["truth"] = fitted.obs["cell_type"] == "type_0"
    assert rank(fitted, "number")["names"].dtype.names == ("0", "1", "2", "3")
    assert rank(fitted, "number", groups=[2], reference=0)["names"].dtype.names == ("2",)
    assert rank(fitted, "text")["names"].dtype.names == tuple(TYPES)
    assert rank(fitted, "truth")["names"].dtype.names == ("False", "True")
    assert rank(fitted, "cell_type", groups="type_2")["names"].dtype.names == ("type_2",)


def test_groups_without_cells_are_left_out(fitted):
    fitted.obs["cell_type"] = fitted.obs["cell_type"].cat.add_categories(["type_9"])
    assert rank(fitted, "cell_type")["names"].dtype.names == tuple(TYPES)
    with pytest.raises(
        KeyError, match=r"groups has 'type_9', but no cell of adata\.obs\['cell_type'\] is that"
    ):
        rank(fitted, "cell_type", groups=["type_9"])


ERRORS = {
    "unknown column": (("cell_typ",), {}, KeyError, r"groupby='cell_typ' .* Did you mean 'cell_type'"),
    "unknown group": (
        ("cell_type",),
        {"groups": ["typ_1"]},
        KeyError,
        r"groups has 'typ_1'.* Did you mean 'type_1'",
    ),
    "unknown reference": (
        ("cell_type",),
        {"reference": "Rest"},
        KeyError,
        "reference has 'Rest', but no cell",
    ),
    "reference is a group": (
        ("cell_type",),
        {"groups": ["type_1", "type_2"], "reference": "type_1"},
        ValueError,
        "reference='type_1' is among the groups compared with it: leave it out",
    ),
    "no groups": (("cell_type",), {"groups": []}, ValueError, "^groups"),
    "neither": ((), {}, ValueError, "say which cells to compare: either groupby"),
    "both": (("cell_type",), {"cells1": [0, 1]}, ValueError, "either groupby, a column of obs, or cells1"),
    "cells2 alone": ((), {"cells2": [0, 1]}, ValueError, "cells1"),
    "the same cells": (
        (),
        {"cells1": "batch == 'batch_0'", "cells2": "batch != 'batch_1'"},
        ValueError,
        "cells1 and cells2 select the same cells",
    ),
    "overlap": (
        (),
        {"cells1": range(10), "cells2": range(8, 20)},
        ValueError,
        "2 cells, such as 'cell_0008', are in cells1 and in cells2: make the sets distinct",
    ),
    "all cells": ((), {"cells1": slice(None)}, ValueError, "cells1 selects all cells, so there is nothing"),
    "no cells": ((), {"cells1": "batch == 'x'"}, ValueError, "cells1 selects no cells"),
    "no other cells": ((), {"cells1": [0, 1], "cells2": []}, ValueError, "cells2 selects no cells"),
    "one cell": ((), {"cells1": [5]}, ValueError, "'cells1' of the selection has 1 cell, but at least two"),
    "one other cell": (
        (),
        {"cells1": [5, 6], "cells2": [7, 7]},
        ValueError,
        "'cells2' of the selection has 1 cell",
    ),
    "out of range": ((), {"cells1": [0, 200]}, IndexError, "cells1 has 200, but positions"),
    "bad query": ((), {"cells1": "cel == 'a'"}, ValueError, "cells1=.* is not a query"),
    "unknown names": ((), {"cells1": ["cell_0001", "cell_1"]}, KeyError, "cells1 has 'cell_1', not among"),
    "short mask": ((), {"cells1": np.ones(5, bool)}, ValueError, "cells1 is a mask of 5 values"),
    "mode": (("cell_type",), {"mode": "both"}, ValueError, "mode='both' is not known"),
    "test_mode": (("cell_type",), {"test_mode": "one"}, ValueError, "test_mode='one' is not known"),
    "delta": (("cell_type",), {"delta": -1}, ValueError, "delta=-1 is out of range"),
    "delta in words": (("cell_type",), {"delta": "0.5"}, TypeError, "delta must be a number"),
    "pseudocounts": (("cell_type",), {"pseudocounts": 0}, ValueError, "pseudocounts=0 is out of range"),
    "fdr_target": (("cell_type",), {"fdr_target": 1}, ValueError, "fdr_target=1 is out of range"),
    "interval": (
        ("cell_type",),
        {"cred_interval_lvls": [95]},
        ValueError,
        "cred_interval_lvls=95 is out of range",
    ),
    "n_samples": (("cell_type",), {"n_samples": 1}, ValueError, "n_samples=1 is too small"),
    "weights": (("cell_type",), {"weights": "even"}, ValueError, "weights='even' is not known"),
    "importance option": (
        ("cell_type",),
        {"importance_options": {"max_cell": 3}},
        ValueError,
        "importance_options key='max_cell' is not known",
    ),
    "batches without correction": (
        ("cell_type",),
        {"batches1": ["batch_0"]},
        ValueError,
        "need batch_correction=True",
    ),
    "unknown batch": (
        ("cell_type",),
        {"batch_correction": True, "batches1": ["batch0"]},
        KeyError,
        r"batches1 has 'batch0', .* Did you mean 'batch_0'",
    ),
    "unknown second batch": (
        ("cell_type",),
        {"batch_correction": True, "batches2": "b"},
        KeyError,
        "batches2 has 'b', which is no batch of the model",
    ),
    "batches overlap": (
        ("cell_type",),
        {"batch_correction": True, "batches1": "batch_0", "batches2": "all"},
        ValueError,
        "batches1 and batches2 overlap",
    ),
    "correction in words": (("cell_type",), {"batch_correction": "no"}, TypeError, "must be True or False"),
    "seed": (("cell_type",), {"random_state": -1}, ValueError, "random_state=-1 is too small"),
    "unknown model": (
        ("cell_type",),
        {"key": "scvii"},
        KeyError,
        r"no fitted model in adata\.uns\['scvii'\]",
    ),
    "memory": (("cell_type",), {"n_samples": 10**11}, MemoryError, "take fewer with n_samples"),
}


@pytest.mark.parametrize(("args", "options", "error", "text"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_compared_is_said_and_nothing_is_written(fitted, args, options, error, text):
    before = fitted.copy()
    with pytest.raises(error, match=text):
        scvitl.tl.rank_genes_groups(fitted, *args, **{**FEW, **options})
    assert_unchanged(fitted, before)


def test_a_group_of_one_cell(fitted):
    fitted.obs["few"] = ["single", *["other"] * 100, *["more"] * 99]
    before = fitted.copy()
    with pytest.raises(ValueError, match=r"'single' of adata\.obs\['few'\] has 1 cell, but at least two"):
        rank(fitted, "few")
    assert_unchanged(fitted, before)
    assert rank(fitted, "few", groups=["other"])["names"].dtype.names == ("other",)
    with pytest.raises(ValueError, match=r"'single' of .* has 1 cell"):
        rank(fitted, "few", groups=["other"], reference="single")


def test_a_column_with_one_group(fitted):
    fitted.obs["one"] = "same"
    with pytest.raises(
        ValueError, match=r"adata\.obs\['one'\] has one group, 'same': there is nothing to compare"
    ):
        rank(fitted, "one")


def test_a_column_without_any_group(fitted):
    fitted.obs["none"] = pd.Categorical([None] * 200, ["a"])
    with pytest.raises(ValueError, match=r"adata\.obs\['none'\]"):
        rank(fitted, "none")


def test_counts_that_are_gone(fitted):
    sc.pp.log1p(fitted)
    with pytest.raises(ValueError, match="raw counts are needed"):
        rank(fitted, "cell_type")
    assert NAME not in fitted.uns
