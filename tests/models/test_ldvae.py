from __future__ import annotations

import pytest
import torch

from scvitl.models import LDVAE, Cells
from scvitl.models.blocks import MIN_VARIANCE

Z = torch.tensor([[0.1, -0.2, 0.3], [0, 1, -1], [2, 0, 0.5]])


def build(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LDVAE(4, **{"n_batch": 2, "n_latent": 3, "n_hidden": 5, **options}).eval()


@pytest.fixture
def three():
    """Three cells of two batches and labels, with a covariate of either kind."""
    x = torch.tensor([[1.0, 0, 3, 2], [0, 5, 0, 1], [2, 2, 0, 9]])
    codes = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([[0], [2], [1]])
    return Cells(x, x.sum(1, keepdim=True).log(), *codes, torch.tensor([[0.5], [-1], [2]]))


def with_covariates(**options):
    return build(n_labels=2, n_categories=[3], n_continuous=1, **options)


def settle(model):
    """Batch norm as it could be after training."""
    noise = torch.Generator().manual_seed(7)
    for head in model.decoder.heads.values():
        norm = head.batch_norm
        if norm is not None:
            for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                values.copy_(torch.rand(values.shape, generator=noise) + 0.5)
    return model


def close(value, expected):
    torch.testing.assert_close(value.detach(), torch.as_tensor(expected), atol=2e-6, rtol=1e-5)


def test_reference_loadings():
    """As scvi-tools computes them, initial weights included."""
    model = build(use_observed_lib_size=True)
    model.decoder.heads["scale"].batch_norm.running_var.copy_(torch.tensor([1.0, 2, 3, 4]))
    close(
        model.loadings(),
        [
            [0.074423, 0.190386, 0.176933],
            [-0.048736, 0.109802, -0.115355],
            [-0.134796, 0.002546, 0.106747],
            [0.027917, -0.175766, 0.017571],
        ],
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"use_batch_norm": False}, {"use_batch_norm": False, "bias": True}],
    ids=str,
)
def test_loadings_are_changes_of_log_shares(three, options):
    model = settle(with_covariates(**options))
    shares = [model.generative(z, three.library, three).scale.log() for z in (Z, Z + torch.eye(3)[1])]
    change = shares[1] - shares[0]
    loading = model.loadings()[:, 1]
    close(change - change[:, :1], (loading - loading[0]).expand(3, -1))


def test_without_batch_norm_loadings_are_weights():
    model = with_covariates(use_batch_norm=False)
    weight = model.decoder.heads["scale"].linear.weight
    assert weight.shape == (4, 3 + 1 + 2 + 3)
    close(model.loadings(), weight[:, :3].detach())


@pytest.mark.parametrize("likelihood", ["zinb", "nb"])
def test_folded_batch_norm_is_batch_norm(three, likelihood):
    model = settle(with_covariates(gene_likelihood=likelihood, dispersion="gene-cell", bias=True))
    h = model.decode(Z, three)
    assert set(model.decoder.heads) == {"scale", "dispersion"} | (
        {"dropout"} if likelihood == "zinb" else set()
    )
    for name, head in model.decoder.heads.items():
        close(model.decoder.head(name, h), head(h).detach())
        close(model.decoder.head(name, h, torch.tensor([3, 1])), head(h)[:, [3, 1]].detach())


@pytest.mark.parametrize(
    "options",
    [
        *({"gene_likelihood": name} for name in ("zinb", "nb", "poisson", "normal")),
        *({"dispersion": name} for name in ("gene", "gene-batch", "gene-label", "gene-cell")),
        {"dispersion": "gene-cell", "gene_likelihood": "zinb"},
        {"latent_distribution": "ln"},
        {"n_layers_encoder": 2},
        {"use_batch_norm": False},
        {"bias": True},
        {"use_observed_lib_size": True},
        {"log_variational": False},
    ],
    ids=str,
)
def test_every_option_trains(three, options):
    """The loss has a finite gradient for every weight that exists."""
    model = with_covariates(**options).train()
    model.loss(three, kl_weight=1.0, generator=torch.Generator().manual_seed(0)).total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_covariates_reach_the_decoder_alone(three):
    model = with_covariates()
    other = Cells(three.x, three.library, 1 - three.batch, three.labels, three.categorical, -three.continuous)
    close(model.encode(three).mean, model.encode(other).mean.detach())
    scales = [model.generative(Z, three.library, cells).scale for cells in (three, other)]
    assert not torch.allclose(*scales)


def orthogonal(seed=0):
    noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise)[0]


@pytest.mark.parametrize(
    "options", [{"gene_likelihood": "zinb", "dispersion": "gene-cell"}, {"use_batch_norm": False}]
)
def test_a_turned_model_describes_cells_as_before(three, options):
    model, turned, rotation = (
        settle(with_covariates(**options)),
        settle(with_covariates(**options)),
        orthogonal(),
    )
    turned.rotate(rotation)
    close(turned.loadings(), model.loadings().detach() @ rotation)
    before, after = model.encode(three), turned.encode(three)
    close(after.mean, before.mean.detach() @ rotation)
    close(after.library, before.library.detach())
    decoded = [m.generative(z, three.library, three) for m, z in ((model, Z), (turned, Z @ rotation))]
    for name in ("scale", "theta", "dropout"):
        values = [getattr(p, name) for p in decoded]
        if values[0] is not None:
            close(values[1], values[0].detach())


def test_turned_variances(three):
    """Geometric means of the old ones: the very same where axes change places and signs."""
    model, turned, rotation = build(), build(), orthogonal()
    turned.rotate(rotation)
    before, after = (m.encode(three).variance.detach() - MIN_VARIANCE for m in (model, turned))
    close(after.log(), before.log() @ rotation**2)
    swapped = build()
    swapped.rotate(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]]))
    close(swapped.encode(three).variance, model.encode(three).variance[:, [1, 0, 2]].detach())
    kl = [m.kl(Z, m.encode(three), three)[0] for m in (model, swapped)]
    close(kl[1], kl[0].detach())
