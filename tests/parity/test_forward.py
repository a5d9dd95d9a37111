"""Saved by scvi-tools, read by us: everything that follows from the weights agrees."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import scvitl
from scvitl import store
from scvitl.io._weights import rename
from scvitl.tl._start import library_priors

pytestmark = pytest.mark.usefixtures("means")


@pytest.fixture(scope="module")
def agree(tools):
    return tools.agree


@torch.inference_mode()
def outputs_of_theirs(pair, z, library, batch=None, kl_weight=0.7):
    module = pair.theirs.module
    tensors = next(iter(pair.theirs._make_data_loader(pair.theirs.adata, batch_size=pair.adata.n_obs)))
    inference = module.inference(**module._get_inference_input(tensors))
    q, ql = inference["qz"], inference["ql"]
    state = module.z_encoder.z_transformation(z)
    library = inference["library"] if library is None else library
    generative = module.generative(
        **module._get_generative_input(tensors, {**inference, "z": state, "library": library}),
        transform_batch=None if batch is None else torch.tensor(batch),
    )
    px = generative["px"]
    likelihood = module.gene_likelihood
    return SimpleNamespace(
        mean=q.loc,
        variance=q.scale**2,
        library=None if ql is None else (ql.loc, ql.scale**2),
        scale=px.get_normalized("scale"),
        rate=px.loc if likelihood == "normal" else px.rate if likelihood == "poisson" else px.mu,
        theta={"normal": "scale", "poisson": None}.get(likelihood, "theta"),
        px=px,
        loss=module.loss(tensors, {**inference, "z": z}, generative, kl_weight=kl_weight),
    )


@torch.inference_mode()
def outputs_of_ours(pair, z, library, batch=None, kl_weight=0.7):
    module = pair.model.module
    cells = pair.cells()
    posterior = module.encode(cells)
    library = posterior.library if library is None else library
    batch = None if batch is None else torch.full_like(cells.batch, batch)
    expression = module.generative(z, library, cells, batch=batch)
    reconstruction = -module.log_likelihood(cells.x, expression)
    kl_z, kl_l = module.kl(z, posterior, cells)
    return SimpleNamespace(
        posterior=posterior,
        expression=expression,
        reconstruction=reconstruction,
        kl_z=kl_z,
        kl_l=kl_l,
        loss=(reconstruction + kl_weight * kl_z + kl_l).mean(),
    )


def injected(pair):
    """A latent state for every cell, and a log library size where that is latent."""
    generator = torch.Generator().manual_seed(2)
    n = pair.adata.n_obs
    latent_library = not pair.theirs.module.use_observed_lib_size
    return torch.randn(n, 5, generator=generator), 4 + torch.rand(
        n, 1, generator=generator
    ) if latent_library else None


def test_posterior(agree, pair):
    theirs, ours = (outputs(pair, *injected(pair)) for outputs in (outputs_of_theirs, outputs_of_ours))
    agree(ours.posterior.mean, theirs.mean)
    agree(ours.posterior.variance, theirs.variance)
    if theirs.library is None:
        assert ours.posterior.library_variance is None
    else:
        agree(ours.posterior.library, theirs.library[0])
        agree(ours.posterior.library_variance, theirs.library[1])


@pytest.mark.parametrize("batch", [None, 0, 2])
def test_parameters_of_the_counts(agree, pair, batch):
    if batch and pair.theirs.summary_stats.n_batch == 1:
        batch = 0
    theirs, ours = (outputs(pair, *injected(pair), batch) for outputs in (outputs_of_theirs, outputs_of_ours))
    agree(ours.expression.scale, theirs.scale)
    agree(ours.expression.rate, theirs.rate)
    if theirs.theta is None:
        assert ours.expression.theta is None
    else:
        theta = getattr(theirs.px, theirs.theta)
        agree(ours.expression.theta.expand_as(theta), theta)
    if pair.theirs.module.gene_likelihood == "zinb":
        # A logit near zero is a small difference of numbers near one.
        agree(ours.expression.dropout, theirs.px.zi_logits, atol=1e-6)
    else:
        assert ours.expression.dropout is None


@pytest.mark.classes("SCVI", "LinearSCVI")
def test_loss(agree, pair):
    theirs, ours = (outputs(pair, *injected(pair)) for outputs in (outputs_of_theirs, outputs_of_ours))
    agree(ours.reconstruction, theirs.loss.reconstruction_loss["reconstruction_loss"])
    agree(ours.kl_z, theirs.loss.kl_local["kl_divergence_z"])
    agree(torch.as_tensor(ours.kl_l).expand_as(ours.kl_z), theirs.loss.kl_local["kl_divergence_l"])
    agree(ours.loss, theirs.loss.loss)


def test_latent_space(agree, pair):
    mean, variance = pair.theirs.get_latent_representation(return_dist=True)
    ours = scvitl.get.latent(pair.adata, key=pair.key, return_dist=True)
    agree(ours[0], mean)
    agree(ours[1], variance)
    if pair.theirs.module.latent_distribution == "normal":
        agree(pair.adata.obsm[f"X_{pair.key}"], pair.theirs.get_latent_representation())
    else:
        # A mean over draws, which differ.
        assert np.abs(pair.adata.obsm[f"X_{pair.key}"] - pair.theirs.get_latent_representation()).max() < 0.05


def test_elbo(agree, pair):
    theirs = pair.theirs.get_elbo(return_mean=False)
    agree(scvitl.get.elbo(pair.adata, key=pair.key, return_mean=False), np.ravel(theirs))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        (
            {"library_size": 1e4, "gene_list": ["gene3", "gene7"]},
            {"library_size": 1e4, "genes": ["gene3", "gene7"]},
        ),
        ({"library_size": "latent"}, {"library_size": "latent"}),
        ({"transform_batch": "a"}, {"transform_batch": "a"}),
        ({"transform_batch": ["a", "c"]}, {"transform_batch": ["a", "c"]}),
    ],
    ids=str,
)
def test_normalized_expression(agree, pair, theirs, ours):
    if "transform_batch" in ours and pair.theirs.summary_stats.n_batch == 1:
        return
    expected = pair.theirs.get_normalized_expression(**theirs)
    found = scvitl.get.normalized_expression(pair.adata, key=pair.key, **ours)
    agree(found, expected)
    assert found.index.equals(expected.index)
    assert found.columns.equals(expected.columns)


def test_a_seed_gives_the_initial_weights_of_scvi_tools(pair):
    given = {
        name: torch.from_numpy(tensor)
        for name, tensor in rename(pair.initial).items()
        if name.startswith(("library_log", "y_prior"))
    }
    ours = store.build(pair.model.params, pair.model.schema, random_state=3, **given)
    theirs = rename(pair.initial)
    for name, tensor in ours.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(tensor, theirs[name]), name


def test_priors_of_the_library_size(agree, pair):
    if pair.theirs.module.use_observed_lib_size:
        return
    priors = library_priors(store.load(pair.adata, pair.model, key=pair.key), pair.model.schema)
    for name, prior in priors.items():
        agree(prior, pair.initial[name])


def test_a_minified_model(agree, scvi, tools, tmp_path):
    """The weights are in the file; what they need are the cells with their counts."""
    adata = tools.cells()
    theirs = tools.make(scvi, adata.copy(), {"batch_key": "batch"}, {})
    theirs.module.eval()
    theirs.is_trained_ = True
    mean, variance = theirs.get_latent_representation(return_dist=True)
    theirs.adata.obsm.update({"X_latent_qzm": mean, "X_latent_qzv": variance})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.minify_adata()
        theirs.save(tmp_path / "m")
    scvitl.io.read_scvi_tools(tmp_path / "m", adata)
    agree(adata.obsm["X_scvi"], mean)
    with pytest.raises(ValueError, match="minified adata: its counts are gone"):
        scvitl.io.read_scvi_tools(tmp_path / "m", theirs.adata)
