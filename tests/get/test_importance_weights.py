from __future__ import annotations

import numpy as np
import pytest

import scvitl
from scvitl import get

FEW = {"max_cells": 20, "n_mc_samples": 20}


def test_weights_and_the_states_they_belong_to(fitted):
    weights, z = get.importance_weights(fitted, indices="cell_type == 'type_0'", n_samples=3, **FEW)
    assert weights.shape == (3, 50)
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights > 0).all()
    mean, variance = get.latent(fitted, return_dist=True, indices="cell_type == 'type_0'")
    assert z.shape == (3, 50, 4)
    # 600 standard normal draws
    scaled = (z - mean) / np.sqrt(variance)
    assert abs(scaled.mean()) < 0.2
    assert scaled.std() == pytest.approx(1, abs=0.15)


def test_the_set_decides(fitted):
    """The same cells are weighed otherwise in another set."""
    alone, _ = get.importance_weights(fitted, indices=range(10), **FEW)
    among, _ = get.importance_weights(fitted, indices=range(20), max_cells=20, n_mc_samples=20)
    assert alone.shape == (1, 10)
    assert not np.allclose(alone[0], among[0, :10] / among[0, :10].sum())


def test_one_cell(fitted):
    weights, _ = get.importance_weights(fitted, indices=[7], **FEW)
    assert weights.tolist() == [[1.0]]


@pytest.mark.parametrize("name", ["n_samples", "max_cells", "n_mc_samples"])
def test_bad_numbers(fitted, name):
    with pytest.raises(ValueError, match=f"{name}=0 is too small"):
        get.importance_weights(fitted, **{name: 0})
    with pytest.raises(TypeError, match="truncation must be True or False"):
        get.importance_weights(fitted, truncation="yes")


def test_there_are_none_of_genes_and_proteins(fitted_proteins):
    text = "importance weights say .* but totalVI explains proteins, too: draw evenly, with weights='uniform'"
    with pytest.raises(ValueError, match=text):
        get.importance_weights(fitted_proteins, key="totalvi")
    options = {"key": "totalvi", "weights": "importance"}
    with pytest.raises(ValueError, match=text):
        get.normalized_expression(fitted_proteins, n_samples_overall=10, **options)
    with pytest.raises(ValueError, match=text):
        scvitl.tl.rank_genes_groups(fitted_proteins, "cell_type", **options)
    assert "rank_genes_groups" not in fitted_proteins.uns
