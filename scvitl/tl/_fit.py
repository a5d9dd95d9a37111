"""The way of every fit: check and learn the schema (`prepare`), load counts, train, read the latent space (`fit`).

Nothing here writes to the AnnData; the public function does, last.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import _checks, store
from .._logging import logg
from ..data import Labels, learn, locate, multimodal
from ._options import check_columns, check_options, check_place
from ._start import new_module

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np
    from torch import Tensor

    from .._keys import Keys
    from ..data import Schema
    from ..data.batches import CellData
    from ..data.proteins import Proteins
    from ..training.fit import History
    from ..training.plan import Plan

MANY_GENES, ENOUGH_GENES = 10_000, 1000
ENOUGH_LABELLED = 8  # cells of a minibatch that have labels, so that no others are needed
# options that are not the plan's
RUN = (
    "random_state",
    "train_size",
    "n_samples_per_label",
    "adversarial_classifier",
    "protein_background_prior",
    "feature_type",
    "output",
    "excess",
)
OF_SCHEMA = (
    "labels_groups",
    "missing_proteins",
    "protein_names",
)  # columns that it keeps in a form of its own


@dataclass(frozen=True)
class Fit:
    """What a fit made of an AnnData that it left alone."""

    model: store.FittedModel
    latent: np.ndarray  # (n, D)
    data: CellData
    held_out: Tensor  # positions of the cells that were not trained on


@dataclass(frozen=True)
class Setting:
    """Everything that a fit needs to know, checked."""

    title: str
    schema: Schema
    columns: dict[str, Any]
    architecture: dict[str, Any]
    training: dict[str, Any]

    def of_genes(self, chosen: np.ndarray) -> Setting:
        """The setting for the genes of the mask ``chosen`` (G,) alone."""
        genes = tuple(compress(self.schema.genes, chosen))
        return replace(self, schema=replace(self.schema, genes=genes))


def prepare(
    adata: ad.AnnData,
    title: str,
    keys: Keys,
    *,
    columns: dict[str, Any],
    architecture: dict[str, Any],
    training: dict[str, Any],
) -> Setting:
    """Check the arguments of a fit, and learn what the columns of ``adata`` mean.

    ``columns`` has the arguments of `data.learn`; ``training`` those of `training.plan.resolve`, and ``plan``,
    ``train_size``, ``device``, ``random_state``, ``progress`` and, where labels are learned, ``n_samples_per_label``.
    """
    multimodal.refuse(adata, title)
    check_place(adata, keys)
    columns, architecture, training = (
        {name: store.plain(value) for name, value in options.items()}
        for options in (columns, architecture, training)
    )
    check_columns(columns, architecture["dispersion"], architecture.get("protein_dispersion", ""))
    check_options({**architecture, **training}, title)
    columns["layer"] = locate(adata, columns["layer"], whole=architecture["gene_likelihood"] != "normal")
    schema = learn(adata, **columns)
    logg.info("    counts from X" if schema.layer is None else f"    counts from layers[{schema.layer!r}]")
    if adata.n_vars > MANY_GENES and title != "scAR":
        logg.hint(
            f"{adata.n_vars:,} genes; a few thousand variable ones train faster and often integrate better"
        )
    return Setting(title, schema, columns, architecture, training)


def fit(
    adata: ad.AnnData,
    setting: Setting,
    *,
    initial: store.FittedModel | None = None,
    priors: dict[str, Any] | None = None,
) -> Fit:
    """Fit a model to ``adata``, leaving ``adata`` alone.

    Training starts from the weights of ``initial``, as far as it has them. ``priors`` are arguments of the module.
    """
    from ..data.batches import CellData
    from ..data.device import choose
    from ..training.plan import resolve, supervised_epochs

    training = dict(setting.training)
    params = {"model": setting.title, **{name: training.pop(name, None) for name in RUN}}
    params |= {**setting.architecture, **setting.columns, "device": choose(training.pop("device"))}
    for name in OF_SCHEMA:
        params.pop(name, None)
    show = training.pop("progress")
    if isinstance(setting.schema.labels, Labels) and training["max_epochs"] is None:
        training["max_epochs"] = supervised_epochs(
            training["plan"], adata.n_obs, pretrained=initial is not None
        )
    if training["early_stopping"] is None and params["train_size"] == 1:
        training["early_stopping"] = False  # nothing is held out
    if setting.schema.proteins is not None:
        batch = setting.schema.batch
        training |= {
            "proteins": True,
            "several": batch is not None and len(batch.categories) > 1,
            "adversary": params["adversarial_classifier"],
        }
    training["ambient"] = params["model"] == "scAR"
    # of few genes, a heavy KL term would outweigh what they tell
    training["plain"] = params["model"] == "scVI" and len(setting.schema.genes) >= ENOUGH_GENES
    plan = resolve(training.pop("plan"), adata.n_obs, **training)
    whole = params["gene_likelihood"] != "normal"
    data = CellData(adata, setting.schema, device=params["device"], whole=whole)
    return _train(data, setting.schema, plan, params, initial=initial, priors=priors, show=show)


def _train(
    data: CellData,
    schema: Schema,
    plan: Plan,
    params: dict[str, Any],
    *,
    initial: store.FittedModel | None,
    priors: dict[str, Any] | None,
    show: bool | None,
) -> Fit:
    """Build the module that ``params`` describe, train it, and read the latent space."""
    from ..data.batches import WithLabelled, singles
    from ..posterior import latent
    from ..training.fit import fit as train
    from ..training.plan import split, split_by_label
    from ..training.precision import products_in
    from ..training.progress import progress

    random_state, train_size, n_cells = params["random_state"], params["train_size"], data.n_cells
    if isinstance(schema.labels, Labels):
        labels, n_labels = data.labels.cpu(), len(schema.labels.categories)
        cells = split_by_label(labels, train_size, random_state)
        own = (labels[cells[0]] < n_labels).float().mean() * plan.batch_size  # labelled cells of a minibatch
        if plan.name == "fast" and params["n_samples_per_label"] is None and own >= ENOUGH_LABELLED:
            minibatches = singles
        else:
            minibatches = WithLabelled(
                labels, n_labels, plan.labelled_batch_size, params["n_samples_per_label"]
            )
    else:
        cells, minibatches = split(n_cells, plan.batch_size, train_size, random_state), singles
    start = {"fast": plan.name == "fast", "shares": plan.starts_at_shares}
    module = new_module(data, schema, params, cells[0], **start, initial=initial, priors=priors)
    module.to(data.device)
    logg.info(
        f"    {plan.max_epochs} epochs on {len(cells[0]):,} cells, {len(cells[1]):,} held out, on {params['device']}"
    )
    title = params["model"]
    bar = progress(title, plan.max_epochs * plan.n_minibatches(len(cells[0])), show=show)
    try:
        with products_in(plan.precision):
            history = train(
                module,
                data,
                *cells,
                plan,
                random_state=random_state,
                progress=bar,
                minibatches_of=minibatches,
            )
        if schema.proteins is not None:
            module.adversary = None
        representation = latent(module, data)
    finally:
        bar.close()
    params = {**facts(data, plan, history), **params}
    fitted = store.FittedModel(module, schema, params, frame(history))
    bar.finish(line(title, fitted), curves(fitted.history))
    return Fit(fitted, representation, data, cells[1])


def facts(data: CellData, plan: Plan, history: History) -> dict[str, Any]:
    """What happened in the run, for ``params``."""
    from .. import __version__

    run = asdict(plan)
    return {
        "plan": run.pop("name"),
        **run,
        "n_obs": data.n_cells,
        "n_vars": data.n_genes,
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
    epoch = p["restored_epoch"]
    accuracy = None if epoch is None else model.history.get("accuracy_validation", {}).get(epoch)
    stopped = ", interrupted" if p["interrupted"] else ""
    parts = [
        f"{title}: {p['n_obs']:,} cells × {p['n_vars']:,} genes"
        + (f" and {len(proteins.names)} proteins" if (proteins := model.schema.proteins) else ""),
        batch and f"{len(batch.categories)} batches",
        f"{p['epochs_run']} epochs in {p['seconds']:.0f} s on {p['device']}{stopped}",
        loss and f"held-out loss {loss}",
        accuracy is not None and f"{accuracy:.1%} of held-out labels right",
    ]
    return " · ".join(filter(None, parts))


def check_copy(adata: ad.AnnData, copy: object) -> None:
    """A copy of a file that is not read would be another file."""
    _checks.true_or_false("copy", copy)
    if copy and adata.isbacked:
        msg = f"copy=True cannot copy what is backed by a file: read it first, with {multimodal.reading(adata)}."
        raise ValueError(msg)


def write(adata: ad.AnnData, slots: dict[str, dict[str, Any]], *, proteins: Proteins | None = None) -> None:
    """Write all results at once: ``{"obsm": {key: value}, …}``; `None` takes an entry away.

    Of a MuData, layers go into the modality of genes that a model of ``proteins`` has.
    """
    from anndata import ImplicitModificationWarning

    if adata.is_view:
        logg.warning("adata is a view of another AnnData; writing results makes it a copy of its own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        multimodal.make_actual(adata)
        for slot, values in slots.items():
            at, order = multimodal.place(adata, slot, proteins)
            for key, value in values.items():
                if value is not None:
                    getattr(at, slot)[key] = value if order is None else value[order]
                elif key in getattr(at, slot):
                    del getattr(at, slot)[key]
