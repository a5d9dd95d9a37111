"""Models of class SCAR: their ambient profile, and what they leave with the cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl.io import read_scvi_tools

# In the fast plan, genes have levels, which scvi-tools does not know.
QUICK = {"plan": "reference", "n_hidden": 8, "n_latent": 3, "max_epochs": 1, "progress": False}
OPTIONS = {
    "defaults": {},
    "nb": {"gene_likelihood": "nb", "scale_activation": "softplus", "n_layers": 1},
    "zinb": {"gene_likelihood": "zinb", "scale_activation": "softmax", "latent_distribution": "ln"},
    "poisson": {"gene_likelihood": "poisson", "sparsity": 1.0, "log_variational": False, "dropout_rate": 0.2},
}
NAMES = ("layers", "obs", "obsm", "varm", "uns")


@pytest.fixture
def ambient(toy):
    """A profile that is not that of the cells, with the number one in some places."""
    shares = np.random.default_rng(0).gamma(0.5, size=toy.n_vars).astype(np.float32)
    shares[3] = 0
    return shares / shares.sum(dtype=np.float64).astype(np.float32)


@pytest.fixture
def fitted(toy, ambient):
    scvitl.tl.scar(toy, ambient=ambient, **QUICK)
    return toy


@pytest.fixture
def bare(fitted):
    """The same cells without the results."""
    return ad.AnnData(fitted.X.copy(), fitted.obs[["batch"]].copy(), fitted.var[[]].copy())


@pytest.fixture
def content(fitted, as_scvi_tools):
    """What scvi-tools saves of such a model."""
    return as_scvi_tools(fitted, "scar")


def arguments(content):
    return content["attr_dict"]["init_params_"]["non_kwargs"]


def field(content, name):
    return content["attr_dict"]["registry_"]["field_registries"][name]


def read(content, cells, folder, **options):
    """The cells with the model that was saved."""
    return read_scvi_tools(content.save(folder / "m"), cells, copy=True, **options)


def profile_of(adata, key="scar"):
    return scvitl.get.model(adata, key=key).module.ambient.numpy()


def slots(adata):
    return {name: set(getattr(adata, name)) for name in NAMES}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option(toy, ambient, as_scvi_tools, tmp_path, options):
    """What goes into the cells is what the fit wrote."""
    bare = toy.copy()
    scvitl.tl.scar(toy, ambient=ambient, **{**QUICK, **options})
    theirs = scvitl.get.model(toy, key="scar")
    adata = read(as_scvi_tools(toy, "scar"), bare, tmp_path)
    assert slots(adata) == slots(toy)
    assert np.array_equal(adata.obsm["X_scar"], toy.obsm["X_scar"])
    assert adata.layers["scar"].dtype == toy.layers["scar"].dtype
    assert (adata.layers["scar"] != toy.layers["scar"]).nnz == 0
    pd.testing.assert_series_equal(adata.obs["scar_noise"], toy.obs["scar_noise"])
    pd.testing.assert_frame_equal(adata.varm["scar_ambient"], toy.varm["scar_ambient"])
    assert scvitl.get.elbo(adata, key="scar") == scvitl.get.elbo(toy, key="scar")
    ours = scvitl.get.model(adata, key="scar")
    assert ours.schema == theirs.schema
    names = [*scvitl.store.ARCHITECTURES["scAR"][1], "feature_type"]
    assert [ours.params[name] for name in names] == [theirs.params[name] for name in names]
    assert set(ours.params) - set(theirs.params) == {"source"}


def test_a_file_and_another_name(fitted, bare, content, tmp_path, said):
    adata = read(content, bare, tmp_path, key_added="old")
    assert "'old', scAR model of scvi-tools 1.3.0" in said()
    new = {name: found - slots(bare)[name] for name, found in slots(adata).items()}
    assert new == dict(zip(NAMES, ({"old"}, {"old_noise"}, {"X_old"}, {"old_ambient"}, {"old"}), strict=True))
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (scvitl.get.denoised(back, key="old") != fitted.layers["scar"]).nnz == 0
    assert scvitl.get.elbo(back, key="old") == scvitl.get.elbo(fitted, key="scar")
    assert "imported from scvi-tools 1.3.0" in repr(scvitl.get.model(back, key="old"))


def test_a_batch_that_the_model_never_saw(fitted, bare, content, tmp_path):
    """scvi-tools registers the column and keeps it from the model, so cells need not have it."""
    categories = bare.obs["batch"].cat.categories.to_numpy(object)
    state = {"original_key": "batch", "categorical_mapping": categories}
    field(content, "batch")["state_registry"] = state
    del bare.obs["batch"]
    adata = read(content, bare, tmp_path)
    assert np.array_equal(adata.obsm["X_scar"], fitted.obsm["X_scar"])
    model = scvitl.get.model(adata, key="scar")
    assert model.schema.batch is None
    assert "batch_key" not in model.params
    assert adata.varm["scar_ambient"].columns.tolist() == ["ambient"]


def test_genes_in_another_order_among_others(fitted, bare, content, tmp_path):
    more = ad.AnnData(np.full((bare.n_obs, 2), 7, np.float32), bare.obs, pd.DataFrame(index=["x", "y"]))
    mixed = ad.concat([more[:, :1], bare[:, ::-1], more[:, 1:]], axis=1, merge="first")
    adata = read(content, mixed, tmp_path)
    assert np.allclose(adata.obsm["X_scar"], fitted.obsm["X_scar"], atol=1e-6)
    native = pd.DataFrame(adata.layers["scar"].toarray(), columns=adata.var_names)
    # Rounding may move a count that is on the border.
    assert (native[fitted.var_names].to_numpy() == fitted.layers["scar"].toarray()).mean() > 0.999
    assert (native[["x", "y"]] == 7).all(axis=None)
    assert adata.layers["scar"].has_sorted_indices
    assert (adata.layers["scar"] > adata.X).nnz == 0
    shares = adata.varm["scar_ambient"]
    assert shares.index.equals(adata.var_names)
    assert shares.loc[["x", "y"]].isna().all(axis=None)
    np.testing.assert_allclose(shares.loc[fitted.var_names], fitted.varm["scar_ambient"], rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("CRISPR Guide Capture", "sgRNA"),
        ("sgRNA", "sgRNA"),
        ("Gene Expression", "mRNA"),
        ("unheard of", "mRNA"),
    ],
)
def test_what_the_features_are(bare, content, tmp_path, column, expected):
    """The file does not say; where the cells do, guides can be assigned."""
    bare.var["feature_types"] = pd.Categorical([column] * bare.n_vars)
    adata = read(content, bare, tmp_path)
    assert scvitl.get.model(adata, key="scar").params["feature_type"] == expected


def test_counts_in_a_layer(fitted, bare, content, tmp_path):
    bare.layers["counts"] = bare.X.copy()
    bare.X = np.log1p(bare.X.toarray())
    adata = read(content, bare, tmp_path)
    assert scvitl.get.model(adata, key="scar").params["layer"] == "counts"
    assert (adata.layers["scar"] != fitted.layers["scar"]).nnz == 0
    with pytest.raises(ValueError, match=r"counts are in layers\['counts'\], where the result would take"):
        read(content, bare, tmp_path, key_added="counts")


@pytest.mark.parametrize(
    "kind",
    [
        torch.from_numpy,
        lambda shares: torch.from_numpy(shares).double(),
        lambda shares: shares,
        lambda shares: shares[:, None],
        lambda shares: pd.DataFrame({"ambient": shares}, [f"g{i}" for i in range(len(shares))]),
        lambda shares: np.where(shares == 0, np.nan, shares),
    ],
    ids=["tensor", "double", "array", "column", "frame", "NaN"],
)
def test_kinds_of_profiles(bare, ambient, content, tmp_path, kind):
    arguments(content)["ambient_profile"] = kind(ambient)
    assert np.array_equal(profile_of(read(content, bare, tmp_path)), ambient[None])


def test_a_profile_stays_as_it_is(bare, ambient, content, tmp_path):
    """scvi-tools does not divide it by its sum."""
    arguments(content)["ambient_profile"] = torch.from_numpy(ambient * 0.5)
    adata = read(content, bare, tmp_path)
    assert np.array_equal(adata.varm["scar_ambient"]["ambient"], ambient * 0.5)


def test_a_profile_in_varm(fitted, bare, ambient, content, tmp_path):
    arguments(content)["ambient_profile"] = "ambient_profile"
    with pytest.raises(
        KeyError, match=r"adata\.varm\['ambient_profile'\], which is not there.* There: nothing"
    ):
        read(content, bare, tmp_path)
    bare.varm["ambient_profile"] = np.where(ambient == 0, np.nan, ambient)[:, None]
    # By the genes of these cells, not in the order of the model.
    adata = read(content, bare[:, ::-1].copy(), tmp_path)
    assert np.array_equal(profile_of(adata), ambient[None])
    assert np.allclose(adata.obsm["X_scar"], fitted.obsm["X_scar"], atol=1e-6)
    bare.varm["ambient_profile"] = np.stack([ambient, ambient], 1)
    with pytest.raises(ValueError, match="has 2 columns, and the model takes one"):
        read(content, bare, tmp_path)


def test_no_profile(bare, content, tmp_path, said):
    arguments(content)["ambient_profile"] = None
    adata = read(content, bare, tmp_path)
    assert "the cells together stand for it" in said()
    counts = np.asarray(bare.X.sum(0)).ravel()
    np.testing.assert_allclose(profile_of(adata)[0], counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        (np.full(39, 1 / 39), "no ambient_profile of 40 genes in it"),
        (np.array(["a"] * 40, object), "no ambient_profile of 40 genes in it"),
        (np.linspace(-1, 1, 40), "is no profile: its shares are negative, or all zero"),
        (np.full(40, np.nan), "is no profile: its shares are negative, or all zero"),
        (np.full(40, np.inf), r"NaN or infinite \(ambient\)"),
    ],
    ids=["too short", "text", "negative", "NaN", "infinite"],
)
def test_profiles_that_are_none(bare, content, tmp_path, profile, problem):
    arguments(content)["ambient_profile"] = profile
    before = slots(bare)
    with pytest.raises(ValueError, match=problem):
        read_scvi_tools(content.save(tmp_path / "m"), bare)
    assert slots(bare) == before


def test_arguments_of_no_effect(fitted, bare, content, tmp_path):
    """The model of scvi-tools sees no covariates, and has a decoder of its own."""
    content["attr_dict"]["init_params_"]["kwargs"] = {
        "model_kwargs": {
            "encode_covariates": True,
            "deeply_inject_covariates": False,
            "use_batch_norm": "encoder",
            "use_layer_norm": "decoder",
            "extra_decoder_kwargs": {"activation_fn": torch.nn.ReLU},
        }
    }
    adata = read(content, bare, tmp_path)
    assert (adata.layers["scar"] != fitted.layers["scar"]).nnz == 0


@pytest.mark.parametrize(
    ("argument", "value", "problem"),
    [
        ("use_observed_lib_size", False, "use_observed_lib_size=False"),
        ("use_batch_norm", "none", "use_batch_norm='none'"),
        ("use_layer_norm", "both", "use_layer_norm='both'"),
        ("dispersion", "gene-cell", "dispersion='gene-cell'"),
        ("batch_representation", "embedding", "batch_representation='embedding'"),
        ("extra_encoder_kwargs", {"var_eps": 1e-2}, "extra_encoder_kwargs"),
        ("var_activation", torch.nn.functional.softplus, "var_activation"),
        ("n_batch", 2, "n_batch"),
        ("use_layer_norm", ["both"], "use_layer_norm"),
    ],
)
def test_arguments_that_we_do_not_have(bare, content, tmp_path, argument, value, problem):
    arguments(content)[argument] = value
    with pytest.raises(
        ValueError, match=f"was made with {problem}, which scvitl's scAR does not have: use scvi-tools"
    ):
        read(content, bare, tmp_path)


@pytest.mark.parametrize(
    ("argument", "value", "problem"),
    [
        ("gene_likelihood", "normal", "gene_likelihood='normal' is not known. Use one of 'b', 'nb'"),
        ("scale_activation", "exp", "scale_activation='exp' is not known"),
        ("sparsity", 2, "sparsity=2 is out of range"),
    ],
)
def test_values_that_nobody_has(bare, content, tmp_path, argument, value, problem):
    arguments(content)[argument] = value
    with pytest.raises(ValueError, match=problem):
        read(content, bare, tmp_path)


def test_size_factors(bare, content, tmp_path):
    fields = content["attr_dict"]["registry_"]["field_registries"]
    fields["size_factor"] = {"data_registry": {"attr_name": "obs", "attr_key": "size"}}
    with pytest.raises(
        ValueError, match="set up with size_factor_key='size', which scvitl's scAR does not have"
    ):
        read(content, bare, tmp_path)


def test_a_view_and_other_cells(fitted, bare, content, tmp_path, said):
    view = bare[::2]
    read_scvi_tools(content.save(tmp_path / "m"), view)
    assert "view" in said()
    assert "of the counts removed" in said()
    assert np.allclose(view.obs["scar_noise"], fitted.obs["scar_noise"][::2], atol=1e-4)


def test_weights_that_do_not_fit(bare, content, tmp_path):
    content["model_state_dict"]["decoder.px_noise_decoder.0.weight"] = torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"decoder\.heads\.noise\.weight is \(2, 8\) and not \(1, 8\)"):
        read(content, bare, tmp_path)
