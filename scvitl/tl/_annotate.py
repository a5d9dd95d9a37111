"""From the probabilities of labels to what is written of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._keys import colors, keys
from .._logging import logg
from ..data import encode
from ..data.columns import category_name

if TYPE_CHECKING:
    import anndata as ad

    from .. import store
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
    # What an earlier run left and this one does not have is taken away.
    obs[names.group] = _groups(labels, codes, probabilities) if labels.groups else None
    table = _table(adata, labels, probabilities)
    slots = {"obs": obs, "obsm": {names.probabilities: table}, "uns": {colors(names.label): None}}
    for source in (adata, reference):
        carried = None if source is None else _colors(source, labels.key, predicted.categories)
        if carried is not None:
            slots["uns"][colors(names.label)] = carried
            break
    return slots


def calibrated(fitted: Fit) -> tuple[store.FittedModel, np.ndarray]:
    """The model with its temperature, and the probabilities of the labels in all cells."""
    from .. import posterior

    module, data = fitted.model.module, fitted.data
    labels = data.labels.cpu()
    known = fitted.held_out[labels[fitted.held_out] < module.n_labels]
    params = dict(fitted.model.params)
    seed = {"random_state": params["random_state"]}
    params["temperature"] = posterior.temperature(module, data, known, **seed)
    probabilities = posterior.label_probabilities(module, data, temperature=params["temperature"], **seed)
    if len(known):
        of_known, truth = probabilities[known.numpy()], labels[known].numpy()
        params["calibration_error"] = posterior.calibration_error(of_known, truth)
        params["held_out_accuracy"] = float((of_known.argmax(1) == truth).mean())
    else:
        logg.warning("no labelled cell was held out, so confidence is not calibrated: label more cells")
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
    names = []
    for name in labels.categories:
        column = name.replace("/", "_")
        others = {*labels.categories, *names} - {name}
        while column in others:
            column += "_"
        names.append(column)
    if names != list(labels.categories):
        logg.warning(
            "names of labels have '/' replaced by '_' in obsm, since files cannot hold such a column"
        )
    return pd.DataFrame(probabilities, adata.obs_names, names)


def _colors(adata: ad.AnnData, key: str, categories: pd.Index) -> list[str] | None:
    """The colours of the labels for ``categories``, if the column has colours."""
    column = adata.obs.get(key)
    known = adata.uns.get(colors(key))
    if known is None or not isinstance(getattr(column, "dtype", None), pd.CategoricalDtype):
        return None
    by_name = {
        category_name(name): str(color) for name, color in zip(column.cat.categories, known, strict=False)
    }
    # A category without cells among the labels, such as the word for having none, is grey.
    return [by_name.get(name, "#d3d3d3") for name in categories]
