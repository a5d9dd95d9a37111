"""The way of every fit: check, learn the schema, load counts, train, read the latent space.

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
from ._options import check_columns, check_options, check_place

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np

    from .._keys import Keys
    from ..data import Schema
    from ..data.batches import CellData
    from ..training.fit import History
    from ..training.plan import Plan

MANY_GENES = 10_000


def fit(
    adata: ad.AnnData,
    title: str,
    keys: Keys,
    *,
    columns: dict[str, Any],
    architecture: dict[str, Any],
    training: dict[str, Any],
) -> tuple[store.FittedModel, np.ndarray]:
    """Fit a model to ``adata`` and return it with the latent space, leaving ``adata`` alone.

    ``columns`` has the arguments of `data.learn`; ``training`` those of `training.plan.resolve`, and ``plan``,
    ``train_size``, ``device``, ``random_state`` and ``progress``.
    """
    check_place(adata, keys)
    columns, architecture, training = (
        {name: store.plain(value) for name, value in options.items()}
        for options in (columns, architecture, training)
    )
    check_columns(columns, architecture["dispersion"])
    check_options({**architecture, **training})
    whole = architecture["gene_likelihood"] != "normal"
    columns["layer"] = locate(adata, columns["layer"], whole=whole)
    schema = learn(adata, **columns)
    logg.info("    counts from X" if schema.layer is None else f"    counts from layers[{schema.layer!r}]")
    if adata.n_vars > MANY_GENES:
        logg.hint(
            f"{adata.n_vars:,} genes; a few thousand variable ones train faster and often integrate better"
        )

    from ..data.batches import CellData
    from ..data.device import choose
    from ..posterior import latent
    from ..training.fit import fit as train
    from ..training.plan import resolve, split
    from ..training.progress import progress

    options = dict(training)
    device = choose(options.pop("device"))
    show, random_state, train_size = (options.pop(key) for key in ("progress", "random_state", "train_size"))
    plan = resolve(options.pop("plan"), adata.n_obs, **options)
    cells = split(adata.n_obs, plan.batch_size, train_size, random_state)
    data = CellData(adata, schema, device=device, whole=whole)
    priors = (
        {} if architecture["use_observed_lib_size"] or schema.size_factor else library_priors(data, schema)
    )
    module = store.build({"model": title, **architecture}, schema, random_state=random_state, **priors).to(
        device
    )
    logg.info(
        f"    {plan.max_epochs} epochs on {len(cells[0]):,} cells, {len(cells[1]):,} held out, on {device}"
    )
    bar = progress(title, plan.max_epochs * plan.n_minibatches(len(cells[0])), show=show)
    try:
        history = train(module, data, *cells, plan, random_state=random_state, progress=bar)
        representation = latent(module, data)
    finally:
        bar.close()
    run = {"model": title, **facts(adata, plan, history), "device": device, "random_state": random_state}
    params = {**run, "train_size": train_size, **architecture, **columns}
    fitted = store.FittedModel(module.cpu(), schema, params, frame(history))
    bar.finish(line(title, fitted), curves(fitted.history))
    return fitted, representation


def library_priors(data: CellData, schema: Schema) -> dict[str, Any]:
    """Mean and variance of the log total counts per batch, each (1, K)."""
    import torch

    n_batch = 1 if schema.batch is None else len(schema.batch.categories)
    means, variances = torch.zeros(1, n_batch), torch.ones(1, n_batch)
    for code in range(n_batch):
        library = data.library[data.batch == code]
        means[0, code] = library.mean()
        variances[0, code] = library.var(unbiased=False).clamp_min(1e-4)  # a batch may hold a single cell
    return {"library_log_means": means, "library_log_vars": variances}


def facts(adata: ad.AnnData, plan: Plan, history: History) -> dict[str, Any]:
    """What happened in the run, for ``params``."""
    from .. import __version__

    run = asdict(plan)
    return {
        "plan": run.pop("name"),
        **run,
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
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


def check_copy(adata: ad.AnnData, copy: object) -> None:
    """A copy of a file that is not read would be another file."""
    _checks.true_or_false("copy", copy)
    if copy and adata.isbacked:
        msg = "copy=True cannot copy an AnnData that is backed by a file: read it first, with adata = adata.to_memory()."
        raise ValueError(msg)


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
