"""Models of other classes than SCVI, and what comes with them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl.io import read_scvi_tools

QUICK = {"batch_key": "batch", "n_hidden": 8, "n_latent": 3, "max_epochs": 1, "progress": False}
LINEAR = {
    "defaults": {},
    "zinb": {"gene_likelihood": "zinb", "dispersion": "gene-batch", "n_layers_encoder": 2},
    "bias": {"bias": True, "use_batch_norm": False, "use_observed_lib_size": True, "batch_key": None},
}
LABELLED = {
    "defaults": {"use_observed_lib_size": False},
    "deep": {"classifier_n_layers": 2, "classifier_n_hidden": 5, "classifier_dropout_rate": 0.3},
    "prior": {"y_prior": [0.4, 0.3, 0.2, 0.1], "n_layers": 2, "use_batch_norm": "none"},
    "labels": {"dispersion": "gene-batch", "encode_covariates": True, "unlabeled_category": "none"},
}


@pytest.fixture
def labelled(toy):
    """Cells of which some have a label."""
    toy.obs["known"] = toy.obs["cell_type"].where(np.arange(toy.n_obs) % 3 > 0)
    return toy


def layouts(content, folder):
    return [content.save(folder / "new"), content.save_old(folder / "old")]


@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR)
def test_linear_models(toy, as_scvi_tools, tmp_path, options):
    bare = toy.copy()
    scvitl.tl.ldvae(toy, **(QUICK | options))
    theirs = scvitl.get.model(toy, key="ldvae")
    for folder in layouts(as_scvi_tools(toy, "ldvae"), tmp_path):
        adata = read_scvi_tools(folder, bare, copy=True)
        assert np.array_equal(adata.obsm["X_ldvae"], toy.obsm["X_ldvae"])
        assert np.array_equal(adata.varm["ldvae_loadings"], toy.varm["ldvae_loadings"])
        assert scvitl.get.elbo(adata, key="ldvae") == scvitl.get.elbo(toy, key="ldvae")
        assert scvitl.get.loadings(adata).equals(scvitl.get.loadings(toy))
        ours = scvitl.get.model(adata, key="ldvae")
        assert ours.schema == theirs.schema
        names = scvitl.store.ARCHITECTURES["LDVAE"][1]
        assert [ours.params[name] for name in names] == [theirs.params[name] for name in names]


def test_loadings_of_genes_that_the_model_does_not_have(toy, as_scvi_tools, tmp_path):
    part = toy[:, ::-2].copy()
    scvitl.tl.ldvae(part, **QUICK)
    folder = as_scvi_tools(part, "ldvae").save(tmp_path / "m")
    read_scvi_tools(folder, toy, key_added="old")
    loadings = pd.DataFrame(toy.varm["old_loadings"], toy.var_names)
    assert loadings.loc[part.var_names].equals(pd.DataFrame(part.varm["ldvae_loadings"], part.var_names))
    assert loadings.drop(part.var_names).isna().all(axis=None)
    assert np.allclose(toy.obsm["X_old"], part.obsm["X_ldvae"], atol=1e-6)


def test_options_that_linear_models_ignore(toy, as_scvi_tools, tmp_path):
    """They go to networks that scvi-tools throws away."""
    scvitl.tl.ldvae(toy, **QUICK)
    content = as_scvi_tools(toy, "ldvae")
    content["attr_dict"]["init_params_"]["kwargs"]["kwargs"] |= {
        "encode_covariates": True,
        "use_layer_norm": "both",
        "use_batch_norm": "none",
        "extra_encoder_kwargs": {"var_eps": 1e-2},
    }
    adata = read_scvi_tools(content.save(tmp_path / "m"), toy, copy=True)
    assert np.array_equal(adata.obsm["X_ldvae"], toy.obsm["X_ldvae"])
    assert scvitl.get.model(adata, key="ldvae").params["use_batch_norm"] is True


@pytest.mark.parametrize("options", LABELLED.values(), ids=LABELLED)
def test_models_of_labels(labelled, as_scvi_tools, tmp_path, options):
    bare = labelled.copy()
    scvitl.tl.scanvi(labelled, "known", **(QUICK | options))
    theirs = scvitl.get.model(labelled, key="scanvi")
    expected = scvitl.get.model(labelled, key="scanvi")
    expected.params["temperature"] = 1.0
    probabilities = scvitl.get.label_probabilities(labelled, model=expected)
    for folder in layouts(as_scvi_tools(labelled, "scanvi"), tmp_path):
        adata = read_scvi_tools(folder, bare, copy=True)
        assert np.array_equal(adata.obsm["X_scanvi"], labelled.obsm["X_scanvi"])
        assert adata.obsm["scanvi_proba"].equals(probabilities)
        assert (adata.obs["scanvi"] == probabilities.idxmax(axis=1)).all()
        assert np.array_equal(adata.obs["scanvi_confidence"], probabilities.max(axis=1))
        assert scvitl.get.elbo(adata, key="scanvi") == scvitl.get.elbo(labelled, key="scanvi")
        ours = scvitl.get.model(adata, key="scanvi")
        assert ours.schema == theirs.schema
        names = [*scvitl.store.ARCHITECTURES["scANVI"][1], "labels_key", "unlabeled_category"]
        if ours.params["classifier_n_layers"] == 0:
            names.remove("classifier_n_hidden")
        assert [ours.params[name] for name in names] == [theirs.params[name] for name in names]
        assert ours.params["temperature"] == 1


@pytest.fixture
def annotated(labelled):
    """Cells with a model of labels."""
    scvitl.tl.scanvi(labelled, "known", **QUICK)
    return labelled


@pytest.fixture
def content(annotated, as_scvi_tools):
    return as_scvi_tools(annotated, "scanvi")


def test_a_file_with_predictions(annotated, content, tmp_path, said):
    adata = annotated.copy()
    adata.obs["known"] = pd.Categorical(adata.obs["known"].astype(object).fillna("Unknown"))
    read_scvi_tools(content.save(tmp_path / "m"), adata, key_added="old")
    assert "scANVI model of scvi-tools 1.3.0" in said()
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read.obs["old"].equals(adata.obs["old"])
    assert np.allclose(read.obs["old_confidence"], adata.obsm["old_proba"].max(axis=1))
    assert scvitl.get.label_probabilities(read, key="old").equals(adata.obsm["old_proba"])
    assert scvitl.get.elbo(read, key="old") == scvitl.get.elbo(annotated, key="scanvi")


def test_cells_without_the_column_of_labels(annotated, content, tmp_path):
    adata = annotated.copy()
    del adata.obs["known"]
    read_scvi_tools(content.save(tmp_path / "m"), adata)
    assert np.array_equal(adata.obsm["X_scanvi"], annotated.obsm["X_scanvi"])


def test_old_files_in_which_the_word_is_not_the_last_category(annotated, content, tmp_path):
    """scvi-tools then swaps it with the last one."""
    state = content["attr_dict"]["registry_"]["field_registries"]["labels"]["state_registry"]
    first, *rest, word = state["categorical_mapping"]
    state["categorical_mapping"] = np.array([word, *rest, first], object)
    read_scvi_tools(content.save_old(tmp_path / "m"), annotated, key_added="old")
    labels = scvitl.get.model(annotated, key="old").schema.labels
    assert labels == scvitl.get.model(annotated, key="scanvi").schema.labels


def test_priors_of_any_sum_and_shape(annotated, content, tmp_path):
    content["model_state_dict"]["y_prior"] = torch.tensor([2, 1, 1, 4], dtype=torch.int64)
    read_scvi_tools(content.save(tmp_path / "m"), annotated)
    prior = scvitl.get.model(annotated, key="scanvi").module.y_prior
    assert prior.tolist() == [[0.25, 0.125, 0.125, 0.5]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"use_labels_groups": True, "labels_groups": [0, 0, 1, 1]}, "use_labels_groups"),
        ({"classifier_parameters": {"activation_fn": torch.nn.Tanh}}, "activation_fn"),
        ({"classifier_parameters": {"use_activation": False}}, "use_activation"),
    ],
)
def test_classifiers_that_we_do_not_have(annotated, content, tmp_path, arguments, problem):
    content["attr_dict"]["init_params_"]["kwargs"]["kwargs"] |= arguments
    with pytest.raises(ValueError, match=f"made with .*{problem}.*, which scvitl's scANVI does not have"):
        read_scvi_tools(content.save(tmp_path / "m"), annotated)


def test_classifiers_that_we_have(annotated, content, tmp_path):
    content["attr_dict"]["init_params_"]["kwargs"]["kwargs"] |= {
        "use_labels_groups": False,
        "labels_groups": np.array([0, 0, 1, 1]),
        "linear_classifier": True,
        "classifier_parameters": {"activation_fn": torch.nn.ReLU, "logits": False},
    }
    read_scvi_tools(content.save(tmp_path / "m"), annotated, key_added="old")
    assert np.array_equal(annotated.obsm["X_old"], annotated.obsm["X_scanvi"])


@pytest.mark.parametrize("n", [2, 7])
def test_labels_that_do_not_fit_the_classifier(annotated, content, tmp_path, n):
    content["model_state_dict"]["y_prior"] = torch.ones(1, n)
    with pytest.raises(ValueError, match=f"damaged.*{n} labels are not those in"):
        read_scvi_tools(content.save(tmp_path / "m"), annotated)
