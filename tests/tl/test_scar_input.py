"""What `tl.scar` takes as counts and as ambient profile, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scvitl
from scvitl.data.ambient import smoothed

SMALL = {"n_hidden": 8, "n_latent": 2, "max_epochs": 1, "progress": False}


@pytest.fixture(scope="module")
def _raw():
    return scvitl.datasets.toy(n_cells=150, n_genes=40, n_empty_droplets=600, random_state=3)


@pytest.fixture
def raw(_raw):
    return _raw.copy()


@pytest.fixture
def adata(raw):
    return raw[raw.obs["is_cell"]].copy()


@pytest.fixture
def truth(adata):
    return adata.var["ambient_profile"].to_numpy()


def fit(adata, raw=None, **options):
    scvitl.tl.scar(adata, raw, **SMALL | options)
    return adata.varm["scar_ambient"].to_numpy().T


def refused(adata, error, message, raw=None, **options):
    """The call is an error with this text, and leaves everything as it was."""
    before = adata.copy()
    with pytest.raises(error, match=message):
        fit(adata, raw, **options)
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert list(getattr(adata, slot)) == list(getattr(before, slot))
    assert abs(adata.X - before.X).max() == 0 or np.isnan(adata.X.data).any()


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        list,
        lambda x: torch.tensor(x[:, None], requires_grad=True),
        lambda x: pd.Series(x, [f"gene_{i:03d}" for i in range(40)])[::-1],
        lambda x: pd.DataFrame({"share": [*x, 0]}, [*[f"gene_{i:03d}" for i in range(40)], "more"])[::-1],
    ],
    ids=["array", "list", "tensor", "series", "frame"],
)
def test_forms_of_the_profile(adata, truth, said, form):
    assert np.allclose(fit(adata, ambient=form(truth)), [truth])
    assert "WARNING" not in said()
    assert "scar_ambient" not in adata.uns
    assert np.allclose(scvitl.get.model(adata, key="scar").module.ambient, truth)


def test_a_profile_that_is_counts(adata, truth, said):
    assert np.allclose(fit(adata, ambient=truth * 1e5), [truth])
    assert "ambient sums to 100000 and not to 1: it is divided by its sum" in said()


def test_a_profile_in_varm(adata, truth):
    adata.varm["soup"] = truth[:, None]
    assert np.allclose(fit(adata, ambient="soup"), [truth])
    adata.varm["soup"] = pd.DataFrame({"batch_1": truth[::-1], "batch_0": truth}, adata.var_names)
    assert np.allclose(fit(adata, ambient="soup", batch_key="batch"), [truth, truth[::-1]])
    assert adata.varm["scar_ambient"].columns.tolist() == ["batch_0", "batch_1"]


def test_one_profile_for_all_batches(adata, truth):
    assert np.allclose(fit(adata, ambient=truth, batch_key="batch"), [truth, truth])


def test_droplets(raw, adata, truth):
    profile = fit(adata, raw)
    assert abs(profile[0] - truth).sum() / 2 < 0.03
    assert adata.uns["scar_ambient"]["droplets"]["class"].value_counts()["cell"] == 150


def test_the_profile_that_was_found_before(raw, adata, said):
    expected = fit(adata.copy(), raw)
    scvitl.tl.ambient_profile(adata, raw)
    assert np.allclose(fit(adata), expected)
    assert "ambient profile from varm['scar_ambient']" in said()
    assert np.allclose(fit(adata), expected)
    scvitl.tl.ambient_profile(adata, raw, key_added="soup")
    assert np.allclose(fit(adata, ambient="soup_ambient"), expected)
    # With fewer genes it is still a profile.
    some = adata[:, 5:].copy()
    assert np.allclose(fit(some), expected[:, 5:] / expected[:, 5:].sum())


def test_a_name_that_is_taken_by_something_else(adata, truth):
    adata.varm["soup"] = truth[:, None]
    adata.uns["soup"] = np.array(["counts"])
    assert np.allclose(fit(adata, ambient="soup"), [truth])


def test_a_selection_of_genes_keeps_what_droplets_showed(raw, adata):
    """Genes that empty droplets do not show lean on the cells whichever genes are left, in whatever order."""
    scvitl.tl.ambient_profile(adata, raw)
    for genes in (np.arange(40)[::-1], np.arange(3, 40)):
        some = adata[:, genes].copy()
        counts = adata.uns["scar_ambient"]["counts"]["ambient"].to_numpy()[genes]
        assert np.allclose(fit(some), [smoothed(counts, np.ravel(some.X.sum(0)))])


def test_a_profile_of_the_cells_is_not_taken_for_a_measured_one(adata, said):
    fit(adata)
    some = adata[adata.obs["cell_type"] == "type_0"].copy()
    expected = np.ravel(some.X.sum(0))
    assert np.allclose(fit(some), [expected / expected.sum()])
    assert said().count("no raw droplets and no ambient profile are given") == 2
    profiles = fit(adata, batch_key="batch")
    assert not np.allclose(*profiles)


def test_a_profile_of_other_batches_is_not_taken(raw, adata, said):
    fit(adata, raw)
    fit(adata, batch_key="batch")
    assert "no raw droplets and no ambient profile are given" in said()
    assert "scar_ambient" not in adata.uns


def test_the_cells_stand_for_the_profile(adata, said):
    expected = np.ravel(adata.X.sum(0))
    assert np.allclose(fit(adata), [expected / expected.sum()])
    assert (
        "no raw droplets and no ambient profile are given, so the cells of a batch together stand" in said()
    )


def test_the_profile_of_another_type(raw, adata):
    for part in (raw, adata):
        part.var["feature_types"] = np.repeat(["Gene Expression", "Antibody Capture"], [25, 15])
    profile = fit(adata, raw)
    assert np.isnan(profile[0, 25:]).all()
    assert np.allclose(profile[0, :25].sum(), 1)
    # What was left out then is none of the model's business now.
    assert np.allclose(fit(adata, ambient="scar_ambient"), profile, equal_nan=True)
    refused(
        adata,
        ValueError,
        r"adata\.varm\['scar_ambient'\] is NaN .* for 15 of 15 genes",
        feature_type="ADT",
        ambient="scar_ambient",
    )
    assert np.allclose(fit(adata, raw, feature_type="ADT", key_added="adt"), profile, equal_nan=True)
    assert np.allclose(adata.varm["adt_ambient"].to_numpy()[25:].sum(), 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x: np.where(x == x.max(), np.nan, x),
            ValueError,
            "ambient is NaN or infinite for 1 of 40 genes",
        ),
        (lambda x: x - 0.02, ValueError, r"ambient is negative for \d+ of 40 genes \(such as 'gene_"),
        (lambda x: x[1:], ValueError, r"ambient has shape \(39,\), but adata has 40 genes"),
        (lambda x: x * 0, ValueError, "ambient is zero for every gene"),
        (
            lambda x: np.stack([x, x], 1),
            ValueError,
            "a profile for each batch takes a frame",
        ),
        (lambda x: x.astype(str), TypeError, "ambient takes the shares of the genes as numbers, or a key of"),
        (pd.Series, ValueError, "ambient has no row for 40 of the 40 genes"),
        (
            lambda _: "soup",
            KeyError,
            r"ambient='soup' is not in adata\.varm\. In varm: 'loadings', 'batch_shift'",
        ),
        (
            lambda _: "ambient_profile",
            KeyError,
            r"adata\.var has it: ambient=adata\.var\['ambient_profile'\]",
        ),
    ],
)
def test_wrong_profiles(adata, truth, change, error, message):
    refused(adata, error, message, ambient=change(truth))


def test_profiles_of_other_batches(adata, truth):
    table = pd.DataFrame({"batch_0": truth, "batch_2": truth}, adata.var_names)
    message = r"has no profile for 'batch_1' of adata\.obs\['batch'\]; its columns are 'batch_0', 'batch_2'"
    refused(adata, ValueError, message, ambient=table, batch_key="batch")
    refused(adata, KeyError, "batch_key='lane' is not in adata.obs", ambient=truth, batch_key="lane")


def test_droplets_and_profile(raw, adata, truth):
    refused(
        adata,
        ValueError,
        "raw and ambient both say what the ambient profile is: leave one",
        raw,
        ambient=truth,
    )


def test_wrong_droplets(raw, adata):
    refused(adata, ValueError, "raw is adata itself", adata)
    refused(adata, ValueError, "all 150 droplets of raw are cells of adata", adata.copy())
    refused(adata, ValueError, "raw has 120 droplets, no more than the 150 cells", raw[100:220])
    refused(adata, TypeError, "not DataFrame", raw.to_df())
    refused(adata, FileNotFoundError, "raw='nowhere' does not exist", "nowhere")
    raw.var_names = raw.var_names.str.upper()
    refused(adata, ValueError, "raw has 'GENE_000', .*, adata 'gene_000'", raw)


def changed(adata, rows, values):
    x = adata.X.toarray()
    x[rows] = values
    adata.X = sp.csr_matrix(x)
    return adata


def test_cells_with_all_counts_in_one_gene(adata, truth):
    adata = changed(adata, [3, 7], np.eye(40)[[5, 6]] * 100)
    message = (
        r"2 cells have all their counts in one gene \('cell_0003' in 'gene_005'\), .*: drop such cells first"
    )
    refused(adata, ValueError, message, ambient=truth)
    fit(adata[np.diff(adata.X.indptr) > 1].copy(), ambient=truth)
    # A guide or a tag can be all that there is.
    fit(adata, ambient=truth, feature_type="sgRNA")


def test_cells_without_counts(adata, truth):
    refused(
        changed(adata, [3], 0),
        ValueError,
        r"1 cell has no counts .*\('cell_0003'\)\. Drop them",
        ambient=truth,
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, r"adata\.X holds values that are not whole numbers \(such as 1\.5\); raw counts are needed"),
        (-1, r"adata\.X holds negative values"),
        (np.nan, r"adata\.X holds NaN or infinite values"),
    ],
)
def test_not_counts(adata, truth, value, message):
    refused(changed(adata, [3], value), ValueError, message, ambient=truth)


def test_layers(adata, truth):
    refused(
        adata, KeyError, r"'raw' is not in adata\.layers\..* Layers: 'native'", ambient=truth, layer="raw"
    )
    adata.layers["scar"] = adata.X.copy()
    refused(adata, ValueError, "key_added", ambient=truth, layer="scar")
    refused(adata, ValueError, r"adata\.layers\['scar'\] is there already", ambient=truth)
    del adata.layers["scar"]
    fit(adata, ambient=truth, layer="native")
    assert (adata.layers["scar"] > adata.layers["native"]).nnz == 0


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_names_repeat(raw, adata, axis):
    names = getattr(adata, f"{axis}_names").to_list()
    setattr(adata, f"{axis}_names", [names[1], *names[1:]])
    with pytest.raises(ValueError, match=rf"adata\.{axis}_names are not unique \('{names[1]}'"):
        fit(adata, raw)
    assert "scar" not in adata.uns
