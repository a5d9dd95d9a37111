from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import scvitl
from scvitl.posterior import abundance


def brute_force(adata, sample, dof=None):
    mean, variance = (part.astype(np.float64) for part in scvitl.get.latent(adata, return_dist=True))
    sd = np.sqrt(variance[sample])
    x = mean[:, None]
    logs = stats.norm.logpdf(x, mean[sample], sd) if dof is None else stats.t.logpdf(x, dof, mean[sample], sd)
    return logsumexp(logs.sum(2), axis=1) - np.log(len(sample))


@pytest.mark.parametrize("dof", [None, 3.0])
def test_matches_the_formula(fitted, dof):
    scvitl.tl.differential_abundance(fitted, "cell_type", dof=dof)
    frame = fitted.obsm["scvi_abundance"]
    assert frame.index.equals(fitted.obs_names)
    for name in frame:
        sample = np.flatnonzero(fitted.obs["cell_type"] == name)
        assert np.allclose(frame[name], brute_force(fitted, sample, dof), atol=1e-8)


@pytest.mark.parametrize("dof", [None, 3.0])
def test_blocks_do_not_matter(fitted, monkeypatch, dof):
    whole = scvitl.tl.differential_abundance(fitted, "cell_type", dof=dof, copy=True)
    monkeypatch.setattr(abundance, "BLOCK_ENTRIES", 300)
    scvitl.tl.differential_abundance(fitted, "cell_type", dof=dof)
    # Sums in another order.
    assert np.allclose(fitted.obsm["scvi_abundance"], whole.obsm["scvi_abundance"], atol=1e-10)


def test_many_dimensions_do_not_overflow(toy):
    """The product over dimensions is taken a few at a time."""
    scvitl.tl.scvi(toy, n_latent=40, n_hidden=8, max_epochs=1, progress=False)
    scvitl.tl.differential_abundance(toy, "batch", dof=1.5)
    sample = np.flatnonzero(toy.obs["batch"] == "batch_1")
    assert np.allclose(toy.obsm["scvi_abundance"]["batch_1"], brute_force(toy, sample, 1.5), atol=1e-8)


def test_cells_are_likeliest_in_samples_like_theirs(fitted):
    scvitl.tl.scvi(fitted, n_latent=4, n_hidden=32, max_epochs=40, progress=False)
    scvitl.tl.differential_abundance(fitted, "cell_type")
    likeliest = fitted.obsm["scvi_abundance"].idxmax(axis=1)
    assert (likeliest == fitted.obs["cell_type"]).mean() > 0.9


def test_a_part_of_each_sample(fitted):
    scvitl.tl.differential_abundance(fitted, "batch", num_cells_posterior=10, random_state=3)
    first = fitted.obsm["scvi_abundance"].copy()
    scvitl.tl.differential_abundance(
        fitted, "batch", num_cells_posterior=10, random_state=3, key_added="again"
    )
    assert first.equals(fitted.obsm["again_abundance"])
    scvitl.tl.differential_abundance(fitted, "batch", num_cells_posterior=10, random_state=4)
    assert not first.equals(fitted.obsm["scvi_abundance"])


def test_survives_a_file(fitted, tmp_path):
    import anndata as ad

    fitted.obs["sample"] = np.where(np.arange(fitted.n_obs) % 2, 1, 2)
    scvitl.tl.differential_abundance(fitted, "sample")
    fitted.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").obsm["scvi_abundance"]
    assert list(again) == ["1", "2"]
    assert np.array_equal(again, fitted.obsm["scvi_abundance"])


def test_errors_write_nothing(fitted):
    with pytest.raises(KeyError, match="Did you mean 'batch'"):
        scvitl.tl.differential_abundance(fitted, "btch")
    fitted.obs["sample"] = ["a", None] * 100
    with pytest.raises(ValueError, match="NaN in 100 cells"):
        scvitl.tl.differential_abundance(fitted, "sample")
    with pytest.raises(ValueError, match="dof=0 is out of range"):
        scvitl.tl.differential_abundance(fitted, "batch", dof=0)
    assert set(fitted.obsm) == {"X_scvi", "factors"}
