from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.multimodal import copied
from ..get._decoding import batch_codes, check_library_size, gene_names, gene_positions
from ._fit import check_copy, write
from ._proteins import N_SAMPLES, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def normalized_expression(  # noqa: PLR0913
    adata: AnnData,
    *,
    key: str = "scvi",
    model: store.FittedModel | None = None,
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    library_size: float | Literal["latent"] = 1.0,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Keep the expression that the model decodes in a layer: denoised, free of depth and, where asked for, of batch.

    The layer serves scanpy's plots, as in ``sc.pl.umap(adata, color="CD3E", layer="scvi_normalized")``. It is dense and
    computed block by block; where it is too large, :func:`scvitl.get.normalized_expression` returns the cells and genes
    at hand. Without ``transform_batch``, batch effects stay in.

    Parameters
    ----------
    adata
        Cells with a fitted model, with counts where they were at the fit.
    key
        Name of the model in ``uns``.
    model
        Model to use in place of the one in ``uns``, as :func:`scvitl.get.model` returns it.
    transform_batch
        Batch to decode all cells from, several to average over, or ``"all"``. `None` leaves each cell in its own.
    genes
        Names of genes to decode; the others become NaN, as do genes that the model does not know.
    library_size
        What the shares are multiplied with, such as 1e4; ``"latent"`` takes the library size of each cell.
    n_samples
        Posterior draws per cell to average over.
    give_mean
        Whether to decode the posterior mean in place of draws.
    batch_size
        Cells looked at together; `None` chooses by the number of genes.
    random_state
        Seed of the draws.
    key_added
        Stem of the name of the layer, in place of that of the model.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. This field is set:

    `adata.layers['scvi_normalized' | key_added + '_normalized']` : :class:`numpy.ndarray` (dtype `float32`)
        Expected shares of the genes in the counts of a cell times ``library_size``.
    `adata.obsm['totalvi_protein']`, `adata.obsm['totalvi_protein_foreground']` : :class:`pandas.DataFrame` (dtype `float32`)
        Of a totalVI model: the tables of :func:`scvitl.tl.totalvi`, decoded from ``transform_batch``.

    Raises
    ------
    KeyError
        There is no such model, gene or batch, or a column that the model needs is missing.
    ValueError
        Genes of the model are missing, a batch is new to it, or the counts are not counts.
    MemoryError
        The layer would not fit.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
    >>> scvitl.tl.normalized_expression(adata, transform_batch="all", library_size=1e4)
    >>> adata.layers["scvi_normalized"].sum(1).round()[:2].tolist()
    [10000.0, 10000.0]
    """
    check_library_size(library_size)
    _checks.whole_number("n_samples", n_samples)
    _checks.true_or_false("give_mean", give_mean)
    check_copy(adata, copy)
    _checks.reading(batch_size=batch_size, random_state=random_state)
    start = logg.info("decoding expression")
    fitted, cells = store.open_cells(adata, key=key, model=model)
    given, adata = adata, store.joined(adata, key=key, model=fitted)
    positions = gene_positions(fitted.schema, genes)
    batches = batch_codes(fitted.schema, transform_batch)
    columns = adata.var_names.get_indexer(gene_names(fitted.schema, positions))
    # Minified cells may have lost genes since the fit.
    here = columns >= 0
    if not here.all():
        positions = (np.arange(len(columns)) if positions is None else positions)[here]
    _checks.fits_memory(
        4 * adata.n_obs * adata.n_vars,
        "the layer",
        "use scvitl.get.normalized_expression with indices or genes",
    )

    from .. import posterior

    layer = np.full(adata.shape, np.nan, dtype=np.float32)
    stop = 0
    for block in posterior.expression_blocks(
        fitted.module,
        cells,
        batches=batches,
        genes=positions,
        library_size=library_size,
        n_samples=n_samples,
        give_mean=give_mean,
        batch_size=batch_size,
        random_state=random_state,
    ):
        start_row, stop = stop, stop + block.shape[1]
        layer[start_row:stop, columns[here]] = block.mean(0)
    names, slots = keys(key, key_added), {}
    name = names.normalized
    if fitted.schema.proteins is not None:
        slots["obsm"] = tables(
            fitted,
            cells,
            names,
            transform_batch="measured" if transform_batch is None else transform_batch,
            n_samples=1 if give_mean else max(n_samples, N_SAMPLES),
            give_mean=give_mean,
            batch_size=batch_size,
            random_state=random_state,
        )
    adata = copied(given) if copy else given
    write(adata, {"layers": {name: layer}, **slots}, proteins=fitted.schema.proteins)
    of_proteins = "".join(f"\n    {key!r}, decoded proteins (adata.obsm)" for key in slots.get("obsm", ()))
    logg.info(
        "    finished",
        time=start,
        deep=f"added\n    {name!r}, decoded expression (adata.layers){of_proteins}",
    )
    return adata if copy else None
