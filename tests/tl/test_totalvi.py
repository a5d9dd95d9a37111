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
from scvitl.data import learn
from scvitl.tl import _background

KEY = "protein_expression"
SMALL = {"batch_key": "batch", "n_hidden": 16, "n_latent": 4, "max_epochs": 2, "progress": False}
TABLES = ("X_totalvi", "totalvi_protein", "totalvi_protein_foreground")
HIDDEN = ["P02", "P05"]  # proteins that batch_1 lacks


def fit(adata, **options):
    scvitl.tl.totalvi(adata, **{**SMALL, **options})
    return adata.obsm["X_totalvi"]


def weight(adata, name):
    return adata.uns["totalvi"]["weights"][f"protein_counts.{name}"]


def assert_unchanged(adata, before):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    for name, table in before.obsm.items():
        assert type(adata.obsm[name]) is type(table)
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(adata.obsm[name], table)
    assert np.array_equal(sp.csr_matrix(adata.X).toarray(), sp.csr_matrix(before.X).toarray(), equal_nan=True)


def test_writes_tables_and_model_and_nothing_else(stained):
    before = stained.copy()
    assert scvitl.tl.totalvi(stained, **SMALL) is None
    latent = stained.obsm["X_totalvi"]
    assert latent.shape == (120, 4)
    assert latent.dtype == np.float32
    denoised, foreground = (stained.obsm[name] for name in TABLES[1:])
    for table in (denoised, foreground):
        assert isinstance(table, pd.DataFrame)
        assert (table.dtypes == np.float32).all()
        assert table.index.equals(stained.obs_names)
        assert table.columns.equals(stained.obsm[KEY].columns)
    assert np.isfinite(denoised).all(axis=None)
    assert (denoised >= 0).all(axis=None)
    assert foreground.gt(0).all(axis=None)
    assert foreground.lt(1).all(axis=None)
    assert set(stained.uns["totalvi"]) == {"params", "schema", "history", "weights"}
    for name in TABLES:
        del stained.obsm[name]
    del stained.uns["totalvi"]
    assert_unchanged(stained, before)


def test_params_and_summary(stained):
    fit(stained, gene_dispersion="gene-batch", random_state=7)
    params = stained.uns["totalvi"]["params"]
    assert params["model"] == "totalVI"
    assert params["dispersion"] == "gene-batch"
    assert params["protein_dispersion"] == "protein"
    assert params["adversarial_classifier"] is True, "proteins are missing in a batch"
    assert params["random_state"] == 7
    assert params["epochs_run"] == 2
    assert (params["n_obs"], params["n_vars"]) == stained.shape
    model = get.model(stained, key="totalvi")
    assert model.schema.proteins.names == tuple(stained.obsm[KEY].columns)
    text = repr(model)
    assert "totalVI model of 120 cells × 40 genes" in text
    assert "12 in obsm['protein_expression'], not all measured everywhere: P00, P01" in text
    history = get.history(stained, key="totalvi")
    assert {"reconstruction_loss_gene_validation", "reconstruction_loss_protein_validation"} <= {*history}
    assert np.isfinite(history).all(axis=None)


def test_copy_and_key_added(stained):
    before = stained.copy()
    result = scvitl.tl.totalvi(stained, copy=True, key_added="foo", **SMALL)
    assert_unchanged(stained, before)
    assert set(result.obsm) - set(before.obsm) == {"X_foo", "foo_protein", "foo_protein_foreground"}
    assert set(result.uns) == {"foo"}
    assert get.model(result, key="foo").params["n_latent"] == 4


def test_equal_seeds_give_equal_results(stained):
    runs = [stained.copy() for _ in range(3)]
    for adata, seed in zip(runs, (3, 3, 4), strict=True):
        fit(adata, random_state=seed)
    first, again, other = ([np.asarray(adata.obsm[name]) for name in TABLES] for adata in runs)
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))


def test_global_state_is_left_alone(stained):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    fit(stained, protein_background_prior="empirical", adversarial_classifier=True)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


def test_a_file_keeps_everything(stained, tmp_path):
    """Also names that a file cannot have as columns, and numbers as names."""
    stained.obsm[KEY].columns = ["HLA-A/B", "HLA-A_B", "HLA-A_B_", 4, *stained.obsm[KEY].columns[4:]]
    fit(stained)
    columns = stained.obsm["totalvi_protein"].columns
    assert columns[:4].tolist() == ["HLA-A_B__", "HLA-A_B", "HLA-A_B_", "4"]
    del stained.obsm[KEY]  # which no file could hold
    stained.obsm[KEY] = stained.obsm["totalvi_protein"].round()
    stained.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    for name in TABLES:
        assert np.array_equal(read.obsm[name], stained.obsm[name])
    model = get.model(read, key="totalvi")
    assert model.schema == get.model(stained, key="totalvi").schema
    assert model.schema.proteins.names[:4] == ("HLA-A/B", "HLA-A_B", "HLA-A_B_", "4")
    with pytest.raises(ValueError, match=r"1 of the 12 proteins of the model are not in .* \('HLA-A/B'\)"):
        get.latent(read, key="totalvi")


def test_a_part_of_the_cells_can_be_read(stained):
    latent = fit(stained)
    some = [40, 3, 77]
    for part in (stained[some], stained[some].copy(), stained[some].copy()[:, ::-1].copy()):
        assert np.allclose(get.latent(part, key="totalvi"), latent[some], atol=1e-5)
    with pytest.raises(ValueError, match="20 of the 40 genes of the model are not in"):
        get.latent(stained[:, ::2].copy(), key="totalvi")


@pytest.mark.parametrize(
    "options",
    [
        {"gene_likelihood": "zinb"},
        {"latent_distribution": "ln"},
        {"use_observed_lib_size": False},
        {"size_factor_key": "size"},
        {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]},
        {"categorical_covariate_keys": ["donor"], "encode_covariates": False},
        {"gene_dispersion": "gene-batch", "protein_dispersion": "protein-batch"},
        {"gene_dispersion": "gene-label", "protein_dispersion": "protein-label", "labels_key": "cell_type"},
        {"log_variational": False},
        {"n_layers_encoder": 1, "n_layers_decoder": 2},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
        {"use_batch_norm": "encoder", "use_layer_norm": "decoder"},
        {"dropout_rate_encoder": 0.0, "dropout_rate_decoder": 0.5},
        {"protein_background_prior": "empirical"},
        {"protein_background_prior": "learned"},
        {"protein_background_prior": (1.5, 0.5)},
        {"protein_background_prior": (np.linspace(1, 2, 12), np.full((12, 2), 0.7))},
        {"adversarial_classifier": True},
        {"adversarial_classifier": False},
        {"missing_proteins": {}},
        {"missing_proteins": {"batch_0": ["P00"], "batch_1": HIDDEN}},
        {"panel_key": "panel"},
        {"batch_key": None, "panel_key": "panel"},
        {"plan": "reference"},
        {"plan": "reference", "adversarial_classifier": False, "use_observed_lib_size": False},
        {"train_size": 1.0, "batch_size": 30, "weight_decay": 0.0, "learning_rate": 1e-3, "n_epochs_kl_warmup": 1},
        {"early_stopping": True, "early_stopping_patience": 1, "max_epochs": 4},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_round_trips(stained, options, tmp_path):
    """Fit, write, read, and find the same latent space by the model alone."""
    stained.obs["size"] = np.linspace(0.5, 2, stained.n_obs)
    stained.obs["panel"] = ["big" if batch == "batch_0" else "small" for batch in stained.obs["batch"]]
    latent = fit(stained, **options)
    for name in TABLES:
        assert np.isfinite(np.asarray(stained.obsm[name])).all()
    stained.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(get.latent(read, key="totalvi"), latent)
    for name, values in stained.uns["totalvi"]["weights"].items():
        assert np.isfinite(values).all(), name


def test_numpy_scalars_and_other_sequences_as_options(stained, tmp_path):
    expected = fit(stained.copy(), categorical_covariate_keys=["donor"], missing_proteins={"batch_1": HIDDEN})
    latent = fit(
        stained,
        n_latent=np.int64(4),
        max_epochs=np.int32(2),
        adversarial_classifier=np.bool_(True),
        categorical_covariate_keys=pd.Index(["donor"]),
        continuous_covariate_keys=None,
        missing_proteins=pd.Series({"batch_1": np.array(HIDDEN)}),
    )
    assert np.array_equal(latent, expected)
    stained.write_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(get.latent(ad.read_h5ad(tmp_path / "a.h5ad"), key="totalvi"), latent)


@pytest.mark.parametrize(
    "convert", [np.asarray, sp.csr_matrix, lambda t: t.astype("Int64"), lambda t: t.astype(float)]
)
def test_formats_of_the_proteins_give_the_same_result(stained, convert):
    expected, names = fit(stained.copy()), stained.obsm[KEY].columns
    stained.obsm[KEY] = convert(stained.obsm[KEY])
    stained.uns["names"] = names.to_numpy()
    assert np.array_equal(fit(stained, protein_names="names"), expected)
    assert stained.obsm["totalvi_protein"].columns.tolist() == names.tolist()
    assert np.array_equal(get.latent(stained, key="totalvi"), expected)
    assert "protein_names" not in stained.uns["totalvi"]["params"]


def test_counts_layer_and_view_and_file(stained, tmp_path, said):
    expected = fit(stained.copy())
    stained.layers["counts"] = stained.X.copy()
    stained.X = stained.X.log1p()
    view = stained[np.arange(120)]
    assert np.array_equal(fit(view), expected)
    assert "counts from layers['counts']" in said()
    assert "view" in said()
    assert "totalvi" not in stained.uns
    stained.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert np.array_equal(fit(backed), expected)
    backed.file.close()


@pytest.mark.parametrize(("n", "n_proteins"), [(2, 3), (30, 1), (7, 12)])
def test_little_data(simulate, n, n_proteins):
    adata = simulate(n_cells=60, n_proteins=12)[:n].copy()
    adata.obsm[KEY] = adata.obsm[KEY].iloc[:, :n_proteins] + 1
    assert fit(adata).shape == (n, 4)
    assert adata.obsm["totalvi_protein"].shape == (n, n_proteins)


def test_a_batch_without_proteins(stained, said):
    """Cells with RNA alone: all of their proteins are imputed."""
    stained.obsm[KEY].iloc[1::2] = 0
    fit(stained)
    assert "'batch_1': all proteins without a count, so taken as not measured, and imputed" in said()
    imputed = stained.obsm["totalvi_protein"].iloc[1::2]
    assert np.isfinite(imputed).all(axis=None)
    assert (imputed.sum(1) > 0).all()


def test_cells_without_protein_counts(stained, said):
    stained.obsm[KEY].iloc[[4, 5]] = 0
    assert np.isfinite(fit(stained)).all()
    assert "2 cells have no protein counts (such as 'cell_0004')" in said()


def test_proteins_that_are_nowhere(stained):
    """Refused unless the user says that they were measured."""
    stained.obsm[KEY]["P03"] = 0
    fit(stained, missing_proteins={"batch_1": HIDDEN})
    assert stained.obsm["totalvi_protein"]["P03"].max() < 1


def test_one_batch_and_an_adversary(stained, said):
    stained.obsm[KEY] = stained.obsm[KEY].drop(columns=HIDDEN)
    first = fit(stained, batch_key=None, adversarial_classifier=True)
    assert "there is one batch only, so there is nothing for an adversary to tell apart" in said()
    assert stained.uns["totalvi"]["params"]["adversarial_classifier"] is False
    assert np.array_equal(fit(stained, batch_key=None), first)
    fit(stained)
    assert stained.uns["totalvi"]["params"]["adversarial_classifier"] is False, "nothing is missing"


def test_the_closing_line(stained, capsys):
    scvitl.tl.totalvi(stained, **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out.startswith("totalVI: 120 cells × 40 genes and 12 proteins · 2 batches · 2 epochs in ")
    assert "held-out loss " in out
    assert out.count("\n") == 1
    assert err == ""


def test_silent_at_verbosity_zero(stained, capsys):
    before = sc.settings.verbosity
    sc.settings.verbosity = 0
    try:
        scvitl.tl.totalvi(stained, **{**SMALL, "progress": None})
    finally:
        sc.settings.verbosity = before
    assert capsys.readouterr() == ("", "")


def test_the_log_names_every_key(stained, said):
    there = set(stained.obsm)
    fit(stained)
    for key in (set(stained.obsm) - there) | set(stained.uns):
        assert repr(key) in said()
    assert "12 proteins from obsm['protein_expression']" in said()
    assert "'batch_1': 'P02', 'P05' without a count" in said()


def test_interrupt_keeps_the_model(stained, monkeypatch):
    from scvitl.training.progress import Progress

    seen = []

    def interrupt(self, row):
        seen.append(row)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch", interrupt)
    assert np.isfinite(fit(stained, max_epochs=50)).all()
    params = stained.uns["totalvi"]["params"]
    assert params["interrupted"] is True
    assert params["epochs_run"] == 2


@pytest.fixture(scope="module")
def known(simulate):
    """More cells, fitted for a few seconds."""
    adata = simulate(400, 60, random_state=1)
    scvitl.tl.totalvi(adata, batch_key="batch", n_hidden=64, n_latent=8, max_epochs=80, progress=False)
    return adata


def test_foreground_is_told_from_background(known):
    """Better than by the counts, in which they overlap."""
    from sklearn.metrics import roc_auc_score

    on, foreground = known.obsm["on"], known.obsm["totalvi_protein_foreground"]
    ours = [roc_auc_score(on[name], foreground[name]) for name in on]
    counts = [roc_auc_score(on[name], known.obsm[KEY][name]) for name in on.columns.difference(HIDDEN)]
    assert min(counts) < 0.9
    assert min(ours) > 0.95
    of_background, of_counts = (
        known.obsm[table].to_numpy()[~on].mean() / known.obsm[table].to_numpy()[on].mean()
        for table in ("totalvi_protein", KEY)
    )
    assert of_background < 0.75 * of_counts


def test_hidden_proteins_are_imputed(known):
    hidden = known.obs["batch"] == "batch_1"
    for name in HIDDEN:
        truth, ours = (known.obsm[table].loc[hidden, name] for table in ("signal", "totalvi_protein"))
        assert np.corrcoef(truth, ours)[0, 1] > 0.9


def test_types_stay_apart(known):
    from sklearn.neighbors import NearestNeighbors

    near = (
        NearestNeighbors(n_neighbors=16).fit(known.obsm["X_totalvi"]).kneighbors(return_distance=False)[:, 1:]
    )
    types = known.obs["cell_type"].to_numpy()
    assert (types[near] == types[:, None]).mean() > 0.95


LEVEL = np.linspace(1, 6, 12)  # mean counts of an empty droplet


def droplets(adata):
    """Empty droplets, stray barcodes of one count, and the cells."""
    names, rng = adata.obsm[KEY].columns, np.random.default_rng(0)
    empty = pd.DataFrame(rng.poisson(LEVEL, (300, 12)), [f"empty_{i}" for i in range(300)], names)
    stray = pd.DataFrame(np.eye(12, dtype=int)[:, :12], [f"stray_{i}" for i in range(12)], names)
    return pd.concat([empty, stray, adata.obsm[KEY]])


def prior(adata, option="auto", raw=None, plan="fast", **columns):
    schema = learn(adata, protein_key=KEY, **{"batch_key": "batch", **columns})
    return _background.prior(adata, schema, option, raw, plan=plan, random_state=0)


def test_background_of_droplets(stained, said):
    raw = droplets(stained)
    found = prior(stained, raw=raw)
    logs = np.log1p(raw.iloc[:300])
    for name, expected in (("mean", logs.mean()), ("sd", logs.std(ddof=0))):
        values = found[f"background_{name}"]
        assert values.shape == (12, 2)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, np.stack([expected] * 2, 1), rtol=0.02)
    assert "background of proteins from 300 droplets without a cell, with 2" in said(), "without stray ones"
    assert "WARNING" not in said()
    stained.obsm[KEY].iloc[1::2] = 0
    stained.obsm[KEY].iloc[::6] = 0
    again = prior(stained, raw=raw)
    assert np.array_equal(again["background_mean"], found["background_mean"]), "whatever most cells lack"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_kinds_of_droplets(stained):
    """As a frame, proteins alone, in ``obsm``, and among the genes of the same names as Cell Ranger writes them."""
    raw = droplets(stained)
    expected = prior(stained, raw=raw)
    alone = ad.AnnData(
        sp.csr_matrix(raw, dtype=np.float32), pd.DataFrame(index=raw.index), pd.DataFrame(index=raw.columns)
    )
    within = ad.AnnData(np.ones((len(raw), 2), np.float32), pd.DataFrame(index=raw.index))
    within.obsm[KEY] = raw
    unnamed = within.copy()
    unnamed.obsm[KEY] = raw.to_numpy()
    of_genes = alone.copy()
    of_genes.X = of_genes.X * 50
    mixed = ad.concat([of_genes, alone[:, ::-1]], axis=1)
    mixed.var["feature_types"] = ["Gene Expression"] * 12 + ["Antibody Capture"] * 12
    for other in (raw.iloc[::-1, ::-1], alone, alone[:, ::-1].copy(), within, unnamed, mixed):
        found = prior(stained, raw=other)
        assert all(np.allclose(found[name], expected[name], rtol=1e-5) for name in expected)
    fit(stained, raw=mixed)
    latent = fit(stained, raw=alone)
    assert np.array_equal(get.latent(stained, key="totalvi"), latent)
    assert np.abs(weight(stained, "background_mean") - expected["background_mean"]).max() < 0.2


def test_droplets_by_batch(stained):
    raw = droplets(stained)
    of = ad.AnnData(raw.to_numpy(np.float32), pd.DataFrame(index=raw.index), pd.DataFrame(index=raw.columns))
    of.obs["batch"] = pd.Categorical([f"batch_{i % 2}" for i in range(len(raw))])
    found = prior(stained, raw=of)["background_mean"]
    for batch in (0, 1):
        assert np.allclose(found[:, batch], np.log1p(raw.iloc[batch:300:2]).mean(), atol=1e-5)
    of.obs["batch"] = "batch_0"
    with pytest.raises(
        ValueError, match="raw has no empty droplets with 'batch' equal to 'batch_1'; leave that column out"
    ):
        prior(stained, raw=of)


def test_droplets_of_other_names_are_warned_of(stained, said):
    raw = droplets(stained)
    raw.index = raw.index + "-1"
    prior(stained, raw=raw)
    assert (
        "none of the cells (such as 'cell_0000') is among the droplets of raw (such as 'empty_0-1')" in said()
    )


def test_empirical_background(simulate, said):
    adata = simulate(n_cells=200, n_proteins=20)
    found = prior(adata, "empirical")
    mean, sd = found["background_mean"], found["background_sd"]
    assert mean.shape == sd.shape == (20, 2)
    assert (mean == mean[:1]).all(), "one level for all proteins of a panel"
    truth = np.log1p(
        adata.obsm[KEY].drop(columns=HIDDEN).to_numpy()[~adata.obsm["on"].drop(columns=HIDDEN)]
    ).mean()
    assert abs(mean - truth).max() < 0.5
    assert (sd >= 0.05).all()
    assert prior(adata) is None, "the fast plan learns it"
    assert np.array_equal(prior(adata, plan="reference")["background_mean"], mean)
    assert prior(adata, "learned", plan="reference") is None
    adata.obsm[KEY] = adata.obsm[KEY].iloc[:, :10]
    assert prior(adata, plan="reference") is None, "too few proteins"


def test_empirical_background_of_hardly_any_counts(simulate):
    """With counts of 0 and 1, the mean of the cells is next to certain, and no prior for training."""
    adata = simulate(n_cells=60, n_proteins=20)
    adata.obsm[KEY] = adata.obsm[KEY].clip(upper=1)
    assert (prior(adata, "empirical")["background_sd"] >= 0.05).all()
    adata.obsm[KEY].iloc[1::2] = 0
    found = prior(adata, "empirical")
    assert found["background_mean"][:, 1].tolist() == [0] * 20
    fit(adata, protein_background_prior="empirical")


def test_a_background_of_the_user(stained):
    names = stained.obsm[KEY].columns
    mean = pd.Series(np.linspace(1, 2, 12), names)
    expected = np.stack([mean] * 2, 1).astype(np.float32)
    for given in (mean.to_numpy(), mean.tolist(), mean[::-1], expected):
        found = prior(stained, (given, 0.5))
        assert np.array_equal(found["background_mean"], expected)
        assert np.array_equal(found["background_sd"], np.full((12, 2), 0.5))
    by_panel = np.stack([mean, mean + 1], 1)
    frame = pd.DataFrame(by_panel[::-1, ::-1], names[::-1], ["batch_1", "batch_0"])
    assert np.allclose(prior(stained, (frame, 0.5))["background_mean"], by_panel)
    assert np.allclose(prior(stained, (by_panel, by_panel))["background_sd"], by_panel)
    fit(stained, protein_background_prior=[mean[::-1], 0.5], learning_rate=1e-6)
    assert np.allclose(weight(stained, "background_mean"), expected, atol=1e-4)
    assert np.allclose(weight(stained, "background_log_sd"), np.log(0.5), atol=1e-4)


def bad_input(name, adata):
    """Change ``adata`` or return an option, so that it meets an error."""
    table, raw = adata.obsm[KEY], droplets(adata)
    frames = {
        "negative": table - 5,
        "log": np.log1p(table),
        "nan": table.astype(float).mask(table == table.iloc[0, 0]),
        "text": table.astype(str),
        "silent": table.assign(P03=0),
        "twice": table.rename(columns={"P01": "P00"}),
        "none": table[[]],
        "array": table.to_numpy(),
    }
    adata.obsm[KEY] = frames.get(name, table)
    if name == "other cells":
        adata.obsm[KEY].index = [f"other_{i}" for i in range(120)]
    elif name == "no genes":
        adata.X = sp.csr_matrix(adata.X.multiply(np.arange(120)[:, None] != 5), dtype=np.float32)
    elif name == "taken":
        adata.uns["totalvi"] = 5
    options = {
        "raw, cells alone": raw.loc[adata.obs_names],
        "raw, no counts": raw.iloc[:300] * 0,
        "raw, few proteins": raw.drop(columns=["P01", "P07"]),
        "raw, log": np.log1p(raw),
        "raw, text": raw.astype(str),
        "raw, twice": raw.set_axis([*raw.columns[:-1], "P00"], axis=1)[[*raw.columns[:-1], "P00"]].assign(
            P11=1
        ),
    }
    return {"raw": options[name]} if name in options else {}


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        # the table
        ("negative", {}, ValueError, r"obsm\['protein_expression'\] holds negative values"),
        ("log", {}, ValueError, "holds values that are not whole numbers .*neither CLR- nor log-normalised"),
        ("nan", {}, ValueError, "holds NaN in .* places: put 0 where a protein was not measured"),
        ("text", {}, TypeError, "values that are not numbers"),
        ("silent", {}, ValueError, "no cell has a count of 'P03'.*leave it out of adata.obsm.*missing_proteins={}"),
        ("twice", {}, ValueError, "several proteins called 'P00'"),
        ("none", {}, ValueError, "there are no proteins"),
        ("", {"protein_key": "protein_expresion"}, KeyError, "Did you mean 'protein_expression'.*or pass a MuData"),
        ("", {"protein_key": "rna"}, KeyError, "There: 'protein_expression', 'on', 'signal'"),
        ("array", {"protein_names": ["a", "b"]}, ValueError, "12 columns, but there are 2 names"),
        ("array", {"protein_names": "names"}, KeyError, "protein_names='names' is not in adata.uns"),
        # what was measured
        ("", {"missing_proteins": {"batch1": HIDDEN}}, KeyError, "'batch1', which no cell is of. Did you mean 'batch_1'"),
        ("", {"missing_proteins": {"batch_1": ["P2"]}}, KeyError, "'P2', which is not a protein here. Did you mean 'P02'"),
        ("", {"missing_proteins": {"batch_0": ["P01"], "batch_1": ["P01"]}}, ValueError, "leaves 'P01' measured nowhere"),
        ("", {"missing_proteins": HIDDEN}, TypeError, "or a dictionary of lists of proteins by batch"),
        ("", {"missing_proteins": "none"}, TypeError, "takes 'auto', or a dictionary"),
        ("", {"panel_key": "panel"}, KeyError, "panel_key='panel' is not in adata.obs"),
        ("", {"batch_key": "Batch"}, KeyError, "Did you mean 'batch'"),
        # the background
        ("raw, cells alone", {}, ValueError, "but 0 that are not among the cells and hold protein counts"),
        ("raw, no counts", {}, ValueError, "but 0 that are not among the cells"),
        ("raw, few proteins", {}, ValueError, "raw lacks 2 of the 12 proteins, such as 'P01'; it has 'P00', 'P02'"),
        ("raw, log", {}, ValueError, "raw holds values that are not whole numbers"),
        ("raw, text", {}, TypeError, "raw holds values that are not numbers"),
        ("raw, twice", {}, ValueError, "raw has several columns called 'P00'"),
        ("", {"raw": np.ones((5, 12))}, TypeError, "raw takes the droplets before cells were called, .* not ndarray"),
        ("raw, no counts", {"protein_background_prior": "learned"}, ValueError, "both say what the background is"),
        ("", {"protein_background_prior": "none"}, ValueError, "Use one of 'auto', 'empirical', 'learned'"),
        ("", {"protein_background_prior": 1.5}, TypeError, "or a pair: mean and standard deviation"),
        ("", {"protein_background_prior": (1, 2, 3)}, TypeError, "or a pair"),
        ("", {"protein_background_prior": ("a", 1)}, TypeError, "the mean in protein_background_prior must be numbers"),
        ("", {"protein_background_prior": (1, 0)}, ValueError, "standard deviation .* must be finite and above zero"),
        ("", {"protein_background_prior": (np.nan, 1)}, ValueError, "the mean .* must be finite"),
        ("", {"protein_background_prior": (np.ones(5), 1)}, ValueError, r"has shape \(5,\); give a number, one for each of the 12 proteins"),
        ("", {"protein_background_prior": (pd.Series([1.0], ["P00"]), 1)}, ValueError, "finite, for every protein"),
        # what all models share
        ("", {"layer": "counts"}, KeyError, "'counts' is not in adata.layers"),
        ("no genes", {}, ValueError, "1 cell has no counts .*cell_0005"),
        ("taken", {}, ValueError, "holds something that is not a model"),
        ("", {"gene_likelihood": "poisson"}, ValueError, "Use one of 'nb', 'zinb'"),
        ("", {"gene_dispersion": "gene-cell"}, ValueError, "gene_dispersion='gene-cell' is not known"),
        ("", {"protein_dispersion": "protein-cell"}, ValueError, "protein_dispersion='protein-cell' is not known"),
        ("", {"protein_dispersion": "protein-label"}, ValueError, "needs labels_key"),
        ("", {"batch_key": None, "protein_dispersion": "protein-batch"}, ValueError, "needs batch_key"),
        ("", {"n_layers_decoder": 0}, ValueError, "n_layers_decoder=0 is too small"),
        ("", {"dropout_rate_encoder": 1}, ValueError, "dropout_rate_encoder=1 is out of range"),
        ("", {"adversarial_classifier": "yes"}, TypeError, "adversarial_classifier must be True or False"),
        ("", {"learning_rate": 1e30}, FloatingPointError, "not finite"),
        ("", {"learning_rate": 1e30, "plan": "reference"}, FloatingPointError, "not finite"),
    ],
)  # fmt: skip
def test_bad_input(stained, name, options, error, text):
    more = bad_input(name, stained)
    before = stained.copy()
    with pytest.raises(error, match=text):
        fit(stained, **more, **options)
    assert_unchanged(stained, before)


@pytest.mark.parametrize("name", ["X_foo", "foo_protein", "foo_protein_foreground"])
def test_results_do_not_take_the_place_of_the_counts(stained, name):
    stained.obsm[name] = stained.obsm[KEY].copy()
    before = stained.copy()
    with pytest.raises(ValueError, match=rf"obsm\['{name}'\], where a result would take their place"):
        fit(stained, protein_key=name, key_added="foo")
    assert_unchanged(stained, before)
    fit(stained, protein_key=name)
    before = stained.copy()
    with pytest.raises(ValueError, match="choose another key_added"):
        scvitl.tl.normalized_expression(stained, key="totalvi", key_added="foo")
    assert_unchanged(stained, before)


def test_counts_of_missing_proteins_have_no_part_in_the_fit(stained):
    proteins = {"missing_proteins": {"batch_0": ["P00"], "batch_1": HIDDEN}}
    other = stained.copy()
    other.obsm[KEY].loc[other.obs["batch"] == "batch_0", "P00"] = 0
    assert np.array_equal(fit(stained, **proteins), fit(other, **proteins))
    assert get.elbo(stained, key="totalvi") == get.elbo(other, key="totalvi")


def test_a_table_of_other_cells(stained):
    """Of which anndata says that it cannot be read; with the names put back, all is well."""
    stained.obsm[KEY].index = [f"other_{i}" for i in range(120)]
    with pytest.raises(ValueError, match=r"a table in adata.obsm has other cells than adata.obs_names"):
        fit(stained)
    assert not stained.uns
    stained.obs.index = [f"other_{i}" for i in range(120)]
    for name in ("on", "signal"):
        stained._obsm[name].index = stained.obs.index
    assert fit(stained).shape == (120, 4)


def test_a_mudata_of_droplets(stained):
    mudata = pytest.importorskip("mudata")
    raw = droplets(stained).astype(np.float32)
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"prot": ad.AnnData(raw)})
    with pytest.raises(TypeError, match=r"not MuData: pass its modality of proteins, such as raw\['prot'\]"):
        fit(stained, raw=mdata)
    assert np.isfinite(fit(stained, raw=mdata["prot"])).all()
