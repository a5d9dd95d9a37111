from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _checks, store
from ..data import Labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def label_probabilities(
    adata: AnnData,
    *,
    key: str = "scanvi",
    model: store.FittedModel | None = None,
    indices: object = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Probability of every label in every cell, by a model of labels such as scANVI.

    ``adata.obsm["scanvi_proba"]`` holds it already for the cells that the model was fitted to. Use this function for
    other cells, whether they have labels of their own or not, or to see the runners-up of some cells. To place cells of a
    new batch, use :func:`scvitl.tl.map_query`.

    Parameters
    ----------
    adata
        Cells to look at, with counts where they were at the fit, or minified.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it: for other cells than
        those it was fitted to. Their genes are matched by name, and they need no column of labels.
    indices
        Cells to take: a mask, positions, names, or a query of ``obs``. `None` takes all.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws of the latent state over which probabilities are averaged.

    Returns
    -------
    Frame of cells × labels (`float32`), each row with a sum of one. Columns have the exact names of the labels. The
    temperature of the model's calibration is in the numbers. Nothing in ``adata`` changes.

    Raises
    ------
    KeyError
        There is no such model, or cells or a column that it needs are missing.
    ValueError
        The model knows no labels, genes of the model are missing, a batch or a label is new to it, the counts are not
        counts, or no cells are selected.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    >>> scvitl.tl.scanvi(adata, "known", batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.get.label_probabilities(adata, indices="batch == 'batch_1'").shape
    (300, 4)
    """
    import pandas as pd

    _checks.reading(batch_size=batch_size, random_state=random_state)
    fitted, cells = store.open_cells(adata, key=key, model=model, indices=indices)
    labels = fitted.schema.labels
    if not isinstance(labels, Labels):
        origin = f"in adata.uns[{key!r}]" if model is None else "given"
        msg = (
            f"the model {origin} is a {fitted.params['model']} model, which knows no labels. "
            "Fit one that does with scvitl.tl.scanvi(adata, labels_key)."
        )
        raise ValueError(msg)

    from .. import posterior

    probabilities = posterior.label_probabilities(
        fitted.module,
        cells,
        temperature=fitted.params.get("temperature", 1.0),
        batch_size=batch_size,
        random_state=random_state,
    )
    return pd.DataFrame(probabilities, cells.names, list(labels.categories))
