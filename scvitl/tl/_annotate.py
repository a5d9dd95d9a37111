"""From the probabilities of labels to what is written of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import store
from .._keys import colors, keys
from .._logging import logg
from ..data import Schema, encode
from ..data.columns import category_name
from ._proteins import safe_columns

if TYPE_CHECKING:
    import anndata as ad

    from ..data import Labels
    from ._fit import Fit


def annotation(
    adata: ad.AnnData,
    model: store.FittedModel,
    probabilities: np.ndarray,
    *,
    key: str,
    keep_labels: bool = False,
    min_confidence: float = 0.0,
    reference: ad.AnnData | None = None,
) -> dict[str, dict[str, Any]]:
    """What goes into the slots of ``adata``, for ``probabilities`` (n, L) of the labels of ``model``.

    ``keep_labels`` leaves the labels that cells have. Other cells stay without one if the probability of the likeliest
    is below ``min_confidence``. Colours that ``adata`` lacks are those of the ``reference``.
    """
    labels, names = model.schema.labels, keys(key)
    given = encode(adata, model.schema, genes=False).labels if keep_labels else None
    codes = probabilities.argmax(1)
    if keep_labels:
        codes = np.where(given < len(labels.categories), given, codes)
    confidence = probabilities[np.arange(len(codes)), codes]
    unsure = confidence < min_confidence
    if keep_labels:
        unsure &= given == len(labels.categories)
    codes[unsure] = len(labels.categories)
    predicted = pd.Categorical.from_codes(codes, [*labels.categories, labels.unlabeled])
    predicted = predicted.remove_unused_categories()
    obs = {names.label: predicted, names.confidence: confidence}
    if labels.groups:
        obs[names.group] = _groups(labels, codes, probabilities)
    elif _had_groups(adata, key):
        obs[names.group] = None  # left by the model that is replaced
    table = _table(adata, labels, probabilities)
    carried = _colors(adata, reference, labels.key, predicted.categories)
    return {"obs": obs, "obsm": {names.probabilities: table}, "uns": {colors(names.label): carried}}


def calibrated(fitted: Fit) -> tuple[store.FittedModel, np.ndarray]:
    """The model with its temperature, and the probabilities of the labels in all cells."""
    from .. import posterior

    module, data = fitted.model.module, fitted.data
    labels = data.labels.cpu()
    known = fitted.held_out[labels[fitted.held_out] < module.n_labels]
    params = dict(fitted.model.params)
    seed = {"random_state": params["random_state"]}
    try:
        params["temperature"] = posterior.temperature(module, data, known, **seed)
    except KeyboardInterrupt:
        params |= {"temperature": 1.0, "interrupted": True}
    probabilities = posterior.label_probabilities(module, data, temperature=params["temperature"], **seed)
    if len(known):
        of_known, truth = probabilities[known.numpy()], labels[known].numpy()
        params["calibration_error"] = posterior.calibration_error(of_known, truth)
        params["held_out_accuracy"] = float((of_known.argmax(1) == truth).mean())
    else:
        remedy = (
            "use train_size=0.9" if params["train_size"] == 1 else "label more cells, ten of a kind or more"
        )
        logg.warning(f"no labelled cell was held out, so confidence is not calibrated: {remedy}")
    return replace(fitted.model, params=params), probabilities


def _groups(labels: Labels, codes: np.ndarray, probabilities: np.ndarray) -> pd.Categorical:
    """The group of the label of every cell; of a cell without one, the likeliest group."""
    groups = list(dict.fromkeys(labels.groups))
    member = np.array([groups.index(group) for group in labels.groups])
    likeliest = np.stack([probabilities[:, member == i].sum(1) for i in range(len(groups))], 1).argmax(1)
    known = codes < len(member)
    likeliest[known] = member[codes[known]]
    return pd.Categorical.from_codes(likeliest, groups).remove_unused_categories()


def _table(adata: ad.AnnData, labels: Labels, probabilities: np.ndarray) -> pd.DataFrame:
    """Probabilities with a column per label."""
    names = safe_columns(labels.categories)
    if names != list(labels.categories):
        logg.warning(
            "names of labels have '/' replaced by '_' in obsm, since files cannot hold such a column"
        )
    return pd.DataFrame(probabilities, adata.obs_names, names)


def _had_groups(adata: ad.AnnData, key: str) -> bool:
    """Whether the model in ``uns[key]`` wrote groups."""
    saved = adata.uns.get(key)
    if not store.is_model(saved):
        return False
    return bool(getattr(Schema.from_json(str(saved["schema"])).labels, "groups", ()))


def _colors(
    adata: ad.AnnData, reference: ad.AnnData | None, key: str, categories: pd.Index
) -> list[str] | None:
    """The colours that the labels have in ``adata``, else in the ``reference``; `None` if in neither."""
    by_name = {**_colors_of(reference, key), **_colors_of(adata, key)}
    if not by_name:
        return None
    # A category without cells among the labels, such as the word for having none, is grey.
    return [by_name.get(name, "#d3d3d3") for name in categories]


def _colors_of(adata: ad.AnnData | None, key: str) -> dict[str, str]:
    """Colours of the categories of a column, by name."""
    column = None if adata is None else adata.obs.get(key)
    known = None if adata is None else adata.uns.get(colors(key))
    if known is None or not isinstance(getattr(column, "dtype", None), pd.CategoricalDtype):
        return {}
    pairs = zip(column.cat.categories, known, strict=False)
    return {category_name(name): str(color) for name, color in pairs}
