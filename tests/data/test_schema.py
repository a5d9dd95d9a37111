from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvitl.data import Schema, encode, learn


@pytest.fixture
def adata(toy):
    n = toy.n_obs
    toy.obs["donor"] = pd.Categorical(
        np.array(["d2", "d10"])[np.arange(n) % 2], categories=["d2", "d10", "d3"]
    )
    toy.obs["lane"] = np.arange(n) % 3
    toy.obs["percent_mito"] = np.linspace(1, 5, n)
    toy.obs["factor"] = 1.0 + np.arange(n) / n
    return toy


def everything(adata):
    return learn(
        adata,
        batch_key="batch",
        labels_key="cell_type",
        size_factor_key="factor",
        categorical_covariate_keys=["donor", "lane"],
        continuous_covariate_keys=["percent_mito"],
    )


def test_codes(adata):
    codes = encode(adata, everything(adata))
    assert codes.genes is None
    assert np.array_equal(codes.batch, adata.obs["batch"].cat.codes)
    assert np.array_equal(codes.categorical, np.c_[np.arange(adata.n_obs) % 2, np.arange(adata.n_obs) % 3])
    assert codes.continuous.mean() == pytest.approx(0, abs=1e-12)
    assert codes.continuous.std() == pytest.approx(1)
    assert np.array_equal(codes.size_factor, adata.obs["factor"])


def test_nothing_asked_for(adata):
    codes = encode(adata, learn(adata))
    assert set(codes.batch) == {0}
    assert codes.categorical.shape == codes.continuous.shape == (adata.n_obs, 0)
    assert codes.size_factor is None


def test_json_round_trip(adata):
    schema = everything(adata)
    assert Schema.from_json(schema.to_json()) == schema


def test_pandas_order_without_unused_categories(adata, said):
    assert everything(adata).categorical[0].categories == ("d2", "d10")
    assert "'d3'" in said()


def test_codes_do_not_depend_on_the_type_of_the_column(adata):
    schema = everything(adata)
    expected = encode(adata, schema).categorical
    adata.obs["lane"] = adata.obs["lane"].astype(float)
    assert np.array_equal(encode(adata, schema).categorical, expected)
    adata.obs["lane"] = adata.obs["lane"].astype(int).astype(str)
    adata.obs["donor"] = pd.Categorical(adata.obs["donor"], categories=["d3", "d10", "d2"])
    assert np.array_equal(encode(adata, schema).categorical, expected)


def test_covariates_keep_their_scale(adata):
    """A subset is standardised by the mean and deviation of the cells that the model was fitted to."""
    schema = everything(adata)
    assert np.array_equal(encode(adata[:10], schema).continuous, encode(adata, schema).continuous[:10])


def test_genes_by_name(adata):
    schema = learn(adata)
    at = np.random.default_rng(0).permutation(adata.n_vars)
    shuffled = adata[:, at].copy()
    assert list(shuffled.var_names[encode(shuffled, schema).genes]) == list(adata.var_names)


def test_missing_genes(adata):
    with pytest.raises(
        ValueError, match=r"2 of the 40 genes of the model are not in adata\.var_names \('gene_0"
    ) as error:
        encode(adata[:, 2:], learn(adata))
    assert "adata has 38 genes such as" in str(error.value)


def test_unseen_category(adata):
    schema = everything(adata)
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch_1": "new"})
    with pytest.raises(ValueError, match=r"obs\['batch'\] has 'new', .* It knows 'batch_0', 'batch_1'"):
        encode(adata, schema)


def test_missing_column(adata):
    with pytest.raises(
        KeyError, match=r"batch_key='Batch' is not in adata\.obs\. Did you mean 'batch'\? Columns: 'batch'"
    ):
        learn(adata, batch_key="Batch")


def test_nan_in_a_category(adata):
    adata.obs.loc[adata.obs_names[:3], "donor"] = np.nan
    with pytest.raises(ValueError, match=r"obs\['donor'\] is NaN in 3 cells\. Drop these cells"):
        learn(adata, categorical_covariate_keys=["donor"])


def test_a_category_with_one_cell_is_said(adata, said):
    adata.obs["donor"] = ["one", *["other"] * (adata.n_obs - 1)]
    assert learn(adata, batch_key="donor").batch.categories == ("one", "other")
    assert "'one'" in said()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_covariate_not_finite(adata, value):
    adata.obs.loc["cell_0005", "percent_mito"] = value
    with pytest.raises(
        ValueError, match=r"in 'cell_0005' and 0 other cells, but continuous_covariate_keys needs finite"
    ):
        learn(adata, continuous_covariate_keys=["percent_mito"])


def test_constant_covariate(adata):
    adata.obs["percent_mito"] = 0.1
    with pytest.raises(ValueError, match=r"obs\['percent_mito'\] is 0\.1 in every cell.* leave it out"):
        learn(adata, continuous_covariate_keys=["percent_mito"])


def test_constant_categories(adata):
    adata.obs["donor"] = "same"
    with pytest.raises(ValueError, match=r"obs\['donor'\] is 'same' in every cell.* leave it out"):
        learn(adata, categorical_covariate_keys=["donor"])
    assert learn(adata, batch_key="donor").batch.categories == ("same",), "a single batch is no mistake"


def test_categories_that_read_the_same(adata):
    adata.obs["lane"] = np.array([1, "1"] * (adata.n_obs // 2), dtype=object)
    with pytest.raises(ValueError, match="different categories that read the same"):
        learn(adata, batch_key="lane")


def test_covariate_too_large(adata):
    adata.obs["percent_mito"] = np.linspace(0, 1e200, adata.n_obs)
    with pytest.raises(ValueError, match="too large to standardise"):
        learn(adata, continuous_covariate_keys=["percent_mito"])


def test_covariate_of_words(adata):
    with pytest.raises(
        TypeError, match=r"obs\['donor'\] holds category, but continuous_covariate_keys needs numbers"
    ):
        learn(adata, continuous_covariate_keys=["donor"])


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_size_factor_not_positive(adata, value):
    adata.obs.loc["cell_0005", "factor"] = value
    with pytest.raises(ValueError, match="needs positive numbers"):
        learn(adata, size_factor_key="factor")


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_duplicated_names(adata, axis):
    names = list(getattr(adata, f"{axis}_names"))
    names[1] = names[0]
    setattr(adata, f"{axis}_names", names)
    with pytest.raises(
        ValueError, match=rf"adata\.{axis}_names are not unique .* adata\.{axis}_names_make_unique\(\)"
    ):
        learn(adata)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cells(adata, n):
    with pytest.raises(ValueError, match=rf"adata has {n} cells × 40 genes; at least two cells"):
        learn(adata[:n])
