"""The way of a mapping: the reference's schema on the query, its model with room for new categories, that room trained.

Nothing here writes to the AnnData; the public function does, last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _checks, store
from .._logging import logg
from ..data import Labels
from ..data import query as queries
from ..data.multimodal import is_mudata
from ._annotate import annotation
from ._fit import Fit, curves, facts, frame
from ._start import library_priors

if TYPE_CHECKING:
    import anndata as ad
    from torch import Tensor

    from ..data import Schema
    from ..data.batches import CellData
    from ..models import VAE
    from ..models.extend import Room
    from ..training.fit import History
    from ..training.plan import Plan

FEW = 20  # cells; of fewer none are held out
OF_HELD_OUT = {"calibration_error", "held_out_accuracy"}  # what the reference says of its own cells


def check(query: ad.AnnData, reference: ad.AnnData, key: str) -> store.FittedModel:
    """The model of the reference."""
    import anndata as ad

    for name, value in {"query": query, "reference": reference}.items():
        if not (isinstance(value, ad.AnnData) or is_mudata(value)):
            msg = f"{name} takes an AnnData, not {type(value).__name__}."
            raise TypeError(msg)
    there, here = (store.is_model(adata.uns.get(key)) for adata in (reference, query))
    if here and not there:
        msg = f"the model {key!r} is in query.uns, not in reference.uns: the query comes first, as in map_query(query, reference)."
        raise KeyError(msg)
    if query is reference:
        msg = "query and reference are the same AnnData: map other cells onto it, as in map_query(query, reference)."
        raise ValueError(msg)
    model = store.from_uns(reference, key)
    if model.params["model"] == "scAR":
        msg = (
            f"the model in reference.uns[{key!r}] is scAR, which knows the ambient RNA of one experiment and of no other: fit "
            "scvitl.tl.scar(query, raw) with the droplets of the query."
        )
        raise ValueError(msg)
    return model


def check_options(max_epochs: object, min_confidence: object, random_state: object, progress: object) -> None:
    """Every option has a legal value."""
    if min_confidence is not None:
        _checks.number("min_confidence", min_confidence, at_least=0, at_most=1)
    if max_epochs is not None:
        _checks.whole_number("max_epochs", max_epochs)
    _checks.seed(random_state)
    if progress is not None:
        _checks.true_or_false("progress", progress)


def fit(
    query: ad.AnnData,
    reference: store.FittedModel,
    *,
    layer: str | None,
    max_epochs: int | None,
    device: str,
    random_state: int,
    progress: bool | None,
) -> Fit:
    """Give the model of the ``reference`` what the ``query`` brings, and read the latent space of the query."""
    from ..data.batches import CellData
    from ..data.device import choose
    from ..models.extend import extend
    from ..posterior import latent
    from ..training.plan import mapping

    whole = reference.params["gene_likelihood"] != "normal"
    schema = queries.extend(query, _relevant(reference), layer=layer, whole=whole)
    added = queries.new_categories(reference.schema, schema)
    device = choose(device)
    data = CellData(query, schema, device=device, whole=whole)
    if isinstance(schema.labels, Labels) and reference.params["dispersion"] != "gene-label":
        # Labels that the query has are there to compare with, and do not lead its cells.
        data.labels.fill_(len(schema.labels.categories))
    module = store.build(reference.params, schema, random_state=random_state)
    rooms = extend(reference.module, module)
    if module.latent_library and schema.batch is not None:
        first = len(reference.schema.batch.categories)
        for name, prior in library_priors(data, schema).items():
            getattr(module, name)[:, first:] = prior[:, first:]
    kl_weight = reference.params.get("max_kl_weight", 1.0)  # an imported model does not say
    plan = mapping(
        query.n_obs, max_epochs=max_epochs, max_kl_weight=kl_weight, gently=module.encode_covariates
    )
    _say(added, module, plan)
    history, held_out = _train(module.to(device), rooms, data, plan, random_state=random_state, show=progress)
    params = {
        **{name: value for name, value in reference.params.items() if name not in OF_HELD_OUT},
        **facts(data, plan, history),
        "layer": schema.layer,
        "device": device,
        "random_state": random_state,
        "n_obs_reference": reference.params["n_obs"],
        "n_genes_absent": len(schema.absent),
        "new_categories": [f"{key}: {name}" for key, names in added.items() for name in names],
    }
    representation = latent(module, data)
    return Fit(store.FittedModel(module, schema, params, frame(history)), representation, data, held_out)


def annotated(
    query: ad.AnnData, reference: ad.AnnData, fitted: Fit, *, key: str, min_confidence: float | None
) -> dict[str, dict[str, Any]]:
    """What a model of labels adds to the slots of ``query``; of others, slots with nothing in them."""
    if not isinstance(fitted.model.schema.labels, Labels):
        return {"obs": {}, "obsm": {}, "uns": {}}

    from ..posterior import label_probabilities

    params = fitted.model.params
    probabilities = label_probabilities(
        fitted.model.module,
        fitted.data,
        temperature=params.get("temperature", 1.0),
        random_state=params["random_state"],
    )
    if min_confidence is None:
        min_confidence = params.get("min_confidence", 0.0)
    params.update(min_confidence=min_confidence, keep_labels=False)
    return annotation(
        query, fitted.model, probabilities, key=key, min_confidence=min_confidence, reference=reference
    )


def _relevant(reference: store.FittedModel) -> Schema:
    """The schema of the reference without labels that its model never looks at, which a query need not have."""
    schema = reference.schema
    by_label = {reference.params["dispersion"], reference.params.get("protein_dispersion")}
    used = isinstance(schema.labels, Labels) or by_label & {"gene-label", "protein-label"}
    return schema if used else replace(schema, labels=None)


def _say(added: dict[str, tuple[str, ...]], module: VAE, plan: Plan) -> None:
    """What is new in the query, and what is trained for it."""
    if not added:
        logg.info("    nothing in the query is new to the reference, so nothing is trained")
        return
    new = "; ".join(f"{', '.join(map(repr, names))} of obs[{key!r}]" for key, names in added.items())
    logg.info(f"    new to the reference: {new}; {plan.max_epochs} epochs for their weights, all others stay")
    if not module.encode_covariates:
        logg.hint(
            "the encoder sees no covariates, so latent states do not depend on this training, only what is decoded"
        )


def _train(
    module: VAE, rooms: list[Room], data: CellData, plan: Plan, *, random_state: int, show: bool | None
) -> tuple[History, Tensor]:
    """Train ``rooms`` alone; returns what happened and the cells held out."""
    import torch

    from ..models.extend import only
    from ..training.fit import History, fit
    from ..training.plan import split
    from ..training.progress import progress

    if not rooms:
        return History(), torch.arange(0)
    if data.n_cells < FEW:
        cells = torch.arange(data.n_cells), torch.arange(0)
    else:
        cells = split(data.n_cells, plan.batch_size, None, random_state)
    bar = progress("mapping", plan.max_epochs * plan.n_minibatches(len(cells[0])), show=show)
    try:
        with only(module, rooms):
            history = fit(module, data, *cells, plan, random_state=random_state, progress=bar)
    finally:
        bar.close()
    bar.finish(_line(data, history), curves(frame(history)))
    return history, cells[1]


def _line(data: CellData, history: History) -> str:
    """The closing line: how many cells were mapped, how long it took, how well the model fits them."""
    kept = history.rows[history.epoch] if history.rows else {}
    loss = kept.get("elbo_validation")
    stopped = ", interrupted" if history.interrupted else ""
    return (
        f"mapped {data.n_cells:,} cells · {len(history.rows)} epochs in {history.seconds:.0f} s on {data.device.type}{stopped}"
        + ("" if loss is None else f" · held-out loss {loss:.1f}")
    )
