from __future__ import annotations

from importlib.resources import as_file, files

import anndata as ad


def pbmc() -> ad.AnnData:
    """Blood cells of healthy donors in four batches, one for each 10x Genomics chemistry.

    The raw counts of 5,602 peripheral blood mononuclear cells over 2,000 genes: the genes that vary within
    the batches, and the markers that the cell types were called from. The chemistry sets the batches apart.

    ================  =====  ===================================================
    ``obs["batch"]``  cells  data set of 10x Genomics
    ================  =====  ===================================================
    ``pbmc3k_v1``      2700  3k PBMCs from a healthy donor (3' v1 chemistry)
    ``pbmc1k_v2``       996  1k PBMCs from a healthy donor (3' v2 chemistry)
    ``pbmc1k_v3``       906  1k PBMCs from a healthy donor (3' v3 chemistry)
    ``pbmc_5prime``    1000  8k PBMCs from a healthy donor (5' gene expression)
    ================  =====  ===================================================

    10x Genomics publishes these data sets under the Creative Commons Attribution licence (CC BY 4.0), which
    holds for this selection too. The cell types are not theirs: ``scripts/annotate_pbmc.py`` in the
    repository of this package called them from canonical marker genes, and left open what the markers do not
    settle.

    Returns
    -------
    A new AnnData object at each call.

    `adata.X` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Raw counts.
    `adata.obs['batch']` : :class:`~pandas.Categorical`
        The chemistry, as in the table above.
    `adata.obs['cell_type']` : :class:`~pandas.Categorical`
        ``B``, ``CD4 T``, ``CD8 T``, ``NK``, ``Monocyte``, ``DC``, ``Platelet``, or ``Unknown`` for what is in
        between.
    `adata.uns['source']` : :class:`str`
        Attribution, licence and what was changed.

    Examples
    --------
    >>> from scvitl import datasets
    >>> adata = datasets.pbmc()
    >>> adata.shape
    (5602, 2000)
    >>> adata.obs["batch"].cat.categories.tolist()
    ['pbmc3k_v1', 'pbmc1k_v2', 'pbmc1k_v3', 'pbmc_5prime']
    """
    with as_file(files(__package__) / "pbmc.h5ad") as path:
        return ad.read_h5ad(path)
