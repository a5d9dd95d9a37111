from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from scvitl.models import VAE, Cells
from scvitl.models.blocks import VARIANCE_ACTIVATIONS, kl_normal, one_hot

Z = torch.tensor([[0.1, -0.2, 0.3], [0, 1, -1]])


def cells(x, batch=(0, 1), labels=(0, 0), categorical=((), ()), continuous=((), ())):
    x = torch.tensor(x, dtype=torch.float32)
    return Cells(
        x,
        x.sum(1, keepdim=True).log(),
        torch.tensor(batch),
        torch.tensor(labels),
        torch.tensor(categorical, dtype=torch.int64),
        torch.tensor(continuous, dtype=torch.float32),
    )


@pytest.fixture
def two():
    return cells([[1, 0, 3, 2], [0, 5, 0, 1]])


def build(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(4, **{"n_batch": 2, "n_latent": 3, "n_hidden": 5, **options}).eval()


def close(value, expected):
    torch.testing.assert_close(value.detach(), torch.tensor(expected), atol=2e-6, rtol=1e-6)


def test_reference_weights():
    """Initial weights in the order in which scvi-tools draws them."""
    model = build()
    close(model.px_r, [1.540996, -0.293429, -2.178789, 0.568431])
    close(model.z_encoder.hidden.layers[0].linear.weight[0], [-0.044372, 0.132306, -0.151107, -0.098283])
    close(model.decoder.heads["dropout"].bias, [-0.25968, 0.31302, -0.160758, 0.37722])


def test_reference_inference(two):
    latent = build().encode(two)
    close(latent.mean[0], [-0.413936, -0.205492, 0.519051])
    close(latent.variance[0].sqrt(), [1.141559, 0.957402, 1.271415])
    close(latent.library.exp(), [[6.0], [6.0]])


def test_reference_generative(two):
    model = build()
    p = model.generative(Z, two.library, two)
    close(p.scale[0], [0.343129, 0.21069, 0.244708, 0.201473])
    close(p.rate[1], [2.117578, 1.114229, 1.409396, 1.358797])
    close(p.dropout[0], [-0.19384, 0.462975, -0.297087, 0.404353])
    expected = -1.949687 - 0.225473 - 4.191969 - 2.744702
    assert model.log_likelihood(two.x, p)[0].item() == pytest.approx(expected, abs=1e-5)
    other = model.generative(Z, two.library, two, batch=torch.tensor([0, 0]))
    close(other.rate[1], [2.108457, 1.118929, 1.434121, 1.338493])


def test_loss_is_the_sum_of_its_parts(two):
    loss = build().loss(two, kl_weight=0.25, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss.total, (loss.reconstruction + 0.25 * loss.kl).mean())


def test_kl_has_the_closed_form():
    mean, variance = torch.tensor([[0.5], [-1]]), torch.tensor([[0.25], [2]])
    close(kl_normal(mean, variance), [0.443147, 0.653426])
    p, q = torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(3.0, 2.0)
    torch.testing.assert_close(
        kl_normal(mean, variance, 3.0, 4.0), torch.distributions.kl_divergence(p, q).sum(-1)
    )


def test_library_kl_is_not_warmed_up(two):
    model = build(use_observed_lib_size=False)
    noise = torch.Generator().manual_seed(1)
    loss = model.loss(two, kl_weight=0.0, generator=noise)
    posterior = model.encode(two)
    kl_z, kl_l = model.kl(posterior.mean, posterior, two)
    assert (kl_l > 0).all()
    torch.testing.assert_close(loss.total, (loss.reconstruction + kl_l).mean())
    torch.testing.assert_close(loss.kl, kl_z + kl_l)


@pytest.mark.parametrize(
    "options",
    [
        *({"gene_likelihood": name} for name in ("zinb", "nb", "poisson", "normal")),
        *({"dispersion": name} for name in ("gene", "gene-batch", "gene-label", "gene-cell")),
        {"latent_distribution": "ln"},
        {"n_layers": 2, "encode_covariates": True},
        {"n_layers": 3, "encode_covariates": True, "deeply_inject_covariates": False},
        {"batch_representation": "embedding", "encode_covariates": True},
        {"use_size_factor": True},
        {"use_observed_lib_size": False, "encode_covariates": True},
        {"log_variational": False},
        *(
            {"use_batch_norm": a, "use_layer_norm": b}
            for a, b in itertools.product(("none", "both"), repeat=2)
        ),
        *({"var_activation": name} for name in VARIANCE_ACTIVATIONS),
    ],
    ids=str,
)
def test_every_option_trains(options):
    """The loss has a finite gradient for every weight that exists: nothing unused is kept, nothing is detached."""
    model = build(n_labels=2, n_categories=[3], n_continuous=1, **options).train()
    data = cells(
        [[1, 0, 3, 2], [0, 5, 0, 1], [2, 2, 0, 9]], (0, 1, 1), (0, 1, 0), [[0], [2], [1]], [[0.5], [-1], [2]]
    )
    model.loss(data, kl_weight=1.0, generator=torch.Generator().manual_seed(0)).total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_options_change_the_result(two):
    def rate(**options):
        return build(n_labels=2, **options).generative(Z, two.library, two)

    assert rate(dispersion="gene-batch").theta.shape == (2, 4)
    assert rate(dispersion="gene").theta.shape == (4,)
    close(rate().scale.sum(1), [1.0, 1.0])
    assert (rate(use_size_factor=True).scale.sum(1) != 1).all()
    assert rate(gene_likelihood="nb").dropout is None
    close(build(latent_distribution="ln").transform(Z).sum(1), [1.0, 1.0])
    assert not torch.allclose(rate(latent_distribution="ln").scale, rate().scale)


def test_batch_matters_only_where_it_should(two):
    """The posterior does not see the batch unless asked to; the decoder always does."""
    swapped = cells(two.x.tolist(), batch=(1, 0))
    plain, encoding = build(), build(encode_covariates=True)
    torch.testing.assert_close(plain.encode(two).mean, plain.encode(swapped).mean)
    assert not torch.allclose(encoding.encode(two).mean, encoding.encode(swapped).mean)
    decoded = [plain.generative(Z, two.library, data).scale for data in (two, swapped)]
    assert not torch.allclose(*decoded)


@pytest.mark.parametrize(
    "options", [{}, {"dispersion": "gene-batch"}, {"use_observed_lib_size": False}], ids=str
)
def test_samples_are_decoded_like_single_draws(two, options):
    model = build(**options)
    z, library = model.encode(two).draw(3, torch.Generator().manual_seed(0))
    together = model.log_likelihood(two.x, model.generative(z, library, two))
    assert together.shape == (3, 2)
    for i in range(3):
        one = model.generative(z[i], library[i], two)
        torch.testing.assert_close(together[i], model.log_likelihood(two.x, one))


@pytest.mark.parametrize(
    "options",
    [{}, {"dispersion": "gene-cell"}, {"dispersion": "gene-batch"}, {"use_size_factor": True}],
    ids=str,
)
def test_some_genes_are_decoded_as_among_all(two, options):
    model, genes = build(**options), torch.tensor([3, 1])
    some, every = (model.generative(Z, two.library, two, genes=which) for which in (genes, None))
    for name in ("scale", "rate", "theta", "dropout"):
        torch.testing.assert_close(getattr(some, name), getattr(every, name)[..., genes])


def test_prior_ratio_has_the_closed_form(two):
    """Against torch's own densities."""
    model = build(use_observed_lib_size=False)
    posterior = model.encode(two)
    z, library = posterior.draw(5, torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal
    expected = (normal(0, 1).log_prob(z) - normal(posterior.mean, posterior.variance.sqrt()).log_prob(z)).sum(
        -1
    )
    prior, q = model.library_prior(two), (posterior.library, posterior.library_variance)
    for sign, (mean, variance) in ((1, prior), (-1, q)):
        expected = expected + sign * normal(mean, variance.sqrt()).log_prob(library).sum(-1)
    torch.testing.assert_close(model.log_prior_ratio(z, library, posterior, two), expected)


def test_minified_cells_bring_their_posterior(two):
    model = build()
    posterior = model.encode(two)
    minified = dataclasses.replace(two, counts=None, posterior=(posterior.mean, posterior.variance))
    assert torch.equal(
        model.encode(minified).draw(generator=torch.Generator().manual_seed(1))[0],
        posterior.draw(generator=torch.Generator().manual_seed(1))[0],
    )


def test_noise_comes_from_the_generator_alone(two):
    model = build(dropout_rate=0.5).train()
    before = torch.get_rng_state()
    first = model.loss(two, kl_weight=1.0, generator=torch.Generator().manual_seed(3)).total
    again = model.loss(two, kl_weight=1.0, generator=torch.Generator().manual_seed(3)).total
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout(p):
    """As many are dropped as asked for, each by itself, and the others make up for them."""
    from scvitl.models.blocks import Dropout

    x = Dropout(p)(torch.ones(1000, 1003), torch.Generator().manual_seed(5))
    dropped = (x == 0).float()
    torch.testing.assert_close(x[x != 0], torch.full_like(x[x != 0], 1 / (1 - p)))
    # five standard deviations, of all and of every fourth, which have their bits from the same place
    for part in (dropped, *(dropped.view(-1)[i::4] for i in range(4))):
        assert abs(part.mean() - p) < 5 * (p * (1 - p) / part.numel()) ** 0.5
    for lag in (1, 2, 3, 4):
        flat = dropped.view(-1)
        assert abs(torch.corrcoef(torch.stack([flat[lag:], flat[:-lag]]))[0, 1]) < 5e-3


def test_single_categories_get_no_column():
    codes = [torch.tensor([0, 0]), torch.tensor([2, 0])]
    assert one_hot(codes, [1, 3]).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(codes[:1], [1]).shape == (2, 0)
