from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scvitl
from scvitl import get

QUICK = {"n_hidden": 32, "n_latent": 5, "max_epochs": 2, "progress": False, "device": "cpu"}


def simulated(**options):
    raw = scvitl.datasets.toy(**{"n_cells": 300, "n_empty_droplets": 1200, **options})
    return raw[raw.obs["is_cell"]].copy(), raw


def fit(adata, raw=None, **options):
    scvitl.tl.scar(adata, raw, **{**QUICK, **options})
    return adata


def scores(adata, denoised):
    both = denoised.minimum(adata.layers["native"])
    ambient = (adata.X - adata.layers["native"]).sum()
    return 1 - (denoised - both).sum() / ambient, both.sum() / adata.layers["native"].sum()


@pytest.fixture(scope="module")
def fitted():
    adata, raw = simulated(n_cells=600, n_empty_droplets=2000)
    return fit(adata, raw, n_hidden=150, n_latent=15, max_epochs=None)


def test_what_is_written(fitted):
    counts = fitted.layers["scar"]
    assert sp.issparse(counts)
    assert counts.format == "csr"
    assert counts.dtype == np.float32
    assert counts.shape == fitted.shape
    assert counts.has_sorted_indices
    assert (counts.data == np.rint(counts.data)).all()
    assert fitted.obs["scar_noise"].dtype == np.float32
    assert fitted.obsm["X_scar"].shape == (600, 15)
    profile = fitted.varm["scar_ambient"]
    assert profile.columns.tolist() == ["ambient"]
    assert profile["ambient"].sum() == pytest.approx(1)
    assert set(fitted.uns["scar_ambient"]) == {"droplets", "counts", "prob"}
    assert fitted.uns["scar"]["params"]["model"] == "scAR"
    assert fitted.X.sum() > counts.sum()


def test_no_more_than_was_seen(fitted):
    assert (fitted.layers["scar"] > fitted.X).nnz == 0


def test_the_truth_is_found(fitted):
    removed, kept = scores(fitted, fitted.layers["scar"])
    # every gene is native to some extent in every cell
    assert removed > 0.7
    assert kept > 0.9
    # true shares differ little, from 0.05 to 0.1
    assert np.corrcoef(fitted.obs["scar_noise"], fitted.obs["ambient_fraction"])[0, 1] > 0.2
    assert np.corrcoef(fitted.varm["scar_ambient"]["ambient"], fitted.var["ambient_profile"])[0, 1] > 0.99


def test_as_many_counts_are_taken_away_as_are_ambient(fitted):
    """The more excess, the more of both kinds goes."""
    total = np.asarray(fitted.X.sum(1)).ravel()
    gone = total - np.asarray(get.denoised(fitted, excess=0).sum(1)).ravel()
    # the prior of the shares pulls them off the sum of the probabilities by little
    assert np.allclose(gone.sum(), (total * fitted.obs["scar_noise"]).sum(), rtol=0.03)
    assert np.corrcoef(gone / total, fitted.obs["scar_noise"])[0, 1] > 0.99
    found = [scores(fitted, get.denoised(fitted, excess=excess)) for excess in (0, 0.01, 0.02, 0.1)]
    assert (np.diff([removed for removed, _ in found]) > 0).all()
    assert (np.diff([kept for _, kept in found]) < 0).all()


def test_drawn_counts_are_right_on_average(fitted):
    """What is taken away in all is the expected number of ambient counts."""
    total = np.asarray(fitted.X.sum(1)).ravel()
    expected = (total * fitted.obs["scar_noise"]).sum()
    gone = total.sum() - get.denoised(fitted, excess=None).sum()
    # the prior of the shares pulls them off the sum of the probabilities by little
    assert gone == pytest.approx(expected, rel=0.03)


def test_generative_counts_are_drawn_anew():
    adata, raw = simulated()
    fit(adata, raw, output="generative")
    total = np.asarray(adata.X.sum(1)).ravel()
    native = np.asarray(adata.layers["scar"].sum(1)).ravel()
    assert (native < total).all()
    assert np.corrcoef(native, total)[0, 1] > 0.9
    # which says nothing else of how much is ambient
    other = fit(*simulated())
    assert np.array_equal(adata.obs["scar_noise"], other.obs["scar_noise"])
    assert (adata.layers["scar"] > adata.X).nnz > 0


def test_the_model_travels_in_the_file(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (get.denoised(back) != fitted.layers["scar"]).nnz == 0
    assert back.uns["scar_ambient"]["droplets"]["class"].value_counts()["cell"] == 600
    pd.testing.assert_frame_equal(
        back.varm["scar_ambient"], fitted.varm["scar_ambient"], check_names=False, check_index_type=False
    )


def test_equal_seeds_give_equal_results():
    first, second, third = (fit(*simulated(), random_state=seed) for seed in (3, 3, 4))
    assert (first.layers["scar"] != second.layers["scar"]).nnz == 0
    assert np.array_equal(first.obsm["X_scar"], second.obsm["X_scar"])
    assert not np.array_equal(first.obsm["X_scar"], third.obsm["X_scar"])


def test_no_global_random_state_moves():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit(*simulated())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_copy_and_key_added():
    adata, raw = simulated()
    copied = scvitl.tl.scar(adata, raw, **QUICK, key_added="clean", copy=True)
    assert "clean" not in adata.uns
    assert "clean" not in adata.layers
    assert {"clean", "clean_ambient"} <= copied.uns.keys()
    assert "clean" in copied.layers
    assert "clean_noise" in copied.obs
    assert "X_clean" in copied.obsm
    assert "clean_ambient" in copied.varm
    assert get.denoised(copied, key="clean").shape == copied.shape


def test_raw_is_left_alone():
    adata, raw = simulated()
    before, names = raw.X.copy(), raw.obs_names.copy()
    fit(adata, raw)
    assert (before != raw.X).nnz == 0
    assert raw.obs_names.equals(names)
    assert not raw.uns


def test_scvi_goes_on_with_the_native_counts(fitted):
    adata = fitted.copy()
    scvitl.tl.scvi(adata, layer="scar", batch_key="batch", n_hidden=16, max_epochs=1, progress=False)
    assert adata.obsm["X_scvi"].shape == (600, 10)
    assert adata.uns["scvi"]["params"]["layer"] == "scar"


def test_without_droplets_the_cells_stand_for_what_is_ambient():
    adata, _ = simulated()
    fit(adata)
    pooled = np.asarray(adata.X.sum(0)).ravel()
    assert np.allclose(adata.varm["scar_ambient"]["ambient"], pooled / pooled.sum())
    assert "scar_ambient" not in adata.uns


def test_a_profile_that_was_found_before_is_taken():
    adata, raw = simulated()
    scvitl.tl.ambient_profile(adata, raw)
    other = adata.copy()
    fit(adata)
    fit(other, raw)
    assert np.allclose(adata.varm["scar_ambient"], other.varm["scar_ambient"])
    assert (adata.layers["scar"] != other.layers["scar"]).nnz == 0


def test_a_second_fit_takes_the_same_profile():
    adata, raw = simulated()
    fit(adata, raw)
    before = adata.varm["scar_ambient"].copy()
    fit(adata)
    pd.testing.assert_frame_equal(adata.varm["scar_ambient"], before)


def test_batches_have_profiles_of_their_own():
    adata, raw = simulated(n_batches=3)
    fit(adata, raw, batch_key="batch")
    profile = adata.varm["scar_ambient"]
    assert profile.columns.tolist() == ["batch_0", "batch_1", "batch_2"]
    assert np.allclose(profile.sum(), 1)
    model = get.model(adata, key="scar")
    assert np.allclose(model.module.ambient.numpy(), profile.T, atol=1e-7)
    # encoder and decoder see the batch
    assert model.module.z_encoder.hidden.layers[0].linear.in_features == adata.n_vars + 3
    assert model.module.decoder.hidden.layers[0].linear.in_features == 5 + 3


@pytest.mark.parametrize("likelihood", ["b", "nb", "zinb", "poisson"])
@pytest.mark.parametrize("activation", ["softmax", "softplus", "softplus_sp"])
def test_every_likelihood_and_activation(likelihood, activation):
    adata, raw = simulated(n_cells=120, n_genes=60)
    fit(adata, raw, gene_likelihood=likelihood, scale_activation=activation)
    assert (adata.layers["scar"] > adata.X).nnz == 0
    assert adata.obs["scar_noise"].between(0, 1).all()


def test_the_reference_plan_is_that_of_scvi_tools():
    adata, raw = simulated(n_cells=120, n_genes=60)
    fit(adata, raw, plan="reference")
    params = adata.uns["scar"]["params"]
    assert params["batch_size"] == 128
    assert params["learning_rate"] == 1e-3
    assert params["n_epochs_kl_warmup"] == 400
    assert (get.model(adata, key="scar").module.decoder.level == 1).all()


def test_one_type_of_features_of_several():
    adata, raw = simulated()
    kind = np.where(np.arange(adata.n_vars) < 160, "Gene Expression", "Antibody Capture")
    adata.var["feature_types"] = kind
    fit(adata, raw, feature_type="ADT")
    genes = kind == "Gene Expression"
    assert (adata.layers["scar"][:, genes] != adata.X[:, genes]).nnz == 0
    assert adata.layers["scar"][:, ~genes].sum() < adata.X[:, ~genes].sum()
    assert adata.varm["scar_ambient"]["ambient"].isna().tolist() == genes.tolist()
    assert get.model(adata, key="scar").schema.genes == tuple(adata.var_names[~genes])
    assert get.denoised(adata).shape == (300, 40)


def test_cells_without_counts_of_a_type():
    adata, raw = simulated(n_cells=60, n_genes=30, n_factors=1)
    adata.var["feature_types"] = np.where(np.arange(30) < 20, "Gene Expression", "CRISPR Guide Capture")
    counts = adata.X.toarray()
    counts[3:5, 20:] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.raises(
        ValueError, match=r"2 of 60 cells have no counts of sgRNA \(such as 'cell_0003'\): fit the others"
    ):
        fit(adata, raw, feature_type="sgRNA")
    assert not adata.uns


def test_no_layer_of_another_kind_is_replaced():
    adata, raw = simulated(n_cells=60, n_genes=30, n_factors=1)
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(ValueError, match=r"adata\.layers\['counts'\] is there already"):
        fit(adata, raw, key_added="counts")
    fit(adata, raw)
    fit(adata, raw)


def test_how_counts_were_told_is_noted():
    adata, raw = simulated(n_cells=60, n_genes=30, n_factors=1)
    fit(adata, raw, excess=0.02)
    assert adata.uns["scar"]["params"]["excess"] == 0.02
    assert adata.uns["scar"]["params"]["output"] == "posterior"


@pytest.mark.parametrize(
    ("feature_type", "sparsity"), [("mRNA", 0.9), ("ADT", 0.9), ("sgRNA", 1.0), ("CMO", 1.0), ("tag", 1.0)]
)
def test_sparsity_by_type(feature_type, sparsity):
    adata, raw = simulated(n_cells=60, n_genes=30, n_factors=1)
    fit(adata, raw, feature_type=feature_type, max_epochs=1)
    assert adata.uns["scar"]["params"]["sparsity"] == sparsity
    assert adata.uns["scar"]["params"]["feature_type"] == feature_type


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "counts"}, "output='counts' is not known"),
        ({"excess": 1.0}, "excess=1.0 is out of range"),
        ({"gene_likelihood": "normal"}, "gene_likelihood='normal' is not known. Use one of 'b', 'nb'"),
        ({"scale_activation": "relu"}, "scale_activation='relu' is not known"),
        ({"sparsity": 1.5}, "sparsity=1.5 is out of range"),
        ({"feature_type": "RNA"}, "feature_type='RNA' is not known"),
        ({"key_added": "a/b"}, "cannot name results"),
        ({"batch_key": "lane"}, "batch_key='lane' is not in adata.obs"),
        ({"layer": "counts"}, "'counts' is not in adata.layers"),
    ],
)
def test_options_that_are_not_legal(options, message):
    adata, raw = simulated(n_cells=60, n_genes=30, n_factors=1)
    before = adata.copy()
    with pytest.raises((ValueError, KeyError), match=message):
        fit(adata, raw, **options)
    for slot in ("uns", "obsm", "varm", "layers", "obs", "var"):
        assert list(getattr(adata, slot)) == list(getattr(before, slot))


def test_other_models_do_not_denoise():
    adata, _ = simulated(n_cells=60, n_genes=30, n_factors=1)
    scvitl.tl.scvi(adata, n_hidden=8, max_epochs=1, progress=False)
    with pytest.raises(
        ValueError, match=r"is scVI, which does not tell ambient counts: fit one with scvitl\.tl\.scar"
    ):
        get.denoised(adata, key="scvi")


def test_human_and_mouse(real_data):
    """With counts of the other species, which are all ambient, the truth is known."""
    cells, raw = (
        ad.read_h5ad(real_data / f"ambient_hgmm_semisynthetic_{name}.h5ad") for name in ("filtered", "raw")
    )
    sc.pp.filter_genes(cells, min_cells=100)
    scvitl.tl.scar(cells, raw, max_epochs=3, progress=False, device="cpu")
    removed, kept = scores(cells, cells.layers["scar"])
    assert removed > 0.68
    assert kept > 0.97
    human, genes = (table["species"].to_numpy() == "human" for table in (cells.obs, cells.var))

    def foreign(counts):
        return counts[human][:, ~genes].sum() + counts[~human][:, genes].sum()

    assert foreign(cells.layers["scar"]) < 0.01 * foreign(cells.X)
    truth = cells.obs["ambient_fraction_true"]
    assert np.corrcoef(cells.obs["scar_noise"], truth)[0, 1] > 0.95
    assert np.abs(cells.obs["scar_noise"] - truth).mean() < 0.02


def test_isotype_controls(real_data):
    """They bind nothing, so that all of their counts are ambient."""
    cells, empty = (ad.read_h5ad(real_data / f"adt_{name}_dsb.h5ad") for name in ("cells", "empty"))
    cells = cells[::3].copy()
    scvitl.tl.scar(cells, empty, feature_type="ADT", max_epochs=10, progress=False, device="cpu")
    kept = np.asarray(cells.layers["scar"].sum(0) / cells.X.sum(0)).ravel()
    control = cells.var["is_isotype_control"].to_numpy()
    assert kept[control].max() < 0.25
    assert np.median(kept[~control]) > 0.5
