"""A fitted model as plain arrays and JSON in ``adata.uns``, and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import _checks
from ._architectures import ARCHITECTURES
from ._keys import keys
from .data import multimodal, selection
from .data.labels import Labels
from .data.schema import Schema

if TYPE_CHECKING:
    import anndata as ad
    from torch import nn

    from .data.batches import CellData

MINIFIED = "minified"  # in uns[key]: which model took the counts away
FORMAT = 1  # of what is in uns; a reader of a later format can tell
UNDISPERSED = {"poisson": "poisson", "b": "binomial"}  # likelihoods without dispersions, in words


@dataclass(frozen=True, repr=False)
class FittedModel:
    """A trained model with what is needed to use it on cells.

    Attributes
    ----------
    module
        The torch module, in evaluation mode; on the CPU, or where cells were last read with it.
    schema
        Genes and columns that it was fitted to.
    params
        Options of the call and facts about the run.
    history
        One row per epoch.
    """

    module: nn.Module
    schema: Schema
    params: dict[str, Any]
    history: pd.DataFrame

    def __repr__(self) -> str:
        return summary(self)


def to_uns(model: FittedModel) -> dict[str, Any]:
    """What goes into ``uns[key]``: scalars, text, a frame and float32 arrays, nothing that a file cannot hold."""
    set_ = {name: value for name, value in model.params.items() if value is not None and not _is_empty(value)}
    return {
        "params": {name: _storable(value) for name, value in set_.items()},
        "schema": model.schema.to_json(),
        "history": model.history.copy(),
        "weights": {name: tensor.cpu().numpy().copy() for name, tensor in _weights(model.module)},
    }


def from_uns(adata: ad.AnnData, key: str) -> FittedModel:
    """The model that `to_uns` put into ``adata.uns[key]``."""
    import torch

    saved = record(adata, key)
    params = {name: plain(value) for name, value in saved["params"].items()}
    if params["format"] > FORMAT:
        msg = f"adata.uns[{key!r}] was written by a newer version of scvitl ({params['version']}): update scvitl to read it."
        raise ValueError(msg)
    schema = Schema.from_json(str(saved["schema"]))
    module = build(params, schema, random_state=0)
    weights = {
        name: torch.from_numpy(np.array(value, np.float32)) for name, value in saved["weights"].items()
    }
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in side} for side in (weights.items(), _weights(module))
    ]
    if shapes[0] != shapes[1]:
        msg = (
            f"the weights in adata.uns[{key!r}] do not fit the model that its params describe; fit it again."
        )
        raise ValueError(msg)
    module.load_state_dict(weights, strict=False)  # batch norm's counters are not stored
    return FittedModel(module.eval(), schema, params, pd.DataFrame(saved["history"]))


def load(
    adata: ad.AnnData, model: FittedModel, *, key: str = "scvi", counts_for: str | None = None
) -> CellData:
    """The cells of ``adata`` as ``model`` reads them, on the device it was fitted on where that is here.

    ``counts_for`` names a function that cannot do without counts, which minified cells do not have.
    """
    from .data.batches import CellData
    from .data.device import at_hand

    names = keys(key)
    minified = None
    if MINIFIED in adata.uns.get(key, {}):
        if adata.uns[key][MINIFIED] != fingerprint(model):
            msg = f"adata was minified by the model in adata.uns[{key!r}]; other models need the counts, which are gone."
            raise ValueError(msg)
        lost = [name for name in (names.latent_mean, names.latent_variance) if name not in adata.obsm]
        lost += [] if names.library in adata.obs else [names.library]
        if lost:
            msg = f"adata was minified, but {', '.join(map(repr, lost))} is gone since: start from the file as it was."
            raise KeyError(msg)
        if counts_for is not None:
            msg = (
                f"{counts_for} looks at counts, which scvitl.tl.minify replaced by adata.obsm[{names.latent_mean!r}]. "
                "Use the AnnData that still has them. What decodes goes on working, such as get.normalized_expression."
            )
            raise ValueError(msg)
        columns = (adata.obsm[names.latent_mean], adata.obsm[names.latent_variance], adata.obs[names.library])
        minified = tuple(np.asarray(column) for column in columns)
    device = at_hand(model.params["device"])
    model.module.to(device)
    whole = model.params["gene_likelihood"] != "normal"
    return CellData(adata, model.schema, device=device, whole=whole, minified=minified)


def fingerprint(model: FittedModel) -> str:
    """A short text that tells a model from others by its weights."""
    weights = sorted(_weights(model.module))
    bits = b"".join(name.encode() + tensor.detach().cpu().numpy().tobytes() for name, tensor in weights)
    return hashlib.sha256(bits).hexdigest()[:16]


def open_cells(
    adata: ad.AnnData,
    *,
    key: str,
    model: FittedModel | None = None,
    indices: object = None,
    counts_for: str | None = None,
) -> tuple[FittedModel, CellData]:
    """The model in ``adata.uns[key]``, or the one given, and the cells at ``indices`` as it reads them."""
    model = from_uns(adata, key) if model is None else model
    adata = joined(adata, key=key, model=model)
    if indices is not None:
        adata = adata[selection.cells(adata, indices)]
    return model, load(adata, model, key=key, counts_for=counts_for)


def joined(adata: ad.AnnData, *, key: str, model: FittedModel | None = None) -> ad.AnnData:
    """An AnnData as it is, or a MuData as the model in ``uns[key]``, or the one given, reads it."""
    if not isinstance(model, FittedModel | None):
        msg = f"model takes what scvitl.get.model(adata) returns, not {type(model).__name__}."
        raise TypeError(msg)
    if not multimodal.is_mudata(adata):
        return adata
    schema = Schema.from_json(str(record(adata, key)["schema"])) if model is None else model.schema
    return multimodal.as_read(adata, schema.proteins)


def build(params: dict[str, Any], schema: Schema, *, random_state: int, **priors) -> nn.Module:
    """A new module for ``schema``, with initial weights drawn from ``random_state`` and no global state moved."""
    import torch

    from . import models

    def size(category) -> int:
        return 1 if category is None else len(category.categories)

    name, arguments = ARCHITECTURES[params["model"]]
    options = {argument: params[argument] for argument in arguments}
    groups = getattr(schema.labels, "groups", ())
    if groups:
        # In the order in which they appear, so that codes are contiguous.
        options["groups"] = [list(dict.fromkeys(groups)).index(group) for group in groups]
    if schema.proteins is not None:
        options |= {"measured": schema.proteins.measured, "in_batch": schema.proteins.decoded_from}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(random_state)  # torch.manual_seed would seed the GPUs, too
        return getattr(models, name)(
            len(schema.genes),
            n_batch=size(schema.batch),
            n_labels=size(schema.labels),
            n_categories=[size(category) for category in schema.categorical],
            n_continuous=len(schema.continuous),
            use_size_factor=schema.size_factor is not None,
            **options,
            **priors,
        )


def summary(model: FittedModel) -> str:
    """What a person wants to know of a model, in a few lines."""
    p, schema, batch = model.params, model.schema, model.schema.batch
    n_weights = sum(weight.numel() for weight in model.module.parameters())
    covariates = [covariate.key for covariate in (*schema.categorical, *schema.continuous)]
    ended = ", interrupted" if p["interrupted"] else ""
    labels = schema.labels if isinstance(schema.labels, Labels) else None
    layers, size = p.get("n_layers", p.get("n_layers_encoder")), p["n_hidden"]
    network = f"{layers} hidden layer{'s' * (layers > 1)} of {size} units"
    proteins = schema.proteins
    dispersed = f"{p['gene_likelihood']}, dispersion by {p['dispersion']}"
    missing = "" if proteins is None or proteins.complete else ", not all measured everywhere"
    if p["model"] == "LDVAE":
        network += " in the encoder, a linear decoder"
    if "n_obs_reference" in p:
        trained = (
            f"{p['epochs_run']} epochs in {p['seconds']:.0f} s" if p["epochs_run"] else "nothing trained"
        )
        training = f"mapped onto a reference of {p['n_obs_reference']:,} cells, {trained}{ended}"
    elif "source" in p:
        training = f"imported from {p['source']}"
    else:
        training = (
            f"{p['plan']} plan, {p['epochs_run']} epochs in {p['seconds']:.0f} s on {p['device']}{ended}"
        )
    rows = {
        "latent space": f"{p['n_latent']} dimensions ({p['latent_distribution']})",
        "counts": f"{UNDISPERSED.get(p['gene_likelihood'], dispersed)}, from {p.get('layer', 'X')}",
        "ambient": p["model"] == "scAR" and _ambient(model),
        "network": f"{network}, {n_weights:,} weights",
        "genes": schema.absent and f"{len(schema.absent):,} of those of the model are absent and count as 0",
        "proteins": proteins
        and f"{len(proteins.names)} in {proteins.place}{missing}: {_few(proteins.names)}",
        "batches": batch and f"{len(batch.categories)} in obs[{batch.key!r}]: {_few(batch.categories)}",
        "covariates": _few(covariates),
        "labels": labels and f"{len(labels.categories)} in obs[{labels.key!r}]: {_few(labels.categories)}",
        "training": training,
        "held-out loss": held_out_loss(model),
        "held-out labels": held_out_labels(model),
    }
    title = f"{p['model']} model of {p['n_obs']:,} cells × {len(schema.genes):,} genes"
    return "\n".join([title, *(f"  {name:<15} {text}" for name, text in rows.items() if text)])


def _ambient(model: FittedModel) -> str:
    """Where the ambient profiles are, and what is most of them, in words."""
    profiles, what = model.module.ambient, model.params.get("feature_type", "mRNA")
    names = _few([model.schema.genes[i] for i in profiles.mean(0).argsort(descending=True).tolist()], 3)
    return (
        f"{'profile' if len(profiles) == 1 else 'profiles'} of {what} in module.ambient, most of it {names}"
    )


def held_out_loss(model: FittedModel) -> str | None:
    """Negative ELBO of the held-out cells for the weights that the model has, in words."""
    epoch = model.params.get("restored_epoch")
    if epoch is None or "elbo_validation" not in model.history:
        return None
    return f"{model.history['elbo_validation'].loc[epoch]:.1f} (epoch {epoch + 1})"


def held_out_labels(model: FittedModel) -> str | None:
    """How many labels of the held-out cells are right, and how far confidence is off, in words."""
    p = model.params
    if "held_out_accuracy" not in p:
        return None
    return f"{p['held_out_accuracy']:.1%} right, confidence off by {p['calibration_error']:.3f} on average"


def _few(names, n: int = 6) -> str:
    return ", ".join(names[:n]) + (f", … ({len(names)})" if len(names) > n else "")


def is_model(value: Any) -> bool:
    """Whether an entry of ``uns`` is what `to_uns` makes."""
    return isinstance(value, dict) and {"params", "schema", "history", "weights"} <= value.keys()


def record(adata: ad.AnnData, key: str) -> dict[str, Any]:
    """What a fit left in ``adata.uns[key]``."""
    if is_model(adata.uns.get(key)):
        return adata.uns[key]
    found = [name for name, value in adata.uns.items() if is_model(value)]
    fit = f"Fit one with scvitl.tl.{key if key == 'scar' else 'scvi'}(adata)."
    hint = f"{_checks.did_you_mean(key, found)} Models here: {', '.join(map(repr, found))}."
    msg = f"no fitted model in adata.uns[{key!r}].{hint if found else ' ' + fit}"
    raise KeyError(msg)


def _weights(module: nn.Module):
    """Named tensors worth keeping; batch norm counts its minibatches without ever reading the count."""
    return [(name, t) for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")]


def _is_empty(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and not value


def _storable(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    return np.array(value, dtype=object if isinstance(value[0], str) else None)


def plain(value: Any) -> Any:
    """NumPy scalars and arrays, as files give them back, as Python's own."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim else value.item()
    return value.item() if isinstance(value, np.generic) else value
