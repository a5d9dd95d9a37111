"""The reference plan takes the steps that scvi-tools takes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import scvitl
from scvitl.io._weights import rename
from scvitl.training.plan import split

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


@pytest.fixture(params=CONFIGURATIONS)
def start(request, scvi, tools, tmp_path, one_thread):
    """An untrained model of scvi-tools, and the cells with the same model read by us, with its key."""
    name, columns, arguments = CONFIGURATIONS[request.param]
    adata = tools.cells(n_cells=100)
    theirs = tools.make(scvi, adata.copy(), columns, {"dropout_rate": 0.0, **arguments}, name=name)
    tools.save(theirs, tmp_path, trained=False)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    return theirs, adata, tools.keys[name]


def test_three_epochs(tools, start, monkeypatch):
    theirs, adata, key = start
    initial = scvitl.get.model(adata, key=key).module.state_dict()
    order = tools.train_theirs(theirs, monkeypatch)
    assert len(order) == 3 * tools.epochs
    assert {len(minibatches) for minibatches in order} == {1 + (key == "scanvi")}
    ours, history = tools.train_ours(adata, key, order)
    expected = rename({name: tensor.numpy() for name, tensor in theirs.module.state_dict().items()})
    tools.agree_after_training(ours.state_dict(), expected, initial)
    # or the above would show nothing
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
