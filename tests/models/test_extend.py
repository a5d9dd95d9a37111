from __future__ import annotations

import pytest
import torch

from scvitl.models import LDVAE, SCANVAE, VAE, Cells
from scvitl.models.extend import extend, only

N, G = 12, 7
OLD = {"n_batch": 3, "n_categories": [2, 4], "n_continuous": 1}
NEW = {"n_batch": 5, "n_categories": [2, 5], "n_continuous": 1}
NETWORK = {"n_hidden": 6, "n_latent": 2}
KINDS = {
    "scvi": (VAE, {}),
    "two layers": (VAE, {"n_layers": 2, "encode_covariates": True}),
    "not injected": (VAE, {"n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": False}),
    "gene-batch": (VAE, {"dispersion": "gene-batch", "use_batch_norm": "none"}),
    "embedding": (VAE, {"batch_representation": "embedding", "encode_covariates": True}),
    "latent library": (VAE, {"use_observed_lib_size": False, "encode_covariates": True}),
    "scanvi": (SCANVAE, {"n_labels": 3, "encode_covariates": True}),
    "ldvae": (LDVAE, {}),
    "ldvae, biases": (LDVAE, {"bias": True, "use_batch_norm": False, "gene_likelihood": "zinb"}),
}


def pair(cls, options, old=OLD, new=NEW):
    """A model as after training, and one built for more categories."""
    generator = torch.Generator().manual_seed(0)
    models = [cls(G, **NETWORK, **sizes, **options).eval() for sizes in (old, new)]
    for tensor in models[0].state_dict().values():
        if tensor.is_floating_point():
            # positive, as variances are
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return models


def cells(sizes=OLD, batch=None):
    generator = torch.Generator().manual_seed(1)

    def codes(n):
        return torch.randint(n, (N,), generator=generator)

    x = torch.poisson(torch.full((N, G), 3.0), generator)
    return Cells(
        x,
        x.sum(1, keepdim=True).log(),
        codes(sizes["n_batch"]) if batch is None else torch.full((N,), batch),
        codes(1),
        torch.stack([codes(n) for n in sizes["n_categories"]], 1)
        if sizes["n_categories"]
        else torch.zeros(N, 0, dtype=torch.long),
        torch.randn(N, sizes["n_continuous"], generator=generator),
    )


def outputs(model, cells):
    """Everything that a model says of cells, without noise."""
    posterior = model.encode(cells)
    expression = model.generative(posterior.mean, posterior.library, cells)
    parts = [posterior.mean, posterior.variance, posterior.library, expression.rate, expression.theta]
    if model.latent_library:
        parts += model.library_prior(cells)
    if isinstance(model, SCANVAE):
        parts.append(model.classify(cells))
    return parts


every = pytest.mark.parametrize(("cls", "options"), KINDS.values(), ids=KINDS)


@every
@torch.no_grad()
def test_old_categories_are_seen_as_before(cls, options):
    """With covariates after the batch, too, whose columns move."""
    old, new = pair(cls, options)
    extend(old, new)
    for before, after in zip(outputs(old, cells()), outputs(new, cells()), strict=True):
        # more columns of zeros, so float32 sums in another order
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_new_category_starts_as_the_mean_of_the_old():
    old, new = pair(VAE, {"n_layers": 2, "dispersion": "gene-batch"})
    extend(old, new)
    for layer, before, first in zip(
        new.decoder.hidden.layers, old.decoder.hidden.layers, (NETWORK["n_latent"] + 1, 6), strict=True
    ):
        a, b = before.linear.weight[:, first:], layer.linear.weight[:, first:]
        assert torch.equal(b[:, :3], a[:, :3])
        assert torch.equal(b[:, 3:5], a[:, :3].mean(1, keepdim=True).expand(-1, 2))
        assert torch.equal(b[:, 5:7], a[:, 3:5])
        assert torch.equal(b[:, 7:11], a[:, 5:9])
        assert torch.equal(b[:, 11], a[:, 5:9].mean(1))
    assert torch.equal(new.px_r[:, :3], old.px_r)
    assert torch.equal(new.px_r[:, 4], old.px_r.mean(1))


@pytest.mark.parametrize("options", [{}, {"n_layers": 2, "encode_covariates": True}], ids=str)
@torch.no_grad()
def test_a_single_old_category_has_no_column(options):
    """It goes on adding nothing, and so does a new one at first."""
    one = {"n_batch": 1, "n_categories": [2], "n_continuous": 0}
    old, new = pair(VAE, options, one, {**one, "n_batch": 3})
    rooms = extend(old, new)
    for batch in (0, 1, 2):
        seen = outputs(new, cells(one, batch))
        for before, after in zip(outputs(old, cells(one, 0)), seen, strict=True):
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    first = NETWORK["n_latent"]
    assert rooms[-1].at.tolist() in ([first + 1, first + 2], [6 + 1, 6 + 2])


def test_without_new_categories_there_is_no_room():
    old, new = pair(VAE, {}, new=OLD)
    assert extend(old, new) == []
    for name, tensor in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor)


@every
def test_only_the_room_is_trained(cls, options):
    """Nothing else moves by a bit: not by weight decay, batch norm or dropout, and the rest is not in the optimiser."""
    old, new = pair(cls, options)
    rooms = extend(old, new)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    sizes = {name: p.shape for name, p in new.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    seen = cells(NEW, batch=4)
    with only(new, rooms):
        trained = [p for p in new.parameters() if p.requires_grad]
        assert len(trained) == len(rooms)
        optimizer = torch.optim.Adam(trained, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            new.train()
            assert not any(part.training for part in new.modules())
            optimizer.zero_grad()
            new.loss(seen, generator=generator).total.backward()
            optimizer.step()
    assert {name: p.shape for name, p in new.named_parameters()} == sizes
    after = new.state_dict()
    assert after.keys() == before.keys()
    paths = {id(part): name for name, part in new.named_modules()}
    at = {".".join(filter(None, (paths[id(room.owner)], room.name))): room for room in rooms}
    for name, tensor in after.items():
        if name not in at:
            assert torch.equal(tensor, before[name]), name
            continue
        room = at[name]
        same = tensor == before[name]
        moved = ~same.index_select(room.dim, room.at)
        assert moved.any()
        kept = torch.ones(tensor.shape[room.dim], dtype=torch.bool)
        kept[room.at] = False
        assert same.index_select(room.dim, kept.nonzero()[:, 0]).all(), name


def test_all_is_as_it_was_after_a_failure():
    old, new = pair(VAE, {})
    with pytest.raises(KeyboardInterrupt), only(new, extend(old, new)):
        raise KeyboardInterrupt
    assert all(weight.requires_grad for weight in new.parameters())
    assert new.train().training
    assert type(new.decoder.hidden.layers[0].linear) is torch.nn.Linear
