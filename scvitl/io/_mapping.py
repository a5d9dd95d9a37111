"""How the classes of scvi-tools become models of this package."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _checks, store
from .._logging import logg
from ..data import locate
from ..data.multimodal import refuse
from ..tl._options import CHOICES, NUMBERS, SWITCHES
from ..tl._start import library_priors
from . import _ambient, _proteins, _registry, _weights
from ._classes import READERS
from ._history import history
from ._unpickle import ACTIVATIONS, RELU, Node, RefusedError, intact

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np
    import pandas as pd

    from ..data import Category, Schema
    from ..data.batches import CellData
    from ._classes import Reader
    from ._saved import Saved


BY_LABEL = {"gene-label", "protein-label"}
# What scvi-tools leaves in uns when it replaces the counts by the posterior.
MINIFIED = {"_scvi_adata_minify_type": "latent_posterior_parameters"}


def imported(saved: Saved, adata: ad.AnnData) -> tuple[Reader, store.FittedModel, CellData]:
    """The saved model with its reader, and the cells of ``adata`` as it reads them."""
    from ..data.batches import CellData

    with intact(saved.file):
        entries = _registry.registry(saved)
        reader = _reader(saved, entries)
        weights = _weights.rename(saved.state)
        architecture = {
            "model": reader.title,
            **_options(reader, saved, entries),
            **_weights.sizes(reader.title, weights),
        }
        schema = _registry.schema(saved, entries, labels=_labels(architecture, saved, entries, weights))
        if reader.title == "totalVI":
            all_measured = architecture.pop("override_missing_proteins")
            schema = replace(
                schema, proteins=_proteins.learned(entries, schema.batch, all_measured=all_measured)
            )
            architecture |= _proteins.of_version(entries, weights, architecture["background_activation"])
        if reader.title == "scAR":
            schema = _ambient.seen(schema, saved.file)
        losses = history(saved.attributes.get("history_"))
        n_cells = _registry.n_cells(entries) or adata.n_obs
        trained = bool(saved.attributes.get("is_trained_", True))
    if any(adata.uns.get(key) == value for key, value in MINIFIED.items()):
        msg = "scvi-tools minified adata: its counts are gone. Pass the AnnData that still has them."
        raise ValueError(msg)
    if schema.proteins is None:
        refuse(adata, f"a {reader.title} model")
    else:
        adata, proteins = _proteins.located(adata, schema)
        schema = replace(schema, proteins=proteins)
    whole = architecture["gene_likelihood"] != "normal"
    schema = replace(schema, layer=locate(adata, schema.layer, whole=whole))
    data = CellData(adata, schema, whole=whole)
    if _registry.before_priors(saved) and not (architecture["use_observed_lib_size"] or schema.size_factor):
        weights |= _priors(data, schema)
    if reader.title == "scAR":
        weights |= _ambient.weights(
            _given(saved, reader).get(_ambient.ARGUMENT), adata, schema, data, saved.file
        )
    module = _weights.module(saved.file, architecture, schema, weights)
    if not trained:
        logg.warning("the model was saved before it was trained: its results mean nothing")
    if reader.title == "scANVI" and architecture["latent_distribution"] == "ln":
        logg.warning(
            "scvi-tools takes the density of the latent state of this model at its softmax, a mistake that is not "
            "repeated here: its ELBO is another one. Predictions and expression are the same"
        )
    params = {
        "source": _registry.source(entries),
        "n_obs": n_cells,
        **architecture,
        **_facts(reader, schema, losses),
        **_columns(schema),
        "feature_type": _ambient.feature_type(adata, schema) if reader.title == "scAR" else None,
    }
    params = {name: value for name, value in params.items() if value is not None}
    return reader, store.FittedModel(module, schema, params, losses), data


def _facts(reader: Reader, schema: Schema, losses: pd.DataFrame) -> dict[str, Any]:
    """What a fit would note of itself."""
    from .. import __version__

    return {
        "plan": "scvi-tools",
        "n_vars": len(schema.genes),
        "epochs_run": len(losses) or None,
        "restored_epoch": len(losses) - 1 if len(losses) else None,
        "interrupted": False,
        "version": __version__,
        "format": store.FORMAT,
        "device": "cpu",
        "random_state": 0,
        # Whether it is too sure of its labels, nobody has looked.
        "temperature": 1.0 if reader.title == "scANVI" else None,
    }


def _reader(saved: Saved, entries: dict[str, Any]) -> Reader:
    name = _registry.class_name(saved, entries)
    if name not in READERS:
        msg = (
            f"{str(saved.file)!r} holds a {name} model, from {_registry.source(entries)}. What can be read so far: "
            f"{', '.join(READERS)}."
        )
        raise RefusedError(msg)
    return READERS[name]


def _labels(
    architecture: dict[str, Any], saved: Saved, entries: dict[str, Any], weights: dict[str, np.ndarray]
) -> Category | None:
    """The column of labels, where the model has a use for it."""
    if architecture["model"] != "scANVI":
        by_label = {architecture["dispersion"], architecture.get("protein_dispersion")} & BY_LABEL
        return _registry.category(entries, "labels") if by_label else None
    labels = _registry.labels(saved, entries, weights["y_prior"].shape[1])
    if len(labels.categories) < 2:
        msg = (
            f"the model in {str(saved.file)!r} knows one label only, {labels.categories[0]!r}, so it predicts nothing: "
            "integrate with scvitl.tl.scvi."
        )
        raise RefusedError(msg)
    return labels


def _options(reader: Reader, saved: Saved, entries: dict[str, Any]) -> dict[str, Any]:
    """Arguments of our module, apart from sizes."""
    given = _given(saved, reader)
    unknown = [name for name in given if name not in reader.options and name not in reader.idle]
    unknown += [
        # not the text of something nested, which can be endless
        f"{name}={given[name]!r}" if isinstance(given[name], (str, bool)) else name
        for name, values in reader.only.items()
        if name in given and given[name] not in values
    ]
    if unknown:
        msg = (
            f"the model in {str(saved.file)!r} was made with {', '.join(unknown)}, which scvitl's {reader.title} does not "
            "have: use scvi-tools for it."
        )
        raise RefusedError(msg)
    options = {name: given.get(name, default) for name, default in reader.options.items()}
    activation = options.get("var_activation")
    if isinstance(activation, type) and issubclass(activation, Node):
        options["var_activation"] = ACTIVATIONS[activation.name]
    if reader.title == "scANVI":
        rate = options.pop("classifier_parameters['dropout_rate']")
        options["classifier_dropout_rate"] = options["dropout_rate"] if rate is None else rate
        options["classification_ratio"] = 50.0
    if _registry.always_latent_library(entries):
        options["use_observed_lib_size"] = False
    choices = CHOICES | reader.choices
    for name in choices.keys() & {name for name, value in options.items() if value is not None}:
        _checks.one_of(name, options[name], choices[name])
    for name in NUMBERS.keys() & options.keys():
        _checks.number(name, options[name], **NUMBERS[name])
    for name in set(SWITCHES) & options.keys():
        _checks.true_or_false(name, options[name])
    if reader.title == "totalVI":
        options["dispersion"] = options.pop("gene_dispersion")
        options["background_activation"] = options.pop("extra_decoder_kwargs['activation_function_bg']")
    return options


def _given(saved: Saved, reader: Reader) -> dict[str, Any]:
    """Arguments that the model was made with, apart from those left empty; of those nested, the options."""
    arguments = saved.attributes["init_params_"]
    if "non_kwargs" in arguments:
        parts = [arguments["non_kwargs"], *arguments["kwargs"].values()]
    else:
        parts = [arguments, *(part for part in arguments.values() if isinstance(part, dict))]
        parts[0] = {name: value for name, value in arguments.items() if not isinstance(value, dict)}
    flat = {name: value for part in parts for name, value in part.items()}
    for name in reader.nested:
        flat |= {f"{name}[{key!r}]": value for key, value in (flat.pop(name, None) or {}).items()}
    if not flat.get("use_labels_groups"):
        flat.pop("use_labels_groups", None)
    if getattr(flat.get("classifier_parameters['activation_fn']"), "name", None) == RELU:
        del flat["classifier_parameters['activation_fn']"]
    return {name: value for name, value in flat.items() if not _empty(value)}


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _columns(schema: Schema) -> dict[str, Any]:
    """The columns as arguments of `tl`."""
    return {
        "batch_key": schema.batch and schema.batch.key,
        "labels_key": schema.labels and schema.labels.key,
        "unlabeled_category": getattr(schema.labels, "unlabeled", None),
        "layer": schema.layer,
        "size_factor_key": schema.size_factor,
        "categorical_covariate_keys": [covariate.key for covariate in schema.categorical],
        "continuous_covariate_keys": [covariate.key for covariate in schema.continuous],
        "protein_key": schema.proteins and schema.proteins.key,
        "panel_key": schema.proteins and schema.proteins.panel and schema.proteins.panel.key,
    }


def _priors(data: CellData, schema: Schema) -> dict[str, np.ndarray]:
    """Priors of the library size, which scvi-tools before 0.15 kept in the AnnData."""
    names = ("",) if schema.batch is None else schema.batch.categories
    absent = [name for code, name in enumerate(names) if not (data.batch == code).any()]
    if absent:
        msg = (
            "the model infers library sizes, and the file does not hold their means, as it is older than scvi-tools 0.15. "
            f"They are taken from adata, which has no cells of batch {', '.join(map(repr, absent))}: "
            "pass the cells that the model was trained on."
        )
        raise ValueError(msg)
    return {name: prior.numpy() for name, prior in library_priors(data, schema).items()}
