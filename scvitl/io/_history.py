"""The losses of training that scvi-tools noted, read off the nodes of pickled frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._decode import array_in

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


def _column(frame: Any) -> np.ndarray | None:
    """The numbers of a frame of one column: the only array in it that has two dimensions."""
    found = array_in(frame, lambda array: array.ndim == 2 and len(array) == 1)
    return None if found is None else found[0].astype(np.float64)
