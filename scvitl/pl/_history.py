from __future__ import annotations

from typing import TYPE_CHECKING

from .. import get

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

COLORS = {"train": "#7f7f7f", "validation": "#d95f02"}
LABELS = {"train": "training cells", "validation": "held-out cells"}


def history(
    adata: AnnData, *, key: str = "scvi", ax: Axes | None = None, show: bool | None = None
) -> Axes | None:
    """Draw the loss of training and held-out cells by epoch, and mark the epoch whose weights the model has.

    A good fit falls and levels off, with the held-out curve close to the training curve. If the held-out curve
    rises again, the model has begun to learn single cells by heart; if both still fall, give it more epochs.

    Parameters
    ----------
    adata
        Cells with a fitted model.
    key
        Name of the model in ``uns``.
    ax
        Axes to draw on. `None` makes a figure.
    show
        Whether to show the figure. `None` asks ``scanpy.settings.autoshow``.

    Returns
    -------
    `None` if the figure is shown, else the axes. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=3, progress=False)
    >>> ax = scvitl.pl.history(adata, show=False)
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    frame = get.history(adata, key=key)
    drawn = [name for name in COLORS if f"elbo_{name}" in frame]
    if not drawn:
        msg = f"the history in adata.uns[{key!r}] is empty: training was interrupted in its first epoch, or the model came from a file without one."
        raise ValueError(msg)
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    epochs = frame.index + 1
    for name in drawn:
        ax.plot(
            epochs,
            frame[f"elbo_{name}"],
            color=COLORS[name],
            label=LABELS[name],
            marker="" if len(frame) > 1 else "o",
        )
    restored = frame.attrs.get("restored_epoch")
    if restored is not None:
        loss = frame.loc[restored, f"elbo_{drawn[-1]}"]
        ax.plot(
            restored + 1,
            loss,
            "o",
            color=COLORS[drawn[-1]],
            label=f"kept: epoch {restored + 1} ({loss:.1f})",
            zorder=3,
        )
    _clip(ax, frame[[f"elbo_{name}" for name in drawn]].to_numpy())
    ax.set(xlabel="epoch", ylabel="loss (negative ELBO per cell)", title=key)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    if sc.settings.autoshow if show is None else show:
        plt.show()
        return None
    return ax


def _clip(ax: Axes, losses) -> None:
    """Leave the steep first epochs out of the picture, which would flatten the rest."""
    settled = losses[min(len(losses) // 10, len(losses) - 1) :]
    low, high = settled.min(), settled.max()
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + 2 * margin)
