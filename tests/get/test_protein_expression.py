from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl import get, store

KEY = {"key": "totalvi"}
NAMES = [f"CD{i}" for i in range(6)]


def decoded(adata, batch=None):
    """What the model decodes from the posterior means, of every cell in its own batch or in ``batch``."""
    model = get.model(adata, **KEY)
    cells = store.load(adata, model, **KEY).gather(torch.arange(adata.n_obs))
    codes = None if batch is None else torch.full((adata.n_obs,), batch)
    with torch.no_grad():
        z = model.module.encode(cells).mean
        p = model.module.proteins(z, cells, batch=codes, give_mean=True)
    return {name: getattr(p, name).numpy() for name in ("background", "foreground", "mixing")}


def without_background(adata, batch=None):
    p = decoded(adata, batch)
    return p["foreground"] / (1 + np.exp(p["mixing"]))


def test_is_what_the_fit_left_behind(fitted_proteins):
    frame = get.protein_expression(fitted_proteins)
    assert frame.index.equals(fitted_proteins.obs_names)
    assert list(frame) == NAMES
    assert (frame.dtypes == np.float32).all()
    assert (frame >= 0).all(axis=None)
    pd.testing.assert_frame_equal(frame, fitted_proteins.obsm["totalvi_protein"])


def test_posterior_means_decoded(fitted_proteins):
    options = {"give_mean": True, "transform_batch": None}
    frame = get.protein_expression(fitted_proteins, **options)
    np.testing.assert_allclose(frame, without_background(fitted_proteins), rtol=1e-4)
    assert frame.equals(get.protein_expression(fitted_proteins, random_state=3, **options))
    whole = get.protein_expression(fitted_proteins, include_protein_background=True, **options)
    p = decoded(fitted_proteins)
    np.testing.assert_allclose(whole - frame, p["background"] / (1 + np.exp(-p["mixing"])), rtol=1e-3)


def test_batches_to_decode_from(fitted_proteins):
    first, second = (without_background(fitted_proteins, batch) for batch in (0, 1))
    assert not np.allclose(first, second, rtol=1e-2)

    def read(batches):
        return get.protein_expression(fitted_proteins, give_mean=True, transform_batch=batches)

    np.testing.assert_allclose(read("batch_0"), first, rtol=1e-4)
    for both in ("all", ["batch_1", "batch_0"], pd.Index(["batch_0", "batch_1", "batch_0"])):
        np.testing.assert_allclose(read(both), (first + second) / 2, rtol=1e-4)
    measured = (first + second) / 2
    measured[:, 4:] = first[:, 4:]  # batch_1 was not stained for these
    np.testing.assert_allclose(read("measured"), measured, rtol=1e-4)
    with pytest.raises(KeyError, match=r"transform_batch has 'batch1', .* Did you mean 'batch_1'"):
        read("batch1")


def test_only_one_batch(toy, stain):
    stain(toy, n_missing=0)
    scvitl.tl.totalvi(toy, n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    frame = get.protein_expression(toy)
    pd.testing.assert_frame_equal(frame, get.protein_expression(toy, transform_batch=None))
    with pytest.raises(ValueError, match="needs a model of several batches"):
        get.protein_expression(toy, transform_batch="all")


def test_proteins_in_the_order_asked_for(fitted_proteins):
    every = get.protein_expression(fitted_proteins)
    some = get.protein_expression(fitted_proteins, proteins=["CD4", "CD1"])
    pd.testing.assert_frame_equal(some, every[["CD4", "CD1"]])
    assert list(get.protein_expression(fitted_proteins, proteins="CD3", n_samples=1)) == ["CD3"]


def test_shares_are_of_all_proteins(fitted_proteins):
    options = {"scale_protein": True, "n_samples": 3}
    for batches in ("measured", "all", None, "batch_1"):
        frame = get.protein_expression(fitted_proteins, transform_batch=batches, **options)
        np.testing.assert_allclose(frame.sum(axis=1), 1, rtol=1e-4)
    some = get.protein_expression(
        fitted_proteins, proteins=["CD2", "CD0"], transform_batch="batch_1", **options
    )
    pd.testing.assert_frame_equal(some, frame[["CD2", "CD0"]])


def test_whether_a_count_is_background_can_be_drawn(fitted_proteins):
    options = {"transform_batch": None, "return_mean": False, "n_samples": 400, "indices": range(20)}
    drawn = get.protein_expression(fitted_proteins, sample_protein_mixing=True, **options)
    assert (drawn == 0).mean() > 0.1
    weighed = get.protein_expression(fitted_proteins, **options)
    assert (weighed > 0).all()
    # 400 draws of 20 cells, between 0 and their double or so: five standard errors
    assert drawn.mean((0, 1)) == pytest.approx(weighed.mean((0, 1)), rel=0.05)
    shares = get.protein_expression(
        fitted_proteins, sample_protein_mixing=True, scale_protein=True, **options
    )
    total = shares.sum(-1)
    assert np.isfinite(total).all()
    assert ((np.abs(total - 1) < 1e-4) | (total == 0)).all()


def test_several_samples(fitted_proteins):
    options = {"indices": range(20), "proteins": ["CD3", "CD1"]}
    samples = get.protein_expression(fitted_proteins, return_mean=False, n_samples=5, **options)
    assert isinstance(samples, np.ndarray)
    assert samples.shape == (5, 20, 2)
    assert samples.dtype == np.float32
    assert (samples.std(0) > 0).all()
    mean = get.protein_expression(fitted_proteins, n_samples=5, **options)
    np.testing.assert_allclose(mean, samples.mean(0), rtol=1e-4)
    assert get.protein_expression(fitted_proteins, return_mean=False, **options).shape == (25, 20, 2)
    one = get.protein_expression(fitted_proteins, return_mean=False, n_samples=1, **options)
    assert isinstance(one, pd.DataFrame)


def test_draws_from_all_cells_together(fitted_proteins):
    options = {"proteins": ["CD5", "CD0"], "transform_batch": "all"}
    draws = get.protein_expression(fitted_proteins, n_samples_overall=3000, **options)
    assert isinstance(draws, np.ndarray)
    assert draws.shape == (3000, 2)
    expected = get.protein_expression(fitted_proteins, n_samples=50, **options).mean(axis=0).to_numpy()
    # every cell comes 15 times: five standard errors of the draws at most
    assert (np.abs(draws.mean(0) - expected) < 5 * draws.std(0) / np.sqrt(3000)).all()
    shares = get.protein_expression(fitted_proteins, n_samples_overall=7, scale_protein=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)


def test_minified_cells_can_still_be_decoded(fitted_proteins):
    before = get.protein_expression(fitted_proteins)
    scvitl.tl.minify(fitted_proteins, **KEY)
    del fitted_proteins.obsm["protein_expression"]
    np.testing.assert_allclose(get.protein_expression(fitted_proteins), before, rtol=1e-3)


@pytest.mark.parametrize("read", [get.protein_expression, get.protein_foreground, get.protein_background])
def test_what_is_not_there(fitted, fitted_proteins, read):
    text = r"the model in uns\['scvi'\] is scVI, which has no proteins: fit one with scvitl\.tl\.totalvi"
    with pytest.raises(ValueError, match=text):
        read(fitted, key="scvi")
    with pytest.raises(ValueError, match="the model given is scVI, which has no proteins"):
        read(fitted, model=get.model(fitted))
    text = r"proteins has 'cd3', not among the proteins of the model\. Did you mean 'CD3'"
    with pytest.raises(KeyError, match=text):
        read(fitted_proteins, proteins=["CD1", "cd3"])
    with pytest.raises(ValueError, match="proteins is empty: name at least one protein"):
        read(fitted_proteins, proteins=[])
    with pytest.raises(ValueError, match="proteins has 'CD1' more than once"):
        read(fitted_proteins, proteins=["CD1", "CD1"])
    del fitted_proteins.obsm["protein_expression"]
    with pytest.raises(KeyError, match=r"'protein_expression' is not in adata\.obsm"):
        read(fitted_proteins)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_samples": 0}, ValueError, "n_samples=0 is too small"),
        ({"n_samples": 3, "give_mean": True}, ValueError, "give_mean=True decodes one state per cell"),
        ({"give_mean": 1}, TypeError, "give_mean must be True or False"),
        ({"return_mean": "False"}, TypeError, "return_mean must be True or False"),
        ({"scale_protein": "yes"}, TypeError, "scale_protein must be True or False"),
        ({"sample_protein_mixing": 1}, TypeError, "sample_protein_mixing must be True or False"),
        ({"include_protein_background": None}, TypeError, "include_protein_background must be True or False"),
        ({"n_samples_overall": 0}, ValueError, "n_samples_overall=0 is too small"),
        ({"n_samples_overall": 9, "n_samples": 2}, ValueError, "n_samples_overall counts draws from all"),
        ({"n_samples_overall": 9, "give_mean": True}, ValueError, "leave out n_samples and give_mean"),
        ({"n_samples_overall": 10**12}, MemoryError, "the result needs .* GB .*: name fewer cells"),
        ({"n_samples": 10**10, "return_mean": False}, MemoryError, "the result needs"),
    ],
    ids=str,
)
def test_bad_options(fitted_proteins, options, error, text):
    with pytest.raises(error, match=text):
        get.protein_expression(fitted_proteins, **options)
