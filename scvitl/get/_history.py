from __future__ import annotations

from typing import TYPE_CHECKING

from .. import store

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def history(adata: AnnData, *, key: str = "scvi") -> pd.DataFrame:
    """How training went, epoch by epoch.

    Use it to see whether training had converged, or to compare two fits. All losses are means per cell in nats, lower is better.

    Parameters
    ----------
    adata
        Cells with a fitted model.
    key
        Name of the model in ``uns``.

    Returns
    -------
    A frame with a row per epoch and the columns ``elbo_*`` (negative evidence lower bound, the sum of the next two),
    ``reconstruction_loss_*``, ``kl_local_*``, each for ``train`` and, where cells were held out, ``validation``;
    ``kl_weight`` and ``learning_rate`` at the start of the epoch. The training columns are taken on the way, with
    dropout and changing weights. ``attrs["restored_epoch"]`` is the epoch whose weights the model has. Nothing in
    ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=3, progress=False)
    >>> len(scvitl.get.history(adata))
    3
    """
    record = store.record(adata, key)
    frame = record["history"].copy()
    if "restored_epoch" in record["params"]:
        frame.attrs["restored_epoch"] = int(record["params"]["restored_epoch"])
    return frame
