from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvitl
from scvitl.get import confusion

GIVEN = ["T", "T", "T", "B", "B", "NK", "Unknown", None]
PREDICTED = ["T", "T", "B", "B", "Unknown", "T", "T", "B"]
LABELS = ["NK", "T", "B"]


def as_dict(table):
    return {name: row[row > 0].to_dict() for name, row in table.iterrows()}


def test_counts(called):
    table = confusion(called(GIVEN, PREDICTED, LABELS))
    assert as_dict(table) == {"NK": {"T": 1}, "T": {"T": 2, "B": 1}, "B": {"B": 1, "Unknown": 1}}
    assert list(table.index) == LABELS
    assert list(table.columns) == [*LABELS, "Unknown"], "labels that were never predicted keep their place"
    assert (table.index.name, table.columns.name) == ("cell_type", "scanvi")
    assert (table.dtypes == np.int64).all()


def test_all_cells_are_counted_once(called):
    rng = np.random.default_rng(0)
    names = np.array([f"type {i}" for i in range(7)])
    given, predicted = names[rng.integers(7, size=500)], names[rng.integers(7, size=500)]
    table = confusion(called(given, predicted, names))
    pd.testing.assert_frame_equal(table, pd.crosstab(given, predicted), check_names=False)


def test_another_column(called):
    """Names that the model does not know come last; what the column does not have is left out."""
    adata = called(GIVEN, PREDICTED, LABELS)
    adata.obs["truth"] = pd.Categorical(
        ["new", "T", "T", "older", "T", "T", None, "Unknown"], ["unused", "older", "T", "Unknown", "new"]
    )
    table = confusion(adata, "truth")
    assert list(table.index) == ["T", "older", "new"]
    assert list(table.columns) == ["T", "B", "Unknown"]
    assert as_dict(table)["T"] == {"T": 2, "B": 1, "Unknown": 1}
    assert table.index.name == "truth"


def test_numbers_as_labels(called):
    adata = called([1.0, 2.0, np.nan, 1.0], ["1", "1", "2", "1"], ["1", "2"])
    assert as_dict(confusion(adata)) == {"1": {"1": 2}, "2": {"1": 1}}


def test_gaps_in_the_predictions_are_left_out(called):
    """As after a concatenation with other cells."""
    adata = called(GIVEN, PREDICTED, LABELS)
    adata.obs["scanvi"] = adata.obs["scanvi"].astype(object).where(np.arange(8) != 0)
    assert confusion(adata).to_numpy().sum() == 5


def test_predictions_that_were_renamed_come_last(called):
    adata = called(GIVEN, PREDICTED, LABELS)
    adata.obs["scanvi"] = adata.obs["scanvi"].cat.rename_categories({"B": "A cell"})
    assert list(confusion(adata).columns) == [*LABELS, "Unknown", "A cell"]


def test_nothing_to_count(called):
    adata = called(["Unknown", None], ["T", "B"], LABELS)
    with pytest.raises(ValueError, match=r"no cell has a label in adata\.obs\['cell_type'\]"):
        confusion(adata)


def test_what_is_missing(called, fitted):
    adata = called(GIVEN, PREDICTED, LABELS)
    with pytest.raises(KeyError, match=r"truth='cell_typ' is not in adata\.obs.*Did you mean 'cell_type'"):
        confusion(adata, "cell_typ")
    with pytest.raises(KeyError, match="no fitted model in"):
        confusion(adata, key="scanvy")
    with pytest.raises(ValueError, match="is a scVI model, which predicts no labels"):
        confusion(fitted, "cell_type", key="scvi")
    del adata.obs["scanvi"]
    with pytest.raises(KeyError, match=r"'scanvi' is not in adata\.obs"):
        confusion(adata)


def test_of_a_fitted_model(toy, tmp_path):
    toy.obs["known"] = toy.obs["cell_type"].where(toy.obs["batch"] == "batch_0")
    scvitl.tl.scanvi(toy, "known", n_hidden=8, n_latent=3, max_epochs=1, progress=False, key_added="mine")
    table = confusion(toy, key="mine")
    assert table.to_numpy().sum() == toy.obs["known"].notna().sum()
    assert confusion(toy, "cell_type", key="mine").to_numpy().sum() == 120
    assert table.columns.name == "mine"
    toy.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(confusion(ad.read_h5ad(tmp_path / "a.h5ad"), key="mine"), table)
