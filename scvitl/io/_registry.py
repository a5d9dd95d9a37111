"""What scvi-tools knows about a model besides its weights: class, version, genes and columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..data import Category, Continuous, Labels, Schema
from ..data.columns import category_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._saved import Saved

# Tensors that only one class has, for files of versions that did not note the class.
SIGNS = {
    "y_prior": "SCANVI",
    "background_pro_alpha": "TOTALVI",
    "decoder.factor_regressor.": "LinearSCVI",
    "decoder.px_noise_decoder.": "SCAR",
}


def registry(saved: Saved) -> dict[str, Any]:
    """The registry, in the form that it has since scvi-tools 0.15."""
    if "registry_" in saved.attributes:
        return saved.attributes["registry_"]
    old = saved.attributes["scvi_setup_dict_"]
    columns = old["categorical_mappings"]
    fields: dict[str, dict] = {
        "X": {"data_registry": old["data_registry"]["X"], "summary_stats": old["summary_stats"]}
    }
    for name in ("batch", "labels"):
        entry = columns.get(f"_scvi_{name}")
        if entry is not None:
            state = {"original_key": entry["original_key"], "categorical_mapping": entry["mapping"]}
            fields[name] = {"state_registry": state}
    if "extra_categoricals" in old:
        covariates = old["extra_categoricals"]
        state = {"field_keys": covariates["keys"], "mappings": covariates["mappings"]}
        fields["extra_categorical_covs"] = {"state_registry": state}
    if "extra_continuous_keys" in old:
        fields["extra_continuous_covs"] = {"state_registry": {"columns": old["extra_continuous_keys"]}}
    if "protein_names" in old:
        state = {"column_names": old["protein_names"]}
        if "totalvi_batch_mask" in old:
            state["protein_batch_mask"] = old["totalvi_batch_mask"]
        place = old["data_registry"]["protein_expression"]
        fields["proteins"] = {"data_registry": place, "state_registry": state}
    return {"scvi_version": old["scvi_version"], "field_registries": fields}


def class_name(saved: Saved, entries: dict[str, Any]) -> str:
    """The class of scvi-tools that was saved."""
    signs = (name for sign, name in SIGNS.items() if any(key.startswith(sign) for key in saved.state))
    return entries.get("model_name") or next(signs, "SCVI")


def source(entries: dict[str, Any]) -> str:
    """Where the model comes from, in words."""
    number = version(entries)
    return "scvi-tools" if number is None else f"scvi-tools {'.'.join(map(str, number))}"


def before_priors(saved: Saved) -> bool:
    """Whether the file may be without the priors of a latent library size."""
    return "registry_" not in saved.attributes


def always_latent_library(entries: dict[str, Any]) -> bool:
    """Whether the version knew of latent library sizes alone."""
    number = version(entries)
    return number is not None and number < (0, 8)


def version(entries: dict[str, Any]) -> tuple[int, ...] | None:
    """Version of scvi-tools, `None` where the file does not tell: a clone of it gives 0.0.0."""
    found = re.match(r"\d{1,4}(\.\d{1,4}){1,2}", str(entries.get("scvi_version")))
    numbers = found and tuple(map(int, found[0].split(".")))
    return numbers if numbers and any(numbers) else None


def category(entries: dict[str, Any], name: str) -> Category | None:
    """The categories of a column, `None` where no column was named."""
    state = state_of(entries, name)
    key = state.get("original_key")
    return None if _none(key) else Category(key, _names(state["categorical_mapping"]))


def labels(saved: Saved, entries: dict[str, Any], n_labels: int) -> Labels:
    """The column of labels to be learned, of which the model knows ``n_labels``."""
    column, state = category(entries, "labels"), state_of(entries, "labels")
    # Files from before scvi-tools 0.15 have the word in another place.
    place, key = (state, "") if "unlabeled_category" in state else (saved.attributes, "_")
    unlabeled, names = category_name(place[f"unlabeled_category{key}"]), list(column.categories)
    if unlabeled in names:
        at = names.index(unlabeled)
        names[at], names[-1] = names[-1], unlabeled  # where scvi-tools puts it, if it is not there yet
    # Where no cell lacks a label, the word may be among the labels.
    if names[n_labels:] not in ([], [unlabeled]) or len(names) < n_labels:
        msg = f"{n_labels} labels are not those in {names}"
        raise ValueError(msg)
    known = tuple(names[:n_labels])
    # If another label has no cells either, scvi-tools learns the word as a label of its own.
    return Labels(column.key, known, f"{unlabeled} (no label)" if unlabeled in known else unlabeled)


def schema(saved: Saved, entries: dict[str, Any], *, labels: Category | None) -> Schema:
    """Genes and columns; ``labels`` is the column of labels, where the model has a use for it."""
    fields = entries["field_registries"]
    matrix = fields["X"]["data_registry"]
    size_factor = fields.get("size_factor", {}).get("data_registry", {}).get("attr_key")
    covariates = state_of(entries, "extra_categorical_covs")
    return Schema(
        genes=_names(fields["X"]["state_registry"]["column_names"]) if "mod_key" in matrix else saved.genes,
        layer=matrix["attr_key"] if matrix["attr_name"] == "layers" else None,
        batch=category(entries, "batch"),
        labels=labels,
        size_factor=None if _none(size_factor) else size_factor,
        categorical=tuple(
            Category(str(key), _names(covariates["mappings"][key]))
            for key in covariates.get("field_keys", ())
        ),
        # scvi-tools takes numbers as they are.
        continuous=tuple(
            Continuous(str(key), mean=0.0, sd=1.0)
            for key in state_of(entries, "extra_continuous_covs").get("columns", ())
        ),
    )


def n_cells(entries: dict[str, Any]) -> int | None:
    """Cells that the model was set up with."""
    number = entries["field_registries"]["X"].get("summary_stats", {}).get("n_cells")
    return None if number is None else int(number)


def state_of(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """What is known of a field, nothing where the model does not have it."""
    return entries["field_registries"].get(name, {}).get("state_registry", {})


def _none(key: str | None) -> bool:
    """Whether a column stands for no column: scvi-tools then makes one of its own."""
    return key is None or key.startswith("_scvi_")


def _names(categories: Iterable) -> tuple[str, ...]:
    """Categories as text, as the schema has them."""
    return tuple(map(category_name, categories))
