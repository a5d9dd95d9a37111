"""Types of features that a matrix of 10x Genomics mixes: genes, antibodies, guides, tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _checks

if TYPE_CHECKING:
    import anndata as ad

COLUMN = "feature_types"  # of var, as scanpy reads it
TYPES = {  # names of Cell Ranger
    "mRNA": "Gene Expression",
    "ADT": "Antibody Capture",
    "sgRNA": "CRISPR Guide Capture",
    "CMO": "Multiplexing Capture",
    "tag": "Custom",
}
ASSIGNED = ("sgRNA", "CMO", "tag")  # of which a cell has one or a few, and no others


def chosen(adata: ad.AnnData, feature_type: str) -> np.ndarray:
    """Which features are of that type, (G,): all, where ``var`` does not tell types apart."""
    _checks.one_of("feature_type", feature_type, list(TYPES))
    if COLUMN not in adata.var:
        return np.ones(adata.n_vars, bool)
    column = adata.var[COLUMN].astype(str).to_numpy()
    there = list(dict.fromkeys(column))
    mask = np.isin(column, [feature_type, TYPES[feature_type]])
    if mask.any():
        return mask
    known = {name: kind for kind, name in TYPES.items()}
    if len(there) == 1 and (feature_type in ASSIGNED or not {*there} & {*TYPES, *known}):
        # Tags may be antibodies, and guides custom features. A single name that is not known tells nothing apart.
        return np.ones(adata.n_vars, bool)
    others = [known.get(name, name) for name in there]
    hint = f" Is feature_type={others[0]!r} meant?" if len(there) == 1 and others[0] in TYPES else ""
    msg = f"adata.var[{COLUMN!r}] has no {feature_type}, but {', '.join(map(repr, there))}.{hint}"
    raise ValueError(msg)


def types(adata: ad.AnnData) -> list[np.ndarray]:
    """Masks of the types that there are."""
    if COLUMN not in adata.var:
        return [np.ones(adata.n_vars, bool)]
    column = adata.var[COLUMN].astype(str).to_numpy()
    return [column == name for name in dict.fromkeys(column)]
