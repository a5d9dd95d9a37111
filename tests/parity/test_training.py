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

COVARIATES = {"categorical_covariate_keys": ["donor", "day"], "continuous_covariate_keys": ["stress"]}
CONFIGURATIONS = {
    "defaults": ({}, {}),
    "latent library": (
        COVARIATES,
        {"use_observed_lib_size": False, "encode_covariates": True, "n_layers": 2},
    ),
    "nb gene-batch": ({}, {"gene_likelihood": "nb", "dispersion": "gene-batch", "latent_distribution": "ln"}),
}
EPOCHS, BATCH_SIZE = 3, 32


@pytest.fixture(params=CONFIGURATIONS)
def start(request, scvi, tools, tmp_path):
    """An untrained model of scvi-tools, and the cells with the same model read by us."""
    columns, arguments = CONFIGURATIONS[request.param]
    adata = tools.cells(n_cells=100)
    theirs = tools.make(
        scvi, adata.copy(), {"batch_key": "batch", **columns}, {"dropout_rate": 0.0, **arguments}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save(tmp_path / "m")
    scvitl.io.read_scvi_tools(tmp_path / "m", adata)
    return theirs, adata


def train_theirs(model, monkeypatch):
    """Train with the noise that our loop draws; the cells of every minibatch, and the history."""
    noise = torch.Generator().manual_seed(0)
    rows = {row.tobytes(): i for i, row in enumerate(model.adata.X)}
    assert len(rows) == model.adata.n_obs
    order, forward = [], model.module.forward

    def rsample(self, shape=()):
        return self.loc + self.scale * torch.randn(self.loc.shape, generator=noise)

    def noted(tensors, *args, **kwargs):
        order.append(torch.tensor([rows[row.tobytes()] for row in tensors["X"].numpy()]))
        return forward(tensors, *args, **kwargs)

    with monkeypatch.context() as patch, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        patch.setattr(torch.distributions.Normal, "rsample", rsample)
        patch.setattr(model.module, "forward", noted)
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


def train_ours(adata, order):
    """Train on the same minibatches."""
    model = store.from_uns(adata, "scvi")
    steps = len(order) // EPOCHS
    epochs = [order[i * steps : (i + 1) * steps] for i in range(EPOCHS)]
    plan = resolve("reference", adata.n_obs, max_epochs=EPOCHS, batch_size=BATCH_SIZE, n_epochs_kl_warmup=2)
    history = loop.fit(
        model.module,
        store.load(adata, model),
        torch.unique(torch.cat(order)),
        torch.tensor([], dtype=torch.int64),
        plan,
        random_state=0,
        progress=progress("scVI", 1, show=False),
        minibatches_of=lambda index, size, generator: [(minibatch,) for minibatch in epochs.pop(0)],
    )
    return model.module, history


def test_three_epochs(start, monkeypatch):
    theirs, adata = start
    initial = scvitl.get.model(adata).module.state_dict()
    order = train_theirs(theirs, monkeypatch)
    assert [len(index) for index in order] == [32, 32, 26] * EPOCHS
    ours, history = train_ours(adata, order)
    expected = rename({name: tensor.numpy() for name, tensor in theirs.module.state_dict().items()})
    for name, tensor in ours.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(tensor, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    # A hundred times the tolerance, or the above would show nothing; a bias before a batch norm has no gradient.
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
