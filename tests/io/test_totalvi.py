"""Models of class TOTALVI: their proteins, and what changed from one version of scvi-tools to the next."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl.io import read_scvi_tools

QUICK = {"batch_key": "batch", "n_hidden": 8, "n_latent": 3, "max_epochs": 1, "progress": False}
OPTIONS = {
    "defaults": {},
    "latent library": {"use_observed_lib_size": False, "gene_likelihood": "zinb", "n_layers_decoder": 2},
    "panels": {
        "panel_key": "panel",
        "gene_dispersion": "gene-batch",
        "protein_dispersion": "protein-batch",
        "latent_distribution": "ln",
    },
    "labels": {
        "labels_key": "cell_type",
        "gene_dispersion": "gene-label",
        "protein_dispersion": "protein-label",
        "log_variational": False,
    },
    "one batch": {"batch_key": None, "use_batch_norm": "decoder", "use_layer_norm": "encoder"},
    "covariates": {"categorical_covariate_keys": ["donor"], "encode_covariates": False},
}
REGISTRY = ("attr_dict", "registry_", "field_registries")


@pytest.fixture
def cells(toy):
    """Cells with six proteins, of which one was not measured in one panel, in half of the cells of a batch."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 20.0, (toy.n_obs, 6)))
    toy.obs["donor"] = np.arange(toy.n_obs) % 3
    toy.obs["panel"] = np.where(np.arange(toy.n_obs) % 2 & (toy.obs["batch"] == "batch_1"), "small", "large")
    toy.obsm["protein_expression"] = pd.DataFrame(counts, toy.obs_names, [f"CD{i}" for i in range(6)])
    return toy


@pytest.fixture
def fit_them(cells):
    """The same cells with a model, as a function."""

    def fit(**options):
        fitted = cells.copy()
        scvitl.tl.totalvi(fitted, **{**QUICK, **options})
        return fitted

    return fit


@pytest.fixture
def content(fit_them, as_scvi_tools):
    """What scvi-tools saves of such a model."""
    return as_scvi_tools(fit_them(), "totalvi")


def place(content, *names):
    """An entry deep inside what was saved."""
    for name in names:
        content = content[name]
    return content


def read(content, cells, folder, **options):
    """The cells with the model that was saved."""
    return read_scvi_tools(content.save(folder / "m"), cells, copy=True, **options)


def params(adata):
    return scvitl.get.model(adata, key="totalvi").params


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option(cells, fit_them, as_scvi_tools, tmp_path, options):
    cells.obsm["protein_expression"].loc[cells.obs["panel"] == "small", "CD3"] = 0
    fitted = fit_them(**options)
    theirs = scvitl.get.model(fitted, key="totalvi")
    content = as_scvi_tools(fitted, "totalvi")
    folders = [content.save(tmp_path / "new")]
    if "panel_key" not in options:  # which is younger than the old layout
        folders.append(content.save_old(tmp_path / "old"))
    for folder in folders:
        adata = read_scvi_tools(folder, cells, copy=True)
        ours = scvitl.get.model(adata, key="totalvi")
        assert ours.schema == theirs.schema
        names = [
            *scvitl.store.ARCHITECTURES["totalVI"][1],
            "protein_key",
            "panel_key",
            "batch_key",
            "labels_key",
        ]
        assert [ours.params.get(name) for name in names] == [theirs.params.get(name) for name in names]
        assert np.array_equal(adata.obsm["X_totalvi"], fitted.obsm["X_totalvi"])
        for name in ("totalvi_protein", "totalvi_protein_foreground"):
            pd.testing.assert_frame_equal(adata.obsm[name], fitted.obsm[name])
        assert scvitl.get.elbo(adata, key="totalvi") == scvitl.get.elbo(fitted, key="totalvi")
        assert set(adata.obsm) == set(fitted.obsm)


def test_a_file_and_another_name(cells, content, tmp_path, said):
    adata = read(content, cells, tmp_path, key_added="old")
    assert "'old', totalVI model of scvi-tools 1.3.0" in said()
    assert {"X_old", "old_protein", "old_protein_foreground"} == set(adata.obsm) - set(cells.obsm)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    found = scvitl.get.protein_foreground(back, key="old")
    pd.testing.assert_frame_equal(found, adata.obsm["old_protein_foreground"])
    assert "imported from scvi-tools 1.3.0" in repr(scvitl.get.model(back, key="old"))


def age(content, version, *, efficiency):
    """Let the model be of another version: its efficiencies are there, are zero, or are not there."""
    place(content, "attr_dict", "registry_")["scvi_version"] = version
    state = content["model_state_dict"]
    if efficiency == "zero":  # as converting adds them
        state["log_per_batch_efficiency"] = torch.nn.Parameter(torch.zeros(6, 2))
    if efficiency == "absent":
        del state["log_per_batch_efficiency"]


@pytest.mark.parametrize(
    ("version", "efficiency", "current", "activation"),
    [
        ("1.4.2", "there", True, "softplus"),
        ("1.3.1", "there", True, "softplus"),
        ("1.3.0", "absent", False, "softplus"),
        ("1.2.0", "absent", False, "softplus"),
        ("1.1.5", "absent", False, "exp"),
        ("0.0.0", "absent", False, "exp"),
        # Converted from the old layout, and trained further or not.
        ("0.8.0", "zero", False, "exp"),
        ("0.8.0", "there", True, "exp"),
    ],
)
def test_versions(cells, content, tmp_path, said, version, efficiency, current, activation):
    age(content, version, efficiency=efficiency)
    found = params(read(content, cells, tmp_path))
    assert (found["normalize_counts"], found["protein_efficiency"]) == (current, current)
    assert found["background_activation"] == activation
    assert "scvi-tools reads it as a new one" not in said()


def test_old_models_that_were_saved_again(cells, content, tmp_path, said):
    """Efficiencies of zero alone tell nothing: they may not have been trained yet."""
    age(content, "1.4.2", efficiency="zero")
    assert params(read(content, cells, tmp_path))["normalize_counts"] is False
    assert "scvi-tools reads it as a new one" in said()
    content["model_state_dict"]["background_pro_alpha"][:] = torch.tensor([1.0, 2.0])
    assert params(read(content, cells, tmp_path))["normalize_counts"] is True


def test_an_activation_that_was_asked_for(cells, content, tmp_path):
    more = place(content, "attr_dict", "init_params_", "kwargs", "kwargs")
    more["extra_decoder_kwargs"] = {"activation_function_bg": "exp"}
    assert params(read(content, cells, tmp_path))["background_activation"] == "exp"
    more["extra_decoder_kwargs"] = {"activation_function_bg": "relu"}
    with pytest.raises(ValueError, match=r"activation_function_bg.*='relu' is not known"):
        read(content, cells, tmp_path)


@pytest.mark.parametrize(
    ("argument", "value", "problem"),
    [
        (
            "extra_encoder_kwargs",
            {"var_eps": 1e-2},
            "made with extra_encoder_kwargs, which scvitl's totalVI does",
        ),
        ("extra_decoder_kwargs", {"deep": 1}, r"made with extra_decoder_kwargs\['deep'\]"),
        ("gene_likelihood", "poisson", "gene_likelihood='poisson' is not known"),
        ("gene_dispersion", "gene-cell", "gene_dispersion='gene-cell' is not known"),
        ("protein_dispersion", "protein-cell", "protein_dispersion='protein-cell' is not known"),
    ],
)
def test_arguments_that_we_do_not_have(cells, content, tmp_path, argument, value, problem):
    arguments = place(content, "attr_dict", "init_params_")
    arguments["non_kwargs"].pop(argument, None)
    arguments["kwargs"]["kwargs"][argument] = value
    with pytest.raises(ValueError, match=problem):
        read(content, cells, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        np.array([f"CD{i}" for i in range(6)]),
        [f"CD{i}" for i in range(6)],
        pd.Index([f"CD{i}" for i in range(6)], dtype=object, name="protein"),
    ],
    ids=lambda names: type(names).__name__,
)
def test_names_of_proteins(cells, content, tmp_path, names):
    place(content, *REGISTRY, "proteins", "state_registry")["column_names"] = names
    adata = read(content, cells, tmp_path)
    assert list(adata.obsm["totalvi_protein"]) == list(cells.obsm["protein_expression"])
    # In another order, and among others; or with no names at all.
    mixed = cells.copy()
    mixed.obsm["protein_expression"] = cells.obsm["protein_expression"].iloc[:, ::-1].assign(more=1)
    again = read(content, mixed, tmp_path)
    pd.testing.assert_frame_equal(again.obsm["totalvi_protein"], adata.obsm["totalvi_protein"])
    mixed.obsm["protein_expression"] = cells.obsm["protein_expression"].to_numpy()
    again = read(content, mixed, tmp_path)
    pd.testing.assert_frame_equal(again.obsm["totalvi_protein"], adata.obsm["totalvi_protein"])


def test_proteins_that_were_numbered(cells, content, tmp_path):
    place(content, *REGISTRY, "proteins", "state_registry")["column_names"] = np.arange(6)
    cells.obsm["protein_expression"] = cells.obsm["protein_expression"].to_numpy()
    assert list(read(content, cells, tmp_path).obsm["totalvi_protein"]) == list("012345")


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_proteins_that_were_not_measured(cells, content, tmp_path):
    state = place(content, *REGISTRY, "proteins", "state_registry")
    # scvi-tools keeps what is found in a sparse table as a matrix; one batch has no entry, and one protein is nowhere.
    state["protein_batch_mask"] = {"1": np.asmatrix([[False, True, True, False, True, True]])}
    adata = read(content, cells, tmp_path)
    proteins = scvitl.get.model(adata, key="totalvi").schema.proteins
    assert proteins.measured == ((True,) * 6, (False, True, True, False, True, True))
    assert proteins.in_batch == proteins.measured
    state["protein_batch_mask"]["0"] = np.array([False, True, True, True, True, True])
    adata = read(content, cells, tmp_path)
    proteins = scvitl.get.model(adata, key="totalvi").schema.proteins
    assert proteins.measured[0] == (False, True, True, True, True, True)
    assert proteins.in_batch == ((True,) * 6, (True, True, True, False, True, True))
    assert np.isfinite(adata.obsm["totalvi_protein"]).all(axis=None)
    content["attr_dict"]["init_params_"]["non_kwargs"]["override_missing_proteins"] = True
    assert scvitl.get.model(read(content, cells, tmp_path), key="totalvi").schema.proteins.complete


def test_panels_that_the_cells_do_not_have(cells, fit_them, as_scvi_tools, tmp_path):
    """Which batches were stained with them is not in the file."""
    cells.obsm["protein_expression"].loc[cells.obs["panel"] == "small", "CD3"] = 0
    cells.obsm["protein_expression"].loc[cells.obs["panel"] == "large", "CD4"] = 0
    content = as_scvi_tools(fit_them(panel_key="panel"), "totalvi")
    adata = read(content, cells[cells.obs["panel"] == "large"].copy(), tmp_path)
    proteins = scvitl.get.model(adata, key="totalvi").schema.proteins
    assert proteins.measured == ((True, True, True, True, False, True), (True, True, True, False, True, True))
    assert proteins.in_batch == ((True,) * 6, (True,) * 6)
    adata = read(content, cells, tmp_path)
    proteins = scvitl.get.model(adata, key="totalvi").schema.proteins
    assert proteins.in_batch == (proteins.measured[0], (True,) * 6)
    cells.obs["panel"] = "medium"
    with pytest.raises(ValueError, match="has 'medium', which the model was not fitted to"):
        read(content, cells, tmp_path)


@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_a_model_of_modalities(cells, content, tmp_path):
    """Set up with a MuData, where every modality has names and counts of its own."""
    fields = place(content, *REGISTRY)
    genes = content["var_names"]
    content["var_names"] = {
        "rna": genes,
        "adt": np.array([f"CD{i}" for i in range(6)], object),
        "atac": genes[:3],
    }
    fields["X"]["data_registry"] = {"attr_name": "X", "attr_key": None, "mod_key": "rna"}
    fields["X"]["state_registry"] = {"column_names": genes}
    fields["proteins"]["data_registry"] = {"attr_name": "X", "attr_key": None, "mod_key": "adt"}
    adata = read(content, cells, tmp_path)
    assert scvitl.get.model(adata, key="totalvi").schema.proteins.modalities is None
    muon = pytest.importorskip("mudata")
    table = cells.obsm["protein_expression"]
    proteins = ad.AnnData(table.to_numpy(np.float32), cells.obs[[]], pd.DataFrame(index=table.columns))
    mdata = muon.MuData({"rna": ad.AnnData(cells.X, cells.obs, cells.var), "adt": proteins})
    assert read_scvi_tools(tmp_path / "m", mdata) is None
    assert np.array_equal(mdata.obsm["X_totalvi"], adata.obsm["X_totalvi"])
    pd.testing.assert_frame_equal(mdata.obsm["totalvi_protein"], adata.obsm["totalvi_protein"])
    assert scvitl.get.model(mdata, key="totalvi").schema.proteins.modalities == ("rna", "adt")


def test_the_history(cells, content, tmp_path):
    names = ("elbo_train", "reconstruction_loss_train", "kl_local_train", "elbo_validation", "lr-Adam")
    frames = {name: pd.DataFrame({name: [2.0, 1.0]}, index=pd.RangeIndex(2, name="epoch")) for name in names}
    content["attr_dict"]["history_"] = frames
    history = scvitl.get.history(read(content, cells, tmp_path), key="totalvi")
    assert set(history) == set(names[:4])
    assert history["elbo_validation"].tolist() == [2.0, 1.0]


def rename_table(adata):
    adata.obsm["proteins"] = adata.obsm.pop("protein_expression")


def drop_a_protein(adata):
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"].drop(columns="CD2")


def drop_a_column(adata):
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"].to_numpy()[:, 1:]


def normalise(adata):
    adata.obsm["protein_expression"] = np.log1p(adata.obsm["protein_expression"])


def minify(adata):
    adata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            rename_table,
            KeyError,
            r"counts of 6 proteins in adata\.obsm\['protein_expression'\], which is not there",
        ),
        (drop_a_protein, ValueError, r"1 of the 6 proteins of the model are not in .*'CD2'"),
        (drop_a_column, ValueError, "has 5 columns, but there are 6 names of proteins"),
        (normalise, ValueError, "raw counts of proteins are needed"),
        (minify, ValueError, "minified adata: its counts are gone"),
    ],
)
def test_cells_that_do_not_fit(cells, content, tmp_path, change, error, match):
    change(cells)
    slots = set(cells.obsm), set(cells.uns)
    with pytest.raises(error, match=match):
        read_scvi_tools(content.save(tmp_path / "m"), cells)
    assert (set(cells.obsm), set(cells.uns)) == slots


def test_weights_that_do_not_fit(cells, content, tmp_path):
    content["model_state_dict"]["background_pro_alpha"] = torch.zeros(6, 3)
    with pytest.raises(ValueError, match=r"protein_counts\.background_mean is \(6, 3\) and not \(6, 2\)"):
        read(content, cells, tmp_path)
    place(content, *REGISTRY)["proteins"]["state_registry"]["protein_batch_mask"] = {"0": np.ones(5)}
    with pytest.raises(ValueError, match="is damaged, or not a model that scvi-tools saved"):
        read(content, cells, tmp_path)
