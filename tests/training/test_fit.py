from __future__ import annotations

import numpy as np
import pytest
import torch

from scvitl.data import learn
from scvitl.data.batches import CellData
from scvitl.models import VAE
from scvitl.training.adam import Adam
from scvitl.training.checkpoint import TOLERANCE, BestWeights
from scvitl.training.fit import DivergedError, evaluate, fit
from scvitl.training.plan import resolve, split
from scvitl.training.progress import Progress


class InterruptAfter(Progress):
    """Ctrl-C after so many minibatches."""

    def __init__(self, steps: int):
        self.left = steps

    def step(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def best_epoch(history):
    """The last epoch whose held-out loss is the best up to the tolerance."""
    losses = [row["elbo_validation"] for row in history.rows]
    best = min(losses)
    return max(i for i, loss in enumerate(losses) if loss <= best * (1 + TOLERANCE)), losses


def run(adata, plan="fast", *, progress=None, train_size=None, before=lambda model: None, **options):
    store = CellData(adata, learn(adata, batch_key="batch"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(adata.n_vars, n_batch=2, n_hidden=16, n_latent=3)
    before(model)
    plan = resolve(plan, adata.n_obs, **{"max_epochs": 4, "batch_size": 32, **options})
    train, held_out = split(adata.n_obs, plan.batch_size, train_size, 0)
    history = fit(model, store, train, held_out, plan, random_state=0, progress=progress or Progress())
    return model, history, store, held_out


@pytest.mark.parametrize("plan", ["fast", "reference"])
def test_training_lowers_the_loss(toy, plan):
    _, history, *_ = run(toy, plan, max_epochs=30, learning_rate=1e-2)
    losses = [row["elbo_validation"] for row in history.rows]
    assert len(losses) == 30
    assert losses[-1] < 0.9 * losses[0]
    for row in history.rows:
        assert row["elbo_train"] == pytest.approx(row["reconstruction_loss_train"] + row["kl_local_train"])


def test_the_best_weights_come_back(toy):
    """With a learning rate that blows up later, the weights of the best epoch are the ones to have."""
    model, history, store, held_out = run(toy, max_epochs=12, learning_rate=0.3)
    epoch, losses = best_epoch(history)
    assert history.epoch == epoch
    assert evaluate(model, store, held_out)["elbo_validation"] == pytest.approx(losses[epoch], rel=1e-6)
    assert not model.training


def test_the_reference_keeps_the_last_weights(toy):
    model, history, store, held_out = run(toy, "reference", max_epochs=3)
    assert history.epoch == 2
    last = history.rows[-1]["elbo_validation"]
    assert evaluate(model, store, held_out)["elbo_validation"] == pytest.approx(last, rel=1e-6)


def test_early_stopping(toy):
    _, history, *_ = run(
        toy, "reference", max_epochs=200, learning_rate=0.5, early_stopping=True, early_stopping_patience=3
    )
    assert len(history.rows) < 200
    losses = [row["elbo_validation"] for row in history.rows]
    assert len(history.rows) - 1 - np.nanargmin(losses) == 3


@pytest.mark.parametrize("plan", ["fast", "reference"])
def test_interrupt_keeps_the_best_weights(toy, plan):
    model, history, store, held_out = run(toy, plan, progress=InterruptAfter(10))  # 4 minibatches in an epoch
    assert history.interrupted
    assert len(history.rows) == 2
    epoch, losses = best_epoch(history)
    assert history.epoch == epoch
    assert evaluate(model, store, held_out)["elbo_validation"] == pytest.approx(losses[epoch], rel=1e-6)


def test_interrupt_in_the_first_epoch_leaves_a_usable_model(toy):
    model, history, *_ = run(toy, progress=InterruptAfter(2))
    assert history.interrupted
    assert len(history.rows) == 1
    assert history.rows[0]["elbo_validation"] > 0
    assert not model.training


def test_no_cells_held_out(toy):
    _, history, *_ = run(toy, train_size=1.0)
    assert history.epoch == 3
    assert "elbo_validation" not in history.rows[0]


@pytest.mark.parametrize("n", [2, 9, 10, 33, 65, 73])
def test_no_number_of_cells_crashes_batch_norm(toy, n):
    _, history, *_ = run(toy[:n], max_epochs=2)
    assert len(history.rows) == 2


def test_a_loss_that_is_not_finite_names_epoch_and_cells(toy):
    def spoil(model):
        with torch.no_grad():
            model.decoder.heads["scale"].bias.fill_(float("nan"))

    with pytest.raises(
        DivergedError, match=r"epoch 1, minibatch 1\. .* 'cell_\d+' \(\d+\).*Usual causes:.*learning_rate"
    ):
        run(toy, before=spoil)
    assert issubclass(DivergedError, FloatingPointError)


class SpoilAfter(Progress):
    """Weights that are no numbers after so many minibatches."""

    def __init__(self, steps: int):
        self.left = steps

    def know(self, model):
        self.model = model

    def step(self):
        self.left -= 1
        if self.left == 0:
            self.model.px_r.data[:] = torch.nan


def test_the_first_minibatch_that_is_not_finite_is_named(toy):
    progress = SpoilAfter(6)
    with pytest.raises(DivergedError, match="epoch 2, minibatch 3"):  # of four
        run(toy, progress=progress, before=progress.know)


def test_the_rate_follows_its_cycle(toy, monkeypatch):
    """Step by step, as torch's own schedule would have it."""
    found, move = [], Adam.step

    def step(self):
        found.extend((group["lr"], *group["betas"]) for group in self.param_groups)
        move(self)

    monkeypatch.setattr(Adam, "step", step)
    run(toy, learning_rate=0.02)
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.02, total_steps=17)
    assert len(found) == 16
    for given in found:
        assert given == pytest.approx((theirs.param_groups[0]["lr"], *theirs.param_groups[0]["betas"]))
        theirs.step()
        schedule.step()


def test_looking_at_held_out_cells_does_not_change_training(toy, monkeypatch):
    watched, *_ = run(toy, "reference")
    monkeypatch.setattr("scvitl.training.fit.evaluate", lambda *_: {})
    blind, *_ = run(toy, "reference")
    for name, weight in watched.state_dict().items():
        assert torch.equal(weight, blind.state_dict()[name]), name


def test_adam_is_torchs(toy):
    """Three epochs of the reference plan, step by step, with torch's own unfused optimiser."""
    model, *_, store, _ = run(toy, "reference", max_epochs=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = VAE(toy.n_vars, n_batch=2, n_hidden=16, n_latent=3).train()
    optimizer = torch.optim.Adam(
        expected.parameters(), lr=1e-3, eps=0.01, weight_decay=1e-6, fused=False, foreach=False
    )
    train, _ = split(toy.n_obs, 32, None, 0)
    shuffle, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    for epoch in range(3):
        order = train[torch.randperm(len(train), generator=shuffle)]
        for index in order.split(32):
            optimizer.zero_grad()
            expected.loss(store.gather(index), kl_weight=epoch / 400, generator=noise).total.backward()
            optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, expected.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_best_weights_are_a_copy():
    module = torch.nn.Linear(1, 1)
    best = BestWeights()
    best.offer(0, 2.0, module)
    kept = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    best.offer(1, 3.0, module)
    best.offer(2, float("nan"), module)
    best.restore(module)
    assert best.epoch == 0
    assert torch.equal(module.weight, kept)


def test_of_equally_good_weights_the_latest_are_kept():
    module, best = torch.nn.Linear(1, 1), BestWeights()
    for epoch, score in enumerate([500.0, 400.0, 401.0, 403.0, 401.5]):
        best.offer(epoch, score, module)
    assert (best.epoch, best.improved) == (4, 1)
    assert best.stale(4, 3)
    assert not best.stale(4, 4)
