from __future__ import annotations

import numpy as np
import pytest
import torch

import scvitl
from scvitl import posterior, store
from scvitl.models import SCANVAE, blocks
from scvitl.posterior import engine


@pytest.fixture
def model_and_data(fitted):
    model = scvitl.get.model(fitted)
    return model.module, store.load(fitted, model)


def test_stream_yields_every_cell_in_order(model_and_data):
    model, data = model_and_data
    blocks = list(posterior.stream(model, data, batch_size=64))
    assert [latent.mean.shape for _, latent in blocks] == [(64, 4)] * 3 + [(8, 4)]
    everything = data.gather(torch.arange(data.n_cells)).x
    assert torch.equal(torch.cat([cells.x for cells, _ in blocks]), everything)


def test_stream_turns_training_mode_off(model_and_data):
    model, data = model_and_data
    model.train()
    next(posterior.stream(model, data))
    assert not model.training


def test_blocks_are_bounded_by_entries_not_cells(model_and_data, monkeypatch):
    model, data = model_and_data
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 150 * data.n_genes)
    assert [len(cells.x) for cells, _ in posterior.stream(model, data)] == [150, 50]
    assert [len(cells.x) for cells, _ in posterior.stream(model, data, n_samples=2)] == [75, 75, 50]


def test_blocks_of_many_types_are_smaller(model_and_data, monkeypatch):
    model, data = model_and_data
    few, many = (SCANVAE(data.n_genes, n_labels=n, n_hidden=8, n_latent=4) for n in (2, 20))
    assert (model.width, few.width, many.width) == (data.n_genes, 40, 20 * 28)
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 80 * many.width)
    assert [len(cells.x) for cells, _ in posterior.stream(few, data)] == [200]
    assert [len(cells.x) for cells, _ in posterior.stream(many, data)] == [80, 80, 40]
    made = []
    append = blocks.append
    monkeypatch.setattr(blocks, "append", lambda *args: made.append(append(*args)) or made[-1])
    assert np.isfinite(posterior.elbo(many, data)).all()
    assert max(tensor.numel() for tensor in made) <= engine.BLOCK_ENTRIES


def test_stream_takes_cells_in_any_order_and_twice(model_and_data):
    model, data = model_and_data
    index = torch.tensor([7, 3, 7])
    ((cells, latent),) = posterior.stream(model, data, index=index)
    assert torch.equal(cells.x[0], cells.x[2])
    assert torch.equal(cells.x, data.gather(index).x)
    assert torch.equal(latent.mean[0], latent.mean[2])


def test_draws_have_the_posterior_mean_and_variance(model_and_data):
    model, data = model_and_data
    (_, latent), *_ = posterior.stream(model, data, batch_size=5)
    z, _ = latent.draw(20_000, torch.Generator().manual_seed(0))
    # 20,000 draws: standard error of a mean 0.007 deviations, of a variance 0.01 of it
    assert ((z.mean(0) - latent.mean) / latent.variance.sqrt()).abs().max() < 0.04
    assert (z.var(0) / latent.variance - 1).abs().max() < 0.06


def test_elbo_is_the_negative_loss_at_full_weight(model_and_data):
    model, data = model_and_data
    values = posterior.elbo(model, data, batch_size=data.n_cells, random_state=4)
    with torch.no_grad():
        cells = data.gather(torch.arange(data.n_cells))
        loss = model.loss(cells, kl_weight=1.0, generator=torch.Generator().manual_seed(4))
    assert np.allclose(values, -(loss.reconstruction + loss.kl).numpy(), rtol=1e-5)
