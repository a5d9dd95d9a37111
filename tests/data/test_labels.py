from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvitl.data import Schema, encode, learn
from scvitl.data.labels import Labels, frequencies

TYPES = ("type_0", "type_1", "type_2", "type_3")
GROUPS = {"type_0": "a", "type_1": "b", "type_2": "a", "type_3": "b"}
NUMBERS = Labels("n", ("0", "1", "2"), "Unknown")


@pytest.fixture
def partly(toy):
    """Labels in the first half of the cells; of the others, some are NaN and some have the word."""
    known = toy.obs["cell_type"].astype(object)
    known[60:90] = np.nan
    known[90:] = "Unknown"
    toy.obs["known"] = known
    return toy


def labels_of(adata, key="known", unlabeled="Unknown", **options):
    return learn(adata, labels_key=key, unlabeled_category=unlabeled, **options).labels


def test_learn(partly):
    assert labels_of(partly) == Labels("known", TYPES, "Unknown")


def test_codes(partly):
    codes = encode(partly, learn(partly, labels_key="known", unlabeled_category="Unknown")).labels
    assert codes.dtype == np.int64
    assert np.array_equal(codes[:60], partly.obs["cell_type"].cat.codes[:60])
    assert (codes[60:] == 4).all()


def test_json_round_trip(partly):
    for groups in (None, GROUPS):
        schema = learn(partly, labels_key="known", unlabeled_category="Unknown", labels_groups=groups)
        read = Schema.from_json(schema.to_json())
        assert read == schema
        assert isinstance(read.labels, Labels)
    plain = Schema.from_json(learn(partly, labels_key="cell_type").to_json())
    assert not isinstance(plain.labels, Labels), "labels that are only a covariate stay so"


def test_all_cells_may_have_labels(toy):
    assert labels_of(toy, "cell_type").categories == TYPES
    codes = encode(toy, learn(toy, labels_key="cell_type", unlabeled_category="none")).labels
    assert codes.max() == 3


def test_order_of_a_categorical_and_no_unused_categories(partly):
    order = ["type_2", "unused", "Unknown", "type_0", "type_3", "type_1"]
    partly.obs["known"] = pd.Categorical(partly.obs["known"], order)
    assert labels_of(partly).categories == ("type_2", "type_0", "type_3", "type_1")


def test_a_category_that_is_only_among_gaps_is_no_label(partly):
    partly.obs["known"] = pd.Categorical(partly.obs["known"]).rename_categories({"type_3": "Missing"})
    assert labels_of(partly, unlabeled="Missing").categories == ("Unknown", *TYPES[:3])


@pytest.mark.parametrize(
    "convert",
    [
        lambda codes, known: np.where(known, codes.astype(float), np.nan),
        lambda codes, known: pd.array(np.where(known, codes, None), dtype="Int64"),
        lambda codes, known: np.where(known, codes.astype(str), None),
        lambda codes, known: pd.array(np.where(known, codes.astype(str), None), dtype="string"),
        lambda codes, known: pd.Categorical(np.where(known, codes.astype(float), np.nan)),
        lambda codes, known: np.where(known, codes, np.nan).astype(np.float32),
        lambda codes, known: np.where(known, codes.astype(str), "Unknown"),
    ],
)
def test_numbers_read_the_same_in_every_type(toy, convert):
    """1, 1.0 and "1" are one label, as a file may give back another type than it was given."""
    codes, known = np.arange(120) % 3, np.arange(120) % 4 > 0
    toy.obs["n"] = convert(codes, known)
    schema = learn(toy, labels_key="n", unlabeled_category="Unknown")
    assert schema.labels == NUMBERS
    assert np.array_equal(encode(toy, schema).labels, np.where(known, codes, 3))


def test_numbers_for_no_label(toy):
    toy.obs["n"] = np.arange(120) % 3 - 1
    assert labels_of(toy, "n", -1) == Labels("n", ("0", "1"), "-1")


@pytest.mark.parametrize("dtype", [bool, object, "boolean"])
def test_true_and_false(toy, dtype):
    toy.obs["flag"] = pd.Series(np.arange(120) % 2 == 0, toy.obs_names).astype(dtype)
    if dtype is not bool:
        toy.obs.iloc[:10, toy.obs.columns.get_loc("flag")] = None
    assert labels_of(toy, "flag").categories == ("False", "True")


def test_other_cells(partly):
    """The column may be missing, or without a single label; what it has must be known."""
    schema = learn(partly, labels_key="known", unlabeled_category="Unknown")
    other = partly[:20].copy()
    other.obs["known"] = np.nan
    assert (encode(other, schema).labels == 4).all()
    del other.obs["known"]
    assert (encode(other, schema).labels == 4).all()
    other.obs["known"] = ["type_3", "new", *["type_1"] * 18]
    with pytest.raises(ValueError, match=r"has 'new', which the model was not fitted to.*'Unknown' to have"):
        encode(other, schema)


def test_fewer_labels_keep_their_codes(partly):
    schema = learn(partly, labels_key="known", unlabeled_category="Unknown")
    some = partly[partly.obs["cell_type"] == "type_2"].copy()
    some.obs["known"] = some.obs["known"].astype("category")
    assert set(encode(some, schema).labels) == {2, 4}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([np.nan] * 120, "no cell of .* has a label: all 120 are 'Unknown' or NaN"),
        (["Unknown"] * 120, "no cell of .* has a label"),
        (["B"] * 100 + ["Unknown"] * 20, r"has one label only, 'B' \(100 cells\)"),
        (["B"] * 100 + ["T"] * 19 + ["NK"], "only one cell of .* is 'NK': .* set them to 'Unknown'"),
        (["B"] * 60 + ["T"] * 58 + ["NK", "DC"], "is 'DC' or 'NK'"),
        (["B"] * 60 + ["T"] * 58 + ["", ""], "2 cells of .* have an empty text as their label"),
    ],
)
def test_labels_that_cannot_be_learned(toy, column, message):
    toy.obs["known"] = column
    with pytest.raises(ValueError, match=message):
        labels_of(toy)


def test_labels_that_are_not_there(toy):
    with pytest.raises(
        KeyError, match=r"labels_key='cell_typ' is not in adata\.obs.*Did you mean 'cell_type'"
    ):
        labels_of(toy, "cell_typ")
    with pytest.raises(TypeError, match="labels_key takes the name of a column"):
        labels_of(toy, None)


def test_gaps_that_became_text_are_pointed_out(partly, said):
    partly.obs["known"] = partly.obs["known"].astype(str)
    assert labels_of(partly).categories == ("nan", *TYPES)
    assert "'nan' in adata.obs['known'] is taken for a label" in said()


def test_groups(partly):
    assert labels_of(partly, labels_groups=GROUPS).groups == ("a", "b", "a", "b")
    assert labels_of(partly, labels_groups={**GROUPS, "type_3": 1.0}).groups == ("a", "b", "a", "1")


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({**GROUPS, "type_4": "a"}, KeyError, "has 'type_4', not among the labels .*Did you mean 'type_"),
        ({"type_0": "a", "type_1": "b"}, ValueError, "no group for 'type_2', 'type_3'"),
        (dict.fromkeys(TYPES, "a"), ValueError, "all labels into one group, 'a'"),
        ("cell_type", TypeError, "takes a dictionary from labels to groups, .* not str"),
        (list("abab"), TypeError, "not list"),
        ({}, ValueError, "no group for 'type_0'"),
    ],
)
def test_bad_groups(partly, groups, error, message):
    with pytest.raises(error, match=message):
        labels_of(partly, labels_groups=groups)


def test_frequencies():
    numbers = [0.5, 0.25, 0.25]
    assert frequencies(NUMBERS, None) is None
    assert frequencies(NUMBERS, numbers) == frequencies(NUMBERS, np.array(numbers)) == numbers
    by_name = {"2": 0.25, "0": 0.5, "1": 0.25}
    assert frequencies(NUMBERS, by_name) == numbers
    assert frequencies(NUMBERS, {float(name): value for name, value in by_name.items()}) == numbers
    assert sum(frequencies(NUMBERS, [0.333, 0.333, 0.333])) == pytest.approx(1), "rounded numbers will do"


def test_frequencies_in_a_series_go_by_name():
    """Value counts come in the order of size, not in that of the labels."""
    counts = pd.Series([2, 2, 2, 0, 0, 1]).value_counts(normalize=True)
    assert frequencies(NUMBERS, counts) == pytest.approx([1 / 3, 1 / 6, 1 / 2])


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ([0.5, 0.5], ValueError, "has 2 numbers, but there are 3 labels: '0', '1', '2'"),
        ([0.5, 0.5, 0.5], ValueError, "sum to one, but sums to 1.5"),
        ([1.5, -0.25, -0.25], ValueError, "smallest value of -0.25"),
        ([0.5, 0.5, 0.0], ValueError, "must be positive"),
        ([0.5, 0.5, np.nan], ValueError, "sums to nan"),
        (0.5, ValueError, "has 1 numbers"),
        ({"0": 0.5, "1": 0.5}, KeyError, "has no number for '2'"),
        ({"0": 0.5, "1": 0.2, "2": 0.2, "Unknown": 0.1}, KeyError, "has 'Unknown', which is no label"),
        ("uniform", TypeError, "takes numbers, .* not 'uniform'"),
    ],
)
def test_bad_frequencies(prior, error, message):
    with pytest.raises(error, match=message):
        frequencies(NUMBERS, prior)
