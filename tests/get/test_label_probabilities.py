from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvitl
from scvitl.get import label_probabilities

NAMES = ["B", "CD4/CD8 T", "NK", "DC"]


@pytest.fixture(scope="module")
def _labelled():
    adata = scvitl.datasets.toy(n_cells=120, n_genes=40, random_state=1)
    known = adata.obs["cell_type"].cat.rename_categories(NAMES)
    adata.obs["known"] = known.where(adata.obs["batch"] == "batch_0")
    options = {"n_hidden": 16, "n_latent": 4, "max_epochs": 4, "progress": False}
    scvitl.tl.scanvi(adata, "known", batch_key="batch", **options)
    scvitl.tl.scvi(adata, batch_key="batch", **options)
    return adata


@pytest.fixture
def labelled(_labelled):
    return _labelled.copy()


def test_the_exact_names_of_the_labels(labelled):
    frame = label_probabilities(labelled)
    assert list(frame.columns) == NAMES
    assert list(labelled.obsm["scanvi_proba"].columns) == [name.replace("/", "_") for name in NAMES]
    assert frame.index.equals(labelled.obs_names)
    assert (frame.dtypes == np.float32).all()
    assert np.allclose(frame.sum(axis=1), 1, atol=1e-6)
    # the same draws as at the fit
    assert np.array_equal(frame, labelled.obsm["scanvi_proba"])


def test_temperature_of_the_model(labelled):
    labelled.uns["scanvi"]["params"]["temperature"] = 1.0
    plain = label_probabilities(labelled)
    del labelled.uns["scanvi"]["params"]["temperature"]
    pd.testing.assert_frame_equal(label_probabilities(labelled), plain)
    labelled.uns["scanvi"]["params"]["temperature"] = 1000.0
    assert np.allclose(label_probabilities(labelled), 0.25, atol=0.01)
    labelled.uns["scanvi"]["params"]["temperature"] = 0.1
    assert (label_probabilities(labelled).max(axis=1) >= plain.max(axis=1) - 0.01).all()


def test_cells_can_be_named(labelled):
    some = [3, 7, 50, 31]
    expected = label_probabilities(labelled[some].copy())
    for given in (some, labelled.obs_names[some]):
        pd.testing.assert_frame_equal(label_probabilities(labelled, indices=given), expected)
    mask = labelled.obs["batch"] == "batch_1"
    frame = label_probabilities(labelled, indices="batch == 'batch_1'")
    assert frame.index.equals(labelled.obs_names[mask])
    with pytest.raises(ValueError, match="indices selects no cells"):
        label_probabilities(labelled, indices=[])


def test_other_cells_without_labels(labelled):
    """More genes in another order, no column of labels, no model in ``uns``."""
    model = scvitl.get.model(labelled, key="scanvi")
    expected = label_probabilities(labelled[:30].copy())
    other = ad.AnnData(
        sp.hstack([labelled.X[:30, ::-1], sp.csr_matrix(np.ones((30, 2)))], format="csr"),
        labelled.obs[["batch"]].iloc[:30],
        pd.DataFrame(index=[*labelled.var_names[::-1], "more_0", "more_1"]),
    )
    pd.testing.assert_frame_equal(label_probabilities(other, model=model), expected)
    other.obs["known"] = np.nan
    pd.testing.assert_frame_equal(label_probabilities(other, model=model), expected)
    other.obs["known"] = "something new"
    with pytest.raises(ValueError, match="has 'something new', which the model was not fitted to"):
        label_probabilities(other, model=model)


def test_minified_cells(labelled):
    small = scvitl.tl.minify(labelled, key="scanvi", copy=True)
    del small.obs["known"]
    # the same draws of the same posterior
    pd.testing.assert_frame_equal(label_probabilities(small), label_probabilities(labelled), rtol=1e-5)


def test_draws_follow_the_seed_and_reading_changes_nothing(labelled):
    before = labelled.copy()
    first, again, other = (label_probabilities(labelled, random_state=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    pd.testing.assert_frame_equal(labelled.obs, before.obs)
    assert set(labelled.uns) == set(before.uns)
    for options, error in (({"random_state": None}, TypeError), ({"batch_size": 0}, ValueError)):
        with pytest.raises(error):
            label_probabilities(labelled, **options)
    assert label_probabilities(labelled, batch_size=7).shape == (120, 4)


def test_models_without_labels(labelled):
    with pytest.raises(ValueError, match=r"in adata\.uns\['scvi'\] is a scVI model, which knows no labels"):
        label_probabilities(labelled, key="scvi")
    with pytest.raises(ValueError, match=r"the model given is a scVI model.*scvitl\.tl\.scanvi"):
        label_probabilities(labelled, model=scvitl.get.model(labelled, key="scvi"))
    scvitl.tl.scvi(
        labelled, labels_key="batch", dispersion="gene-label", n_hidden=8, max_epochs=1, progress=False
    )
    with pytest.raises(ValueError, match="which knows no labels"):
        label_probabilities(labelled, key="scvi")
    with pytest.raises(KeyError, match="Did you mean 'scanvi'"):
        label_probabilities(labelled, key="scanvy")
    with pytest.raises(TypeError, match="model takes what"):
        label_probabilities(labelled, model="scanvi")
