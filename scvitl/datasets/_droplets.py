from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ._pbmc import pbmc

BATCH = "pbmc1k_v3"
LEAST = 200  # counts of a cell
SHARE = 0.1  # of the median depth, which is what a typical cell gets of ambient counts
SPREAD = 0.4  # of the logarithm of that
N_EMPTY, MEDIAN_EMPTY, SPREAD_EMPTY, LARGEST_EMPTY = 4000, 30, 0.6, 200
CHANGES = (
    f" Changed further: cells of {BATCH} with at least {LEAST} counts, with ambient counts added and empty droplets simulated by "
    "scvitl.datasets.droplets."
)


def droplets() -> tuple[ad.AnnData, ad.AnnData]:
    r"""Blood cells with a known number of ambient counts, and all droplets of the run, most of them empty.

    The cells are the 876 of ``pbmc1k_v3`` in :func:`~scvitl.datasets.pbmc` that have at least 200 counts. They are real,
    and that run is clean: its lymphocytes have hardly a count of the genes of monocytes. Ambient counts are simulated
    and added, so that the truth is known:

    - The ambient profile :math:`\alpha` is what the cells express together, times noise per gene, since some cells burst
      more easily than others.
    - A cell gets about a tenth of the median depth, whatever its own depth: of the counts of a cell, mostly 4 to 21 % are
      ambient.
    - Empty droplets have nothing else. There are 4,000, with 30 counts in the median and 200 at most.

    With :math:`m` the median depth, :math:`n_{cg}` the native counts and :math:`a_c` the number of ambient ones:

    .. math::

        \alpha_g &\propto \gamma_g \textstyle\sum_c n_{cg}, \quad \gamma_g \sim \mathrm{Gamma}(4, 4) \\
        a_c &\sim \mathrm{LogNormal}\left(\log 0.1\,m,\ 0.4^2\right) \text{ in cells},\quad
            \mathrm{LogNormal}\left(\log 30,\ 0.6^2\right) \text{ in empty droplets} \\
        x_c &= n_c + \mathrm{Multinomial}(a_c, \alpha)

    Returns
    -------
    The cells and the droplets, new objects at each call, with equal genes.

    `cells.X` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Counts with the ambient ones, as they would be measured.
    `cells.layers['native']` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Counts without them.
    `cells.obs['cell_type']` : :class:`~pandas.Categorical`
        As in :func:`~scvitl.datasets.pbmc`.
    `cells.obs['ambient_fraction']` : :class:`~pandas.Series`
        Share of the counts of a cell that is ambient.
    `cells.var['ambient_profile']` : :class:`~pandas.Series`
        Share of each gene in the ambient counts.
    `raw.X` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Counts of all droplets: those of the cells, which have the same names, then the empty ones.
    `raw.obs['is_cell']` : :class:`~pandas.Series` (dtype `bool`)
        Whether there is a cell in the droplet.
    `cells.uns['source']`, `raw.uns['source']` : :class:`str`
        Attribution, licence and what was changed.

    Examples
    --------
    >>> from scvitl import datasets
    >>> cells, raw = datasets.droplets()
    >>> cells.shape, raw.shape
    ((876, 2000), (4876, 2000))
    """
    adata = pbmc()
    cells = adata[adata.obs["batch"] == BATCH]
    cells = cells[cells.X.sum(1).A1 >= LEAST].copy()
    native = cells.X
    rng = np.random.default_rng(0)
    profile = native.sum(0).A1 * rng.gamma(4.0, 0.25, cells.n_vars)
    profile /= profile.sum()

    typical = SHARE * np.median(native.sum(1).A1)
    n_in_cells = rng.lognormal(np.log(typical), SPREAD, cells.n_obs)
    n_in_empty = rng.lognormal(np.log(MEDIAN_EMPTY), SPREAD_EMPTY, N_EMPTY).clip(1, LARGEST_EMPTY)
    in_cells, empty = (_drawn(numbers, profile, rng=rng) for numbers in (n_in_cells, n_in_empty))

    source = {"source": cells.uns["source"] + CHANGES}
    observed = native + in_cells
    obs = cells.obs[["cell_type"]].assign(ambient_fraction=in_cells.sum(1).A1 / observed.sum(1).A1)
    var = pd.DataFrame({"ambient_profile": profile}, index=cells.var_names)
    names = cells.obs_names.append(pd.Index([f"droplet_{number:04}" for number in range(N_EMPTY)]))
    raw = ad.AnnData(
        sparse.vstack([observed, empty], format="csr"),
        obs=pd.DataFrame({"is_cell": np.arange(len(names)) < cells.n_obs}, index=names),
        var=pd.DataFrame(index=cells.var_names),
        uns=dict(source),
    )
    return ad.AnnData(observed, obs=obs, var=var, layers={"native": native}, uns=source), raw


def _drawn(numbers: np.ndarray, profile: np.ndarray, *, rng: np.random.Generator) -> sparse.csr_matrix:
    """About as many counts for every droplet as ``numbers`` says, each of a gene drawn from the profile."""
    numbers = numbers.round().astype(np.int64)
    rows = np.repeat(np.arange(len(numbers)), numbers)
    genes = rng.choice(len(profile), len(rows), p=profile)
    ones = np.ones(len(rows), np.float32)
    counts = sparse.coo_matrix((ones, (rows, genes)), shape=(len(numbers), len(profile))).tocsr()
    counts.sort_indices()
    return counts
