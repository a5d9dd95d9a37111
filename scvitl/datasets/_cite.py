from __future__ import annotations

from importlib.resources import as_file, files

import anndata as ad


def cite() -> ad.AnnData:
    """Blood cells of healthy donors, genes and surface proteins counted in each, in two batches (CITE-seq).

    The raw counts of 400 peripheral blood mononuclear cells over 4,000 genes and 29 proteins. The batches
    were stained with different panels of antibodies: ``pbmc10k`` has 14 of the proteins, and 0 in place of
    the other 15. Meant for examples and tests of :func:`~scvitl.tl.totalvi`; the cells are too few for more.

    ================  =====  ========  ===============================================================
    ``obs["batch"]``  cells  proteins  data set of 10x Genomics
    ================  =====  ========  ===============================================================
    ``pbmc10k``         200        14  10k PBMCs from a Healthy Donor - Gene Expression with a Panel
                                       of TotalSeq-B Antibodies (2018)
    ``pbmc5k``          200        29  5k Peripheral blood mononuclear cells (PBMCs) from a healthy
                                       donor with cell surface proteins (v3 chemistry) (2019)
    ================  =====  ========  ===============================================================

    10x Genomics publishes these data sets under the Creative Commons Attribution licence (CC BY 4.0), which
    holds for this selection too. ``scripts/cut_cite.py`` in the repository of this package made it: the genes
    that vary within the batches, known markers, and the genes of the proteins, such as ``MS4A1`` of ``CD20``.
    There are no cell types.

    Returns
    -------
    A new AnnData object at each call.

    `adata.X` : :class:`~scipy.sparse.csr_matrix` (dtype `float32`)
        Raw counts of the genes.
    `adata.obsm['protein_expression']` : :class:`~pandas.DataFrame` (dtype `int32`)
        Raw counts of the proteins, one column each.
    `adata.obs['batch']` : :class:`~pandas.Categorical`
        The data set, as in the table above.
    `adata.uns['source']` : :class:`str`
        Attribution, licence and what was changed.

    Examples
    --------
    >>> from scvitl import datasets
    >>> adata = datasets.cite()
    >>> adata.shape
    (400, 4000)
    >>> proteins = adata.obsm["protein_expression"]
    >>> proteins.columns[:4].tolist()
    ['CD3', 'CD4', 'CD8a', 'CD14']
    >>> proteins.groupby(adata.obs["batch"], observed=True).any().sum(axis=1).to_dict()
    {'pbmc10k': 14, 'pbmc5k': 29}
    """
    with as_file(files(__package__) / "cite.h5ad") as path:
        return ad.read_h5ad(path)
