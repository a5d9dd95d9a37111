from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.multimodal import copied
from ._fit import check_copy, write

if TYPE_CHECKING:
    from anndata import AnnData


def differential_abundance(
    adata: AnnData,
    sample_key: str,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    num_cells_posterior: int | None = None,
    dof: float | None = None,
    random_state: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """How abundant each sample is around every cell, without clusters.

    For every sample, the posteriors of its cells together are a density over latent space; this is its logarithm at
    every cell. The mean over the samples of one condition less that of another shows where cells of the former have
    become more frequent, for example with ``sc.pl.umap``. Time grows with the square of the number of cells, memory
    does not.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    sample_key
        Column of ``obs`` with the samples.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it.
    num_cells_posterior
        At most so many cells, drawn at random, stand for a sample. `None` takes all.
    dof
        Degrees of freedom of Student's t around every cell; `None` takes its normal posterior.
    random_state
        Seed of the choice of cells.
    key_added
        Stem of the name of the result, in place of that of the model.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. This field is set:

    `adata.obsm['scvi_abundance' | key_added + '_abundance']` : :class:`pandas.DataFrame`
        Log densities, cells × samples.

    Raises
    ------
    KeyError
        There is no such model or column.
    ValueError
        A cell has no sample, or the cells do not suit the model.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, max_epochs=2, progress=False)
    >>> scvitl.tl.differential_abundance(adata, "batch")
    >>> adata.obsm["scvi_abundance"].columns.tolist()
    ['batch_0', 'batch_1']
    """
    whole = store.joined(adata, key=key, model=model)
    _checks.obs_column(whole, "sample_key", sample_key)
    if num_cells_posterior is not None:
        _checks.whole_number("num_cells_posterior", num_cells_posterior)
    if dof is not None:
        _checks.number("dof", dof, above=0)
    _checks.seed(random_state)
    check_copy(adata, copy)
    column = whole.obs[sample_key].astype("category").cat.remove_unused_categories().cat
    if (column.codes < 0).any():
        msg = f"adata.obs[{sample_key!r}] is NaN in {int((column.codes < 0).sum())} cells: name their sample, or drop them."
        raise ValueError(msg)
    start = logg.info("computing the abundance of samples")
    fitted, data = store.open_cells(whole, key=key, model=model)

    from .. import posterior

    rng = np.random.default_rng(random_state)
    samples = [np.flatnonzero(column.codes == code) for code in range(len(column.categories))]
    if num_cells_posterior is not None:
        samples = [np.sort(rng.permutation(cells)[:num_cells_posterior]) for cells in samples]
    values = posterior.log_densities(fitted.module, data, samples, dof=dof)
    frame = pd.DataFrame(values, index=adata.obs_names, columns=list(map(str, column.categories)))
    name = keys(key, key_added).abundance
    adata = copied(adata) if copy else adata
    write(adata, {"obsm": {name: frame}})
    logg.info("    finished", time=start, deep=f"added\n    {name!r}, log densities of samples (adata.obsm)")
    return adata if copy else None
