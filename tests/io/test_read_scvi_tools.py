from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl.io import read_scvi_tools


def without_results(adata):
    bare = adata.copy()
    del bare.uns["scvi"], bare.obsm["X_scvi"]
    return bare


def test_a_model_comes_back_as_it_was(fitted, saved, tmp_path, said):
    adata = without_results(fitted)
    assert read_scvi_tools(saved.save(tmp_path / "m"), adata) is None
    assert np.array_equal(adata.obsm["X_scvi"], fitted.obsm["X_scvi"])
    assert "scVI model of scvi-tools 1.3.0" in said()
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.latent(read), fitted.obsm["X_scvi"])
    assert scvitl.get.elbo(read) == scvitl.get.elbo(fitted)
    assert scvitl.get.history(read).empty
    model = scvitl.get.model(read)
    assert model.schema == scvitl.get.model(fitted).schema
    assert model.params["source"] == "scvi-tools 1.3.0"
    assert "imported from scvi-tools 1.3.0" in repr(model)
    assert "200 cells × 40 genes" in repr(model)


COUNTED = {"batch_key": "batch", "n_hidden": 8, "n_latent": 3, "max_epochs": 1, "progress": False}
OPTIONS = {
    "latent library": {"use_observed_lib_size": False, "dispersion": "gene-batch"},
    "nothing": {"batch_key": None, "n_layers": 2, "use_batch_norm": "none", "gene_likelihood": "poisson"},
    "labels": {"labels_key": "cell_type", "dispersion": "gene-label", "gene_likelihood": "nb"},
    "covariates": {
        "categorical_covariate_keys": ["donor"],
        "encode_covariates": True,
        "latent_distribution": "ln",
    },
    "embedding": {"batch_representation": "embedding", "embedding_dim": 3, "dispersion": "gene-cell"},
    "size factor": {"size_factor_key": "size", "use_layer_norm": "both", "log_variational": False},
    "normal": {"gene_likelihood": "normal", "deeply_inject_covariates": False},
    "activation": {"var_activation": "softplus"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option(toy, as_scvi_tools, tmp_path, options):
    toy.obs["donor"] = np.arange(toy.n_obs) % 3
    toy.obs["size"] = np.linspace(0.5, 2, toy.n_obs)
    bare = toy.copy()
    scvitl.tl.scvi(toy, **(COUNTED | options))
    content, theirs = as_scvi_tools(toy), scvitl.get.model(toy)
    folders = [content.save(tmp_path / "new")]
    if theirs.schema.size_factor is None:  # which is younger than the old layout
        folders.append(content.save_old(tmp_path / "old"))
    names = [
        *scvitl.store.ARCHITECTURES["scVI"][1],
        *(name for name in theirs.params if name.endswith(("_key", "_keys"))),
    ]
    for folder in folders:
        adata = read_scvi_tools(folder, bare, copy=True)
        assert np.array_equal(adata.obsm["X_scvi"], toy.obsm["X_scvi"])
        assert scvitl.get.elbo(adata) == scvitl.get.elbo(toy)
        ours = scvitl.get.model(adata)
        assert ours.schema == theirs.schema
        assert {name: ours.params.get(name) for name in names} == {
            name: theirs.params.get(name) for name in names
        }


def test_columns_that_scvi_tools_took_and_the_model_does_not_use(fitted, saved, tmp_path):
    saved["attr_dict"]["registry_"]["field_registries"]["labels"]["state_registry"]["original_key"] = (
        "cell_type"
    )
    adata = without_results(fitted)
    del adata.obs["cell_type"]
    read_scvi_tools(saved.save(tmp_path / "m"), adata)
    assert "labels_key" not in scvitl.get.model(adata).params


def test_old_spellings(fitted, saved, tmp_path):
    saved["model_state_dict"] = {
        name.replace("Layer ", "Layer_").replace("px_scale_decoder.0", "px_scale_decoder"): tensor
        for name, tensor in saved["model_state_dict"].items()
    }
    saved["attr_dict"]["registry_"]["scvi_version"] = "0.0.0"
    adata = without_results(fitted)
    read_scvi_tools(saved.save_old(tmp_path / "m", prefix="my_"), adata)
    assert np.array_equal(adata.obsm["X_scvi"], fitted.obsm["X_scvi"])
    assert scvitl.get.model(adata).params["source"] == "scvi-tools"


@pytest.fixture
def latent_library(toy, as_scvi_tools):
    """A model with latent library sizes as it was saved before the files held their priors."""
    scvitl.tl.scvi(toy, use_observed_lib_size=False, **COUNTED)
    content = as_scvi_tools(toy)
    for name in ("library_log_means", "library_log_vars"):
        del content["model_state_dict"][name]
    return content


def test_library_sizes_were_always_latent_before_0_8(toy, latent_library, tmp_path):
    latent_library["attr_dict"]["registry_"]["scvi_version"] = "0.7.1"
    del latent_library["attr_dict"]["init_params_"]["non_kwargs"]["use_observed_lib_size"]
    adata = without_results(toy)
    read_scvi_tools(latent_library.save_old(tmp_path / "m"), adata)
    assert scvitl.get.elbo(adata) == pytest.approx(scvitl.get.elbo(toy), rel=1e-6)
    part = adata[adata.obs["batch"] == adata.obs["batch"].iloc[0]].copy()
    with pytest.raises(ValueError, match="has no cells of batch"):
        read_scvi_tools(tmp_path / "m", part)


def test_priors_that_should_be_there(toy, latent_library, tmp_path):
    with pytest.raises(ValueError, match="missing: library_log_means, library_log_vars"):
        read_scvi_tools(latent_library.save(tmp_path / "m"), toy)


def test_history(fitted, saved, tmp_path):
    def frame(name, n):
        return pd.DataFrame({name: np.arange(n) + 0.5}, index=pd.RangeIndex(n, name="epoch"))

    saved["attr_dict"]["history_"] = {
        "elbo_train": frame("elbo_train", 3),
        "kl_local_train": frame("kl_local_train", 3),
        "elbo_validation": frame("elbo_validation", 1),
        "train_loss": frame("train_loss", 3),
    }
    adata = without_results(fitted)
    read_scvi_tools(saved.save(tmp_path / "m"), adata)
    history = scvitl.get.history(adata)
    assert history.columns.tolist() == ["elbo_train", "kl_local_train"]
    assert history["elbo_train"].tolist() == [0.5, 1.5, 2.5]
    assert history.attrs["restored_epoch"] == 2
    assert scvitl.get.model(adata).params["epochs_run"] == 3
    scvitl.pl.history(adata, show=False)


def test_genes_in_another_order_among_others(fitted, saved, tmp_path):
    adata = without_results(fitted)
    more = ad.AnnData(np.ones((adata.n_obs, 2), np.float32), adata.obs, pd.DataFrame(index=["x", "y"]))
    mixed = ad.concat([more, adata[:, ::-1]], axis=1, merge="first")
    read_scvi_tools(saved.save(tmp_path / "m"), mixed)
    assert np.allclose(mixed.obsm["X_scvi"], fitted.obsm["X_scvi"], atol=1e-6)


def test_copy_view_and_key(fitted, saved, tmp_path, said):
    folder = saved.save(tmp_path / "m")
    adata = without_results(fitted)
    before = adata.copy()
    result = read_scvi_tools(str(folder), adata, key_added="old", copy=True)
    assert {"X_old"} == set(result.obsm) - set(before.obsm)
    assert "old" in result.uns
    assert set(adata.obsm) == set(before.obsm)
    view = adata[:50]
    read_scvi_tools(folder / "model.pt", view)
    assert "view" in said()
    assert np.allclose(view.obsm["X_scvi"], fitted.obsm["X_scvi"][:50], atol=1e-6)


def test_counts_in_a_layer(fitted, saved, tmp_path):
    adata = without_results(fitted)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    read_scvi_tools(saved.save(tmp_path / "m"), adata)
    assert scvitl.get.model(adata).params["layer"] == "counts"
    assert np.array_equal(adata.obsm["X_scvi"], fitted.obsm["X_scvi"])


def change_genes(adata):
    adata.var_names = [f"x{i}" for i in range(adata.n_vars)]


def change_batch(adata):
    adata.obs["batch"] = "new"


def drop_batch(adata):
    del adata.obs["batch"]


def normalise(adata):
    adata.X = np.log1p(adata.X.toarray())


def minify(adata):
    adata.X = adata.X * 0
    adata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"


def occupy(adata):
    adata.uns["scvi"] = {"mine": 1}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (change_genes, ValueError, "40 of the 40 genes of the model are not in"),
        (change_batch, ValueError, "has 'new', which the model was not fitted to"),
        (drop_batch, KeyError, "'batch' is not in adata.obs"),
        (normalise, ValueError, "raw counts are needed"),
        (minify, ValueError, "minified adata: its counts are gone"),
        (occupy, ValueError, "holds something that is not a model"),
    ],
)
def test_cells_that_do_not_fit(fitted, saved, tmp_path, change, error, match):
    adata = without_results(fitted)
    change(adata)
    slots = set(adata.obsm), set(adata.uns)
    with pytest.raises(error, match=match):
        read_scvi_tools(saved.save(tmp_path / "m"), adata)
    assert (set(adata.obsm), set(adata.uns)) == slots


def test_other_classes(fitted, saved, tmp_path):
    saved["attr_dict"]["registry_"]["model_name"] = "PEAKVI"
    with pytest.raises(
        ValueError, match=r"holds a PEAKVI model, from scvi-tools 1\.3\.0\. What can be read so far: SCVI"
    ):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


def test_classes_of_old_files_show_by_their_tensors(fitted, saved, tmp_path):
    saved["model_state_dict"]["decoder.px_noise_decoder.0.bias"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing: decoder\.heads\.noise\.weight"):
        read_scvi_tools(saved.save_old(tmp_path / "m"), fitted)


def test_arguments_that_we_do_not_have(fitted, saved, tmp_path):
    others = saved["attr_dict"]["init_params_"]["kwargs"]["kwargs"]
    others["extra_encoder_kwargs"] = {}
    others["extra_decoder_kwargs"] = None
    read_scvi_tools(saved.save(tmp_path / "fine"), fitted)
    others["extra_encoder_kwargs"] = {"var_eps": 1e-2}
    others["batch_embedding_kwargs"] = {"max_norm": 1.0}
    with pytest.raises(
        ValueError, match=r"made with extra_encoder_kwargs, batch_embedding_kwargs\['max_norm'\]"
    ):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


def test_weights_that_do_not_fit(fitted, saved, tmp_path):
    state = saved["model_state_dict"]
    del state["z_encoder.mean_encoder.bias"]
    state["px_r"] = torch.zeros(7)
    state["surprise"] = torch.zeros(7)
    with pytest.raises(ValueError, match="are not those of the model that it describes") as error:
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)
    for part in ("missing: z_encoder.mean.bias", "not known: surprise", "px_r is (7,) and not (40,)"):
        assert part in str(error.value)


def test_weights_that_are_not_finite(fitted, saved, tmp_path):
    saved["model_state_dict"]["px_r"] = torch.full((40,), torch.nan)
    with pytest.raises(ValueError, match=r"NaN or infinite \(px_r\)"):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


def test_an_untrained_model(fitted, saved, tmp_path, said):
    saved["attr_dict"]["is_trained_"] = False
    read_scvi_tools(saved.save(tmp_path / "m"), fitted)
    assert "before it was trained" in said()


def test_unknown_options(fitted, saved, tmp_path):
    saved["attr_dict"]["init_params_"]["non_kwargs"]["dispersion"] = "gene-moon"
    with pytest.raises(ValueError, match="dispersion='gene-moon' is not known"):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


@pytest.mark.parametrize("missing", ["attr_dict", "var_names"])
def test_files_without_a_part(fitted, saved, tmp_path, missing):
    del saved[missing]
    with pytest.raises(ValueError, match="is damaged, or not a model that scvi-tools saved"):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


@pytest.mark.parametrize("part", ["registry_", "init_params_"])
def test_files_without_an_attribute(fitted, saved, tmp_path, part):
    del saved["attr_dict"][part]
    with pytest.raises(ValueError, match="is damaged, or not a model that scvi-tools saved"):
        read_scvi_tools(saved.save(tmp_path / "m"), fitted)


def test_paths(fitted, saved, tmp_path):
    folder = saved.save(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"'.*/x' does not exist\. In '.*': 'm'\. Pass the folder"):
        read_scvi_tools(tmp_path / "x", fitted)
    with pytest.raises(FileNotFoundError, match=r"holds neither 'model\.pt' nor 'model_params\.pt'"):
        read_scvi_tools(tmp_path, fitted)
    with pytest.raises(FileNotFoundError, match=r"Nor does '.*/x/y'"):
        read_scvi_tools(tmp_path / "x" / "y" / "z", fitted)
    saved.save(folder, "first_model.pt")
    with pytest.raises(ValueError, match=r"several models \(first_model\.pt, model\.pt\)"):
        read_scvi_tools(folder, fitted)
    read_scvi_tools(folder / "first_model.pt", fitted)


def test_old_files_that_are_apart(fitted, saved, tmp_path):
    folder = saved.save_old(tmp_path / "m")
    (folder / "attr.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"'attr\.pkl' belong next to it"):
        read_scvi_tools(folder, fitted)


def test_the_real_files(real_data):
    counts = np.random.default_rng(0).poisson(2, (30, 100)).astype(np.float32)
    adata = ad.AnnData(counts)
    adata.obs["batch"] = ["batch_1", "batch_0"] * 15
    for name in ("scvi_0.15.5", "scvi_0.8.0_legacy"):
        read_scvi_tools(real_data / "models" / name, adata)
        assert adata.obsm["X_scvi"].shape == (30, 10)
        assert scvitl.get.elbo(adata) < 0
    labelled = ad.read_h5ad(real_data / "models" / "scanvi_1.0.3" / "adata.h5ad")
    read_scvi_tools(real_data / "models" / "scanvi_1.0.3", labelled)
    assert labelled.obsm["scanvi_proba"].columns.tolist() == ["label_2", "label_1"]
