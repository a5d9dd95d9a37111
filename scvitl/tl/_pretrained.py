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
    """The scVI in ``adata.uns[scvi_key]``; with the reference plan, the one in ``uns`` or one trained now; else none."""
    fast = setting.training["plan"] == "fast"
    found = "scvi" if store.is_model(adata.uns.get("scvi")) else None
    key = scvi_key if scvi_key is not None else None if fast else found
    if key is not None:
        model = store.from_uns(adata, key)
        reason = _difference(model, setting)
        if reason is None:
            logg.info(f"    starting from the scVI model in adata.uns[{key!r}]")
            return model
        msg = f"the model in adata.uns[{key!r}] cannot be started from: {reason}"
        if scvi_key is not None:
            msg = f"{msg}. Fit scVI again with these columns and options, or leave out scvi_key."
            raise ValueError(msg)
        logg.warning(msg)
    if fast or setting.architecture["dispersion"] == "gene-label":
        if fast and found:
            # What scVI has put together wrongly is hard to part again: see the documentation of the model.
            logg.hint(
                "labels are learned from the start, without adata.uns['scvi']; scvi_key='scvi' starts from it"
            )
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
