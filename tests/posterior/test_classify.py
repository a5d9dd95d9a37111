from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import scvitl
from scvitl import posterior
from scvitl.models import Cells
from scvitl.models.records import Posterior
from scvitl.posterior import classify

N_LABELS = 4


def simulated(n_cells, temperature, *, elsewhere=None, seed=0):
    """A model that is too sure of itself by a known factor, and a number of labelled cells in batch 0.

    Its latent states are its logits. With ``elsewhere``, the factor in batch 1, where one more cell lacks a label.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_cells, N_LABELS)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = torch.from_numpy((shares.cumsum(1) < rng.random((n_cells, 1))).sum(1))
    # No counts are below zero; what all logits have in common makes no difference.
    x = torch.tensor(logits - logits.min(), dtype=torch.float32)
    batch = torch.zeros(n_cells, dtype=torch.int64)
    if elsewhere is not None:
        labels, batch = torch.cat([labels, torch.tensor([N_LABELS])]), torch.cat([batch, torch.tensor([1])])
        x = torch.cat([x, x[:1]])
    factors = torch.tensor([temperature, elsewhere or temperature])

    def gather(index):
        zero = torch.zeros(len(index), 0)
        return Cells(x[index], zero, batch[index], labels[index], zero, zero)

    def classifier(z):
        return z

    classifier.groups = None
    model = SimpleNamespace(
        eval=lambda: None,
        classifier=classifier,
        n_labels=N_LABELS,
        encode=lambda cells: Posterior(
            cells.x * factors[cells.batch, None],
            torch.zeros_like(cells.x),
            torch.zeros(len(cells.x), 1),
            None,
        ),
        # counts of other cells of the same state, in any batch
        generative=lambda z, library, cells, batch: cells.x,
        sample=lambda x, generator: x,
    )
    data = SimpleNamespace(
        n_cells=len(labels), n_genes=10, device=torch.device("cpu"), labels=labels, batch=batch, gather=gather
    )
    return model, data, shares


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(true):
    model, data, shares = simulated(800, true)
    found = posterior.temperature(model, data, torch.arange(800))
    # three standard errors of a scale that 800 labels tell
    assert found == pytest.approx(true, rel=0.15)
    probabilities = posterior.label_probabilities(model, data, temperature=found)
    assert np.abs(probabilities - shares).max() < 0.08


def test_temperature_is_that_of_the_batches_to_predict():
    """Cells are labelled in one batch and to be predicted in another, where the model is more wrong about itself."""
    model, data, _ = simulated(800, 1.0, elsewhere=3.0)
    assert posterior.temperature(model, data, torch.arange(800)) == pytest.approx(3.0, rel=0.15)
    data.labels[-1] = 0
    assert posterior.temperature(model, data, torch.arange(800)) == pytest.approx(1.0, rel=0.15)


def test_calibration_lowers_the_error():
    model, data, _ = simulated(800, 4.0)
    labels = data.labels.numpy()
    found = posterior.temperature(model, data, torch.arange(0, 800, 2))
    before, after = (
        posterior.calibration_error(posterior.label_probabilities(model, data, temperature=t), labels)
        for t in (1.0, found)
    )
    assert before > 0.1
    assert after < 0.06  # of a calibrated classifier, 800 labels in 15 bins leave about 0.03


def test_few_cells_hardly_move_the_temperature():
    model, data, _ = simulated(1000, 4.0)
    few, many = (posterior.temperature(model, data, torch.arange(n)) for n in (3, 1000))
    assert 1 / 1.6 < few < many
    # Even labels that are all right, for which no certainty is too much, leave it finite.
    data.labels[:3] = data.gather(torch.arange(3)).x.argmax(1)
    assert 0.3 < posterior.temperature(model, data, torch.arange(3)) <= 1.0


def test_of_many_cells_some_of_every_label_do(monkeypatch):
    model, data, _ = simulated(800, 3.0)
    in_order = data.labels.argsort()
    monkeypatch.setattr(classify, "MOST", 300)
    sizes = []
    gather = data.gather

    def counting(index):
        sizes.append(torch.bincount(data.labels[index], minlength=N_LABELS))
        return gather(index)

    data.gather = counting
    # five standard errors of 267 cells
    assert posterior.temperature(model, data, in_order) == pytest.approx(3.0, rel=0.4)
    assert all(sum(size) == 267 for size in sizes)
    shares = torch.bincount(data.labels) / 800
    assert torch.allclose(sizes[0] / 267, shares, atol=0.01)


def test_no_cells_no_calibration():
    model, data, _ = simulated(10, 4.0)
    assert posterior.temperature(model, data, torch.arange(0)) == 1.0


def test_calibration_error_by_hand():
    """Two bins: 0.7 sure and half right, and 0.9 sure and all right."""
    probabilities = np.array([[0.7, 0.3], [0.3, 0.7], [0.9, 0.1]])
    labels = np.array([0, 0, 0])
    assert posterior.calibration_error(probabilities, labels) == pytest.approx((2 * 0.2 + 0.1) / 3)
    # In one bin, gaps of opposite sign cancel: |(0.7 + 0.7 + 0.9) - 2| / 3.
    assert posterior.calibration_error(probabilities, labels, n_bins=1) == pytest.approx(0.1)


def test_calibration_error_of_certainties():
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert posterior.calibration_error(certain, np.array([0, 1, 2, 0])) == 0
    assert posterior.calibration_error(certain, np.array([1, 2, 0, 0])) == 0.75


def test_bins_are_closed_on_the_right():
    """A confidence on the border of two bins is in the lower one, as in the usual definition."""
    on_border = np.array([[0.6, 0.4], [0.61, 0.39]])
    apart = posterior.calibration_error(on_border, np.array([0, 1]), n_bins=5)
    assert apart == pytest.approx((0.4 + 0.61) / 2)
    together = posterior.calibration_error(on_border, np.array([0, 1]), n_bins=2)
    assert together == pytest.approx(abs(1.21 - 1) / 2)


def test_calibration_error_has_the_closed_form():
    """Labels that follow half the certainty claimed: the mean of what is claimed less what holds."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    right = rng.random(200_000) < confidence - 0.3
    probabilities = np.column_stack([confidence, 1 - confidence])
    error = posterior.calibration_error(probabilities, np.where(right, 0, 1))
    assert error == pytest.approx(0.3, abs=0.01)  # standard error 0.001


@pytest.fixture(scope="module")
def labelled():
    adata = scvitl.datasets.toy(n_cells=90, n_genes=30, random_state=1)
    adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    scvitl.tl.scanvi(adata, "known", n_hidden=8, n_latent=3, max_epochs=2, progress=False)
    model = scvitl.get.model(adata, key="scanvi")
    return model.module, scvitl.store.load(adata, model, key="scanvi")


def test_probabilities_are_means_over_draws(labelled):
    module, data = labelled
    values = posterior.label_probabilities(module, data, temperature=2.0, random_state=3)
    assert values.shape == (90, 4)
    assert values.dtype == np.float32
    assert np.allclose(values.sum(1), 1, atol=1e-6)
    q = posterior.engine.posterior(module, data)
    z, _ = q.draw(classify.DRAWS, posterior.engine.noise(data, 3))
    with torch.no_grad():
        expected = torch.softmax(module.classifier(z) / 2, -1).mean(0)
    assert np.allclose(values, expected, atol=1e-6)


def test_probabilities_follow_the_seed(labelled):
    first, again, other = (posterior.label_probabilities(*labelled, random_state=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # 25 draws of a probability, whose deviation is 0.5 at most
    assert np.abs(first - other).max() < 0.5


def test_temperature_softens(labelled):
    sharp, plain, soft = (posterior.label_probabilities(*labelled, temperature=t) for t in (0.1, 1.0, 1000.0))
    assert (sharp.max(1) >= plain.max(1) - 1e-3).all()
    assert np.allclose(soft, 0.25, atol=0.01)


def test_some_cells_and_small_blocks(labelled, monkeypatch):
    index = torch.tensor([5, 80, 5])
    some = posterior.label_probabilities(*labelled, index=index)
    assert some.shape == (3, 4)
    sizes = []
    encode = type(labelled[0]).encode

    def counting(self, cells, *args):
        sizes.append(len(cells.labels))
        return encode(self, cells, *args)

    monkeypatch.setattr(type(labelled[0]), "encode", counting)
    monkeypatch.setattr(classify, "BLOCK_ENTRIES", 25 * 4 * 20)
    posterior.label_probabilities(*labelled)
    assert sizes == [20, 20, 20, 20, 10], "blocks hold the logits of all draws and labels"
