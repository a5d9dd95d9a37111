from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvitl.data import selection
from scvitl.data.schema import learn


@pytest.fixture
def adata():
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(["a", "b", "a", "b", "c", "a"]),
            "leiden": list("001122"),
            "score": [0.5, np.nan, 2.0, -1.0, 3.0, 0.0],
            "n genes": [5, 4, 3, 2, 1, 0],
        },
        index=[f"cell_{i}" for i in range(6)],
    )
    return ad.AnnData(np.ones((6, 3), np.float32), obs, pd.DataFrame(index=["Actb", "Cd3e", "Ms4a1"]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, False, True, False, False, True], [0, 2, 5]),
        (np.array([0, 1, 0, 0, 0, 0], bool), [1]),
        ([4, 0, 2], [4, 0, 2]),
        ([3, 3], [3, 3]),
        ([-1, -6], [5, 0]),
        (range(2, 5), [2, 3, 4]),
        (np.array([5], np.uint8), [5]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
        (["cell_4", "cell_1"], [4, 1]),
        (np.array(["cell_4", "cell_1"]), [4, 1]),
        (pd.Index(["cell_0"]), [0]),
        (("cell_2",), [2]),
        (pd.Series(["cell_3", "cell_5"]), [3, 5]),
        (pd.Series([2, 1], index=["x", "y"]), [2, 1]),
        ("batch == 'a'", [0, 2, 5]),
        ("batch != 'a' and leiden == '1'", [3]),
        ("batch in ['b', 'c']", [1, 3, 4]),
        ("score > 0", [0, 2, 4]),
        ("`n genes` < 2", [4, 5]),
        ("index == 'cell_3'", [3]),
    ],
    ids=repr,
)
def test_cells_in_all_the_ways_to_name_them(adata, given, expected):
    found = selection.cells(adata, given)
    assert found.tolist() == expected
    assert np.issubdtype(found.dtype, np.integer)


def test_a_mask_built_from_obs(adata):
    assert selection.cells(adata, adata.obs["batch"] == "a").tolist() == [0, 2, 5]
    assert selection.cells(adata, adata.obs["batch"].isin(["b"]).to_numpy()).tolist() == [1, 3]


def test_a_mask_of_a_nullable_type(adata):
    mask = pd.Series(adata.obs["batch"] == "a", dtype="boolean")
    assert selection.cells(adata, mask).tolist() == [0, 2, 5]


def test_a_query_of_a_column_with_gaps_takes_the_cells_that_meet_it(adata):
    """As pandas does: a condition on a missing value is not met."""
    adata.obs["age"] = pd.array([30, None, 50, 20, None, 41], dtype="Int64")
    assert selection.cells(adata, "age > 25").tolist() == [0, 2, 5]
    assert selection.cells(adata, adata.obs["age"] > 25).tolist() == [0, 2, 5]


def test_a_mask_of_cells_in_another_order_is_not_taken_by_position(adata):
    mask = (adata.obs["batch"] == "a").iloc[::-1]
    with pytest.raises(ValueError, match=r"indices is a mask with an index of its own that differs from"):
        selection.cells(adata, mask)


@pytest.mark.parametrize(
    "given", [[], np.zeros(6, bool), slice(4, 4), "batch == 'z'", "score > 100", np.array([])], ids=repr
)
def test_no_cells(adata, given):
    with pytest.raises(ValueError, match="indices selects no cells; adata has 6"):
        selection.cells(adata, given)


@pytest.mark.parametrize("position", [6, -7, 10**12])
def test_a_position_that_is_not_there(adata, position):
    with pytest.raises(
        IndexError, match=rf"indices has {position}, but positions of the 6 cells go from 0 to 5"
    ):
        selection.cells(adata, [0, position])


@pytest.mark.parametrize("n", [1, 5, 7])
def test_a_mask_of_the_wrong_length(adata, n):
    for mask in (np.ones(n, bool), pd.Series(np.ones(n, bool))):
        with pytest.raises(ValueError, match=f"indices is a mask of {n} values, but adata has 6 cells"):
            selection.cells(adata, mask)


def test_a_name_that_is_not_there(adata):
    with pytest.raises(
        KeyError, match=r"indices has 'cel_3', not among adata\.obs_names\. Did you mean 'cell_3'"
    ):
        selection.cells(adata, ["cell_1", "cel_3"])
    with pytest.raises(KeyError, match="'x0', 'x1', 'x2', …, not among"):
        selection.cells(adata, [f"x{i}" for i in range(5)])


@pytest.mark.parametrize("query", ["bach == 'a'", "batch ==", "score > 'a'", "cell_1"])
def test_a_query_that_obs_cannot_answer(adata, query):
    before = adata.obs.copy()
    with pytest.raises(ValueError, match=r"is not a query .*Columns: 'batch', 'leiden', 'score', 'n genes'"):
        selection.cells(adata, query)
    pd.testing.assert_frame_equal(adata.obs, before)


@pytest.mark.parametrize("query", ["batch", "score", "score + 1", "True", "x = score", "batch = 'a'"])
def test_a_query_that_is_no_condition(adata, query):
    before = adata.obs.copy()
    with pytest.raises(ValueError, match="is no condition: write one such as"):
        selection.cells(adata, query)
    pd.testing.assert_frame_equal(adata.obs, before)


@pytest.mark.parametrize("given", [3, np.ones((6, 1), bool), [[0, 1]], {1, 2}], ids=repr)
def test_what_is_no_list_of_cells(adata, given):
    with pytest.raises(ValueError, match=r"indices takes a list of cells .* not \d dimensions"):
        selection.cells(adata, given)


def test_names_that_are_not_unique(adata):
    adata.obs_names = ["a", "a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match=r"adata\.obs_names are not unique, so that cells1 cannot name them"):
        selection.cells(adata, ["b"], "cells1")
    assert selection.cells(adata, [2]).tolist() == [2]


def test_the_argument_is_named_as_the_user_wrote_it(adata):
    with pytest.raises(ValueError, match="cells2 selects no cells"):
        selection.cells(adata, [], "cells2")


def test_genes_keep_the_order_asked_for():
    names = ("Actb", "Cd3e", "Ms4a1")
    assert selection.genes(names, ["Ms4a1", "Actb"]).tolist() == [2, 0]
    assert selection.genes(names, "Cd3e").tolist() == [1]
    assert selection.genes(names, pd.Index(names)).tolist() == [0, 1, 2]


def test_genes_that_are_not_there():
    names = ("Actb", "Cd3e", "Ms4a1")
    with pytest.raises(
        KeyError, match=r"genes has 'MS4A1', not among the genes of the model\. Did you mean 'Ms4a1'"
    ):
        selection.genes(names, ["Actb", "MS4A1"])
    with pytest.raises(ValueError, match="genes is empty: name at least one gene, or leave it out for all 3"):
        selection.genes(names, [])
    with pytest.raises(ValueError, match="genes has 'Actb' more than once"):
        selection.genes(names, ["Actb", "Cd3e", "Actb"])


def test_batches_by_name(adata):
    schema = learn(adata, batch_key="batch")
    assert selection.batches(schema, "b") == [1]
    assert selection.batches(schema, ["c", "a"]) == [2, 0]
    assert selection.batches(schema, ["c", "a", "c"]) == [2, 0]
    assert selection.batches(schema, "all") == [0, 1, 2]


def test_batches_that_are_numbers(adata):
    adata.obs["lane"] = [1, 2, 10, 1, 2, 10]
    schema = learn(adata, batch_key="lane")
    names = schema.batch.categories
    assert selection.batches(schema, 10) == selection.batches(schema, "10") == [names.index("10")]
    assert selection.batches(schema, np.array([1, 10])) == [names.index("1"), names.index("10")]


def test_batches_that_are_not_there(adata):
    schema = learn(adata, batch_key="batch")
    with pytest.raises(
        KeyError, match=r"transform_batch has 'B', .*Did you mean 'b'\? Its batches .*'a', 'b', 'c'"
    ):
        selection.batches(schema, ["a", "B"])
    with pytest.raises(ValueError, match="transform_batch is empty: name batches of 'a', 'b', 'c'"):
        selection.batches(schema, [])
    with pytest.raises(ValueError, match="batches1='a' needs a model of several batches"):
        selection.batches(learn(adata), "a", "batches1")
