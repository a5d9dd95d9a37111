"""scANVI against plain recomputations: a loop over cells and types, and integrals on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from scvitl.models import SCANVAE, Cells

N_LABELS = 3
X = [[1, 0, 3, 2], [0, 5, 0, 1], [2, 2, 0, 9], [4, 0, 0, 1], [0, 1, 1, 0]]
LABELS = (0, 2, 1, N_LABELS, 2)  # one cell has none


def cells(labels=LABELS):
    x = torch.tensor(X, dtype=torch.float32)
    n = len(x)
    return Cells(
        x,
        x.sum(1, keepdim=True).log(),
        torch.arange(n) % 2,
        torch.tensor(labels),
        torch.zeros(n, 0, dtype=torch.int64),
        torch.zeros(n, 0),
    )


def build(seed=0, n_latent=3, **options):
    """A model whose weights say more than those at the start of training do, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SCANVAE(4, n_labels=N_LABELS, n_batch=2, n_latent=n_latent, n_hidden=5, **options).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.startswith(("classifier", "u_")):
                    weight.mul_(2).add_(0.3 * torch.randn(weight.shape))
            for name, buffer in model.named_buffers():
                if name.endswith("running_var"):
                    buffer.copy_(0.5 + torch.rand(buffer.shape))
    return model


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


OPTIONS = {
    "default": {},
    "prior": {"y_prior": torch.tensor([[0.7, 0.2, 0.1]])},
    "groups": {"groups": [0, 1, 0]},
    "latent library": {"use_observed_lib_size": False},
    "ln": {"latent_distribution": "ln"},
    "deep classifier": {"classifier_n_layers": 2, "classifier_n_hidden": 6, "n_layers": 2},
    "no batch norm": {"use_batch_norm": "none", "use_layer_norm": "both"},
    "gene-label": {"dispersion": "gene-label"},
    "ratio": {"classification_ratio": 3.0},
}


def every(options=OPTIONS):
    return pytest.mark.parametrize("options", options.values(), ids=options)


def one_type(code):
    return F.one_hot(torch.tensor([code]), N_LABELS).float()


def plain_terms(model, posterior, z, noise):
    """The two parts of the KL of every cell, one cell and one type after the other."""
    epsilon = torch.randn(N_LABELS, *z.shape, generator=noise)
    first, second = [], []
    for b, state in enumerate(z):
        types = torch.softmax(model.classifier(state[None])[0], -1)
        unweighted = Normal(posterior.mean[b], posterior.variance[b].sqrt()).log_prob(state).sum()
        weighted = (types * (types / model.y_prior[0]).log()).sum()
        for code in range(N_LABELS):
            mean, variance = model.u_encoder(state[None], one_type(code))
            q = Normal(mean[0], variance[0].sqrt())
            u = q.loc + q.scale * epsilon[code, b]
            mean, variance = model.u_decoder(u[None], one_type(code))
            log_p = Normal(mean[0], variance[0].sqrt()).log_prob(state).sum()
            unweighted = unweighted - types[code] * log_p
            weighted = weighted + types[code] * kl_divergence(q, Normal(0.0, 1.0)).sum()
        first.append(unweighted)
        second.append(weighted)
    return torch.stack(first), torch.stack(second)


@every()
def test_loss_is_that_of_a_loop_over_cells_and_types(options):
    model, data = build(**options), cells()
    labelled = data.take(torch.tensor([4, 0, 4]))
    loss = model.loss(data, labelled, kl_weight=0.3, generator=generator())

    noise = generator()
    posterior = model.encode(data)
    z, library = posterior.draw(generator=noise)
    first, second = plain_terms(model, posterior, z, noise)
    reconstruction = first - model.log_likelihood(data.x, model.generative(z, library, data))
    kl = second
    if model.latent_library:
        prior = Normal(model.library_log_means[0, data.batch], model.library_log_vars[0, data.batch].sqrt())
        q = Normal(posterior.library[:, 0], posterior.library_variance[:, 0].sqrt())
        kl = kl + kl_divergence(q, prior)
    states = model.encode(labelled).mean
    errors = [
        -torch.softmax(model.classifier(state[None])[0], -1)[label].log()
        for state, label in zip(states, labelled.labels, strict=True)
    ]
    total = (reconstruction + 0.3 * kl).mean() + options.get("classification_ratio", 50) * sum(errors) / 3
    # float32, with sums in another order
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(loss.reconstruction, reconstruction, **close)
    torch.testing.assert_close(loss.kl, kl, **close)
    torch.testing.assert_close(loss.metrics["classification_loss"], torch.stack(errors), **close)
    torch.testing.assert_close(loss.total, total, **close)


def test_labelled_cells_of_the_minibatch_itself():
    """Where no second minibatch comes along, as in evaluation, those among the cells take its place."""
    model, data = build(), cells()
    known = torch.tensor([0, 1, 2, 4])
    alone = model.loss(data, generator=generator())
    apart = model.loss(data, data.take(known), generator=generator())
    torch.testing.assert_close(alone.total, apart.total)
    right = model.classify(data).argmax(-1)[known] == data.labels[known]
    assert alone.metrics["accuracy"].tolist() == right.float().tolist()


def test_no_labelled_cell():
    model = build()
    loss = model.loss(cells([N_LABELS] * 5), kl_weight=0.5, generator=generator())
    assert loss.metrics == {}
    torch.testing.assert_close(loss.total, (loss.reconstruction + 0.5 * loss.kl).mean())


def test_labels_do_not_enter_the_bound():
    """The type is summed out in every cell, whether it has a label or not."""
    model = build()
    some, none = (model.loss(cells(labels), generator=generator()) for labels in (LABELS, [N_LABELS] * 5))
    torch.testing.assert_close(some.reconstruction, none.reconstruction)
    torch.testing.assert_close(some.kl, none.kl)


def test_kl_is_the_sum_of_both_parts():
    model, data = build(), cells()
    posterior = model.encode(data)
    z, _ = posterior.draw(generator=generator())
    first, second = model.terms(z, posterior, generator(2))
    kl, kl_library = model.kl(z, posterior, data, generator(2))
    torch.testing.assert_close(kl, first + second)
    assert kl_library == 0


@every({name: OPTIONS[name] for name in ("default", "deep classifier", "no batch norm")})
def test_every_type_in_turn(options):
    model = build(**options)
    z = torch.randn(4, 5, 3, generator=generator())  # draws × cells × dimensions
    log_p, u, (mean, variance) = model.by_type(z, generator(2))
    assert log_p.shape == (N_LABELS, 4, 5)
    epsilon = torch.randn(N_LABELS, 4, 5, 3, generator=generator(2))
    for code in range(N_LABELS):
        for draw in range(4):
            m, v = model.u_encoder(z[draw], one_type(code).expand(5, -1))
            torch.testing.assert_close(mean[code, draw], m)
            torch.testing.assert_close(variance[code, draw], v)
            torch.testing.assert_close(u[code, draw], m + v.sqrt() * epsilon[code, draw])
            m, v = model.u_decoder(u[code, draw], one_type(code).expand(5, -1))
            p = Normal(m, v.sqrt())
            torch.testing.assert_close(log_p[code, draw], p.log_prob(z[draw]).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_layers", [0, 1])
def test_groups_are_found_first_and_types_within_them(n_layers):
    """p(y) = w_g u_y / sum of u over the types of the group g of y, as in the model's first version."""
    groups = [1, 0, 1, 2, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = SCANVAE(
            4, n_labels=5, n_latent=3, n_hidden=6, groups=groups, classifier_n_layers=n_layers
        ).eval().classifier  # fmt: skip
    z = 3 * torch.randn(2, 7, 3, generator=generator())
    logits = classifier(z)
    h = z if n_layers == 0 else classifier.hidden(z, z[..., :0])
    w, u = torch.softmax(classifier.groups(h), -1), torch.softmax(classifier.types(h), -1)
    expected = torch.zeros(2, 7, 5)
    for label, group in enumerate(groups):
        of_group = sum(u[..., other] for other in range(5) if groups[other] == group)
        expected[..., label] = w[..., group] * u[..., label] / of_group
    torch.testing.assert_close(logits.exp(), expected)
    # They are log-probabilities already, so that a softmax changes nothing.
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(2, 7), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.softmax(logits, -1), expected)


def test_groups_with_extreme_logits():
    """No probability of a group or a type within it underflows to a NaN in the loss or its gradient."""
    model = build(groups=[0, 1, 1])
    with torch.no_grad():
        model.classifier.types.bias.copy_(torch.tensor([0.0, 500.0, -500.0]))
        model.classifier.groups.bias.copy_(torch.tensor([300.0, -300.0]))
    loss = model.loss(cells(), generator=generator())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.classifier.parameters())


def test_dispersions_of_labels():
    """Cells without a label take the mean over labels of the logarithms."""
    model, data = build(dispersion="gene-label"), cells()
    theta = model.theta(torch.zeros(5, 5), data.batch, data.labels)
    logs = model.px_r.detach()  # (G, L)
    for row, label in enumerate(LABELS):
        expected = logs[:, label] if label < N_LABELS else logs.mean(1)
        torch.testing.assert_close(theta[row], expected.exp())
    genes = torch.tensor([3, 1])
    some = model.theta(torch.zeros(5, 5), data.batch, data.labels, genes)
    torch.testing.assert_close(some, theta[:, genes])


@pytest.mark.parametrize("n_latent", [1, 2])
def test_log_prior_estimates_the_integral_without_bias(n_latent):
    """p(z) = sum over y of p(y) times the integral of p(z | u, y) p(u) over u, on a grid."""
    model = build(n_latent=n_latent, y_prior=torch.tensor([[0.5, 0.3, 0.2]]))
    with torch.no_grad():
        # q(u | z, y) near p(u) and wider, so that no weight is large and the mean of the draws settles
        model.u_encoder.mean.weight.mul_(0.2)
        model.u_encoder.mean.bias.zero_()
        model.u_encoder.variance.weight.mul_(0.1)
        model.u_encoder.variance.bias.fill_(0.5)
    z = torch.tensor([[-1.0, 0.5], [0.2, 0.1], [1.5, -0.7], [3.0, 2.0]])[:, :n_latent]
    step = 0.05 if n_latent == 1 else 0.1
    line = torch.arange(-6, 6 + step / 2, step)
    u = torch.cartesian_prod(*[line] * n_latent).view(-1, n_latent)
    exact = torch.zeros(len(z))
    with torch.no_grad():
        for code in range(N_LABELS):
            mean, variance = model.u_decoder(u, one_type(code).expand(len(u), -1))
            log_p = Normal(mean, variance.sqrt()).log_prob(z[:, None]).sum(-1)  # (states, grid)
            weight = Normal(0.0, 1.0).log_prob(u).sum(-1).exp() * step**n_latent
            exact += model.y_prior[0, code] * (log_p.exp() * weight).sum(-1)
        draws = model.log_prior(z.expand(20_000, -1, -1), generator()).exp()
    error = draws.std(0) / np.sqrt(len(draws))
    # four standard errors, which have to be small enough to tell
    assert (error < 0.1 * exact).all()
    assert ((draws.mean(0) - exact).abs() < 4 * error + 1e-3 * exact).all()
    # and not that of scVI
    assert ((Normal(0.0, 1.0).log_prob(z).sum(-1).exp() - exact).abs() > 0.1 * exact).any()


def test_kl_is_an_upper_bound_of_the_divergence_from_that_prior():
    model, data = build(n_latent=2), cells()
    posterior = model.encode(data)
    with torch.no_grad():
        kl, ratio = torch.zeros(5), torch.zeros(5)
        noise = generator()
        for _ in range(300):
            z, library = posterior.draw(generator=noise)
            kl += model.kl(z, posterior, data, noise)[0] / 300
            many, libraries = z.expand(50, -1, -1), library.expand(50, -1, -1)
            log_ratios = model.log_prior_ratio(many, libraries, posterior, data, noise)
            ratio += (torch.logsumexp(log_ratios, 0) - np.log(50)) / 300
    # both are means of the same 300 draws, which leaves little noise in the difference
    assert (kl > -ratio - 0.05).all()


@pytest.mark.parametrize("labelled", [True, False])
@every(
    {
        **OPTIONS,
        **{name: {"gene_likelihood": name} for name in ("nb", "poisson", "normal")},
        "covariates in the encoder": {"encode_covariates": True, "batch_representation": "embedding"},
        "gene-cell": {"dispersion": "gene-cell"},
    }
)
def test_every_option_trains(options, labelled):
    """The loss has a finite gradient for every weight that exists: nothing unused is kept, nothing is detached."""
    model, data = build(**options).train(), cells()
    second = [data.take(torch.tensor([0, 1, 2]))] if labelled else []
    model.loss(data, *second, kl_weight=1.0, generator=generator()).total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_noise_comes_from_the_generator_alone():
    model = build(dropout_rate=0.5, classifier_n_layers=1, classifier_dropout_rate=0.5).train()
    before = torch.get_rng_state()
    first, again, other = (
        model.loss(cells(), cells([0] * 5), generator=generator(seed)).total for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert first != other
