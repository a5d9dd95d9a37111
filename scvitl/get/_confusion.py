from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _checks, store
from .._keys import keys
from ..data import Labels, columns
from ..data.schema import Schema

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def confusion(adata: AnnData, truth: str | None = None, *, key: str = "scanvi") -> pd.DataFrame:
    """Count the cells of every given label by the label that was predicted for them.

    Compare with labels that the model did not see for an honest score: a column of which only a part was given to
    :func:`scvitl.tl.scanvi`. With the column that it was fitted to, numbers off the diagonal point to labels that the
    counts speak against.

    Parameters
    ----------
    adata
        Cells with predicted labels.
    truth
        Column of ``obs`` with the labels to compare with. `None` takes the column that the model was fitted to.
    key
        Name of the model in ``uns`` and of the predicted labels in ``obs``.

    Returns
    -------
    Frame of given × predicted labels (`int64`), both in the order of the model's labels. Rows are the labels in
    ``truth``, names that the model does not know last. Columns are these and whatever was predicted, last the word for
    cells that remained without a label. Cells that lack a label in ``truth`` are left out. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model or column.
    ValueError
        The model knows no labels, or no cell has a label in ``truth``.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    >>> scvitl.tl.scanvi(adata, "known", batch_key="batch", progress=False)
    >>> table = scvitl.get.confusion(adata, "cell_type")
    >>> int(table.to_numpy().sum())
    600
    """
    import pandas as pd

    labels = _labels(adata, key)
    truth = labels.key if truth is None else truth
    given, predicted = (
        _names(adata, argument, column) for argument, column in (("truth", truth), ("key", keys(key).label))
    )
    known = (given.notna() & (given != labels.unlabeled) & predicted.notna()).to_numpy()
    if not known.any():
        msg = (
            f"no cell has a label in adata.obs[{truth!r}] and a prediction in adata.obs[{key!r}]: "
            "name a column with labels as truth."
        )
        raise ValueError(msg)
    given, predicted = given[known], predicted[known]
    rows = _in_order(given, labels.categories)
    found = set(given) | set(predicted)
    called = [name for name in (*labels.categories, labels.unlabeled) if name in found]
    called += [name for name in _in_order(predicted, ()) if name not in called]
    at, to = pd.Index(rows).get_indexer(given), pd.Index(called).get_indexer(predicted)
    counts = np.bincount(at * len(called) + to, minlength=len(rows) * len(called))
    return pd.DataFrame(
        counts.reshape(len(rows), len(called)),
        pd.Index(rows, name=truth),
        pd.Index(called, name=keys(key).label),
    )


def _labels(adata: AnnData, key: str) -> Labels:
    """The labels of the model in ``uns``."""
    record = store.record(adata, key)
    labels = Schema.from_json(str(record["schema"])).labels
    if not isinstance(labels, Labels):
        msg = (
            f"the model in adata.uns[{key!r}] is a {record['params']['model']} model, which predicts no labels. "
            "Fit one that does with scvitl.tl.scanvi(adata, labels_key)."
        )
        raise ValueError(msg)
    return labels


def _names(adata: AnnData, argument: str, column: str) -> pd.Series:
    """A column as text, with gaps where it has some, categories in their order."""
    import pandas as pd

    _checks.obs_column(adata, argument, column)
    rows = np.flatnonzero(adata.obs[column].notna())
    text = columns.text(adata, argument, column, rows)
    codes = np.full(adata.n_obs, -1)
    codes[rows] = text.codes
    return pd.Series(pd.Categorical.from_codes(codes, text.categories))


def _in_order(names: pd.Series, first: tuple[str, ...]) -> list[str]:
    """The names that occur, those in ``first`` in their order, then the others by category."""
    used = list(names.cat.remove_unused_categories().cat.categories)
    return [name for name in first if name in used] + [name for name in used if name not in first]
