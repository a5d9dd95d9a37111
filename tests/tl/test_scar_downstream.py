"""What follows a fit of scAR, for every likelihood and every way to shares, against SciPy."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import special, stats

import scvitl
from scvitl import get, store, tl
from scvitl.posterior import draws, engine, importance

KEY = {"key": "scar"}
KINDS = {
    "b, softplus_sp": {},
    "b, softmax, by batch": {"scale_activation": "softmax", "batch_key": "batch"},
    "b, softplus, ln": {"scale_activation": "softplus", "latent_distribution": "ln", "plan": "reference"},
    "nb, softmax": {"gene_likelihood": "nb", "scale_activation": "softmax"},
    "nb, softplus_sp, by batch": {"gene_likelihood": "nb", "batch_key": "batch"},
    "zinb, softplus": {"gene_likelihood": "zinb", "scale_activation": "softplus"},
    "zinb, softplus_sp, by batch": {"gene_likelihood": "zinb", "batch_key": "batch"},
    "poisson, softplus_sp": {"gene_likelihood": "poisson"},
    "poisson, softplus, by batch": {
        "gene_likelihood": "poisson",
        "scale_activation": "softplus",
        "batch_key": "batch",
    },
}
EPS = np.finfo(np.float32).eps
PARAMETERS = {
    "b": ["mean", "native"],
    "poisson": ["mean", "native"],
    "nb": ["mean", "dispersions", "native"],
    "zinb": ["mean", "dispersions", "dropout", "native"],
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def _cleaned(request, soup):
    """Cells with a model of the kind; where there are batches, each has a profile of its own."""
    adata, raw = soup(120, 40)
    options = {"n_hidden": 16, "n_latent": 3, "max_epochs": 3, "progress": False, **request.param}
    if "batch_key" in options:
        shares = np.random.default_rng(0).dirichlet(np.ones(40), size=2)
        tl.scar(adata, ambient=pd.DataFrame(shares.T, adata.var_names, ["batch_0", "batch_1"]), **options)
    else:
        tl.scar(adata, raw, **options)
    return adata


@pytest.fixture
def cleaned(_cleaned):
    return _cleaned.copy()


@pytest.fixture(scope="module")
def _trained(soup):
    adata, raw = soup(300)
    tl.scar(adata, raw, gene_likelihood="nb", progress=False)
    return adata


@pytest.fixture
def trained(_trained):
    return _trained.copy()


def opened(adata):
    """The model, its cells, and their posterior."""
    fitted, data = store.open_cells(adata, **KEY)
    cells = data.gather(torch.arange(adata.n_obs))
    with torch.no_grad():
        return fitted, data, cells, fitted.module.encode(cells)


def decoded(fitted, z, cells, batch=None):
    """What the heads of the decoder make of states ``z`` (..., n, D), in float64: native shares, noise, dropout."""
    weights = {name: value.double().numpy() for name, value in fitted.module.state_dict().items()}
    with torch.no_grad():
        h = fitted.module.decode(z, cells, batch).double().numpy()

    def head(name):
        return h @ weights[f"decoder.heads.{name}.weight"].T + weights[f"decoder.heads.{name}.bias"]

    u, activation = head("scale"), fitted.params["scale_activation"]
    values = np.logaddexp(0, u)
    if activation == "softplus_sp":
        values = np.maximum(values - np.logaddexp(0, -10 * (1 - fitted.params["sparsity"])), 0)
    values = special.softmax(u, axis=-1) if activation == "softmax" else values * weights["decoder.level"]
    noise = (1 + np.tanh(head("noise"))) / 2
    dropout = special.expit(head("dropout")) if fitted.params["gene_likelihood"] == "zinb" else None
    return values / (values.sum(-1, keepdims=True) + 1e-5), noise, dropout


def profile(adata, batch=None):
    """Ambient shares of every cell, (n, G), as in ``varm``; all as of one batch, if given."""
    table = adata.varm["scar_ambient"].to_numpy().T
    codes = adata.obs["batch"].cat.codes if len(table) > 1 else np.zeros(adata.n_obs, int)
    return table[codes if batch is None else np.full(adata.n_obs, batch)]


def log_likelihood(fitted, x, total, native, noise, dropout, ambient):
    """Of counts ``x`` (..., G), summed over genes."""
    p = (1 - noise) * native + noise * ambient
    likelihood = fitted.params["gene_likelihood"]
    if likelihood == "b":
        return stats.binom.logpmf(x, total, np.clip(p, EPS, 1 - EPS)).sum(-1)
    if likelihood == "poisson":
        return stats.poisson.logpmf(x, total * p).sum(-1)
    theta = np.exp(fitted.module.px_r.detach().double().numpy())
    value = stats.nbinom.logpmf(x, theta, theta / (theta + total * p))
    if likelihood == "zinb":
        value = np.log(dropout * (x == 0) + (1 - dropout) * np.exp(value))
    return value.sum(-1)


def explained(adata, fitted, z, cells):
    """Log-likelihood of every cell at states ``z`` (..., n, D)."""
    x = adata.X.toarray().astype(float)
    return log_likelihood(fitted, x, x.sum(1, keepdims=True), *decoded(fitted, z, cells), profile(adata))


def several(adata):
    """The argument that decodes from all batches, where there are some."""
    return {"transform_batch": "all"} if adata.varm["scar_ambient"].shape[1] > 1 else {}


def test_model_history_and_latent_space(cleaned):
    model = get.model(cleaned, **KEY)
    likelihood, several = model.params["gene_likelihood"], "batch_key" in model.params
    text = repr(model)
    assert "scAR model of 120 cells × 40 genes" in text
    known = {"b": "binomial, from X", "poisson": "poisson, from X"}
    assert f"counts          {known.get(likelihood, f'{likelihood}, dispersion by gene, from X')}" in text
    most = cleaned.varm["scar_ambient"].mean(axis=1).nlargest(3).index
    assert (
        f"{'profiles' if several else 'profile'} of mRNA in module.ambient, most of it {', '.join(most)}, …"
        in text
    )
    history = get.history(cleaned, **KEY)
    assert len(history) == 3
    assert np.isfinite(history.filter(like="elbo")).all(axis=None)
    assert np.array_equal(get.latent(cleaned, **KEY), cleaned.obsm["X_scar"])
    totals = get.latent_library_size(cleaned, **KEY)
    np.testing.assert_allclose(totals, np.asarray(cleaned.X.sum(1)), rtol=1e-5)
    mixture = get.aggregated_posterior(cleaned, **KEY)
    assert torch.isfinite(mixture.log_prob(torch.zeros(mixture.event_shape)))
    assert len(get.factor_association(cleaned, "ambient_fraction", **KEY)) == 3


def test_scores_are_those_of_native_and_ambient_counts(cleaned):
    fitted, data, cells, q = opened(cleaned)
    z, _ = q.draw(generator=engine.noise(data, 3))
    expected = explained(cleaned, fitted, z, cells)
    options = {"return_mean": False, "random_state": 3, **KEY}
    np.testing.assert_allclose(get.reconstruction_error(cleaned, **options), -expected, rtol=1e-4, atol=0.05)
    mean, variance = q.mean.double().numpy(), q.variance.double().numpy()
    divergence = (mean**2 + variance - np.log(variance) - 1).sum(1) / 2
    np.testing.assert_allclose(get.elbo(cleaned, **options), expected - divergence, rtol=1e-4, atol=0.05)


def test_marginal_likelihood(cleaned):
    fitted, data, cells, q = opened(cleaned)
    z, _ = q.draw(20, engine.noise(data, 3))
    states = z.double().numpy()
    mean, scale = q.mean.double().numpy(), np.sqrt(q.variance.double().numpy())
    ratio = (stats.norm.logpdf(states) - stats.norm.logpdf(states, mean, scale)).sum(-1)
    expected = special.logsumexp(explained(cleaned, fitted, z, cells) + ratio, axis=0) - np.log(20)
    found = get.marginal_ll(cleaned, n_mc_samples=20, return_mean=False, random_state=3, **KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.1)
    assert (found > get.elbo(cleaned, return_mean=False, **KEY)).mean() > 0.5


def test_draws_are_weighed_by_all_pairs_with_anchors(cleaned, monkeypatch):
    """The states of 30 cells and the counts of 20, of which each keeps its own total."""
    fitted, data, *_ = opened(cleaned)
    drawn = draws.draw(fitted.module, data, torch.arange(30), engine.noise(data, 0))
    anchors = data.gather(torch.arange(100, 120))
    with torch.no_grad():
        found = importance._log_likelihoods(fitted.module, drawn, anchors).numpy()
        monkeypatch.setattr(importance, "ENTRIES", 1)
        one_by_one = importance._log_likelihoods(fitted.module, drawn, anchors).numpy()
    np.testing.assert_allclose(one_by_one, found, rtol=1e-4, atol=0.05)
    native, noise, dropout = decoded(fitted, drawn.z, drawn.cells)
    x = cleaned.X[100:].toarray().astype(float)
    total = x.sum(1)[:, None]
    ambient = profile(cleaned)[:30]
    for i in range(30):
        own = None if dropout is None else dropout[i]
        expected = log_likelihood(fitted, x, total, native[i], noise[i], own, ambient[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=0.1)
        with torch.no_grad():
            # the same by the model, one pair at a time
            take = torch.full((20,), i)
            p = fitted.module.generative(drawn.z[take], anchors.library, drawn.cells.take(take))
            slow = fitted.module.log_likelihood(anchors.x, p).numpy()
        np.testing.assert_allclose(found[i], slow, rtol=1e-4, atol=0.1)


def test_importance_weights(cleaned):
    weights, z = get.importance_weights(cleaned, n_samples=2, max_cells=30, n_mc_samples=20, **KEY)
    assert weights.shape == (2, 120)
    assert z.shape == (2, 120, 3)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()


def test_normalized_expression_is_native(cleaned):
    fitted, data, cells, q = opened(cleaned)
    z, _ = q.draw(3, engine.noise(data, 2))
    native, _, _ = decoded(fitted, z, cells)
    options = {"n_samples": 3, "random_state": 2, **KEY}
    found = get.normalized_expression(cleaned, return_mean=False, **options)
    np.testing.assert_allclose(found, native, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-4)
    mean = get.normalized_expression(cleaned, library_size=1e4, **options)
    np.testing.assert_allclose(mean, 1e4 * native.mean(0), rtol=1e-3, atol=1e-3)
    genes = ["gene_030", "gene_002"]
    few = get.normalized_expression(cleaned, genes=genes, library_size="latent", **options)
    totals = np.asarray(cleaned.X.sum(1))
    np.testing.assert_allclose(few, totals * native.mean(0)[:, [30, 2]], rtol=1e-3, atol=1e-3)
    centre = get.normalized_expression(cleaned, give_mean=True, **KEY)
    np.testing.assert_allclose(centre, decoded(fitted, q.mean, cells)[0], rtol=1e-3, atol=1e-7)
    together = get.normalized_expression(
        cleaned, n_samples_overall=50, weights="importance", **several(cleaned), **KEY
    )
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-4)


def test_expression_as_of_other_batches(cleaned):
    fitted, _, cells, q = opened(cleaned)
    if fitted.schema.batch is None:
        with pytest.raises(ValueError, match="fitted without batch_key"):
            get.normalized_expression(cleaned, transform_batch="batch_0", **KEY)
        return
    codes = [torch.full((120,), code) for code in (0, 1)]
    each = [decoded(fitted, q.mean, cells, code)[0] for code in codes]
    options = {"give_mean": True, **KEY}
    for expected, batch in ((each[0], "batch_0"), (each[1], "batch_1"), ((each[0] + each[1]) / 2, "all")):
        found = get.normalized_expression(cleaned, transform_batch=batch, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    # what is ambient is that of the batch, too
    drawn = get.posterior_predictive(cleaned, transform_batch="batch_1", n_samples=200, **KEY)
    native, noise, dropout = decoded(fitted, q.mean, cells, codes[1])
    share = (1 - noise) * native + noise * profile(cleaned, 1)
    if dropout is not None:
        share = share * (1 - dropout)
    mean = np.mean([matrix.sum(0).A1 for matrix in drawn], 0)
    expected = (np.asarray(cleaned.X.sum(1)) * share).sum(0)
    assert np.corrcoef(mean, expected)[0, 1] > 0.99


def test_a_layer_of_native_expression(cleaned):
    tl.normalized_expression(cleaned, library_size=100.0, give_mean=True, **several(cleaned), **KEY)
    layer = cleaned.layers["scar_normalized"]
    np.testing.assert_allclose(layer.sum(1), 100, rtol=1e-3)
    expected = get.normalized_expression(
        cleaned, library_size=100.0, give_mean=True, **several(cleaned), **KEY
    )
    np.testing.assert_allclose(layer, expected, rtol=1e-4, atol=1e-6)


def test_parameters_of_the_likelihood(cleaned):
    fitted, data, cells, q = opened(cleaned)
    z, _ = q.draw(2, engine.noise(data, 4))
    native, noise, dropout = decoded(fitted, z, cells)
    total = np.asarray(cleaned.X.sum(1), float)
    found = get.likelihood_parameters(cleaned, n_samples=2, random_state=4, **KEY)
    assert list(found) == PARAMETERS[fitted.params["gene_likelihood"]]
    own, ambient = total * (1 - noise) * native, total * noise * profile(cleaned)
    np.testing.assert_allclose(found["native"], own, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["mean"], own + ambient, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["mean"].sum(-1), np.tile(total[:, 0], (2, 1)), rtol=1e-3)
    if dropout is not None:
        np.testing.assert_allclose(found["dropout"], dropout, rtol=1e-3)
    means = get.likelihood_parameters(
        cleaned, parameters="native", n_samples=2, give_mean=True, random_state=4, **KEY
    )
    np.testing.assert_allclose(means["native"], found["native"].mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"'native'.*; it has no 'ambient'"):
        get.likelihood_parameters(cleaned, parameters=["ambient"], **KEY)


def test_new_counts_are_native_and_ambient(cleaned):
    fitted = get.model(cleaned, **KEY)
    drawn = get.posterior_predictive(cleaned, n_samples=150, **KEY)
    parameters = get.likelihood_parameters(cleaned, n_samples=150, give_mean=True, random_state=9, **KEY)
    mean = parameters["mean"] * (1 - parameters.get("dropout", 0))
    sums, expected = (values.sum(0) for values in (np.mean([m.toarray() for m in drawn], 0), mean))
    # of 120 cells × 150 draws
    np.testing.assert_allclose(sums, expected, rtol=0.1, atol=2)
    assert all((matrix.data == np.rint(matrix.data)).all() for matrix in drawn[:5])
    if fitted.params["gene_likelihood"] == "b":
        assert (np.stack([m.max(1).toarray() for m in drawn]) <= cleaned.X.sum(1)).all()


def test_correlation(cleaned):
    frame = get.feature_correlation(cleaned, n_samples=2, **several(cleaned), **KEY)
    assert frame.shape == (40, 40)
    assert np.isfinite(frame).all(axis=None)
    assert (np.diag(frame) == 1).all()


def rank(adata, **options):
    """Rank the genes of the types, and see that all that is found are numbers."""
    tl.rank_genes_groups(adata, "cell_type", n_samples=100, **options, **KEY)
    table = get.rank_genes_groups(adata)
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    frame = sc.get.rank_genes_groups_df(adata, "type_1")
    assert len(frame) == adata.n_vars
    assert np.isfinite(frame["logfoldchanges"]).all()


def test_genes_are_ranked(cleaned):
    rank(cleaned, batch_correction=bool(several(cleaned)))
    rank(cleaned, weights="importance", importance_options={"max_cells": 20, "n_mc_samples": 10})


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "vanilla"},
        {"delta": "auto", "test_mode": "two", "cred_interval_lvls": [0.9]},
        {"groups": ["type_1"], "reference": "type_0"},
        {"filter_outlier_cells": True, "pseudocounts": 1e-4},
    ],
    ids=str,
)
def test_every_way_to_rank_genes(trained, options):
    rank(trained, **options)


def test_minified_cells_decode_as_before(cleaned):
    small = tl.minify(cleaned, copy=True, **KEY)
    assert small.X is None
    assert not list(small.layers)
    for read in (
        get.latent,
        lambda a, **o: get.normalized_expression(a, library_size="latent", **several(cleaned), **o),
        lambda a, **o: get.likelihood_parameters(a, **o)["native"],
        lambda a, **o: get.likelihood_parameters(a, **o)["mean"],
        lambda a, **o: get.feature_correlation(a, n_samples=1, **several(cleaned), **o),
    ):
        np.testing.assert_allclose(read(small, **KEY), read(cleaned, **KEY), rtol=1e-4, atol=1e-4)
    assert get.posterior_predictive(small, **KEY).shape == (120, 40)
    tl.differential_abundance(small, "batch", **KEY)
    tl.rank_genes_groups(small, "cell_type", n_samples=100, **KEY)
    for name in ("denoised", "bayes_factors", "elbo", "marginal_ll", "importance_weights"):
        with pytest.raises(ValueError, match=rf"get\.{name} looks at counts"):
            getattr(get, name)(small, **KEY)


def test_counts_expected_of_minified_cells_are_all_counts(cleaned):
    """They tell which genes are next to absent, as the counts do, with those that are ambient."""
    fitted, data, *_ = opened(cleaned)
    drawn = draws.draw(fitted.module, data, torch.arange(120), engine.noise(data, 0))
    native, noise, _ = decoded(fitted, drawn.z, drawn.cells)
    total, rows = np.asarray(cleaned.X.sum(1), float), np.arange(30, 90)
    expected = native[rows].mean(0) * (total * (1 - noise))[rows].mean()
    expected = expected + (total * noise * profile(cleaned))[rows].mean(0)
    with torch.inference_mode():
        found = draws.decode(fitted.module, drawn)
        counts = found.mean_counts(native[rows].mean(0), drawn.library, torch.from_numpy(rows))
    np.testing.assert_allclose(counts, expected, rtol=1e-3)
    assert counts.sum() == pytest.approx(total[rows].mean(), rel=1e-3)


def test_no_count_of_a_cell_is_lost(cleaned):
    """The whole number that a float32 logarithm comes back to, where scvi-tools cuts it off."""
    fitted = get.model(cleaned, **KEY)
    if fitted.params["gene_likelihood"] != "b":
        return
    with torch.no_grad():
        fitted.module.decoder.heads["noise"].bias.fill_(100)
        fitted.module.ambient.zero_()[:, 7] = 1
    totals = np.arange(2, 122)
    cleaned.X = np.zeros((120, 40), np.float32)
    cleaned.X[:, 3] = totals
    drawn = get.posterior_predictive(cleaned, model=fitted).toarray()
    assert drawn[:, 7].tolist() == totals.tolist()
    assert drawn.sum() == totals.sum()


def test_a_file_keeps_it_all(cleaned, tmp_path):
    cleaned.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (get.denoised(again) != cleaned.layers["scar"]).nnz == 0
    assert get.elbo(again, **KEY) == get.elbo(cleaned, **KEY)
    assert repr(get.model(again, **KEY)) == repr(get.model(cleaned, **KEY))


def test_abundance_of_samples(trained):
    tl.differential_abundance(trained, "batch", **KEY)
    table = trained.obsm["scar_abundance"]
    assert list(table) == ["batch_0", "batch_1"]
    assert np.isfinite(table).all(axis=None)


def test_ranking_finds_the_genes_of_a_type_without_the_soup(trained):
    """Fold changes of native expression are larger than those of counts, in which all types share the soup."""
    tl.rank_genes_groups(trained, "cell_type", n_samples=1000, **KEY)
    table = get.rank_genes_groups(trained)
    own = {f"type_{k}": {name for i, name in enumerate(trained.var_names) if i % 4 == k} for k in range(4)}
    found = {kind: list(trained.uns["rank_genes_groups"]["names"][kind][:8]) for kind in own}
    assert np.mean([name in own[kind] for kind in own for name in found[kind]]) > 0.9
    truth, seen = (
        np.array([matrix[(trained.obs["cell_type"] == f"type_{k}").to_numpy()].mean(0).A1 for k in range(4)])
        for matrix in (trained.layers["native"], trained.X)
    )
    for k in range(4):
        genes = [i for i in range(60) if i % 4 == k and truth[k, i] > 20]
        part = table[table["group1"] == f"type_{k}"].loc[trained.var_names[genes], "lfc_median"]
        others = [j for j in range(4) if j != k]
        of_counts = np.log2(seen[k, genes] / seen[others][:, genes].mean(0))
        assert part.mean() > of_counts.mean()
    # statistics of counts are of what was measured
    first = table[table["group1"] == "type_0"].loc["gene_000"]
    assert first["raw_mean1"] == pytest.approx(seen[0, 0], rel=1e-4)


def test_there_is_no_mapping_onto_it(trained, soup):
    query, _ = soup(50, random_state=4)
    before = query.copy()
    text = r"the model in reference\.uns\['scar'\] is scAR, which knows the ambient RNA of one experiment .*scvitl\.tl\.scar\(query, raw\)"
    with pytest.raises(ValueError, match=text):
        tl.map_query(query, trained, **KEY)
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert not query.uns


def test_chained_with_scvi(trained):
    tl.scvi(trained, layer="scar", n_hidden=16, max_epochs=2, progress=False)
    assert trained.obsm["X_scvi"].shape == (300, 10)
    assert scvitl.get.model(trained).schema.layer == "scar"
