"""What holds for every function that reads a fitted model."""

from __future__ import annotations

import random

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scvitl
from scvitl import get

KINDS = {
    "zinb": {"batch_key": "batch"},
    "nb, gene-batch": {"batch_key": "batch", "gene_likelihood": "nb", "dispersion": "gene-batch"},
    "gene-cell": {"dispersion": "gene-cell", "n_layers": 2},
    "poisson": {"gene_likelihood": "poisson", "batch_key": "batch", "batch_representation": "embedding"},
    "normal": {"gene_likelihood": "normal", "log_variational": False},
    "ln": {"latent_distribution": "ln", "labels_key": "cell_type", "dispersion": "gene-label"},
    "latent library": {"batch_key": "batch", "use_observed_lib_size": False},
    "size factor": {"size_factor_key": "library", "gene_likelihood": "nb"},
    "covariates": {
        "categorical_covariate_keys": ["cell_type"],
        "continuous_covariate_keys": ["library"],
        "encode_covariates": True,
    },
}
PROTEIN_KINDS = {
    "nb": {"batch_key": "batch"},
    "zinb, by batch": {
        "batch_key": "batch",
        "gene_likelihood": "zinb",
        "gene_dispersion": "gene-batch",
        "protein_dispersion": "protein-batch",
    },
    "ln": {
        "latent_distribution": "ln",
        "labels_key": "cell_type",
        "gene_dispersion": "gene-label",
        "protein_dispersion": "protein-label",
    },
    "latent library": {"batch_key": "batch", "use_observed_lib_size": False},
    "size factor": {"size_factor_key": "library"},
    "panels": {"batch_key": "cell_type", "panel_key": "batch"},
    "covariates": {"categorical_covariate_keys": ["cell_type"], "continuous_covariate_keys": ["library"]},
}
AMBIENT_KINDS = {
    "b": {},
    "nb, by batch": {"batch_key": "batch", "gene_likelihood": "nb"},
    "zinb, softmax": {"gene_likelihood": "zinb", "scale_activation": "softmax"},
    "poisson, ln": {
        "gene_likelihood": "poisson",
        "latent_distribution": "ln",
        "scale_activation": "softplus",
    },
}
STATES = torch.linspace(-1, 1, 3)[:, None].expand(3, 4)  # places in the latent space of `fitted`


def expression(adata, *, transform_batch="all", **options):
    return get.normalized_expression(adata, transform_batch=transform_batch, **options)


def correlation(adata, *, transform_batch="all", **options):
    return get.feature_correlation(adata, n_samples=2, transform_batch=transform_batch, **options)


def few(options):
    return {"key": "scvi", "n_samples": None if options.get("give_mean") else 2, **options}


def density(adata, **options):
    mixture = get.aggregated_posterior(adata, **options)
    return mixture.log_prob(torch.zeros(mixture.event_shape))


# Each with few draws; `per_cell` where the result has a row per cell.
PER_CELL = {
    "elbo": lambda a, **o: get.elbo(a, return_mean=False, **o),
    "reconstruction_error": lambda a, **o: get.reconstruction_error(a, return_mean=False, **o),
    "marginal_ll": lambda a, **o: get.marginal_ll(a, n_mc_samples=3, return_mean=False, **o),
    "latent": get.latent,
    "latent_library_size": get.latent_library_size,
    "likelihood_parameters": get.likelihood_parameters,
    "normalized_expression": expression,
    "posterior_predictive": get.posterior_predictive,
}
# The same of a model of proteins.
PROTEINS = {
    "protein_expression": lambda a, **o: get.protein_expression(a, **few(o)),
    "protein_foreground": lambda a, **o: get.protein_foreground(a, **few(o)),
    "protein_background": lambda a, **o: get.protein_background(a, **few(o)),
    "protein_parameters": lambda a, **o: get.likelihood_parameters(a, parameters="protein_mixing", **o),
    "protein_predictive": lambda a, **o: get.posterior_predictive(a, modality="protein", **o),
    "protein_error": lambda a, **o: get.reconstruction_error(a, modality="protein", return_mean=False, **o),
}
# Of a model of ambient counts.
AMBIENT = {
    "denoised": lambda a, **o: get.denoised(a, **{"key": "scvi", "excess": None, **o}),
    "bayes_factors": lambda a, **o: get.bayes_factors(a, **{"key": "scvi", **o}),
}
TOGETHER = {
    "aggregated_posterior": density,
    "factor_association": lambda a, **o: get.factor_association(a, "library", **{"key": "scvi", **o}),
    "feature_correlation": correlation,
    "importance_weights": lambda a, **o: get.importance_weights(a, max_cells=4, n_mc_samples=3, **o),
    "expression_draws": lambda a, **o: expression(a, n_samples_overall=20, **o),
}
READERS = {**PER_CELL, **PROTEINS, **AMBIENT, **TOGETHER}
NO_PROTEINS = "importance_weights"  # reads no model of proteins
STILL = {
    "latent",
    "latent_library_size",
    "aggregated_posterior",
    "factor_association",
    "bayes_factors",
}  # need no seed to stay the same


@pytest.fixture
def fitted(fitted, fitted_proteins, fitted_ambient, request):
    """Cells with a model in ``uns["scvi"]``: scVI, or totalVI for what reads proteins, scAR for what reads ambient counts."""
    read = request.node.callspec.params.get("read")
    for readers, name, adata in ((PROTEINS, "totalvi", fitted_proteins), (AMBIENT, "scar", fitted_ambient)):
        if read in readers.values():
            adata.uns["scvi"] = adata.uns.pop(name)
            adata.obsm["X_scvi"] = adata.obsm[f"X_{name}"]
            return adata
    return fitted


def arrays(result):
    """Whatever a reader returns, as a list of arrays."""
    if isinstance(result, dict):
        return list(result.values())
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays(part)]
    return [result.toarray() if sp.issparse(result) else np.asarray(result)]


def assert_equal(first, second, **tolerance):
    for a, b in zip(arrays(first), arrays(second), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def every(readers=READERS):
    return pytest.mark.parametrize("read", readers.values(), ids=readers)


@every()
def test_cells_can_be_named_in_every_way(fitted, read):
    """The same cells by mask, positions, names, slice and query as in an AnnData of these cells alone."""
    some = [3, 7, 150, 31]
    expected = read(fitted[some].copy())
    for given in (some, np.array(some), [i - 200 for i in some], fitted.obs_names[some]):
        assert_equal(read(fitted, indices=given), expected)
    mask = (fitted.obs["cell_type"] == "type_1") & (fitted.obs["batch"] == "batch_0")
    query = "cell_type == 'type_1' and batch == 'batch_0'"
    expected = read(fitted[mask].copy())
    for given in (mask, mask.to_numpy(), query, np.flatnonzero(mask)):
        assert_equal(read(fitted, indices=given), expected)
    assert_equal(read(fitted, indices=slice(5, 40, 7)), read(fitted[5:40:7].copy()))


@every()
def test_cells_that_cannot_be_found(fitted, read):
    series = pd.Series(np.ones(200, bool), index=fitted.obs_names[::-1])
    for given, error, text in (
        ([], ValueError, "indices selects no cells; adata has 200"),
        (np.zeros(200, bool), ValueError, "indices selects no cells"),
        ("batch == 'none'", ValueError, "indices selects no cells"),
        ([200], IndexError, "indices has 200, but positions of the 200 cells go from 0 to 199"),
        (np.ones(199, bool), ValueError, "indices is a mask of 199 values, but adata has 200 cells"),
        (["cel_0001"], KeyError, r"indices has 'cel_0001', not among .* Did you mean 'cell_0001'"),
        ("bach == 'batch_0'", ValueError, r"is not a query that adata\.obs can answer .*Columns: 'batch'"),
        (series, ValueError, "index of its own that differs"),
    ):
        with pytest.raises(error, match=text):
            read(fitted, indices=given)


@every()
def test_a_model_reads_another_adata(fitted, read, stain):
    """More genes and proteins, in another order, without the model in ``uns``; columns without meaning for the model."""
    model = get.model(fitted)
    other = stain(scvitl.datasets.toy(n_cells=30, n_genes=40, random_state=2))
    expected = read(other, model=model)
    more = ad.AnnData(
        sp.hstack([other.X[:, ::-1], sp.csr_matrix(np.ones((30, 2)))], format="csr"),
        other.obs.astype({"batch": str}),
        pd.DataFrame(index=[*other.var_names[::-1], "more_0", "more_1"]),
        obsm={"protein_expression": other.obsm["protein_expression"].iloc[:, ::-1].assign(more=3)},
    )
    assert_equal(read(more, model=model), expected)
    assert "scvi" not in more.uns
    with pytest.raises(KeyError, match=r"no fitted model in adata\.uns\['scvi'\]"):
        read(other)


@every()
def test_what_another_adata_lacks_is_said(fitted, read):
    model = get.model(fitted)
    with pytest.raises(ValueError, match="3 of the 40 genes of the model are not in"):
        read(fitted[:, 3:].copy(), model=model)
    other = fitted.copy()
    other.obs["batch"] = other.obs["batch"].cat.rename_categories({"batch_1": "batch_2"})
    with pytest.raises(ValueError, match=r"has 'batch_2', which the model was not fitted to"):
        read(other, model=model)
    del other.obs["batch"]
    with pytest.raises(KeyError, match=r"batch_key='batch' is not in adata\.obs"):
        read(other, model=model)
    fitted.X.data += 0.5
    with pytest.raises(ValueError, match="whole numbers"):
        read(fitted, model=model)


@every()
def test_what_is_no_model(fitted, read):
    for wrong in (get.model(fitted).module, "scvi", fitted.uns["scvi"]):
        with pytest.raises(TypeError, match=r"model takes what scvitl\.get\.model\(adata\) returns, not"):
            read(fitted, model=wrong)
    with pytest.raises(KeyError, match=r"no fitted model in adata\.uns\['scvii'\].*Models here: 'scvi'"):
        read(fitted, key="scvii")


@every()
def test_reading_changes_nothing(fitted, read):
    before = fitted.copy()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    read(fitted, indices="batch == 'batch_0'")
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(fitted, slot), getattr(before, slot))
    for slot in ("obsm", "varm", "obsp", "layers", "uns"):
        assert set(getattr(fitted, slot)) == set(getattr(before, slot))
    assert (fitted.X != before.X).nnz == 0
    assert_equal(fitted.obsm["X_scvi"], before.obsm["X_scvi"])
    assert_equal(fitted.uns["scvi"]["weights"], before.uns["scvi"]["weights"])


@every({name: read for name, read in READERS.items() if name not in STILL})
def test_draws_follow_the_seed(fitted, read):
    first, again, other = (read(fitted, random_state=seed) for seed in (1, 1, 2))
    assert_equal(first, again)
    assert not np.array_equal(arrays(first)[0], arrays(other)[0])
    for wrong, error in ((-1, ValueError), (0.5, TypeError), (None, TypeError), (2**32, ValueError)):
        with pytest.raises(error, match="random_state"):
            read(fitted, random_state=wrong)


@every({name: READERS[name] for name in (*PER_CELL, *PROTEINS, *AMBIENT, "aggregated_posterior")})
def test_bad_batch_size(fitted, read):
    with pytest.raises(ValueError, match="batch_size=0 is too small"):
        read(fitted, batch_size=0)
    with pytest.raises(TypeError, match="batch_size must be a whole number"):
        read(fitted, batch_size=3.5)


@pytest.mark.parametrize("batch_size", [1, 7, 199, 1000])
def test_the_size_of_blocks_does_not_show_where_nothing_is_drawn(fitted, batch_size):
    # float32 sums in another order
    for read in (
        get.latent,
        lambda a, **o: get.latent(a, return_dist=True, **o),
        get.latent_library_size,
        lambda a, **o: expression(a, give_mean=True, **o),
        lambda a, **o: get.aggregated_posterior(a, **o).log_prob(STATES),
    ):
        assert_equal(read(fitted, batch_size=batch_size), read(fitted), rtol=1e-5, atol=1e-5)


@every({**PER_CELL, **PROTEINS})
def test_every_cell_has_its_row_whatever_the_size_of_blocks(fitted, read):
    for batch_size in (1, 60):
        for ours, whole in zip(
            arrays(read(fitted, batch_size=batch_size)), arrays(read(fitted)), strict=True
        ):
            assert ours.shape == whole.shape
            assert ours.dtype == whole.dtype == np.float32
            assert len(ours) == 200


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_of_model_can_be_read(options):
    adata = scvitl.datasets.toy(n_cells=60, n_genes=16, random_state=3)
    scvitl.tl.scvi(adata, n_hidden=8, n_latent=3, max_epochs=2, progress=False, **options)
    others = {**PROTEINS, **AMBIENT}
    assert_readable(adata, {name: read for name, read in READERS.items() if name not in others}, options)


@pytest.mark.parametrize("options", AMBIENT_KINDS.values(), ids=AMBIENT_KINDS)
def test_every_kind_of_model_of_ambient_counts_can_be_read(options):
    adata = scvitl.datasets.toy(n_cells=60, n_genes=16, random_state=3)
    shared = {"n_hidden": 8, "n_latent": 3, "max_epochs": 2, "progress": False, "key_added": "scvi"}
    scvitl.tl.scar(adata, ambient=np.full(16, 1 / 16), **shared, **options)
    assert_readable(adata, {name: read for name, read in READERS.items() if name not in PROTEINS}, options)


@pytest.mark.parametrize("options", PROTEIN_KINDS.values(), ids=PROTEIN_KINDS)
def test_every_kind_of_model_of_proteins_can_be_read(options, stain):
    adata = stain(scvitl.datasets.toy(n_cells=60, n_genes=16, random_state=3))
    shared = {"n_hidden": 8, "n_latent": 3, "max_epochs": 2, "progress": False, "key_added": "scvi"}
    scvitl.tl.totalvi(adata, **shared, **options)
    others = {NO_PROTEINS, *AMBIENT}
    assert_readable(adata, {name: read for name, read in READERS.items() if name not in others}, options)


def assert_readable(adata, readers, options):
    """All ``readers`` return numbers."""
    known = ("normalized_expression", "expression_draws", "feature_correlation")
    for name, read in readers.items():
        if name == "feature_correlation" and options.get("gene_likelihood") == "normal":
            continue
        decoding = {"transform_batch": "all" if "batch_key" in options else None} if name in known else {}
        for values in arrays(read(adata, indices=range(20), **decoding)):
            assert np.isfinite(values).all(), name
