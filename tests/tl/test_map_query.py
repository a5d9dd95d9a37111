from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import scvitl
from scvitl import get

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 3, "progress": False}
COLUMNS = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["mito"],
}
KINDS = {
    "scvi": {},
    "encoder sees covariates": {"encode_covariates": True, "n_layers": 2},
    "embedding": {"batch_representation": "embedding", "encode_covariates": True},
    "gene-batch": {"dispersion": "gene-batch", "gene_likelihood": "nb"},
    "latent library": {"use_observed_lib_size": False},
    "size factor": {"size_factor_key": "library"},
    "layer norm": {"use_batch_norm": "none", "use_layer_norm": "both", "deeply_inject_covariates": False},
    "ln, reference plan": {"latent_distribution": "ln", "plan": "reference"},
    "gene-label": {"dispersion": "gene-label", "labels_key": "cell_type"},
}


@pytest.fixture(scope="module")
def _cells():
    adata = scvitl.datasets.toy(n_cells=200, n_genes=40, random_state=1)
    adata.obs["donor"] = [f"d{i % 3}" for i in range(200)]
    adata.obs["mito"] = np.linspace(0, 1, 200)
    return adata


@pytest.fixture
def halves(_cells):
    """A reference of one batch and two donors, and a query of the other batch with a donor more."""
    new = (_cells.obs["batch"] == "batch_1").to_numpy()
    reference = _cells[~new & (_cells.obs["donor"] != "d2").to_numpy()].copy()
    return reference, _cells[new].copy()


@pytest.fixture
def fitted_halves(halves):
    scvitl.tl.scvi(halves[0], batch_key="batch", **SMALL)
    return halves


def map_query(query, reference, **options):
    return scvitl.tl.map_query(query, reference, **{"progress": False, "max_epochs": 3, **options})


def assert_unchanged(adata, before):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(adata, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "layers", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    assert (adata.X != before.X).nnz == 0


def test_writes_latent_space_and_model_and_nothing_else(fitted_halves):
    reference, query = fitted_halves
    befores = [adata.copy() for adata in fitted_halves]
    assert map_query(query, reference) is None
    assert query.obsm["X_scvi"].shape == (query.n_obs, 4)
    assert query.obsm["X_scvi"].dtype == np.float32
    assert set(query.uns["scvi"]) == {"params", "schema", "history", "weights"}
    assert np.array_equal(get.latent(query), query.obsm["X_scvi"])
    assert_unchanged(reference, befores[0])
    for name, values in befores[0].uns["scvi"]["weights"].items():
        assert np.array_equal(reference.uns["scvi"]["weights"][name], values)
    del query.obsm["X_scvi"], query.uns["scvi"]
    assert_unchanged(query, befores[1])


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_reference_stays_where_it_is(halves, options, tmp_path):
    """The query's model does to cells of the reference what the reference's does, and its old weights are the same bits."""
    reference, query = halves
    scvitl.tl.scvi(reference, **COLUMNS, **SMALL, **options)
    map_query(query, reference)
    old, new = (get.model(adata) for adata in halves)
    assert new.schema.batch.categories == ("batch_0", "batch_1")
    assert new.schema.categorical[0].categories == ("d0", "d1", "d2")
    assert new.params["new_categories"] == ["batch: batch_1", "donor: d2"]
    # more columns of zeros, so float32 sums in another order
    assert np.allclose(get.latent(reference, model=new), reference.obsm["X_scvi"], rtol=1e-5, atol=1e-5)
    for read in (
        lambda model: get.normalized_expression(reference, model=model, give_mean=True),
        lambda model: get.normalized_expression(
            reference, model=model, give_mean=True, transform_batch="batch_0"
        ),
        lambda model: get.elbo(reference, model=model, return_mean=False),
    ):
        assert np.allclose(read(new), read(old), rtol=1e-4, atol=1e-6)
    before, after = old.module.state_dict(), new.module.state_dict()
    assert before.keys() == after.keys()
    grown = {name for name, tensor in after.items() if tensor.shape != before[name].shape}
    assert grown
    for name in before.keys() - grown:
        assert torch.equal(before[name], after[name]), name
    query.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    assert np.array_equal(get.latent(again), query.obsm["X_scvi"])


def test_training_explains_the_query_better(halves):
    """Than the columns that new categories start with, for cells that were not trained on, too."""
    reference, query = halves
    scvitl.tl.scvi(reference, batch_key="batch", **{**SMALL, "max_epochs": 20})
    map_query(query, reference, max_epochs=None)
    history = get.history(query)
    assert (
        len(history) == query.uns["scvi"]["params"]["epochs_run"] == np.ceil(250 / np.ceil(query.n_obs / 32))
    )
    same_batch = query.copy()
    same_batch.obs["batch"] = "batch_0"
    # the new column starts where the only old batch is
    assert get.elbo(query) > get.elbo(same_batch, model=get.model(reference)) + 1
    assert history["elbo_validation"].iloc[-1] < history["elbo_validation"].iloc[0]


@pytest.mark.parametrize("encode_covariates", [False, True])
def test_latent_states_depend_on_training_only_if_the_encoder_sees_the_batch(halves, encode_covariates, said):
    reference, query = halves
    scvitl.tl.scvi(reference, batch_key="batch", encode_covariates=encode_covariates, **SMALL)
    short, long = (map_query(query, reference, max_epochs=n, copy=True).obsm["X_scvi"] for n in (1, 30))
    assert np.array_equal(short, long) == (not encode_covariates)
    assert ("latent states do not depend on this training" in said()) == (not encode_covariates)
    assert "new to the reference: 'batch_1' of obs['batch']; 30 epochs for their weights" in said()


def test_nothing_new_means_nothing_to_train(fitted_halves, said):
    reference, query = fitted_halves
    query.obs["batch"] = "batch_0"
    map_query(query, reference)
    assert "nothing in the query is new to the reference, so nothing is trained" in said()
    assert query.uns["scvi"]["params"]["epochs_run"] == 0
    assert len(get.history(query)) == 0
    assert np.array_equal(query.obsm["X_scvi"], get.latent(query, model=get.model(reference)))
    for name, values in reference.uns["scvi"]["weights"].items():
        assert np.array_equal(query.uns["scvi"]["weights"][name], values)
    assert "nothing trained" in repr(get.model(query))


def test_a_reference_without_batches(halves):
    reference, query = halves
    scvitl.tl.scvi(reference, **SMALL)
    del query.obs
    map_query(query, reference)
    assert query.obsm["X_scvi"].shape == (query.n_obs, 4)


def test_concatenation_gives_one_latent_space(fitted_halves):
    """And with the query's model, one AnnData that every function reads."""
    reference, query = fitted_halves
    query = query[:, 4:].copy()
    map_query(query, reference)
    both = ad.concat([reference, query], join="outer", fill_value=0)
    both.uns["scvi"] = query.uns["scvi"]
    # more columns of zeros, so float32 sums in another order
    assert np.allclose(get.latent(both), both.obsm["X_scvi"], rtol=1e-5, atol=1e-5)
    assert get.normalized_expression(both, transform_batch="all", give_mean=True).shape == both.shape
    shared = ad.concat([reference, query])
    assert shared.shape == (both.n_obs, 36)
    assert np.array_equal(shared.obsm["X_scvi"], both.obsm["X_scvi"])


def test_a_minified_reference_will_do(fitted_halves):
    reference, query = fitted_halves
    small = scvitl.tl.minify(reference, copy=True)
    first, second = (map_query(query, one, copy=True) for one in (reference, small))
    assert np.array_equal(first.obsm["X_scvi"], second.obsm["X_scvi"])
    assert set(second.uns["scvi"]) == {"params", "schema", "history", "weights"}


def test_a_mapped_query_is_a_reference_for_the_next(fitted_halves):
    reference, query = fitted_halves
    map_query(query, reference)
    third = query.copy()
    third.obs["batch"] = "batch_2"
    map_query(third, query)
    assert get.model(third).schema.batch.categories == ("batch_0", "batch_1", "batch_2")
    assert np.allclose(third.obsm["X_scvi"], query.obsm["X_scvi"], rtol=1e-5, atol=1e-5)
    assert third.uns["scvi"]["params"]["n_obs_reference"] == query.n_obs


@pytest.fixture
def lacking(fitted_halves):
    """A mapped query with genes in another order, without some of the reference, and with some of its own."""
    reference, query = fitted_halves
    query = query[:, ::-1][:, 6:].copy()
    query.var_names = ["more_0", *query.var_names[1:]]
    map_query(query, reference)
    return reference, query


def test_absent_genes_count_as_zero(lacking):
    reference, query = lacking
    counts = np.zeros((query.n_obs, 40), np.float32)
    shared = query.var_names.drop("more_0")
    counts[:, reference.var_names.get_indexer(shared)] = query[:, shared].X.toarray()
    zeros = ad.AnnData(counts, query.obs.copy(), reference.var)
    zeros.obs["batch"] = "batch_0"
    assert np.array_equal(get.latent(zeros, model=get.model(reference)), query.obsm["X_scvi"])
    assert query.uns["scvi"]["params"]["n_genes_absent"] == 7
    assert "7 of those of the model are absent" in repr(get.model(query))


def test_all_readers_work_without_the_absent_genes(lacking):
    reference, query = lacking
    absent = reference.var_names.difference(query.var_names)
    assert list(get.normalized_expression(query, transform_batch="all")) == list(reference.var_names)
    assert np.isfinite(get.elbo(query))
    assert get.posterior_predictive(query).shape == (query.n_obs, 40)
    scvitl.tl.normalized_expression(query, transform_batch="all", give_mean=True)
    layer = pd.DataFrame(query.layers["scvi_normalized"], query.obs_names, query.var_names)
    assert list(layer.columns[layer.isna().all()]) == ["more_0"]
    frame = get.normalized_expression(query, transform_batch="all", give_mean=True)
    assert np.allclose(layer.drop(columns="more_0"), frame[layer.columns.drop("more_0")])
    scvitl.tl.rank_genes_groups(query, "cell_type", n_samples=200)
    table = get.rank_genes_groups(query)
    assert set(table.index) == set(query.var_names) - {"more_0"}
    assert not table.isna().any(axis=None)
    sc.pl.rank_genes_groups_dotplot(query, n_genes=2, dendrogram=False, show=False)
    axes = scvitl.pl.posterior_predictive(query, show=False)
    assert sum(len(part.get_offsets()) for part in axes[0].collections[:2]) == 33
    assert not {text.get_text() for text in axes[0].texts} & set(absent)


def test_minified_query(lacking):
    _, query = lacking
    small = scvitl.tl.minify(query, copy=True)
    assert np.array_equal(get.latent(small), query.obsm["X_scvi"])
    scvitl.tl.rank_genes_groups(small, "cell_type", n_samples=200)
    assert set(get.rank_genes_groups(small).index) <= set(query.var_names)


def test_copy_key_added_and_seed(fitted_halves):
    reference, query = fitted_halves
    before = query.copy()
    first, again, other = (
        map_query(query, reference, copy=True, key_added="foo", random_state=seed) for seed in (0, 0, 1)
    )
    assert_unchanged(query, before)
    assert "X_foo" in first.obsm
    weights = [
        adata.uns["foo"]["weights"]["decoder.hidden.layers.0.linear.weight"]
        for adata in (first, again, other)
    ]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_global_state_is_left_alone(fitted_halves):
    reference, query = fitted_halves
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    map_query(query, reference)
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("n", [1, 2, 19, 21])
def test_few_cells(fitted_halves, n, said):
    reference, query = fitted_halves
    query = query[:n].copy()
    map_query(query, reference)
    assert np.isfinite(get.elbo(query))
    assert ("elbo_validation" in get.history(query)) == (n > 20)
    assert ("only one cell" in said()) == (n == 1)


def test_layer(fitted_halves):
    reference, query = fitted_halves
    expected = map_query(query, reference, copy=True).obsm["X_scvi"]
    query.layers["raw"] = query.X.copy()
    sc.pp.log1p(query)
    map_query(query, reference, layer="raw")
    assert np.array_equal(query.obsm["X_scvi"], expected)
    assert query.uns["scvi"]["params"]["layer"] == "raw"
    assert np.array_equal(get.latent(query), expected)


def test_labels_that_the_model_does_not_look_at(halves):
    """The column of tl.scvi's labels_key may be missing or hold other labels, unless dispersions belong to them."""
    reference, query = halves
    scvitl.tl.scvi(reference, batch_key="batch", labels_key="cell_type", **SMALL)
    query.obs["cell_type"] = "another"
    map_query(query, reference)
    assert get.model(query).schema.labels is None
    scvitl.tl.scvi(reference, dispersion="gene-label", labels_key="cell_type", **SMALL)
    with pytest.raises(
        ValueError, match=r"obs\['cell_type'\] has 'another', which the model was not fitted to"
    ):
        map_query(query, reference)


def test_interrupt(fitted_halves, monkeypatch):
    reference, query = fitted_halves
    from scvitl.training.progress import Progress

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch", stop)
    map_query(query, reference)
    assert query.uns["scvi"]["params"]["interrupted"]
    assert np.array_equal(get.latent(query), query.obsm["X_scvi"])


def test_summary(fitted_halves):
    reference, query = fitted_halves
    map_query(query, reference)
    text = repr(get.model(query))
    assert text.startswith(f"scVI model of {query.n_obs} cells × 40 genes")
    assert f"mapped onto a reference of {reference.n_obs} cells, 3 epochs in" in text
    assert "2 in obs['batch']: batch_0, batch_1" in text


def test_linear_decoder(halves):
    reference, query = halves
    scvitl.tl.ldvae(reference, batch_key="batch", **SMALL)
    map_query(query, reference, key="ldvae")
    old, new = get.model(reference, key="ldvae"), get.model(query, key="ldvae")
    assert query.obsm["X_ldvae"].shape == (query.n_obs, 4)
    assert torch.equal(old.module.loadings(), new.module.loadings())
    # more columns of zeros, so float32 sums in another order
    assert np.allclose(get.latent(reference, model=new), reference.obsm["X_ldvae"], rtol=1e-5, atol=1e-5)
    assert np.allclose(
        *(get.normalized_expression(reference, model=model, give_mean=True) for model in (old, new)),
        rtol=1e-4,
    )


@pytest.fixture
def typed(halves):
    """The same with a scANVI model in the reference."""
    reference, query = halves
    scvitl.tl.scanvi(reference, "cell_type", batch_key="batch", **{**SMALL, "max_epochs": 30})
    return reference, query


def test_labels(typed):
    reference, query = typed
    truth = query.obs.pop("cell_type")
    map_query(query, reference, key="scanvi")
    assert {"X_scanvi", "scanvi_proba"} <= set(query.obsm)
    assert (query.obs["scanvi"] == truth).mean() > 0.9
    assert np.allclose(query.obs["scanvi_confidence"], query.obsm["scanvi_proba"].max(axis=1))
    assert query.uns["scanvi"]["params"]["temperature"] == reference.uns["scanvi"]["params"]["temperature"]
    assert "held_out_accuracy" not in query.uns["scanvi"]["params"], "which is about the reference"
    known = query.copy()
    known.obs["cell_type"] = truth.where(np.arange(len(truth)) % 2 == 0)
    map_query(known, reference, key="scanvi")
    assert np.array_equal(known.obs["scanvi"], query.obs["scanvi"])


def test_labels_of_the_query_do_not_lead_its_cells(halves):
    """They are there to compare with, so they must make no difference, even where the encoder learns along."""
    reference, query = halves
    scvitl.tl.scanvi(reference, "cell_type", batch_key="batch", encode_covariates=True, **SMALL)
    blank = query.copy()
    del blank.obs["cell_type"]
    for cells in (query, blank):
        map_query(cells, reference, key="scanvi")
    assert np.array_equal(query.obsm["X_scanvi"], blank.obsm["X_scanvi"])


def test_confidence_that_is_asked_for(typed):
    reference, query = typed
    map_query(query, reference, key="scanvi", min_confidence=1.0)
    assert set(query.obs["scanvi"]) == {"Unknown"}
    assert query.uns["scanvi"]["params"]["min_confidence"] == 1.0
    reference.uns["scanvi"]["params"]["min_confidence"] = 1.0
    map_query(query, reference, key="scanvi")
    assert set(query.obs["scanvi"]) == {"Unknown"}, "as in the reference"
    map_query(query, reference, key="scanvi", min_confidence=0.0)
    assert "Unknown" not in set(query.obs["scanvi"])
    with pytest.raises(ValueError, match="min_confidence=2 is out of range"):
        map_query(query, reference, key="scanvi", min_confidence=2)


def test_colours_are_those_of_the_reference(typed):
    reference, query = typed
    colors = ["#000001", "#000002", "#000003", "#000004"]
    reference.uns["cell_type_colors"] = colors
    query.obs["cell_type"] = pd.Categorical(["Unknown"] * query.n_obs)
    query.uns["cell_type_colors"] = ["#1f77b4"]
    map_query(query, reference, key="scanvi")
    known = dict(zip(reference.obs["cell_type"].cat.categories, colors, strict=True))
    found = query.obs["scanvi"].cat.categories
    assert list(query.uns["scanvi_colors"]) == [known[name] for name in found]


def test_columns_that_are_read_are_not_replaced(typed):
    reference, query = typed
    before = query.copy()
    for name in ("batch", "cell_type"):
        with pytest.raises(ValueError, match=rf"would replace adata.obs\['{name}'\], which the model reads"):
            map_query(query, reference, key="scanvi", key_added=name)
    assert_unchanged(query, before)


def test_a_reference_is_not_its_own_query(typed):
    with pytest.raises(ValueError, match="query and reference are the same AnnData"):
        map_query(typed[0], typed[0], key="scanvi")


def test_unknown_labels(typed):
    reference, query = typed
    before = query.copy()
    query.obs["cell_type"] = before.obs["cell_type"] = "plasma"
    with pytest.raises(
        ValueError, match=r"has 'plasma'.* It knows 'type_0', .* set these cells to 'Unknown'"
    ):
        map_query(query, reference, key="scanvi")
    assert_unchanged(query, before)


def spoiled(query, reference, what):
    if what == "genes":
        query.var_names = [f"ENSG{i:011d}" for i in range(query.n_vars)]
    if what == "column":
        del query.obs["batch"]
    if what == "counts":
        sc.pp.log1p(query)
    if what == "model":
        del reference.uns["scvi"]
    if what == "swapped":
        query.uns["scvi"] = reference.uns.pop("scvi")
    if what == "taken":
        query.uns["scvi"] = "something"


@pytest.mark.parametrize(
    ("what", "options", "error", "text"),
    [
        ("genes", {}, ValueError, "none of the 40 genes of the reference is in query"),
        ("column", {}, KeyError, "fitted with 'batch' as batch_key, but query.obs has no such column"),
        ("counts", {}, ValueError, "raw counts are needed"),
        ("model", {}, KeyError, r"no fitted model in adata\.uns\['scvi'\]"),
        ("swapped", {}, KeyError, "the query comes first"),
        ("taken", {}, ValueError, "holds something that is not a model"),
        ("", {"layer": "none"}, KeyError, r"'none' is not in adata\.layers"),
        ("", {"max_epochs": 0}, ValueError, "max_epochs=0 is too small"),
        ("", {"random_state": -1}, ValueError, "random_state"),
        ("", {"progress": 1}, TypeError, "progress must be True or False"),
        ("", {"device": "abacus"}, ValueError, "device='abacus' cannot be used"),
        ("", {"key": "scvii"}, KeyError, "no fitted model in"),
    ],
)
def test_bad_input_changes_nothing(fitted_halves, what, options, error, text):
    reference, query = fitted_halves
    spoiled(query, reference, what)
    before = query.copy()
    with pytest.raises(error, match=text):
        map_query(query, reference, **options)
    assert_unchanged(query, before)


def test_what_is_no_anndata(fitted_halves):
    reference, query = fitted_halves
    for arguments in ((query, get.model(reference)), ("query.h5ad", reference)):
        with pytest.raises(TypeError, match="takes an AnnData, not"):
            scvitl.tl.map_query(*arguments)
