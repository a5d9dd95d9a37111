"""Models that old versions of scvi-tools saved: today's scvi-tools and we read the same out of them."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import log_expit, softmax
from scipy.stats import nbinom, norm

import scvitl
from scvitl.io._saved import read
from scvitl.models import records, totalvae


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


TOTAL = ("totalvi_0.8.0_legacy", "totalvi_1.1.5", "totalvi_1.3.0", "totalvi_0150_resaved_1.3.2")


@pytest.fixture
def stained(real_data):
    """The cells that were saved with one of the models, under the names of another."""

    def load(name):
        adata = ad.read_h5ad(real_data / "models" / "totalvi_1.1.5" / "adata.h5ad")
        names = [f"protein_{i}" for i in range(100)]
        if name.endswith("legacy"):
            adata.var_names = names = [str(i) for i in range(100)]
        adata.obsm["protein_expression"] = pd.DataFrame(
            adata.obsm["protein_expression"], adata.obs_names, names
        )
        return adata

    return load


@pytest.mark.parametrize("name", TOTAL)
def test_totalvi_by_the_formulas(real_data, tools, stained, name, monkeypatch):
    """Once more from the tensors in the file, as versions before 1.3.1 did it."""
    adata = stained(name)
    scvitl.io.read_scvi_tools(real_data / "models" / name, adata)
    expected = Formulas(real_data / "models" / name, adata, current="1.3.2" in name, exp="1.3" not in name)
    mean, variance = scvitl.get.latent(adata, key="totalvi", return_dist=True)
    tools.agree(mean, expected.mean, atol=1e-5)
    tools.agree(variance, expected.variance)
    for module in (records, totalvae):
        monkeypatch.setattr(module, "sample_normal", lambda mean, variance, n, generator: mean)
    tools.agree(scvitl.get.elbo(adata, key="totalvi", return_mean=False), expected.elbo())
    module = scvitl.get.model(adata, key="totalvi").module
    assert (module.protein_counts.log_efficiency is not None) == ("1.3.2" in name)


def test_totalvi_scores_as_when_it_was_trained(real_data, stained):
    """The losses in the file tell how its version read the same cells; the draws were others."""
    folder = real_data / "models" / "totalvi_1.1.5"
    adata = stained("totalvi_1.1.5")
    scvitl.io.read_scvi_tools(folder, adata)
    then = scvitl.get.history(adata, key="totalvi")["elbo_validation"].item()
    held_out = read(folder).attributes["validation_indices_"]
    now = -scvitl.get.elbo(adata, key="totalvi", indices=held_out)
    assert now == pytest.approx(then, rel=5e-3)
    model = scvitl.get.model(adata, key="totalvi")
    model.module.normalize_counts = True
    assert -scvitl.get.elbo(adata, model=model, indices=held_out) > 1.01 * then


@pytest.mark.usefixtures("means")
def test_totalvi_of_today(scvi, real_data, tools, stained):
    name = "totalvi_0150_resaved_1.3.2"
    adata = stained(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = adata.copy()
        there.obsm["protein_expression"] = there.obsm["protein_expression"].to_numpy()
        theirs = scvi.model.TOTALVI.load(real_data / "models" / name, there, accelerator="cpu")
    scvitl.io.read_scvi_tools(real_data / "models" / name, adata)
    tools.agree(adata.obsm["X_totalvi"], theirs.get_latent_representation(), atol=1e-6)
    elbo = scvitl.get.elbo(adata, key="totalvi", return_mean=False)
    tools.agree(elbo, np.ravel(theirs.get_elbo(return_mean=False)))
    options = {"transform_batch": "batch_1"}
    rna, protein = theirs.get_normalized_expression(**options)
    tools.agree(scvitl.get.normalized_expression(adata, key="totalvi", **options), rna)
    tools.agree(scvitl.get.protein_expression(adata, n_samples=1, **options), protein)
    foreground = theirs.get_protein_foreground_probability(**options)
    tools.agree(scvitl.get.protein_foreground(adata, n_samples=1, **options), foreground, atol=1e-6)


class Formulas:
    """totalVI in NumPy, by the names of scvi-tools: two batches, negative binomial counts, the mean where it would draw."""

    def __init__(self, folder, adata, *, current, exp):
        self.state = {name: tensor.astype(np.float64) for name, tensor in read(folder).state.items()}
        self.current, self.exp = current, exp
        self.x = np.asarray(adata.X.toarray() if sp.issparse(adata.X) else adata.X, np.float64)
        self.y = adata.obsm["protein_expression"].to_numpy(np.float64)
        self.batch = (adata.obs["batch"] == "batch_1").to_numpy().astype(int)
        self.columns = np.eye(2)[self.batch]
        parts = [self.x, self.y]
        if current:
            parts = [part / (1 + part.mean(1, keepdims=True)) for part in parts]
        h = self.stack("encoder.encoder", np.log1p(np.hstack(parts)))
        self.mean = self.linear("encoder.z_mean_encoder", h)
        self.variance = np.exp(self.linear("encoder.z_var_encoder", h)) + 1e-4

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def stack(self, name, x):
        layer = 0
        while f"{name}.fc_layers.Layer {layer}.0.weight" in self.state:
            part = f"{name}.fc_layers.Layer {layer}"
            x = self.linear(f"{part}.0", np.hstack([x, self.columns]))
            if f"{part}.1.weight" in self.state:
                mean, variance = (self.state[f"{part}.1.running_{name}"] for name in ("mean", "var"))
                x = (x - mean) / np.sqrt(variance + 1e-3)
                x = x * self.state[f"{part}.1.weight"] + self.state[f"{part}.1.bias"]
            x, layer = np.maximum(x, 0), layer + 1
        return x

    def head(self, stack, name):
        x = np.hstack([self.stack(f"decoder.{stack}", self.mean), self.mean, self.columns])
        return self.linear(f"decoder.{name}.fc_layers.Layer 0.0", x)

    def elbo(self):
        """Of every cell."""
        scale = softmax(self.head("px_decoder", "px_scale_decoder"), axis=1)
        genes = negative_binomial(self.x, self.x.sum(1, keepdims=True) * scale, np.exp(self.state["px_r"]))
        mean = self.head("py_back_decoder", "py_back_mean_log_alpha")
        sd = self.head("py_back_decoder", "py_back_mean_log_beta")
        sd = np.exp(sd) if self.exp else np.logaddexp(0, sd)
        times = np.maximum(self.head("py_fore_decoder", "py_fore_scale_decoder"), 0) + 1
        mixing = self.head("sigmoid_decoder", "py_background_decoder")
        theta, background = np.exp(self.state["py_r"]), np.exp(mean)
        log_e = self.state["log_per_batch_efficiency"].T[self.batch] if self.current else 0 * mean
        parts = [
            negative_binomial(self.y, m * np.exp(log_e), theta) for m in (background, background * times)
        ]
        proteins = np.logaddexp(parts[0] + log_expit(mixing), parts[1] + log_expit(-mixing))
        prior_mean = self.state["background_pro_alpha"].T[self.batch]
        prior_sd = np.exp(self.state["background_pro_log_beta"].T[self.batch])
        kl = normal_kl(self.mean, np.sqrt(self.variance), 0, 1).sum(1)
        kl += normal_kl(mean, sd, prior_mean, prior_sd).sum(1)
        if self.current:
            kl -= (norm.logpdf(log_e) - log_e).sum(1) + 1e-3 * log_expit(mixing).sum(1)
        return genes.sum(1) + proteins.sum(1) - kl


def negative_binomial(counts, mean, theta):
    return nbinom.logpmf(counts, np.broadcast_to(theta, mean.shape), theta / (theta + mean))


def normal_kl(mean, sd, prior_mean, prior_sd):
    return np.log(prior_sd / sd) + (sd**2 + (mean - prior_mean) ** 2) / (2 * prior_sd**2) - 0.5
