from __future__ import annotations

import numpy as np
import pytest

from scvitl.data import Schema, encode, find_counts, learn
from scvitl.data.query import absent_genes, extend, new_categories


@pytest.fixture
def reference(toy):
    toy.obs["donor"] = np.arange(toy.n_obs) % 2
    toy.obs["mito"] = np.linspace(0, 1, toy.n_obs)
    return learn(
        toy,
        batch_key="batch",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["mito"],
        labels_key="cell_type",
        unlabeled_category="Unknown",
    )


@pytest.fixture
def query(toy, reference):
    """Another batch, one more donor, genes in another order with some missing and some more."""
    query = toy[:50, ::-1][:, 5:].copy()
    query.obs["batch"], query.obs["donor"] = "a new one", np.arange(50) % 3
    query.var_names = [*query.var_names[:-2], "more_0", "more_1"]
    del query.obs["cell_type"]
    return query


def test_new_categories_come_after_the_old(reference, query):
    schema = extend(query, reference)
    assert schema.batch.categories == ("batch_0", "batch_1", "a new one")
    assert schema.categorical[0].categories == ("0", "1", "2")
    assert schema.labels == reference.labels
    assert schema.continuous == reference.continuous
    assert new_categories(reference, schema) == {"batch": ("a new one",), "donor": ("2",)}
    codes = encode(query, schema)
    assert set(codes.batch) == {2}
    assert codes.categorical[:4, 0].tolist() == [0, 1, 2, 0]
    assert set(codes.labels) == {len(reference.labels.categories)}


def test_known_categories_stay(reference, toy):
    schema = extend(toy, reference)
    assert schema == reference
    assert new_categories(reference, schema) == {}


def test_genes_by_name_and_zeros_for_those_that_are_absent(reference, query):
    schema = extend(query, reference)
    assert set(schema.absent) == set(reference.genes) - set(query.var_names)
    assert len(schema.absent) == 7
    counts = find_counts(query, genes=encode(query, schema).genes).toarray()
    for column, gene in zip(counts.T, schema.genes, strict=True):
        expected = np.zeros(50) if gene in schema.absent else query[:, gene].X.toarray().ravel()
        assert np.array_equal(column, expected)


def test_absent_genes_survive_json_and_older_records_have_none(reference, query):
    schema = extend(query, reference)
    assert Schema.from_json(schema.to_json()) == schema
    assert '"absent"' in schema.to_json()
    older = schema.to_json().replace('"absent"', '"something else"')
    assert Schema.from_json(older).absent == ()


def test_other_genes_must_not_go_missing_later(reference, query):
    """What was zero when the query was mapped stays zero, but a selection of genes is a mistake still."""
    schema = extend(query, reference)
    with pytest.raises(ValueError, match="3 of the 40 genes of the model are not in adata"):
        encode(query[:, 3:].copy(), schema)


def test_layer(reference, query):
    assert extend(query, reference).layer is None
    query.layers["raw"] = query.X.copy()
    assert extend(query, reference, layer="raw").layer == "raw"
    in_layer = learn(query, layer="raw")
    assert extend(query, in_layer).layer == "raw", "as in the reference"
    del query.layers["raw"]
    assert extend(query, in_layer).layer is None
    query.layers["counts"] = query.X.copy()
    query.X = query.X * 0.5
    assert extend(query, in_layer).layer == "counts", "where a fit would find them"


def test_a_missing_column(reference, query):
    query.obs["Batch"] = query.obs.pop("batch")
    with pytest.raises(
        KeyError,
        match=r"fitted with 'batch' as batch_key, but query\.obs has no such column\. Did you mean 'Batch'\?"
        r" Columns: .*'donor'.* Add it, as in query\.obs\['batch'\] = ",
    ):
        extend(query, reference)


def test_labels_that_the_reference_does_not_have(reference, query):
    query.obs["cell_type"] = ["type_0"] * 48 + ["plasma", "pDC"]
    with pytest.raises(
        ValueError,
        match=r"obs\['cell_type'\] has 'pDC', 'plasma', which the model was not fitted to\. It knows 'type_0', "
        r".*: set these cells to 'Unknown' to have their labels predicted",
    ):
        encode(query, extend(query, reference))


def test_no_gene_in_common(reference, query):
    query.var_names = [f"ENSG{i:011d}" for i in range(query.n_vars)]
    with pytest.raises(
        ValueError,
        match=r"none of the 40 genes of the reference is in query\.var_names: the reference has 'gene_\d+', .*, …, "
        r"the query 'ENSG00000000000', 'ENSG00000000001', 'ENSG00000000002', …\. The query has Ensembl identifiers",
    ):
        extend(query, reference)


def test_where_the_names_may_be(reference, query):
    query.var["symbol"] = query.var_names
    query.var_names = [f"ENSG{i:011d}" for i in range(query.n_vars)]
    with pytest.raises(
        ValueError, match=r"query\.var\['symbol'\] has 82% of them: query\.var_names = query\.var\['symbol'\]"
    ):
        extend(query, reference)


@pytest.mark.parametrize(
    ("rename", "hint"),
    [(str.upper, "Their case differs"), ("{}.12".format, "Their versions differ"), ("x_{}".format, "…\\.$")],
    ids=["case", "versions", "nothing to say"],
)
def test_names_that_nearly_match(reference, query, rename, hint):
    query.var_names = [rename(name) for name in query.var_names]
    with pytest.raises(ValueError, match=hint):
        extend(query, reference)


def test_few_genes_in_common_are_said(reference, query, said):
    assert len(absent_genes(query, reference.genes)) == 7
    assert "33 of the 40 genes of the reference are in the query, the others count as 0; 2 further" in said()
    assert "WARNING" not in said()
    assert len(absent_genes(query[:, 5:], reference.genes)) == 12
    assert "WARNING: the query has only 70% of the genes of the reference" in said()


def test_duplicated_genes(reference, query):
    query.var_names = ["more_1", *query.var_names[1:]]
    with pytest.raises(ValueError, match="var_names are not unique"):
        extend(query, reference)


def test_no_cells(reference, query):
    with pytest.raises(ValueError, match="query has no cells"):
        extend(query[:0], reference)
