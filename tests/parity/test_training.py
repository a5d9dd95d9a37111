"""The reference plan takes the steps that scvi-tools takes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import scvitl
from scvitl import store
from scvitl.io._weights import rename
from scvitl.training import fit as loop
from scvitl.training.plan import resolve, split
from scvitl.training.progress import progress

BATCH = {"batch_key": "batch"}
COVARIATES = {
    **BATCH,
    "categorical_covariate_keys": ["donor", "day"],
    "continuous_covariate_keys": ["stress"],
}
LABELS = {"labels_key": "label", "unlabeled_category": "x"}
LATENT = {"use_observed_lib_size": False, "encode_covariates": True, "n_layers": 2}
NB = {"gene_likelihood": "nb", "dispersion": "gene-batch"}
CONFIGURATIONS = {
    "defaults": ("SCVI", BATCH, {}),
    "latent library": ("SCVI", COVARIATES, LATENT),
    "nb gene-batch": ("SCVI", BATCH, {**NB, "latent_distribution": "ln"}),
    "linear": ("LinearSCVI", BATCH, {}),
    "linear zinb": (
        "LinearSCVI",
        {},
        {"gene_likelihood": "zinb", "bias": True, "use_observed_lib_size": True},
    ),
    "labels": ("SCANVI", BATCH | LABELS, {}),
    "labels, latent library": ("SCANVI", COVARIATES | LABELS, {**LATENT, "linear_classifier": True}),
    "labels, nb gene-batch": (
        "SCANVI",
        BATCH | LABELS,
        {**NB, "y_prior": torch.tensor([[0.2, 0.5, 0.3]])},
    ),
}
EPOCHS, BATCH_SIZE = 3, 32


@pytest.fixture(params=CONFIGURATIONS)
def start(request, scvi, tools, tmp_path):
    """An untrained model of scvi-tools, and the cells with the same model read by us, with its key."""
    name, columns, arguments = CONFIGURATIONS[request.param]
    adata = tools.cells(n_cells=100)
    theirs = tools.make(scvi, adata.copy(), columns, {"dropout_rate": 0.0, **arguments}, name=name)
    tools.save(theirs, tmp_path, trained=False)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    return theirs, adata, tools.keys[name]


def train_theirs(model, monkeypatch):
    """Train with the noise that our loop draws; the cells of every step, one or two minibatches of them."""
    noise = torch.Generator().manual_seed(0)
    rows = {row.tobytes(): i for i, row in enumerate(model.adata.X)}
    assert len(rows) == model.adata.n_obs
    module = model.module
    order, drawing, forward, classify = [], [True], module.forward, getattr(module, "classify", None)

    def cells(tensors):
        return torch.tensor([rows[row.tobytes()] for row in tensors["X"].numpy()])

    def rsample(self, shape=()):
        return (
            self.loc + self.scale * torch.randn(self.loc.shape, generator=noise) if drawing[0] else self.loc
        )

    def noted(tensors, *args, loss_kwargs, **kwargs):
        labelled = loss_kwargs.get("labelled_tensors")
        order.append((cells(tensors),) if labelled is None else (cells(tensors), cells(labelled)))
        return forward(tensors, *args, loss_kwargs=loss_kwargs, **kwargs)

    def without_noise(*args, **kwargs):
        # The classifier reads the mean, yet there a latent state is drawn as well.
        drawing[0] = False
        logits = classify(*args, **kwargs)
        drawing[0] = True
        return logits

    with monkeypatch.context() as patch, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        patch.setattr(torch.distributions.Normal, "rsample", rsample)
        patch.setattr(module, "forward", noted)
        patch.setattr(module, "classify", without_noise, raising=False)
        model.train(
            max_epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            train_size=0.9,
            accelerator="cpu",
            plan_kwargs={"n_epochs_kl_warmup": 2},
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    return order


def train_ours(adata, key, order):
    """Train on the same minibatches."""
    model = store.from_uns(adata, key)
    steps = len(order) // EPOCHS
    epochs = [order[i * steps : (i + 1) * steps] for i in range(EPOCHS)]
    plan = resolve("reference", adata.n_obs, max_epochs=EPOCHS, batch_size=BATCH_SIZE, n_epochs_kl_warmup=2)
    history = loop.fit(
        model.module,
        store.load(adata, model, key=key),
        torch.unique(torch.cat([index for index, *_ in order])),
        torch.tensor([], dtype=torch.int64),
        plan,
        random_state=0,
        progress=progress("scVI", 1, show=False),
        minibatches_of=lambda index, size, generator: epochs.pop(0),
    )
    return model.module, history


def test_three_epochs(tools, start, monkeypatch):
    theirs, adata, key = start
    initial = scvitl.get.model(adata, key=key).module.state_dict()
    order = train_theirs(theirs, monkeypatch)
    assert len(order) == 3 * EPOCHS
    assert {len(minibatches) for minibatches in order} == {1 + (key == "scanvi")}
    ours, history = train_ours(adata, key, order)
    expected = rename({name: tensor.numpy() for name, tensor in theirs.module.state_dict().items()})
    tools.agree_after_training(ours.state_dict(), expected)
    # A hundred times the tolerance, or the above would show nothing.
    moved = [(ours.state_dict()[name] - tensor).abs().max() > 1e-3 for name, tensor in initial.items()]
    assert np.mean(moved) > 0.8
    for name in ("elbo_train", "reconstruction_loss_train", "kl_local_train"):
        losses = theirs.history[name].to_numpy(np.float64).ravel()
        np.testing.assert_allclose([row[name] for row in history.rows], losses, rtol=1e-4)


@pytest.mark.parametrize("n_cells", [60, 129, 1423])
def test_the_split(scvi, tools, n_cells, monkeypatch):
    """The same cells are held out for the same seed."""
    # Setting the seed in the documented way would seed everything in the process.
    monkeypatch.setattr(scvi.settings, "_seed", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tools.make(scvi, tools.cells(n_cells, 3), {}, {})
        splitter = scvi.dataloaders.DataSplitter(model.adata_manager)
        splitter.setup()
    train, held_out = split(n_cells, 128, None, 0)
    assert np.array_equal(train, splitter.train_idx)
    assert np.array_equal(np.sort(held_out), np.sort(splitter.val_idx))
