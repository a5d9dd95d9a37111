"""Models that old versions of scvi-tools saved: today's scvi-tools and we read the same out of them."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest

import scvitl


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(2, (50, 100)).astype(np.float32))
    adata.obs["batch"] = rng.choice(["batch_0", "batch_1"], 50)
    adata.obs["labels"] = rng.choice(["label_0", "label_1", "label_2"], 50)
    return adata


@pytest.mark.parametrize("name", ["scvi_0.15.5", "scvi_0.8.0_legacy"])
@pytest.mark.usefixtures("means")
def test_latent_space_and_expression(scvi, real_data, tmp_path, cells, name):
    folder = real_data / "models" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith("legacy"):
            scvi.model.SCVI.convert_legacy_save(folder, tmp_path / "converted")
            folder = tmp_path / "converted"
        theirs = scvi.model.SCVI.load(folder, cells.copy(), accelerator="cpu")
    scvitl.io.read_scvi_tools(real_data / "models" / name, cells)
    mean, variance = theirs.get_latent_representation(return_dist=True)
    found = scvitl.get.latent(cells, return_dist=True)
    np.testing.assert_allclose(found[0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=1e-5)
    np.testing.assert_allclose(cells.obsm["X_scvi"], theirs.get_latent_representation(), rtol=1e-5, atol=1e-6)
    expression = scvitl.get.normalized_expression(cells, transform_batch="batch_0")
    np.testing.assert_allclose(
        expression, theirs.get_normalized_expression(transform_batch="batch_0"), rtol=1e-5
    )
    elbo = scvitl.get.elbo(cells, return_mean=False)
    np.testing.assert_allclose(elbo, np.ravel(theirs.get_elbo(return_mean=False)), rtol=1e-5)


@pytest.mark.usefixtures("means")
def test_labels(scvi, real_data, tools):
    """Saved when classifiers had a softmax of their own: the same weights give the same probabilities."""
    folder = real_data / "models" / "scanvi_1.0.3"
    adata = ad.read_h5ad(folder / "adata.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = scvi.model.SCANVI.load(folder, adata.copy(), accelerator="cpu")
    assert not theirs.module.classifier.logits
    scvitl.io.read_scvi_tools(folder, adata)
    expected = theirs.predict(soft=True)
    tools.agree(adata.obsm["scanvi_proba"], expected)
    assert adata.obsm["scanvi_proba"].columns.tolist() == expected.columns.tolist() == ["label_2", "label_1"]
    assert (adata.obs["scanvi"] == theirs.predict()).all()
    assert adata.obs["scanvi"].nunique() == 2
    tools.agree(adata.obsm["X_scanvi"], theirs.get_latent_representation(), atol=1e-6)
    elbo = scvitl.get.elbo(adata, key="scanvi", return_mean=False)
    tools.agree(elbo, np.ravel(theirs.get_elbo(return_mean=False)))
    assert scvitl.get.history(adata, key="scanvi")["accuracy_train"].between(0, 1).all()
