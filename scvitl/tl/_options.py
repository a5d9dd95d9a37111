"""Checks of the options of a fit, made before anything slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _checks, store
from .._architectures import ARCHITECTURES
from ..data import multimodal

if TYPE_CHECKING:
    import anndata as ad

    from .._keys import Keys
    from ..data import Schema

CHOICES = {
    "dispersion": ("gene", "gene-batch", "gene-label", "gene-cell"),
    "gene_likelihood": ("zinb", "nb", "poisson", "normal"),
    "scale_activation": ("softmax", "softplus", "softplus_sp"),
    "latent_distribution": ("normal", "ln"),
    "batch_representation": ("one-hot", "embedding"),
    "use_batch_norm": ("encoder", "decoder", "none", "both"),
    "use_layer_norm": ("encoder", "decoder", "none", "both"),
    "var_activation": ("exp", "softplus", "relu", "sigmoid"),
    "protein_dispersion": ("protein", "protein-batch", "protein-label"),
    "plan": ("fast", "reference"),
    "precision": ("float32", "tf32", "bfloat16"),
}
OF_AMBIENT = {"gene_likelihood": ("b", "nb", "zinb", "poisson")}  # a model that tells ambient counts
COUNTS = {  # whole numbers and their smallest values
    "n_hidden": 1,
    "n_latent": 1,
    "n_layers": 1,
    "n_layers_encoder": 1,
    "n_layers_decoder": 1,
    "classifier_n_layers": 0,
    "classifier_n_hidden": 1,
    "n_samples_per_label": 1,
    "embedding_dim": 1,
    "max_epochs": 1,
    "batch_size": 2,
    "early_stopping_patience": 1,
}
NUMBERS = {
    "dropout_rate": {"at_least": 0, "below": 1},
    "dropout_rate_encoder": {"at_least": 0, "below": 1},
    "dropout_rate_decoder": {"at_least": 0, "below": 1},
    "train_size": {"above": 0, "at_most": 1},
    "learning_rate": {"above": 0},
    "weight_decay": {"at_least": 0},
    "n_epochs_kl_warmup": {"at_least": 0},
    "sparsity": {"at_least": 0, "at_most": 1},
    "classifier_dropout_rate": {"at_least": 0, "below": 1},
    "classification_ratio": {"at_least": 0},
}
SWITCHES = (
    "bias",
    "log_variational",
    "encode_covariates",
    "deeply_inject_covariates",
    "use_observed_lib_size",
    "early_stopping",
    "adversarial_classifier",
)
COLUMNS = (
    "batch_key",
    "labels_key",
    "unlabeled_category",
    "labels_groups",
    "layer",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
    "protein_key",
    "protein_names",
    "panel_key",
    "missing_proteins",
)
TRAINING = (
    "plan",
    "max_epochs",
    "batch_size",
    "train_size",
    "learning_rate",
    "weight_decay",
    "n_epochs_kl_warmup",
    "early_stopping",
    "early_stopping_patience",
    "n_samples_per_label",
    "adversarial_classifier",
    "device",
    "precision",
    "random_state",
    "progress",
)
# These may be None, which leaves the choice to the plan, or to torch.
OPEN = {
    "precision",
    "max_epochs",
    "batch_size",
    "train_size",
    "learning_rate",
    "weight_decay",
    "n_epochs_kl_warmup",
    "n_samples_per_label",
    "early_stopping",
    "adversarial_classifier",
}


def grouped(title: str, arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of a fitting function by what they are about."""
    groups = {"columns": COLUMNS, "architecture": ARCHITECTURES[title][1], "training": TRAINING}
    return {
        group: {name: arguments[name] for name in names if name in arguments}
        for group, names in groups.items()
    }


def check_place(adata: ad.AnnData, names: Keys) -> None:
    """The results can be written where they belong, without hiding something else there."""
    _checks.key_added(names.stem)
    if names.model in adata.uns and not store.is_model(adata.uns[names.model]):
        msg = f"adata.uns[{names.model!r}] holds something that is not a model: choose another key_added."
        raise ValueError(msg)
    if store.is_model(adata.uns.get(names.ambient)):
        msg = f"adata.uns[{names.ambient!r}] holds a model, where droplets would take its place: choose another key_added."
        raise ValueError(msg)
    if adata.isbacked and adata.is_view:
        msg = f"adata is a view of a file, which cannot hold results: read it first, with {multimodal.reading(adata)}."
        raise ValueError(msg)


def check_names(schema: Schema, names: Keys) -> None:
    """No column of ``obs`` that the model reads is one that it would write."""
    entries = (schema.batch, schema.labels, *schema.categorical, *schema.continuous)
    read = {entry.key for entry in entries if entry is not None} | {schema.size_factor}
    written = [name for name in (names.label, names.confidence, names.group, names.noise) if name in read]
    if written:
        msg = f"the results would replace adata.obs[{written[0]!r}], which the model reads: choose another key_added."
        raise ValueError(msg)


def check_columns(columns: dict[str, Any], *dispersions: str) -> None:
    """Covariates come as lists, and columns that an option needs are named."""
    for key in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if isinstance(columns[key], str):
            msg = f"{key} takes a list of obs columns: use [{columns[key]!r}]."
            raise TypeError(msg)
        columns[key] = [] if columns[key] is None else list(columns[key])
    for needs, key in {"batch": "batch_key", "label": "labels_key"}.items():
        for dispersion in dispersions:
            if dispersion.endswith(f"-{needs}") and columns[key] is None:
                msg = (
                    f"dispersion={dispersion!r} needs {key}, the obs column to which the dispersions belong."
                )
                raise ValueError(msg)


def check_options(options: dict[str, Any], title: str) -> None:
    """Every option of the model ``title`` has a legal value."""
    choices, switches = {**CHOICES, **OF_AMBIENT} if title == "scAR" else dict(CHOICES), list(SWITCHES)
    if title == "LDVAE":
        # Its batch norm is there or not.
        del choices["use_batch_norm"]
        switches.append("use_batch_norm")
    given = {name: value for name, value in options.items() if not (value is None and name in OPEN)}
    for name in choices.keys() & given.keys():
        _checks.one_of(name, given[name], choices[name])
    for name in set(switches) & given.keys():
        _checks.true_or_false(name, given[name])
    for name in COUNTS.keys() & given.keys():
        _checks.whole_number(name, given[name], at_least=COUNTS[name])
    for name in NUMBERS.keys() & given.keys():
        _checks.number(name, given[name], **NUMBERS[name])
    _checks.seed(options["random_state"])
    if options["progress"] is not None:
        _checks.true_or_false("progress", options["progress"])
    if options["early_stopping"] and options["train_size"] == 1:
        msg = "early_stopping watches held-out cells, but train_size=1 holds none out: use train_size=0.9."
        raise ValueError(msg)
