from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._simulate import simulate_cells, simulate_genes, with_droplets, with_proteins

if TYPE_CHECKING:
    from anndata import AnnData


def toy(
    *,
    n_cells: int = 600,
    n_genes: int = 200,
    n_types: int = 4,
    n_factors: int = 3,
    n_batches: int = 2,
    n_proteins: int = 0,
    n_empty_droplets: int = 0,
    random_state: int = 0,
) -> AnnData:
    r"""Simulate counts whose factors, loadings, proteins and ambient counts are known.

    Cells :math:`c` of a type scatter around its centroid in the space of a few factors :math:`f_c`. Genes
    :math:`g` follow the factors through sparse loadings :math:`w_g` and shift with the batch :math:`b`:

    .. math::

        \rho_{cg} &= \mathrm{softmax}_g\left(a_g + w_g^\top f_c + s_{b(c)g}\right) \\
        \ell_c &\sim \mathrm{LogNormal}\left(\log 1500 + d_{b(c)},\ 0.3^2\right) \\
        x_{cg} &\sim \mathrm{NegativeBinomial}\left(\mathrm{mean} = \ell_c\,\rho_{cg},\
            \mathrm{variance} = \mathrm{mean} + \mathrm{mean}^2 / \theta_g\right)

    Over the cells, factors have mean zero, variance one and no correlation. The first ``n_types - 1`` of them
    tell the types apart, any further one varies within the types alone. Each factor drives a block of genes
    of its own, from the first gene on: one half up, the other down. The first factor is the strongest. No
    factor drives the last two fifths of the genes.

    A protein has a background :math:`\beta_{b(c)p}` in all cells, and a foreground :math:`\alpha_p` times as
    high in the types that express it, :math:`\pi_{cp} = 1`:

    .. math::

        y_{cp} \sim \mathrm{NegativeBinomial}\left(\mathrm{mean} = m_c\,\beta_{b(c)p}\,\alpha_p^{\pi_{cp}},\
            \mathrm{variance} = \mathrm{mean} + \mathrm{mean}^2 / \phi_p\right)

    Droplets without a cell hold 10 to 200 counts of the ambient profile: what the cells express together,
    times noise per gene. About 5 to 10 % of the counts of a cell come from the same profile.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_genes
        Number of genes, at least four for each factor.
    n_types
        Number of cell types, of equal size.
    n_factors
        Number of factors behind the expression.
    n_batches
        Number of batches. Cells are spread over them regardless of type.
    n_proteins
        Number of surface proteins measured beside the genes. Counts of genes do not depend on it.
    n_empty_droplets
        Number of droplets without a cell, put after the cells. Unless it is zero, cells hold ambient counts.
    random_state
        Seed. Equal seeds give equal data.

    Returns
    -------
    An AnnData object of cells, then droplets if any.

    `adata.X` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Counts. No cell is empty.
    `adata.obs['batch']`, `adata.obs['cell_type']` : :class:`~pandas.Categorical`
        Batch and type. The type of a droplet is ``Empty``.
    `adata.obs['library']` : :class:`~pandas.Series`
        :math:`\ell_c`, the expected total of the cell's own counts.
    `adata.obsm['factors']` : :class:`~numpy.ndarray` (dtype `float32`)
        :math:`f_c`. Not a number in droplets.
    `adata.varm['loadings']`, `adata.varm['batch_shift']` : :class:`~numpy.ndarray` (dtype `float32`)
        :math:`w_g` and :math:`s_{bg}`, one column per factor or batch.
    `adata.var['intercept']`, `adata.var['dispersion']` : :class:`~pandas.Series`
        :math:`a_g` and :math:`\theta_g`.
    `adata.obsm['protein_expression']` : :class:`~pandas.DataFrame`
        Protein counts, if `n_proteins` is not zero.
    `adata.obsm['protein_foreground']` : :class:`~pandas.DataFrame` (dtype `bool`)
        :math:`\pi_{cp}`, if `n_proteins` is not zero.
    `adata.obs['is_cell']`, `adata.obs['ambient_fraction']` : :class:`~pandas.Series`
        Whether the droplet has a cell, and the share of ambient counts in its total, if `n_empty_droplets` is
        not zero.
    `adata.var['ambient_profile']` : :class:`~pandas.Series`
        Share of each gene in the ambient counts, if `n_empty_droplets` is not zero.
    `adata.layers['native']` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Counts without the ambient ones, if `n_empty_droplets` is not zero.

    Examples
    --------
    >>> from scvitl import datasets
    >>> adata = datasets.toy(n_proteins=5)
    >>> adata.shape
    (600, 200)
    >>> adata.obs["cell_type"].cat.categories.tolist()
    ['type_0', 'type_1', 'type_2', 'type_3']
    >>> adata.obsm["protein_expression"].shape
    (600, 5)
    """
    _check_sizes(
        at_least_one={"n_cells": n_cells, "n_types": n_types, "n_factors": n_factors, "n_batches": n_batches},
        at_least_zero={"n_proteins": n_proteins, "n_empty_droplets": n_empty_droplets},
    )
    _check_enough_cells(n_cells, n_types=n_types, n_factors=n_factors, n_batches=n_batches)
    _check_enough_genes(n_genes, n_factors=n_factors)
    # One stream per part, so that asking for proteins or droplets leaves the cells as they are.
    rng_genes, rng_droplets, rng_proteins = np.random.default_rng(random_state).spawn(3)

    adata = simulate_cells(n_cells, n_types=n_types, n_factors=n_factors, n_batches=n_batches, rng=rng_genes)
    adata = simulate_genes(adata, n_genes, rng=rng_genes)
    if n_empty_droplets:
        adata = with_droplets(adata, n_empty_droplets, rng=rng_droplets)
    if n_proteins:
        adata = with_proteins(adata, n_proteins, rng=rng_proteins)
    return adata


def _check_sizes(*, at_least_one: dict[str, int], at_least_zero: dict[str, int]) -> None:
    for lowest, sizes in ((1, at_least_one), (0, at_least_zero)):
        for name, size in sizes.items():
            if size < lowest:
                msg = f"`{name}` must be at least {lowest}, not {size}."
                raise ValueError(msg)


def _check_enough_cells(n_cells: int, *, n_types: int, n_factors: int, n_batches: int) -> None:
    # Factors can be made uncorrelated only over more cells than there are factors.
    needed = max(n_types, n_batches, n_factors + 1)
    if n_cells < needed:
        msg = (
            f"n_cells={n_cells} is too few for n_types={n_types}, n_factors={n_factors} and "
            f"n_batches={n_batches}. Pass at least n_cells={needed}."
        )
        raise ValueError(msg)


def _check_enough_genes(n_genes: int, *, n_factors: int) -> None:
    if n_genes < 4 * n_factors:
        msg = (
            f"n_genes={n_genes} is too few for n_factors={n_factors}: a factor needs four genes. "
            f"Pass at least n_genes={4 * n_factors}, or fewer factors."
        )
        raise ValueError(msg)
