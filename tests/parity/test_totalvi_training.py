"""The reference plan of totalVI takes the steps that scvi-tools takes, also against an adversary."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch

import scvitl
from scvitl import store
from scvitl.io._weights import rename
from scvitl.models.blocks import Dropout
from scvitl.training import fit as loop
from scvitl.training.plan import resolve, split
from scvitl.training.progress import progress

PROTEINS = {"batch_key": "batch", "protein_expression_obsm_key": "proteins"}
MISSING = PROTEINS | {"protein_expression_obsm_key": "missing"}
COVARIATES = {"categorical_covariate_keys": ["donor", "day"], "continuous_covariate_keys": ["stress"]}
CONFIGURATIONS = {
    "defaults": (PROTEINS, {}),
    "one batch": ({**PROTEINS, "batch_key": None}, {"latent_distribution": "ln"}),
    "latent library": (
        PROTEINS | COVARIATES,
        {"use_observed_lib_size": False, "gene_likelihood": "zinb", "n_layers_decoder": 2},
    ),
    "panels": (
        PROTEINS | {"protein_expression_obsm_key": "panels", "panel_key": "panel"},
        {"gene_dispersion": "gene-batch", "protein_dispersion": "protein-batch"},
    ),
    "missing": (MISSING, {}),
    "missing, ln": (MISSING | COVARIATES, {"latent_distribution": "ln"}),
    "missing overridden": (MISSING, {"override_missing_proteins": True}),
}
# Without missing proteins, there is no adversary.
ADVERSARY = {"panels", "missing", "missing, ln"}
EPOCHS, BATCH_SIZE = 3, 16


@pytest.fixture(params=CONFIGURATIONS)
def start(request, scvi, tools, tmp_path, one_thread):
    """An untrained model of scvi-tools, the cells with the same model read by us, and whether it has an adversary."""
    columns, arguments = CONFIGURATIONS[request.param]
    adata = tools.cells(n_cells=100)
    still = {"dropout_rate_encoder": 0.0, "dropout_rate_decoder": 0.0}
    theirs = tools.make(scvi, adata.copy(), columns, {**still, **arguments}, name="TOTALVI")
    tools.save(theirs, tmp_path, trained=False)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    return theirs, adata, request.param in ADVERSARY


def train_theirs(scvi, model, monkeypatch):
    """Train with the noise that our loop draws; the cells of every step, and the classifier with its first weights."""
    noise = torch.Generator().manual_seed(0)
    rows = {row.tobytes(): i for i, row in enumerate(model.adata.X)}
    assert len(rows) == model.adata.n_obs
    module, order, classifiers = model.module, [], []
    forward, plans = module.forward, scvi.train._trainingplans
    classifier = plans.Classifier

    def rsample(self, shape=()):
        # A library size is drawn there even where it is observed.
        still = not module.training or (self.loc.shape[-1] == 1 and module.use_observed_lib_size)
        return self.loc if still else self.loc + self.scale * torch.randn(self.loc.shape, generator=noise)

    def noted(tensors, *args, **kwargs):
        if module.training:
            order.append((torch.tensor([rows[row.tobytes()] for row in tensors["X"].numpy()]),))
        return forward(tensors, *args, **kwargs)

    def without_dropout(**options):
        made = classifier(**options, dropout_rate=0.0)
        classifiers.append((made, {name: tensor.clone() for name, tensor in made.state_dict().items()}))
        return made

    with monkeypatch.context() as patch, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        patch.setattr(torch.distributions.Normal, "rsample", rsample)
        patch.setattr(module, "forward", noted)
        patch.setattr(plans, "Classifier", without_dropout)
        model.train(
            max_epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            train_size=0.9,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    return order, classifiers


def of_classifier(weights):
    """Weights of the classifier of scvi-tools under the names of our adversary."""
    named = {name.replace("classifier.0.", "decoder.", 1): tensor.numpy() for name, tensor in weights.items()}
    return {
        name.removeprefix("decoder.").replace("classifier.1.", "batches."): torch.from_numpy(tensor)
        for name, tensor in rename({f"decoder.{name}": tensor for name, tensor in named.items()}).items()
    }


def train_ours(adata, order, *, adversary=None):
    """Train on the same minibatches, against an ``adversary`` with these weights."""
    model = store.from_uns(adata, "totalvi")
    if adversary is not None:
        model.module.hire(None)
        model.module.adversary.load_state_dict(adversary, strict=False)
        for part in model.module.adversary.modules():
            if isinstance(part, Dropout):
                part.p = 0.0
    steps = len(order) // EPOCHS
    epochs = [order[i * steps : (i + 1) * steps] for i in range(EPOCHS)]
    plan = resolve(
        "reference",
        adata.n_obs,
        max_epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        proteins=True,
        adversary=adversary is not None,
    )
    history = loop.fit(
        model.module,
        store.load(adata, model, key="totalvi"),
        torch.unique(torch.cat([index for index, *_ in order])),
        torch.tensor([], dtype=torch.int64),
        plan,
        random_state=0,
        progress=progress("totalVI", 1, show=False),
        minibatches_of=lambda index, size, generator: epochs.pop(0),
    )
    return model.module, history


def test_three_epochs(scvi, tools, start, monkeypatch):
    theirs, adata, adversary = start
    initial = scvitl.get.model(adata, key="totalvi").module.state_dict()
    order, classifiers = train_theirs(scvi, theirs, monkeypatch)
    assert len(order) == 6 * EPOCHS
    assert len(classifiers) == adversary
    first = of_classifier(classifiers[0][1]) if adversary else None
    ours, history = train_ours(adata, order, adversary=first)
    expected = rename({name: tensor.numpy() for name, tensor in theirs.module.state_dict().items()})
    if adversary:
        last = of_classifier(classifiers[0][0].state_dict())
        assert all(
            (last[name] - first[name]).abs().max() > 1e-4 for name in ("batches.weight", "batches.bias")
        )
        expected |= {f"adversary.{name}": tensor for name, tensor in last.items()}
    tools.agree_after_training(ours.state_dict(), expected, initial)
    # or the above would show nothing
    moved = [(ours.state_dict()[name] - tensor).abs().max() > 1e-3 for name, tensor in initial.items()]
    assert np.mean(moved) > 0.8
    for name in ("elbo_train", "reconstruction_loss_train", "kl_local_train"):
        losses = theirs.history[name].to_numpy(np.float64).ravel()
        np.testing.assert_allclose([row[name] for row in history.rows], losses, rtol=1e-4)


@pytest.mark.parametrize("n_cells", [400, 3000, 30000])
@pytest.mark.parametrize("adversary", [False, True])
def test_the_numbers_of_the_plan(scvi, n_cells, adversary):
    plans = scvi.train._trainingplans
    theirs = {
        name: parameter.default
        for function in (scvi.train.Trainer, plans.AdversarialTrainingPlan, scvi.model.TOTALVI.train)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    plan = resolve("reference", n_cells, proteins=True, adversary=adversary, early_stopping=None)
    for name in ("batch_size", "early_stopping", "early_stopping_patience", "weight_decay"):
        assert getattr(plan, name) == theirs[name]
    assert plan.learning_rate == theirs["lr"]
    assert plan.max_epochs == scvi.model._utils.get_max_epochs_heuristic(n_cells)
    assert theirs["reduce_lr_on_plateau"]
    plateau = plan.plateau()
    for name in ("factor", "patience"):
        assert getattr(plateau, name) == theirs[f"lr_{name}"]
    assert theirs["lr_threshold"] == 0  # any better loss is one
    # Every step of an optimizer counts there, and the adversary has one of its own.
    n_minibatches = plan.n_minibatches(len(split(n_cells, plan.batch_size, None, 0)[0]))
    for step in (0, 1, n_minibatches, 3 * n_minibatches + 1, n_cells):
        expected = plans._compute_kl_weight(0, (1 + adversary) * step, None, int(0.75 * n_cells))
        epoch, rest = divmod(step, n_minibatches)
        assert plan.kl_weight(epoch, rest / n_minibatches) == pytest.approx(expected)
