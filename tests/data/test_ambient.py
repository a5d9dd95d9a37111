from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import optimize, stats

from scvitl.data import Category, ambient

GENES = ["g1", "g2", "g3"]
PROFILE = np.array([0.5, 0.3, 0.2])
BATCH = Category("batch", ("a", "b"))
TABLE = pd.DataFrame({"b": [0.2, 0.2, 0.6], "a": PROFILE, "c": [1, 0, 0.0]}, GENES)


def make(**varm):
    return ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=GENES), varm=varm)


def given(value, genes=GENES, batch=None, adata=None):
    return ambient.given(make() if adata is None else adata, value, genes, batch)


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        list,
        tuple,
        np.atleast_2d,
        lambda x: x[:, None],
        lambda x: x.astype(np.float32),
        torch.tensor,
        lambda x: torch.tensor(x, requires_grad=True),
        sp.csr_matrix,
        lambda x: sp.csc_array(x[:, None]),
        lambda x: pd.Series(x, GENES),
        lambda x: pd.Series(x, GENES, name="share")[::-1],
        lambda x: pd.Series(x, GENES, dtype="Float64"),
        lambda x: pd.DataFrame({"share": x}, GENES).iloc[[2, 0, 1]],
        lambda x: pd.DataFrame({"share": [*x, 0]}, [*GENES, "more"])[::-1],
    ],
)
def test_forms(said, form):
    shares = given(form(PROFILE))
    assert shares.shape == (1, 3)
    assert np.allclose(shares, PROFILE)
    assert shares.dtype == np.float64
    assert said() == ""
    assert np.allclose(given(form(PROFILE), batch=BATCH), [PROFILE, PROFILE])


def test_a_key_of_varm():
    for value in (PROFILE[:, None], TABLE[["a"]], sp.csr_matrix(PROFILE[:, None])):
        assert np.allclose(given("profile", adata=make(profile=value)), [PROFILE])
    assert np.allclose(given("profile", batch=BATCH, adata=make(profile=TABLE)), TABLE[["a", "b"]].T)


def test_a_column_for_each_batch():
    assert np.allclose(given(TABLE, batch=BATCH), [PROFILE, [0.2, 0.2, 0.6]])
    numbers = TABLE.rename(columns={"a": 1, "b": 2.0})
    assert np.allclose(given(numbers, batch=Category("batch", ("1", "2"))), [PROFILE, [0.2, 0.2, 0.6]])


def test_counts_become_shares(said):
    assert np.allclose(given(np.array([50, 30, 20])), [PROFILE])
    assert "ambient sums to 100 and not to 1: it is divided by its sum" in said()


def test_genes_that_are_dropped_count_for_the_sum(said):
    assert np.allclose(given(pd.Series([0.25, 0.15, 0.1, 0.5], [*GENES, "more"])), [PROFILE])
    assert "sums to 0.5 and not to 1" in said()


def test_genes_of_one_type(said):
    # Others have a profile of their own, or none.
    assert np.allclose(given([0.5, np.nan, 0.5], ["g1", "g3"]), [[0.5, 0.5]])
    assert np.allclose(given([0.5, 1, 0.3], ["g3", "g1"]), [[3 / 8, 5 / 8]])
    assert said() == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [0.5, np.nan, 0.5],
            r"ambient is NaN or infinite for 1 of 3 genes \(such as 'g2'\): a profile has the share of every",
        ),
        ([np.inf, 0, np.nan], r"ambient is NaN or infinite for 2 of 3 genes \(such as 'g1'\)"),
        (pd.Series([0.5, None, 0.5], GENES, dtype="Float64"), "NaN or infinite for 1 of 3 genes"),
        ([0.5, -0.1, 0.6], r"ambient is negative for 1 of 3 genes \(such as 'g2'\)"),
        ([0, 0, 0], "ambient is zero for every gene"),
        (
            [0.5, 0.5],
            r"ambient has shape \(2,\), but adata has 3 genes: one share per gene, in the order of adata\.var_n",
        ),
        (0.5, r"ambient has shape \(\), but"),
        (np.ones((2, 3)), r"ambient has shape \(2, 3\)"),
        (np.ones((3, 1, 1)), r"ambient has shape \(3, 1, 1\)"),
        (
            np.ones((3, 2)),
            r"ambient has shape \(3, 2\), .* a profile for each batch takes a frame",
        ),
        (TABLE, "ambient has 3 columns: name"),
        (
            TABLE.iloc[:2, :1],
            r"ambient has no row for 1 of the 3 genes of adata \(such as 'g3'\); its rows are such as 'g1', 'g2'",
        ),
        (
            pd.Series(PROFILE),
            "has no row for 3 of the 3 genes .* such as 0, 1, 2: index it by adata.var_names",
        ),
        (
            pd.Series([*PROFILE, 1], [*GENES, "g1"]),
            "the index of ambient has 'g1' more than once: one row per gene",
        ),
    ],
)
def test_wrong_values(value, message):
    with pytest.raises(ValueError, match=message):
        given(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.array(["a", "b", "c"]),
            r"ambient takes the shares of the genes as numbers, or a key of adata\.varm, not ndarray of <U1",
        ),
        ({"g1": 1}, "not dict of object"),
        ([True, False, True], "not list of bool"),
        (make(), "not AnnData of object"),
        ([[1], [2, 3], []], "not list of object"),
        (
            pd.Series(list("abc"), GENES),
            "ambient holds (object|str), where the shares of the genes are numbers",
        ),
        (pd.DataFrame({"a": pd.Categorical(PROFILE)}, GENES), "ambient holds category"),
    ],
)
def test_wrong_types(value, message):
    with pytest.raises(TypeError, match=message):
        given(value)


def test_wrong_keys():
    adata = make(scar_ambient=PROFILE[:, None], odd=-PROFILE[:, None])
    adata.var["profile"] = PROFILE
    message = r"ambient='scar_ambeint' is not in adata\.varm\. Did you mean 'scar_ambient'\? In varm: 'scar_ambient', 'odd'"
    with pytest.raises(KeyError, match=message):
        given("scar_ambeint", adata=adata)
    with pytest.raises(
        KeyError, match=r"not in adata\.varm\. adata\.var has it: ambient=adata\.var\['profile'\]"
    ):
        given("profile", adata=adata)
    with pytest.raises(KeyError, match=r"In varm: none"):
        given("profile")
    with pytest.raises(ValueError, match=r"adata\.varm\['odd'\] is negative for 3 of 3 genes"):
        given("odd", adata=adata)


def test_columns_are_not_the_batches():
    message = r"has no profile for 'b' of adata\.obs\['batch'\]; its columns are 'a', 'c': pass a frame with the batches as"
    with pytest.raises(ValueError, match=message):
        given(TABLE[["a", "c"]], batch=BATCH)
    with pytest.raises(ValueError, match="a profile for each batch takes a frame"):
        given(np.ones((3, 2)), batch=BATCH)
    with pytest.raises(ValueError, match="ambient is zero for every gene"):
        given(TABLE.assign(b=0), batch=BATCH)


def test_frame():
    frame = ambient.frame(np.array([PROFILE]), pd.Index(GENES), None)
    assert frame.columns.tolist() == ["ambient"]
    assert frame.loc["g2", "ambient"] == 0.3
    frame = ambient.frame(np.array([PROFILE, PROFILE[::-1]]), pd.Index(GENES), ("a", "b"))
    assert frame.loc["g1"].to_dict() == {"a": 0.5, "b": 0.2}


def test_pooled():
    counts = sp.csr_matrix([[1, 0, 1], [0, 3, 1], [2, 2, 0]], dtype=np.float32)
    assert np.allclose(ambient.pooled(counts, np.zeros(3, int), 1), [[0.3, 0.5, 0.2]])
    assert np.allclose(ambient.pooled(counts, np.array([1, 0, 1]), 2), [[0, 0.75, 0.25], [0.5, 1 / 3, 1 / 6]])


def test_smoothed_is_the_posterior_under_the_best_prior():
    rng = np.random.default_rng(0)
    pool = rng.dirichlet(np.full(300, 0.5))
    counts = rng.multinomial(2000, rng.dirichlet(100 * pool + 1e-9)).astype(float)
    shares = ambient.smoothed(counts, pool)
    assert np.isclose(shares.sum(), 1)
    # The weight is what remains free of a mean of shares in the counts and shares in the cells.
    unseen = counts == 0
    weights = 2000 * shares[unseen] / (pool[unseen] - shares[unseen])
    assert np.allclose(weights, weights[0], rtol=1e-5)

    def cost(log_weight):
        return -stats.dirichlet_multinomial.logpmf(counts.astype(int), np.exp(log_weight) * pool, 2000)

    best = optimize.minimize_scalar(cost, bounds=(0, 12), method="bounded")
    assert np.isclose(np.log(weights[0]), best.x, atol=0.02)
    assert 50 < weights[0] < 200


def test_smoothed_where_the_cells_say_nothing():
    counts = np.array([90.0, 10, 0])
    shares = ambient.smoothed(counts, np.array([0.0, 0.1, 0.9]))
    assert np.isclose(shares.sum(), 1)
    assert np.allclose(shares, counts / 100, atol=0.02)
    assert (shares > 0).all()
    # Many counts speak for themselves; where few follow the cells, the cells help.
    pool = np.array([0.6, 0.3, 0.1])
    assert np.allclose(ambient.smoothed(1e7 * PROFILE, pool), PROFILE, atol=1e-3)
    assert np.allclose(ambient.smoothed(np.array([6.0, 3, 1]), pool), pool, atol=1e-3)
    assert np.allclose(ambient.smoothed(np.array([3.0, 0, 0]), np.array([0.9, 0.1, 0]))[2], 0, atol=1e-3)
