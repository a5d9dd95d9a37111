from __future__ import annotations

import numpy as np
import pytest

import scvitl
from scvitl import get


def test_is_the_elbo_without_the_kl(fitted):
    mean, variance = get.latent(fitted, return_dist=True)
    kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1)
    options = {"return_mean": False, "random_state": 8}
    error, elbo = get.reconstruction_error(fitted, **options), get.elbo(fitted, **options)
    assert -error - kl == pytest.approx(elbo, rel=1e-4)


def test_mean_counts_every_cell_once(fitted):
    values = get.reconstruction_error(fitted, return_mean=False, batch_size=64)
    mean = get.reconstruction_error(fitted, batch_size=64)
    assert isinstance(mean, float)
    assert mean == pytest.approx(values.mean(dtype="float64"), rel=1e-9)


def test_a_better_model_has_a_lower_error(toy):
    options = {"batch_key": "batch", "n_hidden": 16, "n_latent": 4, "progress": False}
    scvitl.tl.scvi(toy, max_epochs=1, key_added="short", **options)
    scvitl.tl.scvi(toy, max_epochs=40, key_added="long", **options)
    assert get.reconstruction_error(toy, key="long") < get.reconstruction_error(toy, key="short")


def test_modalities_add_up(fitted_proteins):
    options = {"key": "totalvi", "return_mean": False}
    whole = get.reconstruction_error(fitted_proteins, **options)
    rna, protein = (
        get.reconstruction_error(fitted_proteins, modality=modality, **options)
        for modality in ("rna", "protein")
    )
    np.testing.assert_allclose(rna + protein, whole, rtol=1e-5)
    assert (rna > protein).all()


def test_proteins_that_were_not_measured_do_not_count(fitted_proteins):
    """Cells of the batch that was stained for four of six have about two thirds of the error."""
    values = get.reconstruction_error(fitted_proteins, key="totalvi", modality="protein", return_mean=False)
    fewer = (fitted_proteins.obs["batch"] == "batch_1").to_numpy()
    assert values[fewer].mean() / values[~fewer].mean() == pytest.approx(4 / 6, abs=0.1)


def test_modalities_that_are_not_there(fitted):
    rna = get.reconstruction_error(fitted, modality="rna", return_mean=False)
    assert np.array_equal(rna, get.reconstruction_error(fitted, return_mean=False))
    with pytest.raises(ValueError, match=r"uns\['scvi'\] is scVI, which has no proteins"):
        get.reconstruction_error(fitted, modality="protein")
    with pytest.raises(ValueError, match=r"modality='adt' is not known\. Use one of 'rna', 'protein'"):
        get.reconstruction_error(fitted, modality="adt")
