from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl import get, store

SMALL = {"n_hidden": 16, "n_latent": 3, "max_epochs": 3, "progress": False}


def decoded_means(adata, batch=None):
    """Shares that the model decodes from the posterior means."""
    model = get.model(adata)
    cells = store.load(adata, model).gather(torch.arange(adata.n_obs))
    codes = None if batch is None else torch.full((adata.n_obs,), batch)
    with torch.no_grad():
        p = model.module.generative(model.module.encode(cells).mean, cells.library, cells, batch=codes)
    return p.scale.numpy()


def test_shares_sum_to_one(fitted):
    frame = get.normalized_expression(fitted)
    assert isinstance(frame, pd.DataFrame)
    assert frame.index.equals(fitted.obs_names)
    assert list(frame) == list(fitted.var_names)
    assert (frame.dtypes == np.float32).all()
    assert frame.sum(axis=1).to_numpy() == pytest.approx(np.ones(200), abs=1e-5)
    assert (frame > 0).all(axis=None)


def test_library_size_multiplies_shares(fitted):
    shares = get.normalized_expression(fitted).to_numpy()
    totals = np.asarray(fitted.X.sum(1))
    np.testing.assert_allclose(get.normalized_expression(fitted, library_size=1e4), 1e4 * shares, rtol=1e-5)
    latent = get.normalized_expression(fitted, library_size="latent")
    np.testing.assert_allclose(latent, totals * shares, rtol=1e-4)


def test_a_latent_library_size_is_drawn_with_the_state(toy):
    scvitl.tl.scvi(toy, use_observed_lib_size=False, **SMALL)
    mean = get.normalized_expression(toy, library_size="latent", n_samples=300).sum(axis=1)
    # 300 draws: a standard error of a few percent
    ratio = mean.to_numpy() / get.latent_library_size(toy)[:, 0]
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    still = get.normalized_expression(toy, library_size="latent", give_mean=True)
    assert np.isfinite(still).all(axis=None)


def test_a_size_factor_scales_levels_that_are_no_shares(toy):
    toy.obs["factor"] = np.linspace(0.5, 3, toy.n_obs)
    scvitl.tl.scvi(toy, size_factor_key="factor", **SMALL)
    level = get.normalized_expression(toy)
    assert np.std(level.sum(axis=1)) > 0.01
    scaled = get.normalized_expression(toy, library_size="latent")
    np.testing.assert_allclose(scaled, level.mul(toy.obs["factor"], axis=0), rtol=1e-4)


def test_genes_in_the_order_asked_for(fitted):
    every = get.normalized_expression(fitted)
    genes = ["gene_030", "gene_002", "gene_011"]
    some = get.normalized_expression(fitted, genes=genes)
    assert list(some) == genes
    # float32; the sum over all genes is taken apart
    np.testing.assert_allclose(some, every[genes], rtol=1e-5)
    assert list(get.normalized_expression(fitted, genes="gene_007")) == ["gene_007"]
    assert list(get.normalized_expression(fitted, genes=pd.Index(genes))) == genes


def test_genes_that_the_model_does_not_know(fitted):
    with pytest.raises(
        KeyError, match=r"genes has 'gene_40', not among the genes of the model.* Did you mean"
    ):
        get.normalized_expression(fitted, genes=["gene_001", "gene_40"])
    with pytest.raises(ValueError, match="genes is empty"):
        get.normalized_expression(fitted, genes=[])
    with pytest.raises(ValueError, match="genes has 'gene_001' more than once"):
        get.normalized_expression(fitted, genes=["gene_001", "gene_001"])


def test_give_mean_decodes_the_posterior_mean(fitted):
    frame = get.normalized_expression(fitted, give_mean=True)
    np.testing.assert_allclose(frame, decoded_means(fitted), rtol=1e-5, atol=1e-8)
    assert frame.equals(get.normalized_expression(fitted, give_mean=True, random_state=5))
    for code, name in enumerate(("batch_0", "batch_1")):
        frame = get.normalized_expression(fitted, give_mean=True, transform_batch=name)
        np.testing.assert_allclose(frame, decoded_means(fitted, code), rtol=1e-5, atol=1e-8)


def test_batches_to_decode_from(fitted):
    own = get.normalized_expression(fitted).to_numpy()
    first, second = (
        get.normalized_expression(fitted, transform_batch=f"batch_{i}").to_numpy() for i in (0, 1)
    )
    codes = fitted.obs["batch"].cat.codes.to_numpy()[:, None]
    # the same draws whatever the batch
    np.testing.assert_allclose(own, np.where(codes == 0, first, second), rtol=1e-5)
    assert not np.allclose(first, second, rtol=1e-2)
    for both in ("all", ["batch_1", "batch_0"], ["batch_0", "batch_1", "batch_0"]):
        mean = get.normalized_expression(fitted, transform_batch=both)
        np.testing.assert_allclose(mean, (first + second) / 2, rtol=1e-5)


def test_batches_that_do_not_exist(fitted, toy):
    with pytest.raises(KeyError, match=r"transform_batch has 'batch1', .* Did you mean 'batch_1'"):
        get.normalized_expression(fitted, transform_batch="batch1")
    scvitl.tl.scvi(toy, **SMALL)
    with pytest.raises(
        ValueError, match="needs a model of several batches, but this one was fitted without batch_key"
    ):
        get.normalized_expression(toy, transform_batch="all")


def test_what_is_not_corrected_is_said_once(fitted, toy, said):
    get.normalized_expression(fitted, batch_size=10)
    assert said().count("the result is not batch-corrected; transform_batch='all'") == 1
    before = said()
    get.normalized_expression(fitted, transform_batch="batch_0")
    get.normalized_expression(fitted, transform_batch="all")
    assert said() == before
    scvitl.tl.scvi(toy, **SMALL)
    get.normalized_expression(toy)
    assert "batch-corrected" not in said()[len(before) :]


def test_several_samples(fitted):
    options = {"n_samples": 5, "indices": range(20), "genes": ["gene_004", "gene_001"]}
    samples = get.normalized_expression(fitted, return_mean=False, **options)
    assert isinstance(samples, np.ndarray)
    assert samples.shape == (5, 20, 2)
    assert samples.dtype == np.float32
    assert (samples.std(0) > 0).all()
    mean = get.normalized_expression(fitted, **options)
    assert mean.shape == (20, 2)
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-5)
    assert get.normalized_expression(fitted, return_mean=False, indices=[0]).shape == (1, 40)


def test_mean_over_draws_is_that_of_the_posterior(fitted):
    """Drawn anew by torch's own normal."""
    model = get.model(fitted)
    cells = store.load(fitted, model).gather(torch.arange(5))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        q = model.module.encode(cells)
        z = torch.distributions.Normal(q.mean, q.variance.sqrt()).sample((4000,))
        draws = model.module.generative(z, cells.library.expand(4000, 5, 1), cells).scale
    ours = get.normalized_expression(fitted, indices=range(5), n_samples=4000)
    # five standard errors of the difference of two means of 4,000
    assert (
        np.abs(ours.to_numpy() - draws.mean(0).numpy()) < 5 * draws.std(0).numpy() * np.sqrt(2 / 4000)
    ).all()


def test_draws_from_all_cells_together(fitted):
    options = {"transform_batch": "all", "library_size": 100, "genes": ["gene_009", "gene_000"]}
    draws = get.normalized_expression(fitted, n_samples_overall=3000, **options)
    assert isinstance(draws, np.ndarray)
    assert draws.shape == (3000, 2)
    expected = get.normalized_expression(fitted, n_samples=50, **options).mean(axis=0).to_numpy()
    # every cell comes 15 times: five standard errors of the draws at most
    assert (np.abs(draws.mean(0) - expected) < 5 * draws.std(0) / np.sqrt(3000)).all()
    assert get.normalized_expression(fitted, n_samples_overall=7).shape == (7, 40)


def test_draws_from_all_cells_keep_the_library_of_their_cell(fitted):
    draws = get.normalized_expression(fitted, n_samples_overall=200, library_size="latent")
    totals = np.asarray(fitted.X.sum(1)).ravel()
    # as many draws as cells: each once, in another order
    assert np.sort(draws.sum(1)) == pytest.approx(np.sort(totals), rel=1e-4)


def test_draws_by_importance(fitted):
    options = {"n_samples_overall": 400, "indices": "cell_type == 'type_1'", "weights": "importance"}
    few = {"max_cells": 10, "n_mc_samples": 20}
    draws = get.normalized_expression(fitted, importance_options=few, **options)
    assert draws.shape == (400, 40)
    assert draws.sum(1) == pytest.approx(np.ones(400), abs=1e-5)
    assert len(np.unique(draws[:, 0])) < 400, "draws that explain the cells well come more than once"
    scaled = get.normalized_expression(fitted, importance_options=few, library_size=1e4, **options)
    np.testing.assert_allclose(scaled, 1e4 * draws, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"library_size": 0}, ValueError, "library_size=0 is out of range; it must be above 0"),
        ({"library_size": np.inf}, ValueError, "library_size=inf is out of range"),
        (
            {"library_size": "observed"},
            ValueError,
            "library_size='observed' is not known. Use one of 'latent'",
        ),
        ({"library_size": None}, TypeError, "library_size must be a number"),
        ({"n_samples": 0}, ValueError, "n_samples=0 is too small"),
        ({"n_samples": 3, "give_mean": True}, ValueError, "give_mean=True decodes one state per cell"),
        ({"n_samples_overall": 0}, ValueError, "n_samples_overall=0 is too small"),
        (
            {"n_samples_overall": 9, "n_samples": 2},
            ValueError,
            "n_samples_overall counts draws from all cells",
        ),
        ({"n_samples_overall": 9, "give_mean": True}, ValueError, "leave out n_samples and give_mean"),
        ({"give_mean": 1}, TypeError, "give_mean must be True or False"),
        ({"return_mean": "False"}, TypeError, "return_mean must be True or False"),
        ({"weights": "importance"}, ValueError, "say how many with n_samples_overall"),
        ({"weights": "even"}, ValueError, "weights='even' is not known. Use one of 'uniform', 'importance'"),
        (
            {"weights": "importance", "importance_options": {"cells": 3}},
            ValueError,
            "importance_options key='cells' is not known",
        ),
        (
            {"weights": "importance", "importance_options": {"max_cells": 0}},
            ValueError,
            "max_cells=0 is too small",
        ),
        ({"n_samples_overall": 10**12}, MemoryError, "the result needs .* GB .*: name fewer genes"),
        ({"n_samples": 10**10, "return_mean": False}, MemoryError, "the result needs"),
    ],
    ids=str,
)
def test_bad_options(fitted, options, error, text):
    with pytest.raises(error, match=text):
        get.normalized_expression(fitted, **options)


def test_of_genes_and_proteins_batches_are_averaged(fitted_proteins):
    """In scvi-tools the library size multiplies a running sum: two batches and a size of 100 give 5,050."""
    options = {"key": "totalvi", "library_size": 100, "transform_batch": "all"}
    for more in ({}, {"n_samples": 3}, {"give_mean": True}):
        frame = get.normalized_expression(fitted_proteins, **options, **more)
        np.testing.assert_allclose(frame.sum(axis=1), 100, rtol=1e-4)
