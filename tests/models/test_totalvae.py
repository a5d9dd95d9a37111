"""totalVI as a module: its terms against plain formulas, missing proteins, the adversary, where the fast plan begins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import LogNormal, Normal, kl_divergence
from torch.nn import functional as F

from scvitl.likelihoods import nb, nb_mixture
from scvitl.models import TOTALVAE, Cells
from scvitl.models.adversary import Adversary

B, G, P = 9, 12, 4
MEASURED = [[True] * P, [True, False, True, False]]


def cells(n=B, seed=0, **replaced):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.poisson(3.0, (n, G)).astype(np.float32))
    x[:, 0] += 1
    values = {
        "counts": x,
        "library": x.sum(1, keepdim=True).log(),
        "batch": torch.arange(n) % 2,
        "labels": torch.zeros(n, dtype=torch.int64),
        "categorical": torch.zeros(n, 0, dtype=torch.int64),
        "continuous": torch.zeros(n, 0),
        "proteins": torch.from_numpy(rng.poisson(20.0, (n, P)).astype(np.float32)),
        "panel": torch.arange(n) % 2,
    }
    return Cells(**{**values, **replaced})


def model(measured=MEASURED, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"n_batch": 2, "n_hidden": 8, "n_latent": 3, "n_layers_encoder": 1}
    return TOTALVAE(G, measured=measured, **{**sizes, **options})


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("normalized", [True, False])
def test_what_the_encoder_sees(normalized):
    given = cells()
    seen, columns = model(normalize_counts=normalized).seen(given)
    expected = []
    for part in (given.x, given.proteins):
        scaled = part / (1 + part.mean(1, keepdim=True)) if normalized else part
        expected.append(torch.log(1 + scaled))
    torch.testing.assert_close(seen, torch.cat(expected, 1))
    assert columns.shape == (B, 2)
    assert given.x[0, 0] >= 1  # counts are left alone


def test_the_loss_is_what_its_formula_says():
    module, given = model().eval(), cells()
    with torch.no_grad():
        module.protein_counts.log_efficiency.normal_(0, 0.3, generator=noise(5))
    loss = module.loss(given, kl_weight=0.3, generator=noise())
    generator = noise()
    posterior = module.encode(given, generator)
    z, library = posterior.draw(generator=generator)
    mean, sd, times, mixing = module.decoder.proteins(*module.state(z, given))
    background = torch.exp(mean + sd * torch.randn(mean.shape, generator=generator))
    counts = module.protein_counts
    e = counts.log_efficiency.T[given.batch].exp()
    mask = torch.tensor(MEASURED)[given.panel]
    of_proteins = -nb_mixture.log_likelihood(
        given.proteins, e * background, e * background * times, counts.py_r.exp(), mixing, mask
    )
    p = module.generative(z, library, given)
    of_genes = -nb.log_likelihood(given.x, p.rate, p.theta)
    prior = Normal(counts.background_mean.T[given.panel], counts.background_log_sd.T[given.panel].exp())
    kl_back = (kl_divergence(Normal(mean, sd), prior) * mask).sum(1)
    kl_back = kl_back - LogNormal(0.0, 1.0).log_prob(e).sum(1) - 1e-3 * F.logsigmoid(mixing).sum(1)
    kl_z = kl_divergence(Normal(posterior.mean, posterior.variance.sqrt()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(loss.reconstruction, of_genes + of_proteins)
    torch.testing.assert_close(loss.kl, kl_z + kl_back)
    torch.testing.assert_close(loss.total, (of_genes + 0.3 * (of_proteins + kl_z + kl_back)).mean())


def test_models_without_efficiency_weigh_proteins_fully():
    module, given = model(protein_efficiency=False, normalize_counts=False).eval(), cells()
    loss = module.loss(given, kl_weight=0.0, generator=noise())
    torch.testing.assert_close(loss.total, loss.reconstruction.mean())
    assert module.protein_counts.log_efficiency is None


def test_counts_of_missing_proteins_change_nothing_but_the_encoder():
    module, given = model().eval(), cells()
    other = given.proteins.clone()
    other[1::2, 1] = 1000.0
    z = torch.randn(B, 3, generator=noise(1))
    first, second = (
        module.explain_apart(z, given.library, cells(proteins=proteins), noise())
        for proteins in (given.proteins, other)
    )
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=0)
    assert module.protein_counts.mask(given)[1].tolist() == MEASURED[1]


def test_the_weights_of_draws_average_to_the_evidence():
    """p(x, y) is also the mean of the likelihood over draws from the prior of the latent state and the background."""
    module = model(n_latent=1).eval()
    given = cells(
        n=3, proteins=torch.tensor([[2.0, 0.0, 5.0, 1.0], [3.0, 9.0, 0.0, 9.0], [0.0, 1.0, 1.0, 4.0]])
    )
    n = 40_000
    with torch.no_grad():
        module.protein_counts.background_mean.fill_(0.5)
        # Wider than the prior, or the weights have heavy tails.
        module.decoder.heads["background_mean"].bias.fill_(0.5)
        module.decoder.heads["background_sd"].bias.fill_(1.0)
        module.z_encoder.variance.bias.fill_(0.3)
        posterior = module.encode(given)
        z, library = posterior.draw(n, noise(1))
        by_posterior = module.log_weight(z, library, posterior, given, noise(2))
        z = torch.randn(n, 3, 1, generator=noise(3))
        prior_mean, prior_sd = module.protein_counts.prior(given)
        log_b = prior_mean + prior_sd * torch.randn(n, 3, P, generator=noise(4))
        _, _, times, mixing = module.decoder.proteins(*module.state(z, given))
        p = module.protein_counts.expression(log_b.exp(), times, mixing, given.batch, given.labels)
        genes = module.log_likelihood(given.x, module.generative(z, library, given))
        by_prior = genes + module.protein_counts.log_likelihood(given, p)
    first, second = (torch.logsumexp(logs, 0) - math.log(n) for logs in (by_posterior, by_prior))
    # Means of 40,000 draws each.
    torch.testing.assert_close(first, second, atol=0.1, rtol=0)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_heads_of_genes_see_their_own_network(likelihood):
    module, given = model(gene_likelihood=likelihood, n_categories=[3]).eval(), cells()
    given = cells(categorical=torch.arange(B).view(-1, 1) % 3)
    z = torch.randn(2, B, 3, generator=noise())
    h = module.decode(z, given)
    assert h.shape[-1] == module.decoder.n_hidden
    state, columns = module.state(z, given)
    part = torch.cat([module.decoder.hidden(state, columns), state, columns.expand(2, -1, -1)], -1)
    logits = module.decoder.heads["scale"](part)
    torch.testing.assert_close(module.decoder.scale(h), logits.softmax(-1))
    by_gene = module.decoder.scale_by_gene(h[0])
    torch.testing.assert_close(by_gene.T, logits[0].softmax(-1))
    if likelihood == "zinb":
        part = torch.cat([module.decoder.mixing(state, columns), state, columns.expand(2, -1, -1)], -1)
        dropout = module.generative(z, given.library, given).dropout
        torch.testing.assert_close(dropout, module.decoder.heads["dropout"](part))


def test_foreground_lies_above_background():
    module, given = model().eval(), cells()
    p = module.proteins(torch.randn(B, 3, generator=noise()), given, generator=noise())
    assert (p.foreground >= p.background).all()


@pytest.mark.parametrize(("dispersion", "shape"), [("protein", (P,)), ("protein-batch", (B, P))])
def test_dispersions_of_proteins(dispersion, shape):
    module, given = model(protein_dispersion=dispersion), cells()
    theta = module.protein_counts.theta(given.batch, given.labels)
    assert theta.shape == shape
    if dispersion == "protein-batch":
        torch.testing.assert_close(theta[3], module.protein_counts.py_r[:, given.batch[3]].exp())


def test_the_mean_of_the_background_is_that_of_its_draws():
    module, given = model().eval(), cells()
    z = torch.randn(B, 3, generator=noise(1))
    with torch.no_grad():
        exact = module.proteins(z, given, give_mean=True).background
        draws = [module.proteins(z.expand(500, B, 3), given, generator=noise(i)).background for i in range(8)]
    torch.testing.assert_close(torch.cat(draws).mean(0), exact, rtol=0.1, atol=0.05)


def test_the_adversary_and_the_encoder_learn_from_their_own_part_only():
    torch.manual_seed(0)
    adversary = Adversary(3, 2, 1.0).eval()
    z = torch.randn(B, 3, generator=noise(), requires_grad=True)
    batch = torch.arange(B) % 2
    adversary.loss(z, batch, kl_weight=1.0).backward()
    log_p = adversary(z.detach()).log_softmax(-1)
    of_classifier = F.nll_loss(log_p, batch)
    expected = torch.autograd.grad(of_classifier, adversary.parameters(), allow_unused=True)
    for weight, gradient in zip(adversary.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    copy = z.detach().requires_grad_()
    wrong = 1 - F.one_hot(batch, 2)
    fooled = -(adversary(copy).log_softmax(-1) * wrong).sum(-1).mean()
    torch.testing.assert_close(z.grad, torch.autograd.grad(fooled, copy)[0])


@pytest.mark.parametrize(
    ("weight", "kl_weight", "expected"), [(None, 1.0, 0.0), (None, 0.25, 0.75), (2.0, 1.0, 2.0)]
)
def test_how_much_the_adversary_weighs(weight, kl_weight, expected):
    torch.manual_seed(0)
    adversary, one = (Adversary(3, 2, w) for w in (weight, 1.0))
    one.load_state_dict(adversary.state_dict())
    z, batch = torch.randn(B, 3, generator=noise()), torch.arange(B) % 2
    with torch.no_grad():
        losses = [float(a.eval().loss(z, batch, kl_weight=kl_weight)) for a in (adversary, one)]
    assert losses[0] == pytest.approx(expected * losses[1])


def test_training_against_an_adversary_hides_the_batch():
    """Batches that differ in a protein alone, which one of them lacks."""
    given = cells(n=128)
    given.proteins[1::2] = 0
    found = []
    for weight in (None, 5.0):
        module = model(encode_covariates=False, dropout_rate_encoder=0.0)
        if weight:
            module.hire(weight)
            assert len(module.parameter_groups()) == 2
        optimizer = torch.optim.Adam(module.parameter_groups(), lr=5e-3)
        generator = noise()
        for _ in range(150):
            optimizer.zero_grad()
            module.loss(given, generator=generator).total.backward()
            optimizer.step()
        with torch.no_grad():
            z = module.eval().encode(given).mean.numpy()
        even, odd = z[::2], z[1::2]
        found.append(np.abs(even.mean(0) - odd.mean(0)).max() / z.std())
    assert found[1] < 0.7 * found[0]


def test_evaluation_and_stored_weights_know_no_adversary():
    module, given = model().eval(), cells()
    before = module.loss(given, generator=noise()).total
    module.hire(1.0)
    torch.testing.assert_close(module.eval().loss(given, generator=noise()).total, before)
    module.adversary = None
    assert not [name for name in module.state_dict() if "adversary" in name]


def test_the_fast_plan_begins_where_the_cells_are():
    module = model()
    shares = torch.arange(1.0, G + 1) / torch.arange(1.0, G + 1).sum()
    low, high = torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0, 5.0, 6.0])
    before = {name: head.bias.clone() for name, head in module.decoder.heads.items()}
    module.start_at(shares, low, high, prior=True)
    torch.testing.assert_close(module.decoder.heads["scale"].bias, shares.log())
    added = module.decoder.heads["background_mean"].bias - before["background_mean"]
    torch.testing.assert_close(added, low)
    torch.testing.assert_close(
        module.decoder.heads["foreground"].bias - before["foreground"], torch.exp(high - low) - 1
    )
    torch.testing.assert_close(module.protein_counts.background_mean, low[:, None].expand(P, 2))


def test_training_moves_no_global_state():
    module, given = model(), cells()
    module.hire(1.0)
    before = torch.get_rng_state()
    module.train().loss(given, generator=noise()).total.backward()
    assert torch.equal(torch.get_rng_state(), before)
