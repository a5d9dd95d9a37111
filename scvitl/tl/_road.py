"""The road that every fit takes: check, learn the schema, load counts, train, read the latent space.

Nothing here writes to the AnnData; the public function does, last.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import _checks, store
from .._logging import logg
from ..data import learn, locate

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

    from ..data import Schema
    from ..data.batches import Store
    from ..training.fit import History
    from ..training.plan import Plan

CHOICES = {
    "dispersion": ("gene", "gene-batch", "gene-label", "gene-cell"),
    "gene_likelihood": ("zinb", "nb", "poisson", "normal"),
    "latent_distribution": ("normal", "ln"),
    "batch_representation": ("one-hot", "embedding"),
    "use_batch_norm": ("encoder", "decoder", "none", "both"),
    "use_layer_norm": ("encoder", "decoder", "none", "both"),
    "var_activation": ("exp", "softplus", "relu", "sigmoid"),
    "plan": ("fast", "reference"),
}
COUNTED = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "embedding_dim",
    "max_epochs",
    "batch_size",
    "early_stopping_patience",
)
MANY_GENES = 10_000


def fit(
    adata: ad.AnnData,
    name: str,
    title: str,
    *,
    data: dict[str, Any],
    architecture: dict[str, Any],
    training: dict[str, Any],
) -> tuple[store.FittedModel, np.ndarray]:
    """Fit the model called ``name`` to ``adata`` and return it with the latent space, leaving ``adata`` alone.

    ``data`` has the arguments of `data.learn`; ``training`` those of `training.plan.resolve`, and ``plan``,
    ``train_size``, ``device``, ``random_state`` and ``progress``.
    """
    check_options(data, architecture, training)
    schema = learn(adata, **data)
    whole = architecture["gene_likelihood"] != "normal"
    data = data | {"layer": locate(adata, data["layer"], whole=whole)}
    logg.info("    counts from X" if data["layer"] is None else f"    counts from layers[{data['layer']!r}]")
    if adata.n_vars > MANY_GENES:
        logg.hint(
            f"{adata.n_vars:,} genes; a few thousand highly variable ones train faster and often integrate better"
        )

    from ..data.batches import Store
    from ..posterior import latent
    from ..training.device import choose
    from ..training.fit import fit as train
    from ..training.plan import resolve, split
    from ..training.progress import progress

    options = dict(training)
    device = choose(options.pop("device"))
    show, random_state, train_size = (options.pop(key) for key in ("progress", "random_state", "train_size"))
    plan = resolve(options.pop("plan"), adata.n_obs, **options)
    cells = Store(adata, schema, device=device, whole=whole)
    priors = (
        {} if architecture["use_observed_lib_size"] or schema.size_factor else library_priors(cells, schema)
    )
    module = store.build(architecture, schema, random_state=random_state, **priors).to(device)
    train_cells, held_out = split(adata.n_obs, plan.batch_size, train_size, random_state)
    logg.info(
        f"    {plan.max_epochs} epochs on {len(train_cells):,} cells, {len(held_out):,} held out, on {device}"
    )
    bar = progress(title, plan.max_epochs * plan.n_minibatches(len(train_cells)), show=show)
    try:
        history = train(module, cells, train_cells, held_out, plan, random_state=random_state, progress=bar)
        representation = latent(module, cells)
    finally:
        bar.close()
    params = {"model": name, **facts(adata, plan, history, device, random_state), **architecture, **data}
    fitted = store.FittedModel(module.cpu(), schema, params, frame(history))
    bar.finish(line(title, fitted), curves(fitted.history))
    return fitted, representation


def check_options(data: dict[str, Any], architecture: dict[str, Any], training: dict[str, Any]) -> None:
    """Every option has a legal value, and those that need each other are there."""
    options = {**architecture, **training}
    for name, legal in CHOICES.items():
        _checks.one_of(name, options[name], legal)
    for name in COUNTED:
        if options[name] is not None:
            _checks.whole_number(name, options[name])
    if options["batch_size"] == 1:
        _checks.whole_number("batch_size", options["batch_size"], at_least=2)
    _checks.whole_number("random_state", options["random_state"], at_least=0)
    _checks.number("dropout_rate", options["dropout_rate"], at_least=0, below=1)
    for name, bounds in {
        "train_size": {"above": 0, "at_most": 1},
        "learning_rate": {"above": 0},
        "weight_decay": {"at_least": 0},
        "n_epochs_kl_warmup": {"at_least": 0},
    }.items():
        if options[name] is not None:
            _checks.number(name, options[name], **bounds)
    for needs, key in {"gene-batch": "batch_key", "gene-label": "labels_key"}.items():
        if options["dispersion"] == needs and data[key] is None:
            msg = f"dispersion={needs!r} needs {key}, the obs column to which the dispersions belong."
            raise ValueError(msg)
    for key in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if isinstance(data[key], str):
            msg = f"{key} takes a list of obs columns: use [{data[key]!r}]."
            raise TypeError(msg)


def library_priors(cells: Store, schema: Schema) -> dict[str, Any]:
    """Mean and variance of the log total counts per batch, each (1, K)."""
    import torch

    n_batch = 1 if schema.batch is None else len(schema.batch.categories)
    means, variances = torch.zeros(1, n_batch), torch.ones(1, n_batch)
    for code in range(n_batch):
        library = cells.library[cells.batch == code]
        means[0, code] = library.mean()
        variances[0, code] = library.var(unbiased=False).clamp_min(1e-4)  # a batch may hold a single cell
    return {"library_log_means": means, "library_log_vars": variances}


def facts(adata: ad.AnnData, plan: Plan, history: History, device: str, random_state: int) -> dict[str, Any]:
    """What happened in the run, for ``params``."""
    from .. import __version__

    run = asdict(plan)
    run["plan"] = run.pop("name")
    return {
        **run,
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "random_state": random_state,
        "device": str(device),
        "epochs_run": len(history.rows),
        "restored_epoch": history.epoch,
        "interrupted": history.interrupted,
        "seconds": round(history.seconds, 2),
        "version": __version__,
        "format": store.FORMAT,
    }


def frame(history: History) -> pd.DataFrame:
    """The history as a frame with a row per epoch."""
    return pd.DataFrame(history.rows, index=pd.RangeIndex(len(history.rows), name="epoch").astype("int64"))


def curves(history: pd.DataFrame) -> dict[str, list[float]]:
    """Loss curves for the closing line."""
    names = {"train": "elbo_train", "validation": "elbo_validation"}
    return {name: history[column].tolist() for name, column in names.items() if column in history}


def line(title: str, model: store.FittedModel) -> str:
    """The closing line: what was fitted, how long it took, how well it fits."""
    p, batch, loss = model.params, model.schema.batch, store.held_out_loss(model)
    stopped = ", interrupted" if p["interrupted"] else ""
    parts = [
        f"{title}: {p['n_obs']:,} cells × {p['n_vars']:,} genes",
        batch and f"{len(batch.categories)} batches",
        f"{p['epochs_run']} epochs in {p['seconds']:.0f} s on {p['device']}{stopped}",
        loss and f"held-out loss {loss}",
    ]
    return " · ".join(filter(None, parts))


def write(adata: ad.AnnData, slots: dict[str, dict[str, Any]]) -> None:
    """Write all results at once: ``{"obsm": {key: value}, …}``."""
    from anndata import ImplicitModificationWarning

    if adata.is_view:
        logg.warning("adata is a view of another AnnData; writing results makes it a copy of its own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        for slot, values in slots.items():
            for key, value in values.items():
                getattr(adata, slot)[key] = value
