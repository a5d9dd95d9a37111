from __future__ import annotations

import numpy as np
import pytest
import torch

import scvitl
from scvitl import get, store
from scvitl.posterior import engine

SMALL = {"n_hidden": 16, "n_latent": 3, "max_epochs": 2, "progress": False}


def test_parameters_are_those_that_the_model_decodes(fitted):
    model = get.model(fitted)
    data = store.load(fitted, model)
    cells = data.gather(torch.arange(200))
    with torch.no_grad():
        draws = model.module.encode(cells).draw(1, engine.noise(data, 6))
        p = model.module.generative(*draws, cells)
    found = get.likelihood_parameters(fitted, random_state=6)
    assert list(found) == ["mean", "dispersions", "dropout"]
    for name, expected in (
        ("mean", p.rate[0]),
        ("dispersions", p.theta.expand(200, 40)),
        ("dropout", 1 / (1 + torch.exp(-p.dropout[0]))),
    ):
        assert found[name].shape == (200, 40)
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


def test_means_are_shares_times_the_library_size(fitted):
    """Before zeros are lost: they sum to the counts of the cell."""
    found = get.likelihood_parameters(fitted, random_state=2)
    totals = np.asarray(fitted.X.sum(1))
    np.testing.assert_allclose(found["mean"].sum(1, keepdims=True), totals, rtol=1e-4)
    expression = get.normalized_expression(fitted, library_size="latent", random_state=2)
    np.testing.assert_allclose(found["mean"], expression, rtol=1e-4)
    theta = np.exp(fitted.uns["scvi"]["weights"]["px_r"])
    np.testing.assert_allclose(found["dispersions"][0], theta, rtol=1e-5)
    assert ((found["dropout"] > 0) & (found["dropout"] < 1)).all()


def test_several_samples_and_their_mean(fitted):
    options = {"n_samples": 6, "indices": range(30)}
    samples = get.likelihood_parameters(fitted, **options)
    means = get.likelihood_parameters(fitted, give_mean=True, **options)
    for name in ("mean", "dispersions", "dropout"):
        assert samples[name].shape == (6, 30, 40)
        np.testing.assert_allclose(means[name], samples[name].mean(0), rtol=1e-4)
    assert (samples["mean"].std(0) > 0).all()
    assert (samples["dispersions"] == samples["dispersions"][0]).all(), "one per gene, whatever the state"


def test_some_parameters_in_the_order_asked_for(fitted):
    every = get.likelihood_parameters(fitted)
    some = get.likelihood_parameters(fitted, parameters=["dropout", "mean"])
    assert list(some) == ["dropout", "mean"]
    assert np.array_equal(some["mean"], every["mean"])
    assert list(get.likelihood_parameters(fitted, parameters="mean")) == ["mean"]


@pytest.mark.parametrize(
    ("likelihood", "names"),
    [("nb", ["mean", "dispersions"]), ("poisson", ["mean"]), ("normal", ["mean", "sd"])],
)
def test_every_likelihood_has_its_own(toy, likelihood, names):
    scvitl.tl.scvi(toy, gene_likelihood=likelihood, **SMALL)
    found = get.likelihood_parameters(toy)
    assert list(found) == names
    assert all(np.isfinite(values).all() for values in found.values())
    listed = ", ".join(map(repr, names))
    text = f"gene_likelihood='{likelihood}', whose parameters are {listed}; it has no 'dropout'"
    with pytest.raises(ValueError, match=text):
        get.likelihood_parameters(toy, parameters=["mean", "dropout"])


@pytest.mark.parametrize("dispersion", ["gene-batch", "gene-label", "gene-cell"])
def test_dispersions_by_batch_label_and_cell(toy, dispersion):
    keys = {"batch_key": "batch", "labels_key": "cell_type"}
    scvitl.tl.scvi(toy, gene_likelihood="nb", dispersion=dispersion, **keys, **SMALL)
    theta = get.likelihood_parameters(toy)["dispersions"]
    if dispersion == "gene-cell":
        assert len(np.unique(theta[:, 0])) == toy.n_obs
        return
    codes = toy.obs[keys["batch_key" if dispersion == "gene-batch" else "labels_key"]].cat.codes
    expected = np.exp(toy.uns["scvi"]["weights"]["px_r"])[:, codes].T
    np.testing.assert_allclose(theta, expected, rtol=1e-5)


def test_no_parameters_at_all_or_too_many_to_fit(fitted, monkeypatch):
    with pytest.raises(ValueError, match="n_samples=0 is too small"):
        get.likelihood_parameters(fitted, n_samples=0)
    with pytest.raises(TypeError, match="give_mean must be True or False"):
        get.likelihood_parameters(fitted, give_mean="no")
    with pytest.raises(MemoryError, match=r"the result needs .* GB .*: ask for fewer cells"):
        get.likelihood_parameters(fitted, n_samples=10**10)


PROTEINS = ["protein_background", "protein_foreground", "protein_mixing", "protein_dispersions"]


def test_parameters_of_proteins(fitted_proteins):
    model = get.model(fitted_proteins, key="totalvi")
    found = get.likelihood_parameters(fitted_proteins, key="totalvi", random_state=6)
    assert list(found) == ["mean", "dispersions", *PROTEINS]
    assert all(found[name].shape == (200, 6) for name in PROTEINS)
    assert all(found[name].dtype == np.float32 for name in found)
    cells = store.load(fitted_proteins, model, key="totalvi").gather(torch.arange(200))
    with torch.no_grad():
        z, _ = model.module.encode(cells).draw(1, torch.Generator().manual_seed(6))
        p = model.module.proteins(z, cells, generator=torch.Generator().manual_seed(7))
    low, high = p.means  # with the efficiency of the batch
    for name, expected in zip(PROTEINS, (low, high, torch.sigmoid(p.mixing)), strict=False):
        np.testing.assert_allclose(found[name], expected[0], rtol=1e-3, atol=1e-6)
    theta = np.exp(fitted_proteins.uns["totalvi"]["weights"]["protein_counts.py_r"])
    np.testing.assert_allclose(found["protein_dispersions"], np.tile(theta, (200, 1)), rtol=1e-5)


def test_several_samples_of_proteins_and_their_mean(fitted_proteins):
    options = {
        "key": "totalvi",
        "n_samples": 4,
        "indices": range(30),
        "parameters": ["protein_mixing", "mean"],
    }
    samples = get.likelihood_parameters(fitted_proteins, **options)
    assert {name: values.shape for name, values in samples.items()} == {
        "protein_mixing": (4, 30, 6),
        "mean": (4, 30, 40),
    }
    assert list(samples) == ["protein_mixing", "mean"]
    means = get.likelihood_parameters(fitted_proteins, give_mean=True, **options)
    for name, values in means.items():
        np.testing.assert_allclose(values, samples[name].mean(0), rtol=1e-3)


def test_dispersions_of_proteins_by_batch(toy, stain):
    options = {"batch_key": "batch", "protein_dispersion": "protein-batch", **SMALL}
    scvitl.tl.totalvi(stain(toy), **options)
    theta = get.likelihood_parameters(toy, key="totalvi", parameters="protein_dispersions")
    expected = np.exp(toy.uns["totalvi"]["weights"]["protein_counts.py_r"])[:, toy.obs["batch"].cat.codes].T
    np.testing.assert_allclose(theta["protein_dispersions"], expected, rtol=1e-5)


def test_genes_alone_have_no_parameters_of_proteins(fitted):
    with pytest.raises(ValueError, match="it has no 'protein_mixing'"):
        get.likelihood_parameters(fitted, parameters=["protein_mixing"])
