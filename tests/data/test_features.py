from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvitl.data.features import TYPES, chosen, types

MIXED = ["Gene Expression", "Gene Expression", "Antibody Capture", "CRISPR Guide Capture", "Custom"]


def make(column=None, **kwargs):
    var = pd.DataFrame(index=list("abcde"))
    if column is not None:
        var["feature_types"] = pd.Series(column, var.index, **kwargs)
    return ad.AnnData(np.ones((2, 5)), var=var)


@pytest.mark.parametrize("kind", TYPES)
def test_without_the_column(kind):
    assert chosen(make(), kind).all()
    assert [mask.tolist() for mask in types(make())] == [[True] * 5]


@pytest.mark.parametrize("dtype", [object, "category"])
def test_features_of_a_type(dtype):
    adata = make(MIXED, dtype=dtype)
    assert chosen(adata, "mRNA").tolist() == [True, True, False, False, False]
    assert chosen(adata, "ADT").tolist() == [False, False, True, False, False]
    assert chosen(adata, "sgRNA").tolist() == [False, False, False, True, False]
    assert chosen(adata, "tag").tolist() == [False, False, False, False, True]
    masks = types(adata)
    assert np.array_equal(np.sum(masks, 0), np.ones(5))
    assert [mask.sum() for mask in masks] == [2, 1, 1, 1]


def test_our_own_names_of_types():
    adata = make(["ADT", "mRNA", "CMO", "ADT", "mRNA"])
    assert chosen(adata, "ADT").nonzero()[0].tolist() == [0, 3]
    assert chosen(adata, "CMO").nonzero()[0].tolist() == [2]


def test_a_type_that_is_not_there():
    message = r"adata\.var\['feature_types'\] has no CMO, but 'Gene Expression', 'Antibody Capture', 'CRISPR"
    with pytest.raises(ValueError, match=message) as error:
        chosen(make(MIXED), "CMO")
    assert "meant" not in str(error.value)


def test_the_only_type_is_another():
    with pytest.raises(
        ValueError, match=r"has no mRNA, but 'Antibody Capture'\. Is feature_type='ADT' meant\?"
    ):
        chosen(make("Antibody Capture"), "mRNA")
    with pytest.raises(ValueError, match=r"Is feature_type='mRNA' meant\?"):
        chosen(make("Gene Expression"), "ADT")


def test_tags_go_by_several_names():
    for kind in ("CMO", "tag", "sgRNA"):
        assert chosen(make("Antibody Capture"), kind).all()


def test_a_single_name_that_is_not_known():
    assert chosen(make("gene"), "mRNA").all()
    with pytest.raises(ValueError, match=r"has no mRNA, but 'gene', 'peak'\.$"):
        chosen(make(["gene", "peak", "gene", "gene", "peak"]), "mRNA")


def test_no_such_type():
    with pytest.raises(ValueError, match=r"feature_type='RNA' is not known\. Use one of 'mRNA', 'ADT'"):
        chosen(make(), "RNA")
