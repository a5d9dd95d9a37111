"""SCAR, read by us: native and ambient counts, the loss, and training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import scvitl
from scvitl import posterior, store
from scvitl.io._weights import rename

pytestmark = pytest.mark.classes("SCAR")
N_DRAWS = 50
NB = {"gene_likelihood": "nb"}
TRAINED = {
    "defaults": {},
    "softmax": {"scale_activation": "softmax", "n_layers": 1},
    "softplus": {"scale_activation": "softplus", "latent_distribution": "ln"},
    "nb": NB,
    "nb, ln": {**NB, "latent_distribution": "ln", "sparsity": 1.0},
    "nb, softmax": {**NB, "scale_activation": "softmax"},
    "zinb": {"gene_likelihood": "zinb", "scale_activation": "softplus"},
    "poisson": {"gene_likelihood": "poisson", "sparsity": 1.0},
}


@pytest.fixture
def exact(monkeypatch):
    """scvi-tools keeps totals as logarithms, and cuts off what comes back: of 13 counts, 12. Here it rounds them."""
    monkeypatch.setattr(torch.Tensor, "int", lambda self: self.round().to(torch.int32))


@pytest.fixture
def outputs(pair, means, exact):
    """What both make of the same latent states."""
    z = torch.randn(pair.adata.n_obs, 5, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return outputs_of_theirs(pair, z), outputs_of_ours(pair, z)


def outputs_of_theirs(pair, z, kl_weight=0.7):
    module = pair.theirs.module
    tensors = next(iter(pair.theirs._make_data_loader(pair.theirs.adata, batch_size=pair.adata.n_obs)))
    inference = module.inference(**module._get_inference_input(tensors))
    inference["z"] = module.z_encoder.z_transformation(z)
    generative = module.generative(**module._get_generative_input(tensors, inference))
    native, noise, *_ = module.decoder(inference["z"], inference["library"])
    px, ambient = generative["px"], generative["pamb_rate"]
    mean = {"b": "mean", "poisson": "rate"}.get(module.gene_likelihood, "mu")
    return SimpleNamespace(
        mean=inference["qz"].loc,
        variance=inference["qz"].scale ** 2,
        scale=native,
        noise=noise,
        native=getattr(px, mean),
        rate=getattr(px, mean) + ambient,
        px=px,
        loss=module.loss(tensors, inference, generative, kl_weight=kl_weight),
    )


def outputs_of_ours(pair, z, kl_weight=0.7):
    module, cells = pair.model.module, pair.cells()
    posterior = module.encode(cells)
    expression = module.generative(z, posterior.library, cells)
    reconstruction = -module.log_likelihood(cells.x, expression)
    kl, _ = module.kl(z, posterior, cells)
    return SimpleNamespace(
        posterior=posterior,
        noise=module.decoder.noise(module.decode(z, cells)),
        expression=expression,
        reconstruction=reconstruction,
        kl=kl,
        loss=(reconstruction + kl_weight * kl).mean(),
    )


def test_posterior(tools, outputs):
    theirs, ours = outputs
    tools.agree(ours.posterior.mean, theirs.mean)
    tools.agree(ours.posterior.variance, theirs.variance)
    assert ours.posterior.library_variance is None


def test_parameters_of_the_counts(tools, pair, outputs):
    theirs, ours = outputs
    tools.agree(ours.expression.scale, theirs.scale)
    tools.agree(ours.noise, theirs.noise)
    tools.agree(ours.expression.native, theirs.native)
    tools.agree(ours.expression.rate, theirs.rate)
    likelihood = pair.theirs.module.gene_likelihood
    if likelihood in {"nb", "zinb"}:
        tools.agree(ours.expression.theta.expand_as(theirs.px.theta), theirs.px.theta)
    else:
        assert ours.expression.theta is None
    if likelihood == "zinb":
        tools.agree(ours.expression.dropout, theirs.px.zi_logits, atol=1e-6)
    else:
        assert ours.expression.dropout is None


def test_sparsity_makes_genes_absent(pair):
    module, cells = pair.model.module, pair.cells()
    z = torch.randn(pair.adata.n_obs, 5, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        absent = (module.decoder.scale(module.decode(z, cells)) == 0).any()
    assert absent == (pair.model.params["scale_activation"] == "softplus_sp")


def test_loss(tools, outputs):
    theirs, ours = outputs
    tools.agree(ours.reconstruction, theirs.loss.reconstruction_loss["reconstruction_loss"])
    tools.agree(ours.kl, theirs.loss.kl_local["kl_divergence_z"])
    tools.agree(ours.loss, theirs.loss.loss)


@torch.inference_mode()
def test_loss_in_training(tools, pair, outputs):
    """The loss may be made in one go; it is the sum of its parts, at the mean of the posterior."""
    module, cells = pair.model.module, pair.cells()
    loss = module.loss(cells, kl_weight=0.7)
    theirs = outputs_of_theirs(pair, module.encode(cells).mean).loss
    tools.agree(loss.total, theirs.loss)
    tools.agree(loss.reconstruction, theirs.reconstruction_loss["reconstruction_loss"])


def test_total_counts_are_exact(pair):
    """Without the rounding above, scvi-tools would lose counts, and with them some of the likelihood."""
    totals = torch.arange(1.0, 20_001)
    assert (torch.exp(torch.log(totals)).int() < totals).double().mean() > 0.2
    if pair.model.params["gene_likelihood"] == "b":
        module, cells = pair.model.module, pair.cells()
        with torch.inference_mode():
            posterior = module.encode(cells)
            expression = module.generative(posterior.mean, posterior.library, cells)
            # What the model thinks impossible counts as rare, as a number of single precision can be.
            p = (expression.rate / expression.total).clamp_min(torch.finfo(torch.float32).eps)
            p, x = p.double(), cells.x.double()
            expected = torch.distributions.Binomial(x.sum(1, keepdim=True), p).log_prob(x).sum(1)
        np.testing.assert_allclose(module.log_likelihood(cells.x, expression), expected, rtol=1e-5)


@pytest.mark.usefixtures("means")
def test_latent_space(tools, pair):
    mean, variance = pair.theirs.get_latent_representation(return_dist=True)
    ours = scvitl.get.latent(pair.adata, key="scar", return_dist=True)
    tools.agree(ours[0], mean)
    tools.agree(ours[1], variance)
    theirs, latent = pair.theirs.get_latent_representation(), pair.adata.obsm["X_scar"]
    if pair.theirs.module.latent_distribution == "normal":
        tools.agree(latent, theirs)
    else:
        # A mean over draws, which differ.
        assert np.abs(latent - theirs).max() < 0.05


@pytest.mark.usefixtures("means", "exact")
def test_scores(tools, pair):
    theirs = pair.theirs.get_elbo(return_mean=False)
    tools.agree(scvitl.get.elbo(pair.adata, key="scar", return_mean=False), np.ravel(theirs))
    theirs = pair.theirs.get_reconstruction_error(return_mean=False)["reconstruction_loss"]
    tools.agree(scvitl.get.reconstruction_error(pair.adata, key="scar", return_mean=False), np.ravel(theirs))


@torch.inference_mode()
def means_of_theirs(pair):
    """Native counts that scvi-tools expects, and its shares of ambient counts."""
    module = pair.theirs.module
    tensors = next(iter(pair.theirs._make_data_loader(pair.theirs.adata, batch_size=pair.adata.n_obs)))
    inference = module.inference(**module._get_inference_input(tensors))
    native, noise, *_ = module.decoder(inference["z"], inference["library"])
    return (tensors["X"].sum(1, keepdim=True) * native * (1 - noise)).numpy(), noise.numpy()


@pytest.mark.usefixtures("means", "exact")
def test_counts_drawn_anew(pair, monkeypatch):
    """Both round up or down, with a probability of what is beyond the whole number: there, that is put in its place."""
    expected, _ = means_of_theirs(pair)
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributions.Binomial, "sample", lambda self, shape=(): self.probs)
        np.testing.assert_allclose(pair.theirs.get_denoised_counts(), expected, rtol=1e-4, atol=1e-5)
    model = pair.model
    data = store.load(pair.adata, model, key="scar")
    generated = [
        posterior.denoise(model.module, data, output="generative", random_state=seed)[0]
        for seed in range(N_DRAWS)
    ]
    first = scvitl.get.denoised(pair.adata, key="scar", output="generative", random_state=0)
    assert (first != generated[0]).nnz == 0
    draws = np.stack([counts.toarray() for counts in generated])
    assert (draws >= np.floor(expected - 1e-3)).all()
    assert (draws <= np.ceil(expected + 1e-3)).all()
    error = draws.mean(0) - expected
    # Six standard errors of a share, and of the mean of them all.
    assert np.abs(error).max() < 6 * 0.5 / N_DRAWS**0.5
    assert abs(error.mean()) < 6 * 0.5 / (N_DRAWS * error.size) ** 0.5


@pytest.mark.usefixtures("means")
def test_normalized_expression(tools, pair):
    """There, it is what is left of the native share once ambient counts are taken off the cell; a binomial has none."""
    if pair.theirs.module.gene_likelihood == "b":
        with pytest.raises(AttributeError, match="get_normalized"):
            pair.theirs.get_normalized_expression()
        return
    _, noise = means_of_theirs(pair)
    ours = scvitl.get.normalized_expression(pair.adata, key="scar")
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-4)
    tools.agree(ours * (1 - noise), pair.theirs.get_normalized_expression())


def test_what_is_left_with_the_cells(pair):
    adata, profile = pair.adata, pair.theirs.module.ambient_profile.numpy()
    assert np.array_equal(adata.varm["scar_ambient"].to_numpy(), profile.T)
    native = adata.layers["scar"]
    assert (native.toarray() <= adata.X).all()
    assert (native.data >= 1).all()
    assert adata.obs["scar_noise"].between(0, 1).all()


def test_a_seed_gives_the_initial_weights_of_scvi_tools(pair):
    ours = store.build(pair.model.params, pair.model.schema, random_state=3)
    theirs = rename(pair.initial)
    for name, tensor in ours.state_dict().items():
        if not name.endswith(("num_batches_tracked", "ambient", "level")):
            assert np.array_equal(tensor, theirs[name]), name


@pytest.fixture(params=TRAINED)
def start(request, scvi, tools, tmp_path, one_thread):
    """An untrained model of scvi-tools, and the cells with the same model read by us."""
    adata = tools.cells(n_cells=100)
    complete(adata.X)
    theirs = tools.make(scvi, adata.copy(), {"batch_key": "batch"}, TRAINED[request.param], name="SCAR")
    tools.save(theirs, tmp_path, trained=False)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    return theirs, adata


def complete(counts):
    """Add counts until the cells have totals of which scvi-tools loses none, in vectors of any length."""
    totals = torch.arange(1.0, 3000)
    there = torch.exp(torch.log(totals)).int() == totals
    there &= torch.cat([torch.exp(torch.log(n)).int() == n for n in totals.split(1)])
    kept = totals[there].numpy()
    total = counts.sum(1)
    counts[:, 1] += kept[np.searchsorted(kept, total)] - total


def test_three_epochs(tools, start, monkeypatch):
    theirs, adata = start
    initial = scvitl.get.model(adata, key="scar").module.state_dict()
    order = tools.train_theirs(theirs, monkeypatch)
    assert len(order) == 3 * tools.epochs
    ours, history = tools.train_ours(adata, "scar", order)
    expected = rename({name: tensor.numpy() for name, tensor in theirs.module.state_dict().items()})
    # What is no weight there has to stay as it is.
    fixed = {name: initial[name] for name in ("ambient", "decoder.level")}
    tools.agree_after_training(ours.state_dict(), expected | fixed, initial)
    # or the above would show nothing
    moved = [(ours.state_dict()[name] - tensor).abs().max() > 1e-3 for name, tensor in initial.items()]
    assert np.mean(moved) > 0.7
    for name in ("elbo_train", "reconstruction_loss_train", "kl_local_train"):
        losses = theirs.history[name].to_numpy(np.float64).ravel()
        np.testing.assert_allclose([row[name] for row in history.rows], losses, rtol=1e-4)
