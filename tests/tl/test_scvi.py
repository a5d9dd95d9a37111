from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scvitl

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 2, "progress": False}


def fit(adata, **options):
    scvitl.tl.scvi(adata, **{**SMALL, **options})
    return adata.obsm["X_scvi"]


def assert_unchanged(adata, before):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    assert np.array_equal(sp.csr_matrix(adata.X).toarray(), sp.csr_matrix(before.X).toarray(), equal_nan=True)


def test_writes_latent_space_and_model_and_nothing_else(toy):
    before = toy.copy()
    assert scvitl.tl.scvi(toy, batch_key="batch", **SMALL) is None
    assert toy.obsm["X_scvi"].shape == (120, 4)
    assert toy.obsm["X_scvi"].dtype == np.float32
    assert set(toy.uns["scvi"]) == {"params", "schema", "history", "weights"}
    del toy.obsm["X_scvi"], toy.uns["scvi"]
    assert_unchanged(toy, before)


def test_params(toy):
    fit(toy, batch_key="batch", gene_likelihood="nb", random_state=7)
    params = toy.uns["scvi"]["params"]
    assert params["batch_key"] == "batch"
    assert params["gene_likelihood"] == "nb"
    assert params["random_state"] == 7
    assert params["plan"] == "fast"
    assert params["epochs_run"] == params["max_epochs"] == 2
    assert params["interrupted"] is False
    assert params["version"] == scvitl.__version__
    assert (params["n_obs"], params["n_vars"]) == toy.shape
    assert "layer" not in params, "what was not set is left out"


def test_copy(toy):
    before = toy.copy()
    result = scvitl.tl.scvi(toy, copy=True, **SMALL)
    assert "X_scvi" in result.obsm
    assert_unchanged(toy, before)


def test_key_added(toy):
    scvitl.tl.scvi(toy, key_added="foo", **SMALL)
    assert set(toy.obsm) - {"factors"} == {"X_foo"}
    assert set(toy.uns) == {"foo"}
    assert scvitl.get.model(toy, key="foo").params["n_latent"] == 4


def test_equal_seeds_give_equal_results(toy):
    first, again, other = (fit(toy.copy(), batch_key="batch", random_state=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_global_state_is_left_alone(toy):
    numpy_state, torch_state, threads = (
        np.random.get_state()[1].copy(),
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    dtype = torch.get_default_dtype()
    fit(toy, batch_key="batch", dropout_rate=0.5, latent_distribution="ln")
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == dtype


@pytest.mark.parametrize(
    "options",
    [
        *({"gene_likelihood": name} for name in ("zinb", "nb", "poisson", "normal")),
        *({"dispersion": name} for name in ("gene", "gene-batch", "gene-label", "gene-cell")),
        {"latent_distribution": "ln"},
        {"log_variational": False},
        {"encode_covariates": True, "n_layers": 2},
        {"deeply_inject_covariates": False, "n_layers": 2},
        {"batch_representation": "embedding", "embedding_dim": 3},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
        {"use_observed_lib_size": False},
        {"size_factor_key": "library"},
        {"var_activation": "softplus"},
        {"plan": "reference"},
        {"train_size": 1.0},
        {"batch_size": 16, "weight_decay": 0.0, "learning_rate": 1e-3, "n_epochs_kl_warmup": 1},
        {"early_stopping": True, "early_stopping_patience": 1, "max_epochs": 5},
    ],
    ids=str,
)
def test_every_option_round_trips(toy, options, tmp_path):
    """Fit, write, read, and find the same latent space by the model alone."""
    toy.obs["donor"] = np.arange(toy.n_obs) % 3
    toy.obs["mito"] = np.linspace(0, 1, toy.n_obs)
    latent = fit(
        toy,
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["mito"],
        **options,
    )
    assert np.isfinite(latent).all()
    toy.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.latent(read), latent)


def test_numpy_scalars_and_other_sequences_as_options(toy, tmp_path):
    toy.obs["donor"] = np.arange(toy.n_obs) % 3
    expected = fit(toy.copy(), categorical_covariate_keys=["donor"], random_state=3, dropout_rate=0.25)
    latent = fit(
        toy,
        n_latent=np.int64(4),
        max_epochs=np.int32(2),
        random_state=np.int64(3),
        dropout_rate=np.float32(0.25),
        log_variational=np.bool_(True),
        categorical_covariate_keys=pd.Index(["donor"]),
        continuous_covariate_keys=None,
    )
    assert np.array_equal(latent, expected)
    toy.write_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.latent(ad.read_h5ad(tmp_path / "a.h5ad")), latent)


def test_the_layer_that_was_used_is_read_again(toy):
    toy.layers["counts"] = toy.X.copy()
    toy.X = toy.X.log1p()
    latent = fit(toy)
    toy.X = (toy.X > 0).astype(np.float32)
    assert np.array_equal(scvitl.get.latent(toy), latent)


def test_view_of_a_file(toy, tmp_path):
    toy.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"adata = adata\.to_memory\(\)"):
        fit(backed[:50])
    backed.file.close()


def test_silent_at_verbosity_zero(toy, capsys):
    before = sc.settings.verbosity
    sc.settings.verbosity = 0
    try:
        scvitl.tl.scvi(toy, **{**SMALL, "progress": None})
    finally:
        sc.settings.verbosity = before
    assert capsys.readouterr() == ("", "")


def test_chains_with_scanpy(toy):
    fit(toy, batch_key="batch")
    sc.pp.neighbors(toy, use_rep="X_scvi", n_neighbors=5)
    assert toy.obsp["connectivities"].shape == (120, 120)


def test_latent_space_finds_the_cell_types_across_batches():
    """On simulated data with known truth: types found, batches mixed."""
    from sklearn.neighbors import NearestNeighbors

    adata = scvitl.datasets.toy(n_cells=600, random_state=2)
    scvitl.tl.scvi(adata, batch_key="batch", progress=False)
    near = NearestNeighbors(n_neighbors=16).fit(adata.obsm["X_scvi"]).kneighbors(return_distance=False)
    same_type, same_batch = (
        (adata.obs[key].to_numpy()[near] == adata.obs[key].to_numpy()[:, None]).mean()
        for key in ("cell_type", "batch")
    )
    assert same_type > 0.95
    assert same_batch < 0.6  # 0.5 if perfectly mixed


def test_held_out_loss_beats_the_first_epoch_by_far(toy):
    fit(toy, batch_key="batch", max_epochs=60)
    loss = scvitl.get.history(toy)["elbo_validation"]
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]


def test_counts_layer(toy, said):
    expected = fit(toy.copy())
    toy.layers["counts"] = toy.X.copy()
    toy.X = (
        toy.X.log1p()
    )  # not by scanpy: its numba code may change the thread count of torch, and with it the last bits
    assert np.array_equal(fit(toy), expected)
    assert "counts from layers" in said()
    assert "from counts" in repr(scvitl.get.model(toy))
    assert np.array_equal(fit(toy, layer="counts"), expected)


@pytest.mark.parametrize(
    "convert", [sp.csc_matrix, sp.csr_array, lambda x: x.toarray(), lambda x: x.astype(np.int64)]
)
def test_formats_of_x_give_the_same_result(toy, convert):
    expected = fit(toy.copy())
    toy.X = convert(toy.X)
    assert np.array_equal(fit(toy), expected)


def test_view(toy, said):
    view = toy[:60]
    latent = fit(view, batch_key="batch")
    assert not view.is_view
    assert latent.shape == (60, 4)
    assert "X_scvi" not in toy.obsm
    assert "view" in said()


def test_backed(toy, tmp_path):
    expected = fit(toy.copy())
    toy.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert np.array_equal(fit(backed), expected)
    backed.file.close()


@pytest.mark.parametrize("n", [2, 3, 50, 117])
def test_few_cells(toy, n):
    assert fit(toy[:n].copy()).shape == (n, 4)


def test_one_gene(toy):
    one = toy[:, :1].copy()
    one = one[one.X.toarray().ravel() > 0].copy()
    assert fit(one).shape == (one.n_obs, 4)


def test_a_batch_of_one_cell(toy):
    toy.obs["batch"] = ["one", *["other"] * 119]
    assert np.isfinite(
        fit(toy, batch_key="batch", use_observed_lib_size=False, dispersion="gene-batch")
    ).all()


def test_interrupt_keeps_the_model(toy, monkeypatch):
    from scvitl.training.progress import Progress

    seen = []

    def interrupt(self, row):
        seen.append(row)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch", interrupt)
    latent = fit(toy, max_epochs=50)
    assert np.isfinite(latent).all()
    assert toy.uns["scvi"]["params"]["interrupted"] is True
    assert toy.uns["scvi"]["params"]["epochs_run"] == 2
    assert "interrupted" in repr(scvitl.get.model(toy))


def test_the_closing_line(toy, capsys):
    scvitl.tl.scvi(toy, batch_key="batch", **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out.startswith("scVI: 120 cells × 40 genes · 2 batches · 2 epochs in ")
    assert "held-out loss " in out
    assert out.count("\n") == 1
    assert err == ""


def test_the_log_names_every_key(toy, said):
    sc.settings.verbosity = 3
    fit(toy)
    for key in toy.obsm.keys() - {"factors"} | toy.uns.keys():
        assert repr(key) in said()


def bad_input(name):
    """An AnnData, options, and the error that they are to meet."""
    adata = scvitl.datasets.toy(n_cells=60, n_genes=40)
    options = {}
    if name == "log":
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    elif name == "empty cell":
        dense = adata.X.toarray()
        dense[5] = 0
        adata.X = sp.csr_matrix(dense)
    elif name == "nan batch":
        adata.obs["batch"] = adata.obs["batch"].where(np.arange(60) > 2)
        options = {"batch_key": "batch"}
    elif name == "one cell":
        adata = adata[:1].copy()
    elif name == "huge":
        adata.X = adata.X.astype(np.float64) * 1e300
    elif name == "taken":
        adata.uns["neighbors"] = {"params": {}}
    return adata, options


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("log", {}, ValueError, "not whole numbers"),
        ("empty cell", {}, ValueError, r"1 cell has no counts .*cell_0005.* Drop"),
        ("nan batch", {}, ValueError, "is NaN in 3 cells"),
        ("one cell", {}, ValueError, "at least two cells"),
        ("huge", {}, ValueError, "NaN or infinite"),
        ("taken", {"key_added": "neighbors"}, ValueError, r"uns\['neighbors'\] holds something that is not a model"),
        ("", {"key_added": "a/b"}, ValueError, "without a slash"),
        ("", {"key_added": 5}, ValueError, "key_added=5 cannot name results"),
        ("", {"batch_key": ""}, KeyError, "batch_key='' is not in adata.obs"),
        ("", {"batch_key": ["batch"]}, TypeError, "takes the name of a column of obs"),
        ("", {"log_variational": "False"}, TypeError, "log_variational must be True or False, not 'False'"),
        ("", {"copy": "no"}, TypeError, "copy must be True or False"),
        ("", {"n_latent": None}, TypeError, "n_latent must be a whole number, not None"),
        ("", {"early_stopping_patience": None}, TypeError, "early_stopping_patience must be a whole number"),
        ("", {"random_state": 2**32}, ValueError, "it must be at most 4294967295"),
        ("", {"train_size": 0.01}, ValueError, "leaves 1 of 60 cells to train on; at least two"),
        ("", {"early_stopping": True, "train_size": 1.0}, ValueError, "early_stopping watches held-out cells"),
        ("", {"batch_key": "Batch"}, KeyError, "Did you mean 'batch'"),
        ("", {"layer": "raw"}, KeyError, "'raw' is not in adata.layers"),
        ("", {"dispersion": "cell"}, ValueError, "dispersion='cell' is not known. Use one of 'gene', 'gene-batch'"),
        ("", {"gene_likelihood": "NB"}, ValueError, "Use one of 'zinb', 'nb', 'poisson', 'normal'"),
        ("", {"plan": "slow"}, ValueError, "Use one of 'fast', 'reference'"),
        ("", {"var_activation": "tanh"}, ValueError, "Use one of 'exp', 'softplus'"),
        ("", {"n_latent": 0}, ValueError, "n_latent=0 is too small; it must be at least 1"),
        ("", {"n_latent": 2.5}, TypeError, "n_latent must be a whole number, not 2.5"),
        ("", {"max_epochs": 0}, ValueError, "max_epochs=0 is too small"),
        ("", {"batch_size": 1}, ValueError, "batch_size=1 is too small; it must be at least 2"),
        ("", {"dropout_rate": 1.0}, ValueError, "dropout_rate=1.0 is out of range; it must be at least 0 and below 1"),
        ("", {"train_size": 0}, ValueError, "train_size=0 is out of range; it must be above 0 and at most 1"),
        ("", {"learning_rate": -1}, ValueError, "learning_rate=-1 is out of range; it must be above 0"),
        ("", {"learning_rate": "high"}, TypeError, "learning_rate must be a number, not 'high'"),
        ("", {"random_state": None}, TypeError, "random_state must be a whole number"),
        ("", {"dispersion": "gene-batch"}, ValueError, "needs batch_key"),
        ("", {"dispersion": "gene-label"}, ValueError, "needs labels_key"),
        ("", {"categorical_covariate_keys": "batch"}, TypeError, r"takes a list of obs columns: use \['batch'\]"),
        ("", {"device": "abacus"}, ValueError, "device='abacus' cannot be used here .* Use 'auto' or 'cpu'"),
    ],
)  # fmt: skip
def test_bad_input(name, options, error, message):
    adata, more = bad_input(name)
    before = adata.copy()
    with pytest.raises(error, match=message):
        fit(adata, **more, **options)
    assert_unchanged(adata, before)


@pytest.mark.parametrize("epochs", [1, 20])
@pytest.mark.parametrize("plan", ["fast", "reference"])
def test_failure_in_training_leaves_adata_alone(toy, plan, epochs):
    before = toy.copy()
    with pytest.raises(FloatingPointError, match=r"not finite .*Usual causes: .*learning_rate=1e-3"):
        fit(toy, learning_rate=1e30, max_epochs=epochs, plan=plan)
    assert_unchanged(toy, before)


def test_legal_names_are_those_of_the_models():
    from scvitl.models.blocks import VARIANCE_ACTIVATIONS
    from scvitl.tl._options import CHOICES
    from scvitl.training.plan import PLANS

    assert CHOICES["var_activation"] == tuple(VARIANCE_ACTIVATIONS)
    assert CHOICES["plan"] == PLANS


@pytest.mark.parametrize(("plan", "shift"), [("fast", True), ("reference", False)])
def test_inferred_libraries_start_at_their_prior(toy, monkeypatch, plan, shift):
    """The reference plan starts at the weights of scvi-tools; the fast one where the cells are."""
    started = []
    monkeypatch.setattr(
        "scvitl.training.fit.evaluate", lambda model, data, held_out: started.append(model) or {}
    )
    options = {"use_observed_lib_size": False, "max_epochs": 1, "learning_rate": 1e-9, "plan": plan}
    scvitl.tl.scvi(toy, n_hidden=8, n_latent=2, progress=False, **options)
    at = float(started[0].l_encoder.mean.bias.detach())
    prior = float(started[0].library_log_means.mean())
    assert prior > 5
    assert abs(at - prior * shift) < 1
