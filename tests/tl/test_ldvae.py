from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl import get

SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 2, "progress": False}


def fit(adata, **options):
    scvitl.tl.ldvae(adata, **{**SMALL, **options})
    return adata.obsm["X_ldvae"]


def best(known, found):
    """Of every known column, the largest absolute correlation with one of the found, and which that is."""
    k = known.shape[1]
    correlation = np.abs(np.corrcoef(known.T, found.T)[:k, k:])
    return correlation.max(1), correlation.argmax(1)


@pytest.fixture(scope="module")
def recovered():
    adata = scvitl.datasets.toy()
    scvitl.tl.ldvae(adata, batch_key="batch", progress=False)
    return adata


def test_known_factors_and_loadings_are_recovered(recovered):
    for slot, known, found in (("varm", "loadings", "ldvae_loadings"), ("obsm", "factors", "X_ldvae")):
        values = getattr(recovered, slot)
        correlation, which = best(values[known], values[found])
        assert correlation.min() > 0.95
        # The first of the known factors is the strongest, the last the weakest.
        assert which.tolist() == [0, 1, 2]


def test_without_rotation_they_are_mixed(recovered):
    """Training finds their space, and some axes in it."""
    adata = scvitl.datasets.toy()
    scvitl.tl.ldvae(adata, batch_key="batch", progress=False, rotation=None)
    known, found = adata.varm["loadings"], adata.varm["ldvae_loadings"]
    assert best(known, found)[0].max() < 0.95
    columns = np.column_stack([found, np.ones(len(found))])
    residual = known - columns @ np.linalg.lstsq(columns, known)[0]
    assert (1 - residual.var(0) / known.var(0) > 0.95).all()
    assert "rotation" not in adata.uns["ldvae"]["params"]
    # Either way the data are described about equally well.
    loss = [-get.elbo(one, key="ldvae") for one in (recovered, adata)]
    assert abs(loss[0] - loss[1]) < 0.002 * loss[1]


def test_every_fit_finds_the_same_factors(recovered):
    adata = scvitl.datasets.toy()
    scvitl.tl.ldvae(adata, batch_key="batch", progress=False, random_state=1)
    first, other = (one.varm["ldvae_loadings"][:, :3] for one in (recovered, adata))
    signed = np.corrcoef(first.T, other.T)[:3, 3:].diagonal()
    assert (np.abs(signed) > 0.97).all()


def test_batches_leave_no_trace(recovered):
    table = get.factor_association(recovered, ["batch", "cell_type"])
    assert (table["cell_type"][:3] > 0.8).all()
    assert (table["batch"][:3] < 0.02).all()


def test_writes_factors_loadings_and_model_and_nothing_else(toy):
    before = toy.copy()
    assert scvitl.tl.ldvae(toy, batch_key="batch", **SMALL) is None
    assert toy.obsm["X_ldvae"].shape == (120, 4)
    assert toy.varm["ldvae_loadings"].shape == (40, 4)
    for written in (toy.obsm["X_ldvae"], toy.varm["ldvae_loadings"]):
        assert type(written) is np.ndarray
        assert written.dtype == np.float32
    assert set(toy.uns["ldvae"]) == {"params", "schema", "history", "weights"}
    assert toy.uns["ldvae"]["params"]["model"] == "LDVAE"
    assert toy.uns["ldvae"]["params"]["rotation"] == "varimax"
    for slot in ("obsm", "varm", "uns"):
        assert len(set(getattr(toy, slot)) - set(getattr(before, slot))) == 1
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(toy, slot), getattr(before, slot))


def test_key_added_and_copy(toy):
    result = scvitl.tl.ldvae(toy, key_added="foo", copy=True, **SMALL)
    assert {"X_foo"} == set(result.obsm) - set(toy.obsm)
    assert {"foo_loadings"} == set(result.varm) - set(toy.varm)
    assert set(result.uns) == {"foo"}
    assert not toy.uns
    assert np.array_equal(get.loadings(result, key="foo"), result.varm["foo_loadings"])


def test_equal_seeds_give_equal_results(toy):
    first, again, other = (fit(toy.copy(), random_state=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_global_state_is_left_alone(toy):
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), torch.get_num_threads()
    fit(toy, batch_key="batch")
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.get_num_threads() == before[2]


KINDS = {
    "defaults": {},
    "zinb, gene-batch": {"gene_likelihood": "zinb", "dispersion": "gene-batch"},
    "gene-label": {"dispersion": "gene-label"},
    "zinb, gene-cell": {"gene_likelihood": "zinb", "dispersion": "gene-cell", "n_layers_encoder": 2},
    "poisson, no batch norm": {"gene_likelihood": "poisson", "use_batch_norm": False},
    "normal": {"gene_likelihood": "normal", "log_variational": False},
    "ln, bias": {"latent_distribution": "ln", "bias": True},
    "observed library": {"use_observed_lib_size": True},
    "no rotation": {"rotation": None},
    "reference": {"plan": "reference"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_round_trips_and_can_be_read(toy, options, tmp_path):
    """With both kinds of covariates, which scvi-tools has not for this model."""
    toy.obs["donor"] = np.arange(toy.n_obs) % 3
    toy.obs["mito"] = np.linspace(0, 1, toy.n_obs)
    covariates = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["mito"]}
    latent = fit(toy, batch_key="batch", labels_key="cell_type", **covariates, **options)
    assert np.isfinite(latent).all()
    if options.get("latent_distribution") == "ln":
        assert "rotation" not in toy.uns["ldvae"]["params"]
        assert np.allclose(latent.sum(1), 1, atol=1e-5)
    toy.write_h5ad(tmp_path / "a.h5ad")
    read, shared = ad.read_h5ad(tmp_path / "a.h5ad"), {"key": "ldvae", "indices": range(20)}
    assert "LDVAE model of 120 cells × 40 genes" in repr(get.model(read, key="ldvae"))
    if options.get("latent_distribution") != "ln":  # whose mean is over draws of all cells
        assert np.allclose(get.latent(read, **shared), latent[:20], atol=1e-5)
    assert np.array_equal(get.loadings(read), toy.varm["ldvae_loadings"])
    assert np.isfinite(get.elbo(read, **shared))
    assert np.isfinite(get.marginal_ll(read, n_mc_samples=3, **shared))
    shares = get.normalized_expression(read, transform_batch="all", **shared)
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    some = get.normalized_expression(read, genes=["gene_003", "gene_001"], transform_batch="all", **shared)
    assert np.allclose(some, shares[["gene_003", "gene_001"]], rtol=1e-4)
    drawn = get.posterior_predictive(read, **shared)
    assert np.isfinite(drawn.data).all()
    if options.get("gene_likelihood") not in {"poisson", "normal"}:
        correlation = get.feature_correlation(read, n_samples=2, transform_batch="all", **shared)
        assert np.isfinite(correlation).all(None)
    scvitl.tl.rank_genes_groups(read, "cell_type", key="ldvae", n_samples=100)
    assert len(get.rank_genes_groups(read, groups="type_1")) == 40


def test_minified(toy):
    fit(toy)
    with pytest.raises(ValueError, match="use_observed_lib_size=False"):
        scvitl.tl.minify(toy, key="ldvae")
    fit(toy, use_observed_lib_size=True)
    before = get.normalized_expression(toy, key="ldvae", give_mean=True)
    loadings = get.loadings(toy)
    scvitl.tl.minify(toy, key="ldvae")
    assert np.allclose(get.normalized_expression(toy, key="ldvae", give_mean=True), before)
    assert np.array_equal(get.loadings(toy), loadings)


def test_the_log_names_every_key(toy, said):
    before = toy.copy()
    fit(toy)
    for slot in ("obsm", "varm", "uns"):
        for key in set(getattr(toy, slot)) - set(getattr(before, slot)):
            assert repr(key) in said()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rotation": "promax"}, ValueError, r"rotation='promax' is not known. Use one of 'varimax', None"),
        ({"use_batch_norm": "both"}, TypeError, "use_batch_norm must be True or False, not 'both'"),
        ({"bias": 1}, TypeError, "bias must be True or False, not 1"),
        ({"n_layers_encoder": 0}, ValueError, "n_layers_encoder=0 is too small"),
        ({"dispersion": "gene-label"}, ValueError, "needs labels_key"),
        ({"batch_key": "bach"}, KeyError, "Did you mean 'batch'"),
        ({"key_added": "a/b"}, ValueError, "without a slash"),
        ({"copy": "no"}, TypeError, "copy must be True or False"),
    ],
)
def test_bad_input(toy, options, error, message):
    before = toy.copy()
    with pytest.raises(error, match=message):
        fit(toy, **options)
    for slot in ("obsm", "varm", "uns"):
        assert set(getattr(toy, slot)) == set(getattr(before, slot))
