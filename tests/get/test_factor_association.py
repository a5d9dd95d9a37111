from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import scvitl
from scvitl import get
from scvitl.get import _factor_association

N = 200


@pytest.fixture
def adata(fitted):
    return fitted


def associate(adata, *keys, **options):
    return get.factor_association(adata, list(keys) or None, key="scvi", **options)


def adjusted(share, k):
    return np.maximum(1 - (1 - share) * (N - 1) / (N - k), 0)


def test_groups_explain_the_variance_between_them(adata):
    z = pd.DataFrame(adata.obsm["X_scvi"].astype(np.float64))
    within = z.groupby(adata.obs["cell_type"].to_numpy()).transform(lambda x: x - x.mean()).var(ddof=0)
    table = associate(adata, "cell_type")
    assert list(table.index) == ["Z_0", "Z_1", "Z_2", "Z_3"]
    assert np.allclose(table["cell_type"], adjusted(1 - within / z.var(ddof=0), 4), atol=1e-5)
    assert table["cell_type"].max() > 0.1


def test_numbers_explain_by_rank(adata):
    rho = [spearmanr(adata.obs["library"], z).statistic for z in adata.obsm["X_scvi"].T]
    assert np.allclose(associate(adata, "library")["library"], adjusted(np.square(rho), 2), atol=1e-6)
    adata.obs["log"] = np.log(adata.obs["library"])
    assert np.allclose(associate(adata, "log")["log"], associate(adata, "library")["library"])


def test_what_is_the_factor_itself_explains_all_of_it(adata):
    z = adata.obsm["X_scvi"][:, 1]
    adata.obs["same"], adata.obs["mirrored"] = z, -z
    assert np.allclose(associate(adata, "same", "mirrored").loc["Z_1"], 1)


def test_chance_explains_nothing(adata):
    """A hundred groups of two cells would explain half of the variance."""
    rng = np.random.default_rng(0)
    for name in range(10):
        adata.obs[f"random_{name}"] = rng.permutation(np.arange(N) % 100).astype(str)
    table = associate(adata, *(f"random_{name}" for name in range(10)))
    assert (table >= 0).all(None)
    assert table.mean(None) < 0.1


def test_columns_that_tell_cells_apart(adata):
    adata.obs["name"] = adata.obs_names
    adata.obs["one"], adata.obs["zero"], adata.obs["none"] = "same", 0, np.nan
    adata.obs["flag"] = np.arange(N) % 2 == 0
    adata.obs["count"] = pd.array([None, *range(N - 1)], dtype="Int64")
    assert list(associate(adata)) == ["batch", "cell_type", "library", "flag", "count"]
    for column in ("name", "one", "zero", "none"):
        with pytest.raises(ValueError, match=rf"obs\['{column}'\] does not tell cells apart"):
            associate(adata, column)
    assert list(get.factor_association(adata, "flag", key="scvi")) == ["flag"]
    with pytest.raises(KeyError, match=r"keys='bach' is not in adata\.obs\. Did you mean 'batch'"):
        associate(adata, "bach")


def test_cells_without_a_value_are_left_out(adata):
    some = np.arange(N) % 5 > 0
    for column in ("cell_type", "library"):
        adata.obs["part"] = adata.obs[column].where(some)
        expected = associate(adata, column, indices=some)[column]
        assert np.allclose(associate(adata, "part")["part"], expected, atol=1e-6)


def test_factors_are_ranked_once_for_all_columns_without_gaps(adata, monkeypatch):
    ranked = []
    ranks = _factor_association._ranks
    monkeypatch.setattr(_factor_association, "_ranks", lambda z: ranked.append(len(z)) or ranks(z))
    number = np.random.default_rng(0).normal(size=(3, N))
    adata.obs["one"], adata.obs["two"] = number[:2]
    adata.obs["gap"] = np.where(np.arange(N) < 50, np.nan, number[2])
    table = associate(adata, "one", "cell_type", "gap", "two", "library")
    assert ranked == [N, N - 50]
    del ranked[:]
    for column in table:
        assert np.array_equal(associate(adata, column)[column], table[column])
    del ranked[:]
    associate(adata, "cell_type", "batch")
    assert ranked == []


def test_a_factor_that_is_the_same_everywhere(adata, monkeypatch):
    flat = adata.obsm["X_scvi"].copy()
    flat[:, 2] = 0.5
    monkeypatch.setattr("scvitl.get._factor_association.latent", lambda *_, **__: flat)
    table = associate(adata, "cell_type", "library")
    assert (table.loc["Z_2"] == 0).all()
    assert (table.loc["Z_0"] > 0).any()


def test_known_factors_go_with_cell_types_and_not_with_batches():
    adata = scvitl.datasets.toy(n_cells=300, n_genes=60)
    scvitl.tl.ldvae(adata, batch_key="batch", n_latent=4, max_epochs=40, progress=False)
    table = get.factor_association(adata)
    assert list(table) == ["batch", "cell_type", "library"]
    assert (table["cell_type"][:3] > 0.7).all()
    assert (table[["batch", "library"]][:3] < 0.1).all(None)
