"""A fitted scVI for scANVI to start from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .. import store
from .._architectures import NONLINEAR
from .._logging import logg
from ._fit import fit

if TYPE_CHECKING:
    import anndata as ad

    from ._fit import Setting


def pretrained(adata: ad.AnnData, setting: Setting, scvi_key: str | None) -> store.FittedModel | None:
    """The scVI in ``adata.uns[scvi_key]`` if it suits; with the reference plan, one trained now; else none."""
    if scvi_key is not None and (scvi_key != "scvi" or store.is_model(adata.uns.get(scvi_key))):
        model = store.from_uns(adata, scvi_key)
        reason = _difference(model, setting)
        if reason is None:
            logg.info(f"    starting from the scVI model in adata.uns[{scvi_key!r}]")
            return model
        logg.warning(f"the model in adata.uns[{scvi_key!r}] is not used to start from: {reason}")
    if setting.training["plan"] == "fast" or setting.architecture["dispersion"] == "gene-label":
        return None
    logg.info("    training scVI first")
    training = {name: value for name, value in setting.training.items() if name != "n_samples_per_label"}
    alone = replace(
        setting,
        title="scVI",
        schema=replace(setting.schema, labels=None),
        architecture={name: setting.architecture[name] for name in NONLINEAR},
        training={**training, "max_epochs": None, "early_stopping": False},
    )
    return fit(adata, alone).model


def _difference(model: store.FittedModel, setting: Setting) -> str | None:
    """Why ``model`` cannot be started from, in words."""
    theirs, ours = model.schema, setting.schema
    if model.params["model"] != "scVI":
        return f"it is a {model.params['model']} model"
    if theirs.genes != ours.genes:
        return "its genes are not those of adata"
    columns = ("layer", "batch", "size_factor", "categorical", "continuous")
    for name in columns:
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here:
            before, now = _short(there), _short(here)
            same = "here, but what it holds differs"
            return f"{name} is {before} there and {same if before == now else f'{now} here'}"
    for name in NONLINEAR:
        there, here = model.params[name], setting.architecture[name]
        if there != here:
            return f"{name} is {there!r} there and {here!r} here"
    if ours.labels is not None and setting.architecture["dispersion"] == "gene-label":
        return "its dispersions belong to labels"
    return None


def _short(value: object) -> str:
    """A column of the schema in a few words."""
    if isinstance(value, tuple):
        return ", ".join(map(_short, value)) or "none"
    if hasattr(value, "categories"):
        return f"obs[{value.key!r}] with {len(value.categories)} categories"
    if hasattr(value, "key"):
        return f"obs[{value.key!r}]"
    return "none" if value is None else repr(value)
