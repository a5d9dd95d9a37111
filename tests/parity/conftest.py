"""scvi-tools and ours side by side: the same cells, the same weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scvitl
from scvitl import store
from scvitl.models import records, scanvae, totalvae
from scvitl.training import fit as loop
from scvitl.training.plan import resolve
from scvitl.training.progress import progress

if TYPE_CHECKING:
    from pathlib import Path

EPOCHS, BATCH_SIZE = 3, 32  # of training side by side
BATCH = {"batch_key": "batch"}
CATEGORICAL = {"categorical_covariate_keys": ["donor", "day"]}
CONTINUOUS = {"continuous_covariate_keys": ["age", "stress"]}
COVARIATES = BATCH | CATEGORICAL | CONTINUOUS
DEEP = {"n_layers": 2}
EMBEDDING = {"batch_representation": "embedding"}
# Not the last of the categories, so that scvi-tools moves it there.
LABELS = BATCH | {"labels_key": "label", "unlabeled_category": "x"}
PROTEINS = BATCH | {"protein_expression_obsm_key": "proteins"}
MISSING = BATCH | {"protein_expression_obsm_key": "missing"}
PANELS = BATCH | {"protein_expression_obsm_key": "panels", "panel_key": "panel"}
# Ambient shares of the genes, some of which are never ambient.
PROFILE = np.where(np.arange(30) % 7, np.random.default_rng(4).gamma(0.5, size=30), 0)
PROFILE /= PROFILE.sum()
# Columns and arguments, by class: what scvi-tools itself can run.
CONFIGURATIONS = {
    "SCVI": {
        "defaults": (BATCH, {}),
        "no columns": ({}, {}),
        "nb": (BATCH, {"gene_likelihood": "nb", "dispersion": "gene-batch"}),
        "poisson": (BATCH, {"gene_likelihood": "poisson"}),
        "normal": (BATCH, {"gene_likelihood": "normal", "log_variational": False}),
        "labels": (BATCH | {"labels_key": "label"}, {"dispersion": "gene-label"}),
        "gene-cell": (BATCH, {"dispersion": "gene-cell", **DEEP}),
        "nb gene-cell": ({}, {"dispersion": "gene-cell", "gene_likelihood": "nb"}),
        "ln": (BATCH, {"latent_distribution": "ln"}),
        "covariates": (COVARIATES, DEEP),
        "encoded covariates": (COVARIATES, {"encode_covariates": True, **DEEP}),
        "shallow covariates": (
            COVARIATES,
            {"encode_covariates": True, "deeply_inject_covariates": False, **DEEP},
        ),
        "embedding": (COVARIATES, {"encode_covariates": True, **EMBEDDING}),
        "wide embedding": (
            BATCH,
            {"batch_embedding_kwargs": {"embedding_dim": 7}, "dispersion": "gene-batch", **EMBEDDING},
        ),
        "size factors": (COVARIATES | {"size_factor_key": "size"}, {"gene_likelihood": "nb"}),
        "latent library": (BATCH, {"use_observed_lib_size": False}),
        "latent library, encoded covariates": (
            COVARIATES,
            {"use_observed_lib_size": False, "encode_covariates": True, **DEEP},
        ),
        "layer norm": (BATCH, {"use_layer_norm": "both", "use_batch_norm": "none", **DEEP}),
        "both norms": (BATCH, {"use_layer_norm": "decoder", "use_batch_norm": "both"}),
        "softplus": (BATCH, {"var_activation": torch.nn.functional.softplus}),
    },
    "LinearSCVI": {
        "defaults": (BATCH, {}),
        "no columns": ({}, {}),
        "labels": (BATCH | {"labels_key": "label"}, {"dispersion": "gene-batch"}),
        "zinb": (BATCH, {"gene_likelihood": "zinb", **DEEP}),
        "poisson": (BATCH, {"gene_likelihood": "poisson", "use_batch_norm": False}),
        "normal": ({}, {"gene_likelihood": "normal", "log_variational": False, "dropout_rate": 0.0}),
        "no batch norm": (BATCH, {"use_batch_norm": False, "gene_likelihood": "zinb"}),
        "bias": (BATCH, {"bias": True, "use_observed_lib_size": True, "gene_likelihood": "zinb"}),
        "bias alone": ({}, {"bias": True, "use_batch_norm": False}),
        "ln": (BATCH, {"latent_distribution": "ln", "use_observed_lib_size": True}),
        "options of no effect": (
            BATCH,
            {"use_layer_norm": "both", "extra_encoder_kwargs": {"var_eps": 1e-2}},
        ),
    },
    "SCANVI": {
        "defaults": (LABELS, {}),
        "one batch": ({"labels_key": "label", "unlabeled_category": "x"}, {}),
        "all labelled": (LABELS | {"unlabeled_category": "Unknown"}, {}),
        "last unlabelled": (LABELS | {"unlabeled_category": "z"}, {"gene_likelihood": "poisson"}),
        "linear classifier": (LABELS, {"linear_classifier": True, **DEEP}),
        "deep classifier": (
            LABELS,
            {"classifier_parameters": {"n_layers": 3, "n_hidden": 6, "dropout_rate": 0.3}},
        ),
        "probabilities": (
            LABELS,
            {"classifier_parameters": {"logits": False, "n_layers": 0, "activation_fn": torch.nn.ReLU}},
        ),
        "nb gene-batch": (LABELS, {"gene_likelihood": "nb", "dispersion": "gene-batch"}),
        "gene-cell": (LABELS, {"dispersion": "gene-cell", **DEEP}),
        "normal": (LABELS, {"gene_likelihood": "normal", "log_variational": False}),
        "covariates": (LABELS | CATEGORICAL | CONTINUOUS, DEEP),
        "encoded covariates": (LABELS | CATEGORICAL | CONTINUOUS, {"encode_covariates": True, **DEEP}),
        "embedding": (LABELS | CATEGORICAL, {"batch_embedding_kwargs": {"embedding_dim": 7}, **EMBEDDING}),
        "size factors": (LABELS | {"size_factor_key": "size"}, {"gene_likelihood": "nb"}),
        "latent library": (LABELS | CATEGORICAL, {"use_observed_lib_size": False}),
        "layer norm": (LABELS, {"use_layer_norm": "both", "use_batch_norm": "none", **DEEP}),
        "norms apart": (LABELS, {"use_layer_norm": "encoder", "use_batch_norm": "decoder"}),
        "prior of the labels": (LABELS, {"y_prior": torch.tensor([[0.2, 0.5, 0.3]])}),
        "unused groups": (LABELS, {"y_prior": torch.tensor([2.0, 3.0, 1.0]), "labels_groups": [0, 1, 0]}),
    },
    "TOTALVI": {
        "defaults": (PROTEINS, {}),
        "no columns": ({"protein_expression_obsm_key": "proteins"}, {}),
        "missing": (MISSING, {}),
        "missing overridden": (MISSING, {"override_missing_proteins": True}),
        "panels": (PANELS, {}),
        "panels, by batch": (PANELS, {"protein_dispersion": "protein-batch", "gene_likelihood": "zinb"}),
        "panels alone": ({**PANELS, "batch_key": None}, {}),
        "many proteins": (BATCH | {"protein_expression_obsm_key": "many"}, {}),
        "empirical prior, panels": (PANELS, {"empirical_protein_background_prior": True}),
        "array": (
            BATCH | {"protein_expression_obsm_key": "array", "protein_names_uns_key": "protein_names"},
            {},
        ),
        "array without names": (BATCH | {"protein_expression_obsm_key": "array"}, {}),
        "sparse": (BATCH | {"protein_expression_obsm_key": "sparse"}, {}),
        "covariates": (PROTEINS | CATEGORICAL | CONTINUOUS, {}),
        "covariates not encoded": (
            MISSING | CATEGORICAL | CONTINUOUS,
            {"encode_covariates": False, "n_layers_decoder": 2},
        ),
        "by batch": (PROTEINS, {"gene_dispersion": "gene-batch", "protein_dispersion": "protein-batch"}),
        "zinb": (PROTEINS, {"gene_likelihood": "zinb", "n_layers_encoder": 1, "n_layers_decoder": 3}),
        "ln": (PROTEINS, {"latent_distribution": "ln"}),
        "latent library": (PROTEINS, {"use_observed_lib_size": False}),
        "latent library, covariates": (
            MISSING | CATEGORICAL | CONTINUOUS,
            {"use_observed_lib_size": False, "gene_likelihood": "zinb"},
        ),
        "size factors": (PROTEINS | CATEGORICAL | {"size_factor_key": "size"}, {}),
        "layer norm": (PROTEINS, {"use_layer_norm": "both", "use_batch_norm": "none"}),
        "norms apart": (PROTEINS, {"use_layer_norm": "encoder", "use_batch_norm": "decoder"}),
        "no logarithm": (PROTEINS, {"log_variational": False}),
        "exp": (PROTEINS, {"extra_decoder_kwargs": {"activation_function_bg": "exp"}}),
    },
    "SCAR": {
        "defaults": (BATCH, {}),
        "no columns": ({}, {}),
        "profile": (BATCH, {"ambient_profile": PROFILE}),
        "sparsity": (BATCH, {"ambient_profile": PROFILE, "sparsity": 1.0, "n_layers": 1}),
        "softplus": (BATCH, {"scale_activation": "softplus", "latent_distribution": "ln"}),
        "softmax": (BATCH, {"scale_activation": "softmax", "log_variational": False}),
        "nb": (BATCH | {"labels_key": "label"}, {"gene_likelihood": "nb", "ambient_profile": PROFILE}),
        "nb, ln": (
            {},
            {"gene_likelihood": "nb", "latent_distribution": "ln", "sparsity": 1.0, "dropout_rate": 0.2},
        ),
        "nb, softmax": (BATCH, {"gene_likelihood": "nb", "scale_activation": "softmax", "n_layers": 1}),
        "zinb": (BATCH, {"gene_likelihood": "zinb", "ambient_profile": PROFILE}),
        "zinb, softplus": (BATCH, {"gene_likelihood": "zinb", "scale_activation": "softplus"}),
        "poisson": (BATCH, {"gene_likelihood": "poisson", "ambient_profile": PROFILE, "n_layers": 1}),
        "poisson, softmax": (BATCH, {"gene_likelihood": "poisson", "scale_activation": "softmax"}),
        "options of no effect": (
            BATCH,
            {
                "encode_covariates": True,
                "deeply_inject_covariates": False,
                "use_batch_norm": "encoder",
                "use_layer_norm": "decoder",
            },
        ),
    },
}
# Those that differ in nothing but their decoders and their use of labels.
ALIKE = ("SCVI", "LinearSCVI", "SCANVI")
KEYS = {"SCVI": "scvi", "LinearSCVI": "ldvae", "SCANVI": "scanvi", "TOTALVI": "totalvi", "SCAR": "scar"}


@pytest.fixture(scope="session")
def scvi():
    """scvi-tools; what it warns of, at import and later, is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "scvi", reason="scvi-tools is not installed; the extra `parity` installs it", exc_type=ImportError
        )


def cells(n_cells=60, n_genes=30):
    """Counts with every kind of column, and of proteins in every kind of table."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 3.0, (n_cells, n_genes))).astype(np.float32)
    counts[:, 0] += 1
    adata = ad.AnnData(
        counts,
        pd.DataFrame(
            {
                # An order of categories that is not that of the alphabet.
                "batch": pd.Categorical(rng.choice(["b", "c", "a"], n_cells), ["c", "a", "b"]),
                "label": pd.Categorical(rng.choice(list("wxyz"), n_cells)),
                "donor": pd.Categorical(rng.choice(["d1", "d2"], n_cells)),
                "day": pd.Categorical(rng.choice([1, 2, 10], n_cells)),
                "age": rng.normal(40, 10, n_cells),
                "stress": rng.normal(0, 1, n_cells),
                "size": rng.uniform(0.5, 2, n_cells),
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    add_proteins(adata)
    return adata


def add_proteins(adata):
    """Tables of proteins in ``obsm``, of which ``"missing"`` lacks some in a batch and ``"panels"`` in a panel."""
    rng = np.random.default_rng(1)
    n = adata.n_obs
    # Two batches of one panel each, and one of both.
    adata.obs["panel"] = adata.obs["batch"].map({"a": "x", "b": "y", "c": "x"}).astype(str)
    adata.obs.loc[(adata.obs["batch"] == "a") & (rng.random(n) < 0.5), "panel"] = "y"
    counts = rng.poisson(np.exp(rng.normal(1.5, 0.5, (n, 12)) + 3 * (rng.random((n, 12)) < 0.4)))
    many = pd.DataFrame(counts, adata.obs_names, [f"protein{i}" for i in range(12)])
    table = many.iloc[:, :8]
    missing, panels = table.copy(), table.copy()
    missing.loc[adata.obs["batch"] == "a", ["protein1", "protein4"]] = 0
    missing.loc[adata.obs["batch"] == "c", ["protein1"]] = 0
    panels.loc[adata.obs["panel"] == "x", ["protein2", "protein7"]] = 0
    adata.obsm.update({"proteins": table, "many": many, "missing": missing, "panels": panels})
    adata.obsm.update({"array": table.to_numpy(), "sparse": sp.csr_matrix(missing.to_numpy())})
    adata.uns["protein_names"] = np.array([f"name{i}" for i in range(8)])


def make(scvi, adata, columns, arguments, seed=3, name="SCVI"):
    """A model of scvi-tools with the initial weights of a seed."""
    model = getattr(scvi.external if name == "SCAR" else scvi.model, name)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model.setup_anndata(adata, **columns)
        torch.manual_seed(seed)
        return model(adata, n_hidden=16, n_latent=5, **arguments)


def shake(module):
    """Move every tensor away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not name.startswith(("library_log", "y_prior")):
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(0.5 + noise) if name.endswith("running_var") else tensor.add_(0.4 * (noise - 0.5))


def save(model, folder, trained=True):
    """Save a model, as if it had been trained unless told otherwise."""
    if trained:
        model.module.eval()
        model.is_trained_ = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(folder, overwrite=True)


def agree(ours, theirs, rtol=1e-5, atol=None):
    """Equal up to the rounding of single precision, as sums of some dozens of terms have it."""
    ours, theirs = (np.asarray(value, np.float64) for value in (ours, theirs))
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert np.isfinite(scale)
    atol = rtol * min(scale, 1e-3) if atol is None else atol
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def agree_after_training(ours, theirs, initial):
    """Equal weights, up to rounding that has grown from step to step: by less than half a percent of what training moved.

    How much it grows differs from run to run, with the places in memory that vectorised sums happen to begin at.
    """
    for name, tensor in ours.items():
        if name.endswith("num_batches_tracked"):
            continue
        # A bias before a batch norm has no gradient: rounding is all that moves it, and batch norm takes that away again.
        idle = name.endswith("linear.bias") and name.replace("linear", "batch_norm") in theirs
        moved = (tensor - initial[name]).abs().max().item() if name in initial else 0
        atol = 1e-3 if idle else max(1e-5, moved / 200)
        np.testing.assert_allclose(tensor, theirs[name], rtol=1e-4, atol=atol, err_msg=name)


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


@pytest.fixture
def one_thread(threads):
    """Threads share out sums in other ways from run to run, and training makes rounding grow."""
    threads(1)


@pytest.fixture(scope="session")
def tools():
    """The functions above, for the tests."""
    return SimpleNamespace(
        cells=cells,
        make=make,
        shake=shake,
        save=save,
        agree=agree,
        agree_after_training=agree_after_training,
        train_theirs=train_theirs,
        train_ours=train_ours,
        epochs=EPOCHS,
        keys=KEYS,
    )


@dataclass
class Pair:
    """A model of scvi-tools, and the cells with the same model read by us."""

    theirs: Any
    adata: Any
    key: str
    initial: dict[str, np.ndarray]
    folder: Path

    @property
    def model(self):
        return scvitl.get.model(self.adata, key=self.key)

    def cells(self):
        """All cells as our model sees them."""
        return scvitl.store.load(self.adata, self.model, key=self.key).gather(torch.arange(self.adata.n_obs))


def pytest_configure(config):
    """Announce the mark below."""
    config.addinivalue_line("markers", "classes(*names): run with models of these classes of scvi-tools")


def pytest_generate_tests(metafunc):
    """Run what takes a pair for every configuration of classes that are alike, or of those that a mark names."""
    if "pair" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("classes")
        names = mark.args if mark else ALIKE
        configurations = [(name, label) for name in names for label in CONFIGURATIONS[name]]
        metafunc.parametrize("pair", configurations, ids=" ".join, indirect=True, scope="session")


@pytest.fixture(scope="session")
def pair(request, scvi, tmp_path_factory):
    """A model with arbitrary weights that scvi-tools saved and we read."""
    name, label = request.param
    adata = cells()
    theirs = make(scvi, adata.copy(), *CONFIGURATIONS[name][label], name=name)
    initial = {name: tensor.numpy().copy() for name, tensor in theirs.module.state_dict().items()}
    shake(theirs.module)
    folder = tmp_path_factory.mktemp("model")
    save(theirs, folder)
    scvitl.io.read_scvi_tools(folder, adata)
    return Pair(theirs, adata, KEYS[name], initial, folder)


@pytest.fixture
def means(monkeypatch):
    """Both sides take the posterior mean where they would draw."""
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda self, shape=(): self.loc)
    for module in (records, scanvae, totalvae):
        monkeypatch.setattr(
            module,
            "sample_normal",
            lambda mean, variance, n, generator: mean if n is None else mean.expand(n, *mean.shape),
        )
