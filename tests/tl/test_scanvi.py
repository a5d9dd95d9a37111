from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl.training.progress import Progress

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 2, "progress": False}
TYPES = ["type_0", "type_1", "type_2", "type_3"]
GROUPS = {"type_0": "a", "type_1": "b", "type_2": "a", "type_3": "b"}
WRITTEN = {"obs": ["scanvi", "scanvi_confidence"], "obsm": ["scanvi_proba", "X_scanvi"], "uns": ["scanvi"]}


@pytest.fixture(scope="session")
def _annotated():
    """The default plan on cells of which those of one batch have labels."""
    adata = scvitl.datasets.toy(n_cells=400, n_genes=100, random_state=2)
    adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    scvitl.tl.scanvi(adata, "known", batch_key="batch", progress=False)
    return adata


@pytest.fixture
def annotated(_annotated):
    return _annotated.copy()


@pytest.fixture
def partly(toy):
    """A small AnnData with labels in one batch."""
    toy.obs["known"] = toy.obs["cell_type"].where(toy.obs["batch"] == "batch_0")
    return toy


def fit(adata, labels_key="known", **options):
    scvitl.tl.scanvi(adata, labels_key, **{**SMALL, **options})
    return adata.obs["scanvi"]


def assert_unchanged(adata, before):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    assert (adata.X != before.X).nnz == 0


def accuracy(adata, rows=slice(None)):
    return (adata.obs["scanvi"].astype(str) == adata.obs["cell_type"].astype(str))[rows].mean()


def write_and_read(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path)
    adata.write_zarr(path)
    return ad.read_zarr(path)


def test_labels_of_one_batch_are_carried_over_to_the_other(annotated):
    new = (annotated.obs["batch"] == "batch_1").to_numpy()
    assert accuracy(annotated, new) >= 0.95
    confidence = annotated.obs["scanvi_confidence"]
    right = annotated.obs["scanvi"].astype(str) == annotated.obs["cell_type"].astype(str)
    assert confidence[right & new].mean() > 0.8
    params = annotated.uns["scanvi"]["params"]
    assert params["held_out_accuracy"] >= 0.9
    assert params["calibration_error"] < 0.25  # of some 20 cells
    assert 0.05 < params["temperature"] < 20


def test_what_is_written(annotated):
    obs, proba = annotated.obs, annotated.obsm["scanvi_proba"]
    assert isinstance(obs["scanvi"].dtype, pd.CategoricalDtype)
    assert list(obs["scanvi"].cat.categories) == TYPES
    assert obs["scanvi"].notna().all()
    assert obs["scanvi_confidence"].dtype == np.float32
    assert isinstance(proba, pd.DataFrame)
    assert list(proba.columns) == TYPES
    assert proba.index.equals(annotated.obs_names)
    assert (proba.dtypes == np.float32).all()
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert (proba.idxmax(axis=1) == obs["scanvi"].astype(str)).all()
    assert np.array_equal(proba.max(axis=1), obs["scanvi_confidence"])
    assert annotated.obsm["X_scanvi"].shape == (400, 10)
    assert annotated.obsm["X_scanvi"].dtype == np.float32
    assert set(annotated.uns["scanvi"]) == {"params", "schema", "history", "weights"}
    history = scvitl.get.history(annotated, key="scanvi")
    for name in ("accuracy", "classification_loss", "elbo"):
        assert {f"{name}_train", f"{name}_validation"} <= set(history.columns)


def test_nothing_else_is_written(partly):
    before = partly.copy()
    assert scvitl.tl.scanvi(partly, "known", batch_key="batch", **SMALL) is None
    for slot, names in WRITTEN.items():
        for name in names:
            del getattr(partly, slot)[name]
    assert_unchanged(partly, before)


def test_copy(partly):
    before = partly.copy()
    result = scvitl.tl.scanvi(partly, "known", copy=True, **SMALL)
    assert {"scanvi", "scanvi_confidence"} <= set(result.obs)
    assert_unchanged(partly, before)


def test_key_added(partly):
    before = partly.copy()
    scvitl.tl.scanvi(partly, "known", key_added="mine", labels_groups=GROUPS, **SMALL)
    assert set(partly.obs) - set(before.obs) == {"mine", "mine_confidence", "mine_group"}
    assert set(partly.obsm) - set(before.obsm) == {"X_mine", "mine_proba"}
    assert set(partly.uns) - set(before.uns) == {"mine"}


def test_equal_seeds_give_equal_results(partly):
    runs = [partly.copy() for _ in range(3)]
    for adata, seed in zip(runs, (3, 3, 4), strict=True):
        fit(adata, batch_key="batch", random_state=seed)
    first, again, other = (adata.obsm["scanvi_proba"].to_numpy() for adata in runs)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_global_state_is_left_alone(partly, monkeypatch):
    monkeypatch.setattr("scvitl.training.plan.reference_epochs", lambda n_cells: 6)
    states = np.random.get_state()[1].copy(), torch.get_rng_state(), torch.get_num_threads()
    fit(partly, batch_key="batch", plan="reference", max_epochs=None, n_samples_per_label=5)
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert torch.get_num_threads() == states[2]


def test_nan_and_the_word_are_the_same(partly):
    adata = partly.copy()
    adata.obs["known"] = adata.obs["known"].astype(object).fillna("none yet")
    fit(partly)
    fit(adata, unlabeled_category="none yet")
    assert np.array_equal(adata.obsm["scanvi_proba"], partly.obsm["scanvi_proba"])


def test_no_phantom_classes(partly):
    """Categories without cells are no labels, and the word for none is none."""
    partly.obs["known"] = partly.obs["known"].cat.set_categories(["phantom", "Unknown", *TYPES])
    fit(partly)
    assert list(partly.obsm["scanvi_proba"].columns) == TYPES
    assert set(partly.obs["scanvi"].cat.categories) <= set(TYPES)
    assert partly.uns["scanvi"]["weights"]["classifier.types.weight"].shape == (4, 4)


def test_order_of_the_categories_does_not_matter_to_names(partly):
    partly.obs["known"] = partly.obs["known"].cat.reorder_categories(TYPES[::-1])
    fit(partly, y_prior={"type_0": 0.7, "type_1": 0.1, "type_2": 0.1, "type_3": 0.1})
    assert list(partly.obsm["scanvi_proba"].columns) == TYPES[::-1]
    assert partly.uns["scanvi"]["weights"]["y_prior"] == pytest.approx(np.array([[0.1, 0.1, 0.1, 0.7]]))


@pytest.mark.parametrize("dtype", [int, float, bool])
def test_labels_that_are_no_text(toy, dtype, tmp_path):
    toy.obs["known"] = (toy.obs["cell_type"].cat.codes % (2 if dtype is bool else 3)).astype(dtype)
    fit(toy)
    expected = ["False", "True"] if dtype is bool else ["0", "1", "2"]
    assert list(toy.obsm["scanvi_proba"].columns) == expected
    assert set(toy.obs["scanvi"].cat.categories) <= set(expected)
    read = write_and_read(toy, tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.label_probabilities(read), toy.obsm["scanvi_proba"])


def test_colours_are_carried_over(annotated):
    colours = dict(zip(TYPES, ["#ff0000", "#00ff00", "#0000ff", "#ffff00"], strict=True))
    annotated.uns["known_colors"] = np.array(list(colours.values()))
    fit(annotated)
    for name, colour in zip(
        annotated.obs["scanvi"].cat.categories, annotated.uns["scanvi_colors"], strict=True
    ):
        assert colour == colours[name]
    fit(annotated, min_confidence=1)
    assert list(annotated.obs["scanvi"].cat.categories) == ["Unknown"]
    assert list(annotated.uns["scanvi_colors"]) == ["#d3d3d3"]


def test_colours_of_numbers(toy):
    toy.obs["known"] = pd.Categorical((toy.obs["cell_type"].cat.codes % 2).astype(float))
    toy.uns["known_colors"] = ["#ff0000", "#00ff00"]
    names = fit(toy).cat.categories
    assert toy.uns["scanvi_colors"] == [{"0": "#ff0000", "1": "#00ff00"}[name] for name in names]


def test_keep_labels(partly):
    """Labels stay; confidence is then that of the label, however unlikely the model finds it."""
    partly.obs.loc[partly.obs_names[0], "known"] = "type_3"
    known = partly.obs["known"].notna()
    fit(partly, keep_labels=True, min_confidence=1)
    assert (partly.obs["scanvi"].astype(str) == partly.obs["known"].astype(str))[known].all()
    assert (partly.obs["scanvi"] == "Unknown")[~known].all()
    proba, kept = partly.obsm["scanvi_proba"], partly.obs["scanvi"][known].astype(str)
    of_label = [proba.loc[cell, label] for cell, label in kept.items()]
    assert np.array_equal(partly.obs["scanvi_confidence"][known], of_label)


def test_min_confidence(partly):
    fit(partly)
    confidence, likeliest = partly.obs["scanvi_confidence"], partly.obs["scanvi"].astype(str)
    threshold = float(confidence.median())
    partly.obs["known"] = partly.obs["known"].astype(object).fillna("?")
    fit(partly, min_confidence=threshold, unlabeled_category="?")
    assert np.array_equal(partly.obs["scanvi_confidence"], confidence)
    called = partly.obs["scanvi"].astype(str)
    assert (called[confidence < threshold] == "?").all()
    assert (called == likeliest)[confidence >= threshold].all()


def test_groups(partly, tmp_path):
    fit(partly, labels_groups=GROUPS, min_confidence=0.5, max_epochs=6)
    group, label = (partly.obs[name].astype(str) for name in ("scanvi_group", "scanvi"))
    sure = label != "Unknown"
    assert (group == label.map(GROUPS))[sure].all()
    # A cell may be of a sure group and an unsure label.
    proba = partly.obsm["scanvi_proba"].T.groupby(GROUPS).sum().T
    assert (group == proba.idxmax(axis=1))[~sure].all()
    assert scvitl.get.model(partly, key="scanvi").schema.labels.groups == ("a", "b", "a", "b")
    read = write_and_read(partly, tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.label_probabilities(read), partly.obsm["scanvi_proba"])


def test_without_groups_there_is_no_column_of_them(partly):
    fit(partly)
    assert "scanvi_group" not in partly.obs


def test_prior(partly):
    """A dictionary, or numbers in the order of the labels; with few labels it shows."""
    numbers = [0.85, 0.05, 0.05, 0.05]
    by_name, in_order, even = partly.copy(), partly.copy(), partly.copy()
    fit(by_name, y_prior=dict(reversed(list(zip(TYPES, numbers, strict=True)))))
    fit(in_order, y_prior=np.array(numbers))
    fit(even, y_prior=[0.25] * 4)
    assert np.array_equal(by_name.obsm["scanvi_proba"], in_order.obsm["scanvi_proba"])
    fit(partly)
    assert np.array_equal(even.obsm["scanvi_proba"], partly.obsm["scanvi_proba"]), "none is even"
    assert not np.array_equal(even.obsm["scanvi_proba"], in_order.obsm["scanvi_proba"])
    assert scvitl.get.model(in_order, key="scanvi").params["y_prior"] == pytest.approx(numbers)


def test_starts_from_scvi(partly, said, monkeypatch):
    columns = {"batch_key": "batch", "n_hidden": 16, "n_latent": 4, "progress": False}
    scvitl.tl.scvi(partly, max_epochs=3, **columns)
    started = []
    monkeypatch.setattr("scvitl.training.fit.fit", catching(started))
    fit(partly, batch_key="batch", scvi_key="scvi")
    assert "starting from the scVI model in adata.uns['scvi']" in said()
    for name, weight in partly.uns["scvi"]["weights"].items():
        assert np.array_equal(started[0][name], weight), name
    partly.uns["mine"] = partly.uns.pop("scvi")
    fit(partly, batch_key="batch", scvi_key="mine")
    assert "starting from the scVI model in adata.uns['mine']" in said()
    partly.uns["scvi"] = partly.uns["mine"]
    fit(partly, batch_key="batch")
    assert said().count("starting from") == 2
    assert "learned from the start, without adata.uns['scvi']; scvi_key='scvi' starts from it" in said()
    assert not np.array_equal(started[2]["px_r"], partly.uns["scvi"]["weights"]["px_r"])


def catching(started):
    """The training loop, which also notes the weights that it starts with."""
    from scvitl.training.fit import fit as train

    def wrapped(module, *args, **options):
        started.append({name: tensor.numpy().copy() for name, tensor in module.state_dict().items()})
        return train(module, *args, **options)

    return wrapped


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({}, {"batch_key": "batch"}, r"batch is none there and obs\['batch'\] with 2 categories here"),
        ({"batch_key": "batch"}, {}, r"batch is obs\['batch'\] with 2 categories there and none here"),
        ({}, {"n_latent": 5}, "n_latent is 4 there and 5 here"),
        ({}, {"gene_likelihood": "nb"}, "gene_likelihood is 'zinb' there and 'nb' here"),
        ({}, {"dispersion": "gene-label"}, "dispersion is 'gene' there and 'gene-label' here"),
        ({"continuous_covariate_keys": ["library"]}, {}, r"continuous is obs\['library'\] there and none here"),
    ],
)  # fmt: skip
def test_says_why_a_model_cannot_be_started_from(partly, said, monkeypatch, columns, options, reason):
    scvitl.tl.scvi(partly, n_hidden=16, n_latent=4, max_epochs=1, progress=False, **columns)
    reason = rf"uns\['scvi'\] cannot be started from: {reason}"
    before = partly.copy()
    with pytest.raises(ValueError, match=reason):
        fit(partly, max_epochs=1, scvi_key="scvi", **options)
    assert_unchanged(partly, before)
    monkeypatch.setattr("scvitl.training.plan.reference_epochs", lambda n_cells: 1)
    fit(partly, max_epochs=1, plan="reference", **options)
    assert re.search(reason, said())


def test_a_model_of_other_cells_or_genes_is_refused(partly):
    options = {"n_hidden": 16, "n_latent": 4, "max_epochs": 1, "progress": False}
    scvitl.tl.scvi(partly, continuous_covariate_keys=["library"], **options)
    start = {"max_epochs": 1, "scvi_key": "scvi"}
    with pytest.raises(ValueError, match=r"obs\['library'\] there and here, but what it holds differs"):
        fit(partly[:80].copy(), continuous_covariate_keys=["library"], **start)
    genes = partly[:, :30].copy()
    with pytest.raises(ValueError, match="its genes are not those of adata"):
        fit(genes, continuous_covariate_keys=["library"], **start)
    fit(partly, max_epochs=1)
    with pytest.raises(ValueError, match="it is a scANVI model"):
        fit(partly, max_epochs=1, scvi_key="scanvi")


def test_a_model_that_was_asked_for_must_be_there(partly):
    before = partly.copy()
    with pytest.raises(KeyError, match=r"no fitted model in adata\.uns\['mine'\]"):
        fit(partly, scvi_key="mine")
    assert_unchanged(partly, before)


def test_reference_plan_trains_scvi_first(partly, said, monkeypatch):
    monkeypatch.setattr("scvitl.training.plan.reference_epochs", lambda n_cells: 6)
    started = []
    monkeypatch.setattr("scvitl.training.fit.fit", catching(started))
    fit(partly, plan="reference", max_epochs=None)
    assert "training scVI first" in said()
    assert len(started) == 2
    assert not np.array_equal(started[0]["px_r"], started[1]["px_r"]), "labels come after six epochs"
    assert scvitl.get.model(partly, key="scanvi").params["epochs_run"] == 2  # a third
    assert "scvi" not in partly.uns
    scvitl.tl.scvi(partly, n_hidden=16, n_latent=4, max_epochs=1, progress=False)
    fit(partly, plan="reference", max_epochs=None)
    assert len(started) == 4, "one for scVI itself and one with labels"


def test_two_labelled_cells_of_each_type(toy, said):
    toy.obs["known"] = toy.obs["cell_type"].where(toy.obs.groupby("cell_type", observed=True).cumcount() < 2)
    fit(toy)
    assert toy.obs["known"].notna().sum() == 8
    assert "no labelled cell was held out, so confidence is not calibrated" in said()
    params = toy.uns["scanvi"]["params"]
    assert params["temperature"] == 1.0
    assert not {"calibration_error", "held_out_accuracy"} & set(params)
    assert "held-out labels" not in repr(scvitl.get.model(toy, key="scanvi"))
    assert np.isfinite(toy.obsm["scanvi_proba"].to_numpy()).all()


def test_one_labelled_cell_held_out(toy):
    toy.obs["known"] = np.where(np.arange(120) < 12, np.where(np.arange(120) < 10, "a", "b"), None)
    fit(toy)
    assert toy.uns["scanvi"]["params"]["held_out_accuracy"] in {0.0, 1.0}


def test_few_good_labels_suffice():
    adata = scvitl.datasets.toy(n_cells=400, n_genes=100, random_state=2)
    first = adata.obs.groupby("cell_type", observed=True).cumcount() < 5
    adata.obs["known"] = adata.obs["cell_type"].where(first)
    scvitl.tl.scanvi(adata, "known", batch_key="batch", progress=False)
    assert accuracy(adata) > 0.8


@pytest.mark.parametrize(
    "options",
    [
        *({"gene_likelihood": name} for name in ("nb", "poisson", "normal")),
        *({"dispersion": name} for name in ("gene-batch", "gene-label", "gene-cell")),
        {"latent_distribution": "ln"},
        {"encode_covariates": True, "batch_representation": "embedding"},
        {"use_observed_lib_size": False},
        {"size_factor_key": "library"},
        {"classifier_n_layers": 2, "classifier_n_hidden": 8},
        {"n_samples_per_label": 3},
        {"labels_groups": GROUPS},
        {"train_size": 1.0},
        {"classification_ratio": 0},
        {"early_stopping": True, "early_stopping_patience": 1},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
    ],
    ids=str,
)
def test_every_option_round_trips(partly, options, tmp_path):
    """Fit, write, read, and find the same probabilities by the model alone."""
    fit(partly, batch_key="batch", **options)
    proba = partly.obsm["scanvi_proba"]
    assert np.isfinite(proba.to_numpy()).all()
    read = write_and_read(partly, tmp_path / "a.h5ad")
    assert np.array_equal(scvitl.get.label_probabilities(read), proba)
    assert np.array_equal(scvitl.get.latent(read, key="scanvi"), partly.obsm["X_scanvi"])


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_files(annotated, tmp_path, suffix):
    read = write_and_read(annotated, tmp_path / f"a.{suffix}")
    assert list(read.obs["scanvi"]) == list(annotated.obs["scanvi"])
    assert list(read.obs["scanvi"].cat.categories) == TYPES
    assert read.obs["scanvi_confidence"].dtype == np.float32
    pd.testing.assert_frame_equal(
        read.obsm["scanvi_proba"],
        annotated.obsm["scanvi_proba"],
        check_column_type=False,
        check_index_type=False,
    )
    ours, theirs = (scvitl.get.model(adata, key="scanvi") for adata in (annotated, read))
    assert theirs.params == ours.params
    assert theirs.schema == ours.schema
    assert repr(theirs) == repr(ours)
    assert "held-out labels" in repr(ours)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_names_with_a_slash(partly, tmp_path, said, suffix):
    """Which a file cannot hold as the name of a column, and which may read like another label without it."""
    names = ["CD4/CD8 T", "CD4_CD8 T", "NK", "DC / pDC"]
    partly.obs["known"] = partly.obs["known"].cat.rename_categories(dict(zip(TYPES, names, strict=True)))
    fit(partly)
    assert "'/' replaced by '_'" in said()
    assert list(partly.obsm["scanvi_proba"].columns) == ["CD4_CD8 T_", "CD4_CD8 T", "NK", "DC _ pDC"]
    assert set(partly.obs["scanvi"].cat.categories) <= set(names)
    read = write_and_read(partly, tmp_path / f"a.{suffix}")
    assert list(scvitl.get.label_probabilities(read).columns) == names
    assert list(read.obs["scanvi"]) == list(partly.obs["scanvi"])


def test_view(partly, said):
    view = partly[:60]
    fit(view)
    assert not view.is_view
    assert "scanvi" not in partly.obs
    assert "view" in said()


def test_backed(partly, tmp_path):
    expected = partly.copy()
    fit(expected)
    partly.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert list(fit(backed)) == list(expected.obs["scanvi"])
    backed.file.close()


def test_a_second_fit_replaces_the_first(partly):
    partly.obs["known"] = partly.obs["known"].astype("category")
    partly.uns["known_colors"] = ["#000000"] * 4
    fit(partly, labels_groups=GROUPS)
    assert "scanvi_group" in partly.obs
    assert "scanvi_colors" in partly.uns
    del partly.uns["known_colors"]
    fit(partly, n_latent=3)
    assert "scanvi_group" not in partly.obs
    assert "scanvi_colors" not in partly.uns
    assert partly.obsm["X_scanvi"].shape == (120, 3)
    assert scvitl.get.model(partly, key="scanvi").params["n_latent"] == 3


@pytest.mark.parametrize("epoch", [0, 2])
def test_interrupt_keeps_results(partly, monkeypatch, epoch):
    seen = []

    def interrupt(self, *_):
        seen.append(0)
        if len(seen) > epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch" if epoch else "step", interrupt)
    fit(partly, max_epochs=50)
    assert partly.uns["scanvi"]["params"]["interrupted"] is True
    assert np.isfinite(partly.obsm["scanvi_proba"].to_numpy()).all()
    assert len(scvitl.get.history(partly, key="scanvi")) == max(epoch + 1, 1)


def test_interrupt_of_the_calibration_keeps_results(partly, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("scvitl.posterior.temperature", stop)
    fit(partly)
    params = partly.uns["scanvi"]["params"]
    assert params["interrupted"]
    assert params["temperature"] == 1.0
    assert partly.obs["scanvi"].notna().all()


def test_a_column_of_the_user_stays(partly):
    partly.obs["pred_group"] = "precious"
    scvitl.tl.scanvi(partly, "known", key_added="pred", **SMALL)
    assert set(partly.obs["pred_group"]) == {"precious"}


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson", "normal"])
def test_temperatures_are_found(partly, likelihood):
    """Those of two seeds differ, which those of a loss that is not finite would not."""
    partly.obs["known"] = partly.obs["cell_type"].where(np.arange(120) < 80)
    found = []
    for seed in (0, 1):
        fit(partly, batch_key="batch", gene_likelihood=likelihood, random_state=seed)
        found.append(partly.uns["scanvi"]["params"]["temperature"])
    assert found[0] != found[1]
    assert all(0.05 < temperature < 20 for temperature in found)


def test_the_closing_line(partly, capsys):
    scvitl.tl.scanvi(partly, "known", batch_key="batch", **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out.startswith("scANVI: 120 cells × 40 genes · 2 batches · 2 epochs in ")
    assert "of held-out labels right" in out
    assert err == ""


def test_the_log_names_every_key(partly, said):
    fit(partly)
    for names in WRITTEN.values():
        for name in names:
            assert repr(name) in said()


def test_readers_of_the_posterior(annotated):
    """All that can be asked of a scVI model can be asked of this one."""
    get, options = scvitl.get, {"key": "scanvi", "indices": range(40)}
    assert np.array_equal(get.latent(annotated, key="scanvi"), annotated.obsm["X_scanvi"])
    marginal = get.marginal_ll(annotated, n_mc_samples=100, **options)
    bound = np.mean([get.elbo(annotated, random_state=seed, **options) for seed in range(5)])
    assert bound < marginal
    error = get.reconstruction_error(annotated, **options)
    assert error > 0
    assert bound < -error
    assert get.normalized_expression(annotated, transform_batch="all", **options).shape == (40, 100)
    assert get.posterior_predictive(annotated, **options).shape == (40, 100)
    weights = get.normalized_expression(
        annotated, transform_batch="all", n_samples_overall=20, weights="importance", **options
    )
    assert np.isfinite(weights).all(axis=None)
    assert np.isfinite(get.feature_correlation(annotated, n_samples=2, genes=annotated.var_names[:5], **options)).all(axis=None)  # fmt: skip
    assert (get.latent_library_size(annotated, **options) > 0).all()
    assert get.likelihood_parameters(annotated, **options)["mean"].shape == (40, 100)
    mixture = get.aggregated_posterior(annotated, **options)
    assert torch.isfinite(mixture.log_prob(torch.zeros(10)))


def test_tools_that_read_the_model(annotated):
    scvitl.tl.normalized_expression(annotated, key="scanvi", transform_batch="all")
    assert np.isfinite(annotated.layers["scanvi_normalized"]).all()
    scvitl.tl.differential_abundance(annotated, "batch", key="scanvi")
    assert annotated.obsm["scanvi_abundance"].shape == (400, 2)


def test_predicted_labels_are_groups_to_rank_genes_by(annotated):
    scvitl.tl.rank_genes_groups(annotated, "scanvi", key="scanvi", n_samples=200)
    table = scvitl.get.rank_genes_groups(annotated)
    assert set(table["group1"]) == set(TYPES)
    assert np.isfinite(table["lfc_median"]).all()


def test_minified(annotated):
    small = scvitl.tl.minify(annotated, key="scanvi", copy=True)
    assert small.X is None
    proba = scvitl.get.label_probabilities(small)
    # the same draws of the same posterior
    assert np.allclose(proba, annotated.obsm["scanvi_proba"], atol=1e-5)
    scvitl.tl.rank_genes_groups(small, "scanvi", key="scanvi", n_samples=100)
    with pytest.raises(ValueError, match="looks at counts"):
        scvitl.get.elbo(small, key="scanvi")


@pytest.mark.parametrize(
    ("column", "options", "error", "message"),
    [
        (None, {"labels_key": "Known"}, KeyError, "labels_key='Known' is not in adata.obs.* Did you mean 'known'"),
        (None, {"labels_key": None}, TypeError, "labels_key takes the name of a column of obs"),
        (np.nan, {}, ValueError, "no cell of .*'known'.* has a label.*scvitl.tl.scvi"),
        ("Unknown", {}, ValueError, "no cell of .* has a label: all 120 are 'Unknown' or NaN"),
        ("B", {}, ValueError, r"one label only, 'B' \(120 cells\)"),
        (["B"] * 60 + ["T"] * 59 + ["NK"], {}, ValueError, "only one cell of .*'known'.* is 'NK'"),
        (None, {"labels_groups": {"type_0": "a", "type_1": "b"}}, ValueError, "no group for 'type_2', 'type_3'"),
        (None, {"labels_groups": {**GROUPS, "type_9": "b"}}, KeyError, "labels_groups has 'type_9', not among"),
        (None, {"labels_groups": dict.fromkeys(TYPES, "a")}, ValueError, "all labels into one group"),
        (None, {"labels_groups": "cell_type"}, TypeError, "labels_groups takes a dictionary"),
        (None, {"y_prior": [0.5, 0.5, 0.5, 0.5]}, ValueError, "sum to one, but sums to 2"),
        (None, {"y_prior": [0.5, 0.5]}, ValueError, "y_prior has 2 numbers, but there are 4 labels"),
        (None, {"y_prior": [1.0, 0.0, 0.0, 0.0]}, ValueError, "must be positive"),
        (None, {"y_prior": {"type_0": 1.0}}, KeyError, "y_prior has no number for 'type_1'"),
        (None, {"y_prior": dict.fromkeys([*TYPES, "new"], 0.2)}, KeyError, "y_prior has 'new', which is no label"),
        (None, {"min_confidence": 1.5}, ValueError, "min_confidence=1.5 is out of range"),
        (None, {"keep_labels": "yes"}, TypeError, "keep_labels must be True or False"),
        (None, {"unlabeled_category": None}, TypeError, "unlabeled_category takes a word, not None"),
        (None, {"key_added": "known"}, ValueError, r"replace adata.obs\['known'\], which the model reads"),
        (None, {"key_added": "batch", "batch_key": "batch"}, ValueError, "choose another key_added"),
        (None, {"classification_ratio": None}, TypeError, "classification_ratio must be a number"),
        (None, {"classification_ratio": -1}, ValueError, "classification_ratio=-1 is out of range"),
        (None, {"classifier_n_layers": -1}, ValueError, "classifier_n_layers=-1 is too small"),
        (None, {"classifier_dropout_rate": 1}, ValueError, "classifier_dropout_rate=1 is out of range"),
        (None, {"n_samples_per_label": 0}, ValueError, "n_samples_per_label=0 is too small"),
        (None, {"dispersion": "gene-batch"}, ValueError, "needs batch_key"),
        (None, {"key_added": "a/b"}, ValueError, "without a slash"),
        (None, {"learning_rate": 1e30}, FloatingPointError, "not finite"),
    ],
)  # fmt: skip
def test_bad_input(partly, column, options, error, message):
    if column is not None:
        partly.obs["known"] = column
    before = partly.copy()
    with pytest.raises(error, match=message):
        fit(partly, **options)
    assert_unchanged(partly, before)
