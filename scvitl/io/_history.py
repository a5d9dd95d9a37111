"""The losses of training that scvi-tools noted, read off the nodes of pickled frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._unpickle import Node

SETS = ("train", "validation")
# Our names of the columns, and those of scvi-tools.
COLUMNS = {
    **{
        f"{loss}_{cells}": f"{loss}_{cells}"
        for cells in SETS
        for loss in ("elbo", "reconstruction_loss", "kl_local")
    },
    **{
        f"{name}_{cells}": f"{cells}_{name}" for cells in SETS for name in ("classification_loss", "accuracy")
    },
}


def history(frames: Any) -> pd.DataFrame:
    """A row per epoch. Losses that were not taken in every epoch are left out, since the epochs are not known."""
    frames = frames if isinstance(frames, dict) else {}
    read = {ours: _column(frames.get(theirs)) for ours, theirs in COLUMNS.items()}
    columns = {name: values for name, values in read.items() if values is not None}
    n = max(map(len, columns.values()), default=0)
    return pd.DataFrame(
        {name: values for name, values in columns.items() if len(values) == n},
        index=pd.RangeIndex(n, name="epoch").astype("int64"),
    )


def _column(value: Any, seen: dict[int, Any] | None = None) -> np.ndarray | None:
    """The numbers of a frame of one column: the only array in it that has two dimensions."""
    # What was looked at once is kept, since ids are used again.
    seen = {} if seen is None else seen
    if id(value) in seen:
        return None
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        return value[0].astype(np.float64) if value.ndim == 2 and len(value) == 1 else None
    if isinstance(value, Node):
        value = value.args, value.state
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return None
    return next((found for item in value if (found := _column(item, seen)) is not None), None)
