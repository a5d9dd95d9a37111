from __future__ import annotations

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvitl.data import Category, Schema, encode, learn
from scvitl.data.batches import CellData
from scvitl.data.protein_table import table
from scvitl.data.proteins import Proteins, grown
from scvitl.data.proteins import encode as encode_proteins
from scvitl.data.proteins import learn as learn_proteins

KEY = "protein_expression"
NAMES = ["CD3", "CD4", "CD8a", "CD19"]
BATCHES = Category("batch", ("a", "b"))


@pytest.fixture
def adata():
    """Eight cells; batch b has no CD8a."""
    index = [f"cell_{i}" for i in range(8)]
    counts = np.arange(1, 33).reshape(8, 4)
    counts[1::2, 2] = 0
    return ad.AnnData(
        sp.csr_matrix(np.ones((8, 3), np.float32)),
        pd.DataFrame({"batch": list("abababab"), "panel": list("xxyyzzzz")}, index),
        pd.DataFrame(index=["g0", "g1", "g2"]),
        obsm={KEY: pd.DataFrame(counts, index, NAMES)},
    )


def learned(adata, *, names=None, batch=BATCHES, panel_key=None, missing="auto", key=KEY):
    return learn_proteins(adata, key, names=names, batch=batch, panel_key=panel_key, missing=missing)


def measured(proteins):
    """Names of the proteins by panel."""
    return [
        [name for name, there in zip(proteins.names, row, strict=True) if there] for row in proteins.measured
    ]


def test_what_has_no_count_in_a_batch_was_not_measured(adata, said):
    proteins = learned(adata)
    assert proteins.key == KEY
    assert proteins.names == tuple(NAMES)
    assert proteins.panel is None
    assert measured(proteins) == [NAMES, ["CD3", "CD4", "CD19"]]
    assert proteins.in_batch == proteins.measured
    assert not proteins.complete
    assert "4 proteins from obsm['protein_expression']" in said()
    assert "'b': 'CD8a' without a count, so taken as not measured, and imputed" in said()
    assert "WARNING" not in said()


def test_without_batches(adata):
    proteins = learned(adata, batch=None)
    assert proteins.measured == ((True,) * 4,)
    assert proteins.complete
    values, panels = encode_proteins(adata, proteins, np.zeros(8, int))
    assert np.array_equal(values, adata.obsm[KEY])
    assert not panels.any()


@pytest.mark.parametrize("missing", [{"b": ["CD8a"]}, {"b": "CD8a"}, {"a": [], "b": ("CD8a",)}])
def test_missing_proteins_can_be_listed(adata, said, missing):
    assert learned(adata, missing=missing) == learned(adata)
    assert "'b': 'CD8a' not measured, and imputed" in said()
    other = learned(adata, missing={"a": ["CD3", "CD4"]})
    assert measured(other) == [["CD8a", "CD19"], NAMES]


def test_all_as_measured(adata):
    assert learned(adata, missing={}).complete
    adata.obsm[KEY]["CD19"] = 0
    assert learned(adata, missing={}).complete, "the user says so"


def test_names_of_batches_and_proteins_can_be_numbers(adata):
    adata.obs["batch"] = [0, 1] * 4
    adata.obsm[KEY].columns = [10, 11, 12, 13]
    proteins = learned(adata, batch=Category("batch", ("0", "1")), missing={1: [12]})
    assert measured(proteins) == [["10", "11", "12", "13"], ["10", "11", "13"]]


def test_panels(adata, said):
    """Panel x has no CD3, and what a batch can tell of a protein is what any of its cells can."""
    adata.obsm[KEY].iloc[:2, 0] = 0
    proteins = learned(adata, panel_key="panel")
    assert proteins.panel == Category("panel", ("x", "y", "z"))
    assert measured(proteins) == [["CD4", "CD8a", "CD19"], NAMES, NAMES]
    assert proteins.in_batch == ((True,) * 4,) * 2
    assert "'x': 'CD3' without a count" in said()
    _, panels = encode_proteins(adata, proteins, np.array([0, 1] * 4))
    assert panels.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    alone = learned(adata, batch=None, panel_key="panel", missing={"z": ["CD4"]})
    assert measured(alone) == [NAMES, NAMES, ["CD3", "CD8a", "CD19"]]
    assert alone.in_batch == ((True,) * 4,)


def test_a_panel_that_keeps_a_batch_from_a_protein(adata):
    adata.obs["panel"] = ["p" if batch == "a" else "q" for batch in adata.obs["batch"]]
    proteins = learned(adata, panel_key="panel")
    assert proteins.in_batch == ((True,) * 4, (True, True, False, True))


def test_a_batch_without_proteins(adata, said):
    adata.obsm[KEY].iloc[1::2] = 0
    proteins = learned(adata)
    assert measured(proteins) == [NAMES, []]
    assert "'b': all proteins without a count" in said()
    assert "WARNING" not in said(), "its cells are not said to have failed"


def test_cells_without_counts(adata, said):
    adata.obsm[KEY].iloc[[2, 3]] = 0
    learned(adata)
    assert "2 cells have no protein counts (such as 'cell_2'), which is taken as measured" in said()


def test_stray_counts(adata, said):
    """Some counts of a protein that a batch was hardly stained with."""
    adata.obsm[KEY]["CD8a"] = [2000, 1] * 4
    proteins = learned(adata)
    assert proteins.complete
    assert (
        "'b' has next to no counts of 'CD8a', taken as measured: if it was not, say so in missing_proteins"
        in said()
    )
    before = said()
    learned(adata, missing={})
    assert said()[len(before) :].count("next to no") == 0


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        sp.csr_matrix,
        sp.csc_array,
        lambda t: t.to_numpy(np.float64),
        lambda t: t.to_numpy(np.uint8),
        lambda t: np.asfortranarray(t.to_numpy()),
    ],
)
def test_tables_without_names(adata, convert, said):
    frame = adata.obsm[KEY].copy()
    adata.obsm[KEY] = convert(frame)
    values, names = table(adata, KEY, NAMES)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    assert np.array_equal(values, frame)
    assert names == NAMES
    adata.uns["proteins"] = np.array(NAMES, dtype=object)
    assert (
        replace(learned(adata, names="proteins"), names_key=None)
        == learned(adata, names=NAMES)
        == learned(adata, names=np.array(NAMES))
    )
    assert table(adata, KEY, None)[1] == ["protein_0", "protein_1", "protein_2", "protein_3"]
    assert "so they are numbered; protein_names= gives them names" in said()


@pytest.mark.parametrize(
    "convert",
    [
        lambda t: t.astype("Int64"),
        lambda t: t.astype({"CD3": "UInt16", "CD4": float, "CD8a": bool}),
        lambda t: t.astype(pd.SparseDtype(int, 0)),
        lambda t: t.astype(np.float16),
        lambda t: t > 20,
    ],
)
def test_types_of_frames(adata, convert):
    frame = convert(adata.obsm[KEY])
    adata.obsm[KEY] = frame
    values, names = table(adata, KEY, ["ignored"] * 4)
    assert values.dtype == np.float32
    assert np.array_equal(values, frame.astype(float))
    assert names == NAMES


def test_other_cells_are_read_by_name(adata):
    """Columns in another order, and further ones."""
    proteins = learned(adata)
    frame = adata.obsm[KEY]
    adata.obsm[KEY] = frame[["CD19", "CD3", "CD8a", "CD4"]].assign(CD45=5)
    values, _ = encode_proteins(adata, proteins, np.zeros(8, int))
    assert np.array_equal(values, frame)
    adata.obsm[KEY] = frame[["CD4", "CD19"]]
    with pytest.raises(
        ValueError,
        match=r"2 of the 4 proteins of the model are not in adata.obsm\['protein_expression'\] \('CD3', 'CD8a'\), which has 'CD4', 'CD19'",
    ):
        encode_proteins(adata, proteins, np.zeros(8, int))
    lacking = replace(proteins, absent=("CD3", "CD8a"))
    values, _ = encode_proteins(adata, lacking, np.zeros(8, int))
    assert np.array_equal(values, frame.assign(CD3=0, CD8a=0))
    del adata.obsm[KEY]
    with pytest.raises(KeyError, match=r"is not in adata\.obsm"):
        encode_proteins(adata, lacking, np.zeros(8, int))
    values, _ = encode_proteins(adata, replace(proteins, absent=tuple(NAMES)), np.zeros(8, int))
    assert not values.any()


@pytest.mark.parametrize("panel_key", [None, "panel"])
@pytest.mark.parametrize("modalities", [None, ("rna", "prot")])
def test_schema_as_json(adata, panel_key, modalities):
    schema = learn(adata, batch_key="batch", protein_key=KEY, panel_key=panel_key)
    assert schema.proteins.panel == (Category("panel", ("x", "y", "z")) if panel_key else None)
    proteins = replace(schema.proteins, absent=("CD4",), modalities=modalities)
    schema = replace(schema, proteins=proteins)
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert isinstance(again.proteins, Proteins)
    hash(again)  # tuples all through
    record = json.loads(schema.to_json())
    del record["proteins"]["modalities"]
    assert Schema.from_json(json.dumps(record)).proteins.modalities is None, "older records have none"
    del record["proteins"]
    assert Schema.from_json(json.dumps(record)).proteins is None


def test_codes(adata):
    schema = learn(adata, batch_key="batch", protein_key=KEY, panel_key="panel")
    codes = encode(adata[5:], schema)
    assert np.array_equal(codes.proteins, adata.obsm[KEY][5:])
    assert codes.panel.tolist() == [2, 2, 2]
    assert codes.batch.tolist() == [1, 0, 1]
    assert encode(adata, replace(schema, proteins=None)).proteins is None
    data = CellData(adata, schema)
    cells = data.gather(data.batch.new_tensor([6, 1]))
    assert cells.proteins.tolist() == adata.obsm[KEY].iloc[[6, 1]].to_numpy().tolist()
    assert cells.panel.tolist() == [2, 0]


def test_counts_of_what_is_said_to_be_missing_are_not_looked_at(adata):
    adata.obsm[KEY] = adata.obsm[KEY].astype(np.float32)
    before = adata.obsm[KEY].to_numpy().copy()
    proteins = learned(adata, missing={"a": ["CD4"]})
    values, _ = encode_proteins(adata, proteins, np.tile([0, 1], 4))
    assert not values[::2, 1].any()
    assert values[1::2, 1].all()
    assert values[:, [0, 3]].all()
    np.testing.assert_array_equal(adata.obsm[KEY], before)


def test_names_in_uns_are_those_of_the_cells_at_hand(adata):
    frame = adata.obsm[KEY]
    adata.obsm[KEY], adata.uns["names"] = frame.to_numpy(), np.array(NAMES)
    schema = learn(adata, batch_key="batch", protein_key=KEY, protein_names="names")
    other = adata.copy()
    other.obsm[KEY], other.uns["names"] = frame[NAMES[::-1]].to_numpy(), np.array(NAMES[::-1])
    schema = Schema.from_json(schema.to_json())
    np.testing.assert_array_equal(encode(other, schema).proteins, frame)
    del other.uns["names"]
    np.testing.assert_array_equal(encode(other, schema).proteins[:, 0], frame["CD19"], "as at the fit")


def query(adata, **columns):
    """Two cells of a new batch."""
    new = adata[[0, 2]].copy()
    new.obs = new.obs.assign(batch="c", **columns)
    return new, (BATCHES, Category("batch", ("a", "b", "c")))


def test_a_query(adata, said):
    proteins = learned(adata)
    new, batch = query(adata)
    new.obsm[KEY]["CD4"] = 0
    found = grown(new, proteins, batch)
    assert found.measured == (*proteins.measured, (True, False, True, True))
    assert found.in_batch == found.measured
    assert found.decoded_from.tolist() == [*map(list, proteins.in_batch), [False] * 4], "as the reference"
    assert found.absent == ()
    assert "'c': 'CD4' without a count, so taken as not measured, and imputed" in said()
    new.obsm[KEY] = new.obsm[KEY][["CD19", "CD3"]]
    found = grown(new, proteins, batch)
    assert found.absent == ("CD4", "CD8a")
    assert found.measured[2] == (True, False, False, True)
    assert "not in the query, and imputed: 'CD4', 'CD8a'" in said()
    assert grown(adata, proteins, (BATCHES, BATCHES)) == proteins


def test_a_query_without_proteins(adata, said):
    proteins = learned(adata)
    new, batch = query(adata)
    new.obsm[KEY].columns = [f"{name}_TotalSeqB" for name in NAMES]
    assert grown(new, proteins, batch).absent == tuple(NAMES)
    assert (
        "none of the proteins of the reference under 'protein_expression', only 'CD3_TotalSeqB', " in said()
    )
    del new.obsm[KEY]
    found = grown(new, proteins, batch)
    assert found.measured == (*proteins.measured, (False,) * 4)
    assert "under 'protein_expression': all are imputed" in said()


def test_what_a_query_lacks_was_not_measured_in_a_batch_that_the_reference_has(adata):
    proteins = learned(adata)
    new = adata[[0, 2]].copy()
    new.obsm[KEY] = new.obsm[KEY][["CD19", "CD3"]]
    found = grown(new, proteins, (BATCHES, BATCHES))
    assert measured(found) == [["CD3", "CD19"], ["CD3", "CD4", "CD19"]]
    assert found.in_batch == proteins.in_batch
    assert found.decoded_from.tolist() == [*map(list, proteins.in_batch)]


def test_panels_of_a_query(adata):
    proteins = learned(adata, panel_key="panel")
    new, batch = query(adata, panel=["x", "new"])
    new.obsm[KEY].iloc[1, 3] = 0
    found = grown(new, proteins, batch)
    assert found.panel == Category("panel", ("x", "y", "z", "new"))
    assert found.measured == (*proteins.measured, (True, True, True, False))
    assert found.in_batch == (*proteins.in_batch, (True,) * 4)


def wrong_table(name, adata):
    frame = adata.obsm[KEY]
    adata.obsm[KEY] = {
        "negative": frame - 5,
        "log": np.log1p(frame),
        "nan": frame.astype(float).where(frame != 6),
        "gap": frame.astype("Int64").where(frame != 6),
        "infinite": frame.astype(float).where(frame != 6, np.inf),
        "text": frame.astype(str),
        "twice": frame.set_axis(["CD3", "CD4", "CD3", "CD3"], axis=1),
        "none": frame[[]],
        "silent": frame.assign(CD4=0),
        "two silent": frame.assign(CD4=0, CD3=0),
    }.get(name, frame)
    if name == "order":
        adata.obsm[KEY].index = adata.obs_names[::-1]
    elif name == "other cells":
        adata.obsm[KEY].index = [f"barcode_{i}" for i in range(8)]
    elif name == "array":
        adata.obsm[KEY] = frame.to_numpy()


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("negative", {}, ValueError, r"adata.obsm\['protein_expression'\] holds negative values \(smallest -5\); raw counts of prot"),
        ("log", {}, ValueError, "not whole numbers .*neither CLR- nor log-normalised"),
        ("nan", {}, ValueError, r"holds NaN in 1 places: put 0 where a protein was not measured, as with fillna\(0\)"),
        ("gap", {}, ValueError, "holds NaN in 1 places"),
        ("infinite", {}, ValueError, "infinite"),
        ("text", {}, TypeError, "values that are not numbers"),
        ("twice", {}, ValueError, "several proteins called 'CD3': rename them"),
        ("none", {}, ValueError, "no columns: there are no proteins"),
        ("silent", {}, ValueError, "no cell has a count of 'CD4', so nothing can be learned about it: leave it out of adata.obsm"),
        ("two silent", {}, ValueError, "'CD3', 'CD4', so nothing can be learned about them: leave them out"),
        ("order", {}, ValueError, r"a table in adata.obsm has other cells than adata.obs_names, or the same in another order"),
        ("other cells", {}, ValueError, "change the names back that were changed last"),
        ("", {"key": "proteins_expression"}, KeyError, "'proteins_expression' is not in adata.obsm.* Did you mean 'protein_expression'.*protein_key="),
        ("array", {"names": ["a", "b"]}, ValueError, "has 4 columns, but there are 2 names of proteins"),
        ("array", {"names": "names"}, KeyError, "protein_names='names' is not in adata.uns. Pass the names themselves"),
        ("array", {"names": ["a", "a", "b", "c"]}, ValueError, "several proteins called 'a'"),
        ("", {"panel_key": "panels"}, KeyError, "panel_key='panels' is not in adata.obs. Did you mean 'panel'"),
        ("", {"missing": {"batch": ["CD3"]}}, KeyError, "missing_proteins has 'batch', which no cell is of. There are 'a', 'b'"),
        ("", {"missing": {"a": ["CD8"]}}, KeyError, "missing_proteins has 'CD8', which is not a protein here. Did you mean 'CD8a'"),
        ("", {"missing": {"a": ["CD3"], "b": ["CD3"]}}, ValueError, "leaves 'CD3' measured nowhere: leave such proteins out"),
        ("", {"missing": ["CD3"]}, TypeError, "takes 'auto', or a dictionary of lists"),
        ("", {"missing": None}, TypeError, "takes 'auto', or a dictionary of lists"),
        ("", {"missing": {"z": ["CD3"]}, "panel_key": "panel", "batch": None}, None, None),
        ("", {"missing": {"a": ["CD3"]}, "panel_key": "panel"}, KeyError, "'a', which no cell is of. There are 'x', 'y', 'z'"),
    ],
)  # fmt: skip
def test_bad_input(adata, name, options, error, text):
    wrong_table(name, adata)
    if error is None:
        learned(adata, **options)
        return
    with pytest.raises(error, match=text):
        learned(adata, **options)
