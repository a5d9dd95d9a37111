"""What totalVI alone has: proteins, and ways of reading counts that changed from one version of scvi-tools to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .._logging import logg
from ..data import columns
from ..data import proteins as protein_tables
from ..data.multimodal import MODALITIES, as_read
from ..data.proteins import Proteins
from . import _registry
from ._decode import array_in

if TYPE_CHECKING:
    import anndata as ad

    from ..data import Category, Schema

KEY = "protein_expression"  # of obsm, for proteins that were a modality of a MuData
EFFICIENCY = "protein_counts.log_efficiency"
# Versions in which the activation of the background became another, and in which the encoder began to see normalised
# counts, and batches got efficiencies.
SOFTPLUS, NORMALIZED = (1, 2), (1, 3, 1)


def of_version(
    entries: dict[str, Any], weights: dict[str, np.ndarray], activation: str | None
) -> dict[str, Any]:
    """Arguments of our module that follow from the version; an efficiency that no training saw leaves ``weights``."""
    version = _registry.version(entries) or (0,)
    current = _current(version, weights)
    if not current:
        if version >= NORMALIZED:
            logg.warning(
                "the model was trained before scvi-tools 1.3.1, and saved again since. It is read as it was trained; "
                "scvi-tools reads it as a new one, which gives another latent space"
            )
        weights.pop(EFFICIENCY, None)
    return {
        "normalize_counts": current,
        "protein_efficiency": current,
        "background_activation": activation or ("softplus" if version >= SOFTPLUS else "exp"),
    }


def _current(version: tuple[int, ...], weights: dict[str, np.ndarray]) -> bool:
    """Whether the model was trained by scvi-tools 1.3.1 or later.

    Converting a file from before 0.15 adds efficiencies of zero, which stay zero in no training that moves the prior of
    the background; and that is the same for all proteins until it is moved.
    """
    if EFFICIENCY not in weights:
        return False
    prior = weights["protein_counts.background_mean"]
    return bool(weights[EFFICIENCY].any()) or (version >= NORMALIZED and not np.ptp(prior, axis=0).any())


def learned(entries: dict[str, Any], batch: Category | None, *, all_measured: bool) -> Proteins:
    """The proteins as the model was set up with them; ``all_measured`` ignores which ones batches lack."""
    place, state = (
        entries["field_registries"]["proteins"][name] for name in ("data_registry", "state_registry")
    )
    names = state["column_names"]
    if not isinstance(names, (list, tuple)):
        names = array_in(names, lambda array: array.ndim == 1)
    names = tuple(map(str, names))
    panel = _registry.category(entries, "panel")
    kinds = batch if panel is None else panel
    masks = {} if all_measured else state.get("protein_batch_mask", {})
    masks = {str(code): np.asarray(mask, bool).reshape(len(names)) for code, mask in masks.items()}
    measured = np.stack(
        [
            masks.get(str(code), np.ones(len(names), bool))
            for code in range(1 if kinds is None else len(kinds.categories))
        ]
    )
    key = place["attr_key"] if place["attr_name"] == "obsm" else KEY
    places = [entries["field_registries"][field]["data_registry"] for field in ("X", "proteins")]
    modalities = tuple(str(place["mod_key"]) for place in places) if "mod_key" in place else None
    return Proteins(str(key), names, panel, _tuples(measured), _tuples(measured), modalities=modalities)


def located(adata: ad.AnnData, schema: Schema) -> tuple[ad.AnnData, Proteins]:
    """``adata`` as the model reads it, and the proteins with what its cells tell: which panels there are in a batch."""
    proteins, given = schema.proteins, adata
    adata = as_read(given, proteins)
    if proteins.key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "nothing"
        some = ", ".join(proteins.names[:3]) + (", …" if len(proteins.names) > 3 else "")
        msg = (
            f"the model needs counts of {len(proteins.names)} proteins in adata.obsm[{proteins.key!r}], which is not there."
            f"{_checks.did_you_mean(proteins.key, adata.obsm)} There: {there}. Put a table of cells × proteins there, with "
            f"columns {some}."
        )
        raise KeyError(msg)
    in_batch = np.array(proteins.measured)
    if proteins.panel is not None:
        batches = protein_tables.batch_codes(adata, schema.batch)
        panels = columns.codes(adata, "panel_key", proteins.panel)
        n_batch = 1 if schema.batch is None else len(schema.batch.categories)
        in_batch = np.stack([in_batch[np.unique(panels[batches == code])].any(0) for code in range(n_batch)])
    in_batch[:, ~in_batch.any(0)] = True  # measured nowhere, so one batch is as good as another
    modalities = (proteins.modalities or MODALITIES) if adata is not given else None
    return adata, replace(proteins, in_batch=_tuples(in_batch), modalities=modalities)


def _tuples(mask: np.ndarray) -> tuple[tuple[bool, ...], ...]:
    return tuple(map(tuple, mask.tolist()))
