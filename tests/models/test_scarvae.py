"""scAR as a module: native shares, what is ambient, and the loss, against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.distributions import Binomial
from torch.nn import functional as F

from scvitl.compiled.stored import Stored
from scvitl.likelihoods import nb, poisson, zinb
from scvitl.models import SCARVAE, VAE, Cells, mixture

B, G, H, K = 7, 11, 6, 2
ACTIVATIONS = ["softmax", "softplus", "softplus_sp"]
GENES = torch.tensor([8, 2, 5])


def cells(n_batch=K, dtype=torch.float32, **replaced):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.poisson(rng.gamma(0.5, 6.0, (B, G)))).to(dtype)
    x[:, 0] += 1
    values = {
        "counts": x,
        "library": x.sum(1, keepdim=True).log(),
        "batch": torch.arange(B) % n_batch,
        "labels": torch.zeros(B, dtype=torch.int64),
        "categorical": torch.zeros(B, 0, dtype=torch.int64),
        "continuous": torch.zeros(B, 0),
    }
    return Cells(**{**values, **replaced})


def profile(n_batch=K):
    """Ambient shares by batch, zero for some genes."""
    shares = torch.rand(n_batch, G, generator=noise(5)) ** 3
    shares[:, 3] = 0
    return shares / shares.sum(1, keepdim=True)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def model(n_batch=K, dtype=torch.float32, seed=0, **options):
    """A model with weights unlike the initial ones, and genes at levels of their own."""
    sizes = {"n_hidden": H, "n_latent": 3, "ambient": profile(n_batch)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SCARVAE(G, n_batch=n_batch, **{**sizes, **options})
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.5 * torch.randn(weight.shape))
            module.decoder.level.copy_(0.1 + torch.rand(G))
    return module.to(dtype).eval()


def hidden(*samples, scale=1.0):
    return scale * torch.randn(*samples, B, H, generator=noise(1))


def plain_shares(module, h):
    """Native shares as the formula has them, in double precision."""
    decoder = module.decoder
    u = (h @ decoder.heads["scale"].weight.T + decoder.heads["scale"].bias).double()
    if decoder.activation == "softmax":
        values = torch.softmax(u, -1)
    else:
        values = F.softplus(u)
        if decoder.activation == "softplus_sp":
            values = (values - decoder.threshold).clamp(min=0)
        values = values * decoder.level.double()
    return values / (values.sum(-1, keepdim=True) + 1e-5)


def close(found, expected):
    torch.testing.assert_close(found.detach(), expected.detach().to(found.dtype), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("sparsity", "threshold"), [(0.9, 0.313262), (1.0, math.log(2)), (0.5, 0.006715), (0.0, 4.54e-5)]
)
def test_the_threshold_grows_with_the_sparsity(sparsity, threshold):
    assert model(sparsity=sparsity).decoder.threshold == pytest.approx(threshold, rel=1e-4)
    for activation in ("softmax", "softplus"):
        assert model(scale_activation=activation, sparsity=sparsity).decoder.threshold == 0


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("samples", [(), (4,)], ids=str)
def test_native_shares_have_their_formula(activation, samples):
    module, h = model(scale_activation=activation), hidden(*samples)
    shares = module.decoder.scale(h)
    assert shares.shape == (*samples, B, G)
    close(shares, plain_shares(module, h))
    close(shares.sum(-1), torch.ones(*samples, B) - 1e-5)
    assert (shares >= 0).all()
    # Exactly zero below the threshold, and never without one.
    u = module.decoder.head("scale", h)
    absent = F.softplus(u.double()) <= module.decoder.threshold
    assert torch.equal(shares == 0, absent)
    assert absent.any() == (activation == "softplus_sp")


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_shares_of_some_genes_are_those_among_all(activation):
    decoder = model(scale_activation=activation).decoder
    h = hidden()
    every = decoder.scale(h)
    close(decoder.scale(h, GENES), every[:, GENES])
    total = decoder.log_total(h)
    assert total.shape == (B, 1)
    by_gene = decoder.scale_by_gene(h)
    assert by_gene.shape == (G, B)
    close(by_gene, every.T)
    for genes, which in ((GENES, GENES), (slice(3, 8), torch.arange(3, 8))):
        close(decoder.scale_by_gene(h, genes, total), every[:, which].T)
        out = torch.full((len(which), B), torch.nan)
        assert decoder.scale_by_gene(h, genes, total, out=out) is out
        close(out, every[:, which].T)
    out = torch.full((G, B), torch.nan)
    assert decoder.scale_by_gene(h, out=out) is out
    close(out, every.T)


@torch.no_grad()
def test_shares_of_samples_of_some_genes():
    decoder, h = model().decoder, hidden(4)
    close(decoder.scale(h, GENES), decoder.scale(h)[..., GENES])
    close(decoder.log_total(h)[2], decoder.log_total(h[2]))


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_logits_stay_finite(activation):
    module = model(scale_activation=activation, n_batch=1)
    h = hidden(scale=300)
    for shares in (module.decoder.scale(h), module.decoder.scale_by_gene(h).T):
        assert shares.isfinite().all()
        assert (shares.sum(-1) <= 1 + 1e-5).all()
    # No gene at all is above the threshold.
    module.decoder.heads["scale"].bias.fill_(-300)
    module.decoder.heads["scale"].weight.zero_()
    shares = module.decoder.scale(h)
    close(shares, torch.full((B, G), (1 - 1e-5) / G if activation == "softmax" else 0.0))
    assert module.loss(cells(n_batch=1), generator=noise()).total.isfinite()


@torch.no_grad()
def test_the_share_of_ambient_counts():
    module, h = model(), hidden(4)
    found, head = module.decoder.noise(h), module.decoder.heads["noise"]
    assert found.shape == (4, B, 1)
    close(found, (1 + torch.tanh(h @ head.weight.T + head.bias)) / 2)
    far = module.decoder.noise(hidden(scale=1000))
    assert ((far >= 0) & (far <= 1)).all()


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["b", "nb", "zinb", "poisson"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parameters_of_the_counts(likelihood, activation):
    module, given = model(gene_likelihood=likelihood, scale_activation=activation), cells()
    z = torch.randn(B, 3, generator=noise(2))
    h = module.decode(z, given)
    p = module.generative(z, given.library, given)
    share, total = module.decoder.noise(h), given.x.sum(1, keepdim=True)
    native = plain_shares(module, h)
    close(p.scale, native)
    close(p.total, total)
    close(p.native, total * (1 - share) * native)
    close(p.rate, p.native + total * share * profile()[given.batch])
    some = module.generative(z, given.library, given, genes=GENES)
    for name in ("scale", "rate", "native", "theta", "dropout"):
        every = getattr(p, name)
        if every is None:
            assert getattr(some, name) is None
        else:
            close(getattr(some, name), every[..., GENES])
    assert (p.theta is None) == (likelihood in {"b", "poisson"})
    assert (p.dropout is None) == (likelihood != "zinb")
    expected = {
        "b": lambda: Binomial(total, (p.rate / total).clamp(1.2e-7, 1)).log_prob(given.x).sum(-1),
        "nb": lambda: nb.log_likelihood(given.x, p.rate, p.theta),
        "zinb": lambda: zinb.log_likelihood(given.x, p.rate, p.theta, p.dropout),
        "poisson": lambda: poisson.log_likelihood(given.x, p.rate),
    }[likelihood]()
    torch.testing.assert_close(module.log_likelihood(given.x, p), expected, rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_samples_are_decoded_like_single_draws():
    module, given = model(), cells()
    z, library = module.encode(given).draw(3, noise())
    p = module.generative(z, library, given)
    together = module.log_likelihood(given.x, p)
    assert together.shape == (3, B)
    for i in range(3):
        one = module.generative(z[i], library[i], given)
        torch.testing.assert_close(together[i], module.log_likelihood(given.x, one), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_profiles_are_those_of_the_batch():
    module, given = model(), cells()
    assert torch.equal(module.profile(given.batch), profile()[given.batch])
    assert torch.equal(module.profile(given.batch, GENES), profile()[given.batch][:, GENES])
    assert module.profile(given.batch).shape == (B, G)
    z = torch.randn(B, 3, generator=noise(2))
    other = 1 - given.batch
    found = module.generative(z, given.library, given, batch=other)
    swapped = cells(batch=other)
    close(found.rate, module.generative(z, given.library, swapped).rate)
    share = module.decoder.noise(module.decode(z, swapped))
    close(found.rate - found.native, found.total * share * profile()[other])
    alone = model(n_batch=1)
    assert alone.profile(torch.zeros(B, dtype=torch.int64)).shape == (1, G)


@torch.no_grad()
def test_encoder_and_decoder_see_the_batch():
    module, given = model(), cells()
    swapped = cells(batch=1 - given.batch)
    assert not torch.allclose(module.encode(given).mean, module.encode(swapped).mean)
    z = torch.randn(B, 3, generator=noise(2))
    assert not torch.allclose(module.decode(z, given), module.decode(z, swapped))
    # Where there is one, there is nothing to see.
    alone = model(n_batch=1)
    assert alone.z_encoder.hidden.layers[0].linear.weight.shape == (H, G)
    assert alone.decoder.hidden.layers[0].linear.weight.shape == (H, 3)
    assert module.z_encoder.hidden.layers[0].linear.weight.shape == (H, G + K)
    assert module.decoder.hidden.layers[1].linear.weight.shape == (H, H + K)


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sparsity", [0.9, 1.0])
def test_the_decoder_starts_at_shares(activation, sparsity):
    """Where the hidden units say nothing, the shares are those, and so is the noise."""
    module = model(scale_activation=activation, sparsity=sparsity)
    shares = profile(1)[0] + 1e-4
    shares /= shares.sum()
    module.start_at(shares, 0.3)
    h = torch.zeros(B, H)
    torch.testing.assert_close(module.decoder.scale(h), shares.expand(B, G), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(module.decoder.noise(h), torch.full((B, 1), 0.3))
    if activation != "softmax":
        assert module.decoder.level.mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("likelihood", ["b", "nb", "zinb", "poisson"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("latent", ["normal", "ln"])
def test_the_loss_is_the_general_one(likelihood, activation, latent):
    module = model(gene_likelihood=likelihood, scale_activation=activation, latent_distribution=latent)
    loss = module.loss(cells(), kl_weight=0.3, generator=noise(4))
    general = VAE.loss(module, cells(), kl_weight=0.3, generator=noise(4))
    torch.testing.assert_close(loss.reconstruction, general.reconstruction, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(loss.kl, general.kl)
    torch.testing.assert_close(loss.total, general.total, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(loss.total, (loss.reconstruction + 0.3 * loss.kl).mean())


def plain_loss(module, given, kl_weight):
    """The loss of a binomial by formulas alone, all of whose gradients torch finds."""
    posterior = module.encode(given, noise(4))
    # The draw, as its noise comes from the generator.
    z, _ = posterior.draw(generator=noise(4))
    h = module.decode(z, given)
    share, ambient = module.decoder.noise(h), module.ambient[given.batch]
    p = (1 - share) * plain_shares(module, h) + share * ambient
    p = p.clamp(torch.finfo(torch.float32).eps, 1 - torch.finfo(torch.float32).eps)
    log_p = Binomial(given.x.sum(1, keepdim=True), p).log_prob(given.x).sum(1)
    prior = torch.distributions.Normal(torch.zeros_like(posterior.mean), 1)
    q = torch.distributions.Normal(posterior.mean, posterior.variance.sqrt())
    return (-log_p + kl_weight * torch.distributions.kl_divergence(q, prior).sum(1)).mean()


def gradients(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()))
    return dict(zip(dict(module.named_parameters()), found, strict=True))


@pytest.mark.parametrize("n_batch", [1, K])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stored", [False, True], ids=["dense", "stored"])
def test_gradients_of_the_loss(activation, n_batch, stored, monkeypatch):
    # Two cells at a time, and one that is left over.
    monkeypatch.setattr(mixture, "CACHED", 2 * G)
    module = model(n_batch, torch.float64, scale_activation=activation)
    given = cells(n_batch, torch.float64)
    if stored:
        given = cells(n_batch, torch.float64, counts=Stored.of(sp.csr_matrix(given.x.numpy())))
    plain = plain_loss(module, given, 0.3)
    loss = module.loss(given, kl_weight=0.3, generator=noise(4)).total
    torch.testing.assert_close(loss, plain)
    expected, found = gradients(plain, module), gradients(loss, module)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-8, msg=name)
        assert gradient.any() or name.endswith("linear.bias"), name


@pytest.mark.parametrize("likelihood", ["b", "nb"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_differences_of_the_loss(activation, likelihood):
    module = model(1, torch.float64, scale_activation=activation, gene_likelihood=likelihood)
    given = cells(1, torch.float64)

    def loss():
        return module.loss(given, kl_weight=0.3, generator=noise(4)).total

    found, step = gradients(loss(), module), 1e-6
    for name in ("decoder.heads.scale.weight", "decoder.heads.noise.weight", "z_encoder.mean.weight"):
        weight = module.get_parameter(name).data
        for at in ((0, 0), (0, 3), (-1, 5)):
            value = weight[at].item()
            with torch.no_grad():
                sides = []
                for sign in (1, -1):
                    weight[at] = value + sign * step
                    sides.append(loss().item())
                weight[at] = value
            expected = (sides[0] - sides[1]) / (2 * step)
            assert found[name][at].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_gradient_of_the_loss_may_be_scaled_and_taken_again():
    module, given = model(1, torch.float64), cells(1, torch.float64)
    loss = module.loss(given, generator=noise(4)).total
    weight = module.decoder.heads["scale"].weight
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    again = torch.autograd.grad(3 * loss, weight)[0]
    torch.testing.assert_close(again, 3 * first)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_shares_by_all_genes(activation):
    """The gradient is written out by hand: against differences."""
    decoder = model(dtype=torch.float64, scale_activation=activation).decoder
    h = hidden().double().requires_grad_()
    assert torch.autograd.gradcheck(decoder.scale, (h,))
    assert torch.autograd.gradcheck(lambda h: decoder.scale(h, GENES), (h,))


@pytest.mark.parametrize(
    "options",
    [
        *({"gene_likelihood": name} for name in ("b", "nb", "zinb", "poisson")),
        *({"scale_activation": name} for name in ACTIVATIONS),
        {"latent_distribution": "ln"},
        {"n_layers": 1, "log_variational": False},
        {"sparsity": 1.0, "dropout_rate": 0.2},
        {"n_batch": 1},
    ],
    ids=str,
)
def test_every_option_trains(options):
    """The loss has a finite gradient for every weight that exists: nothing unused is kept, nothing is detached."""
    module = model(**options).train()
    module.loss(cells(options.get("n_batch", K)), generator=noise()).total.backward()
    for name, weight in module.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    kept = set(module.state_dict())
    assert ("px_r" in kept) == (options.get("gene_likelihood") in {"nb", "zinb"})
    assert ("decoder.heads.dropout.weight" in kept) == (options.get("gene_likelihood") == "zinb")


@torch.no_grad()
def test_total_counts_are_those_seen():
    """Not those that come back from their logarithm."""
    totals = torch.tensor([13.0, 26, 29, 31, 37, 100_003, 200_001])
    x = torch.zeros(B, G)
    x[:, 0], x[:, 1] = 5, totals - 5
    given = cells(n_batch=1, counts=x, library=totals[:, None].log())
    module = model(n_batch=1)
    posterior = module.encode(given)
    p = module.generative(posterior.mean, posterior.library, given)
    share = (p.rate / p.total).double().clamp(torch.finfo(torch.float32).eps)
    expected = Binomial(totals[:, None].double(), share).log_prob(x.double()).sum(1)
    np.testing.assert_allclose(module.log_likelihood(x, p), expected, rtol=1e-5)
    drawn = module.sample(p, noise())
    assert (drawn <= totals[:, None]).all()


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["b", "nb", "zinb", "poisson"])
def test_draws_are_native_and_ambient_counts(likelihood):
    module, given = model(gene_likelihood=likelihood), cells()
    z, n = torch.randn(B, 3, generator=noise(2)), 4000
    p = module.generative(z.expand(n, B, 3), given.library.expand(n, B, 1), given)
    x = module.sample(p, noise()).double()
    assert x.shape == (n, B, G)
    assert torch.equal(x, x.round())
    mean = p.rate[0].double()
    if likelihood == "zinb":
        mean = mean * torch.sigmoid(-p.dropout[0].double())
    error = (x.mean(0) - mean).abs()
    # Six standard errors of a mean, and 0.01 for counts too rare to be seen.
    assert (error <= 6 * (x.var(0) / n).sqrt() + 0.01).all()
    if likelihood == "b":
        p_, total = p.rate[0] / p.total[0], given.x.sum(1, keepdim=True)
        variance = (total * p_ * (1 - p_)).double()
        assert ((x.var(0) - variance).abs() < 0.15 * variance + 0.02).all()
