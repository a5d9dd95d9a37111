from __future__ import annotations

import numpy as np

from scvitl import get

MEASURED = ["CD0", "CD1", "CD2", "CD3"]


def test_is_about_the_counts_of_cells_without_the_protein(fitted_proteins):
    background = get.protein_background(fitted_proteins)
    assert list(background) == [f"CD{i}" for i in range(6)]
    counts = fitted_proteins.obsm["protein_expression"][MEASURED]
    there = get.protein_foreground(fitted_proteins)[MEASURED] > 0.5
    # a mean of about 12 in simulation; foreground has 240, and the batches are caught with an efficiency of their own
    low = counts.where(~there).mean() / background[MEASURED].mean()
    assert ((low > 0.3) & (low < 3)).all()


def test_makes_up_the_expected_counts_with_the_foreground(fitted_proteins):
    options = {"give_mean": True, "transform_batch": "all"}
    background = get.protein_background(fitted_proteins, **options)
    own = {"give_mean": True, "transform_batch": "batch_0", "proteins": ["CD1"]}
    whole = get.protein_expression(fitted_proteins, include_protein_background=True, **own)
    denoised = get.protein_expression(fitted_proteins, **own)
    absent = 1 - get.protein_foreground(fitted_proteins, **own)
    np.testing.assert_allclose(
        whole - denoised, absent * get.protein_background(fitted_proteins, **own), rtol=1e-2, atol=1e-2
    )
    one, other = (
        get.protein_background(fitted_proteins, give_mean=True, transform_batch=batch)
        for batch in ("batch_0", "batch_1")
    )
    np.testing.assert_allclose(background, (one + other) / 2, rtol=1e-4)
