from __future__ import annotations

import numpy as np
import pandas as pd

from scvitl import get


def present(adata):
    """Which proteins the cells were given."""
    types = adata.obs["cell_type"].cat.codes.to_numpy()[:, None]
    return (types + np.arange(6)) % 4 < 2


def test_is_what_the_fit_left_behind(fitted_proteins):
    frame = get.protein_foreground(fitted_proteins)
    pd.testing.assert_frame_equal(frame, fitted_proteins.obsm["totalvi_protein_foreground"])
    assert ((frame >= 0) & (frame <= 1)).all(axis=None)


def test_tells_what_is_there(fitted_proteins):
    """Also where it was not measured."""
    right = (get.protein_foreground(fitted_proteins) > 0.5) == present(fitted_proteins)
    assert right.mean(axis=None) > 0.9
    imputed = right.loc[fitted_proteins.obs["batch"] == "batch_1", ["CD4", "CD5"]]
    assert imputed.mean(axis=None) > 0.8


def test_is_one_minus_the_probability_of_background(fitted_proteins):
    p = get.likelihood_parameters(fitted_proteins, key="totalvi", parameters="protein_mixing", random_state=2)
    frame = get.protein_foreground(fitted_proteins, transform_batch=None, n_samples=1, random_state=2)
    np.testing.assert_allclose(frame, 1 - p["protein_mixing"], atol=1e-5)


def test_selection(fitted_proteins):
    options = {"transform_batch": "batch_1", "give_mean": True}
    every = get.protein_foreground(fitted_proteins, **options)
    some = get.protein_foreground(fitted_proteins, proteins=["CD5", "CD2"], indices=[3, 1], **options)
    pd.testing.assert_frame_equal(some, every.iloc[[3, 1]][["CD5", "CD2"]], rtol=1e-5)
    samples = get.protein_foreground(fitted_proteins, n_samples=2, return_mean=False, proteins="CD5")
    assert samples.shape == (2, 200, 1)
