from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import store
from .._keys import keys
from .._logging import logg
from ..data import features, find_counts
from ..get._denoised import check_output
from ._ambient import profile
from ._fit import check_copy, fit, prepare, write
from ._native import EXCESS, check_layer, tables
from ._options import check_names, grouped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_matrix

SPARSITY = {"mRNA": 0.9, "ADT": 0.9}  # and 1 for what a cell has one or a few of
# Options of scVI that its model has no use for, or that are what they are.
FIXED: dict[str, Any] = {
    "labels_key": None,
    "categorical_covariate_keys": (),
    "continuous_covariate_keys": (),
    "dispersion": "gene",
    "use_observed_lib_size": True,
}


def scar(  # noqa: PLR0913
    adata: AnnData,
    raw: AnnData | str | PathLike[str] | Mapping[str, AnnData | str | PathLike[str]] | None = None,
    *,
    ambient: str | pd.DataFrame | pd.Series | ArrayLike | None = None,
    feature_type: Literal["mRNA", "ADT", "sgRNA", "CMO", "tag"] = "mRNA",
    batch_key: str | None = None,
    layer: str | None = None,
    output: Literal["posterior", "generative"] = "posterior",
    excess: float | None = EXCESS,
    n_hidden: int = 150,
    n_latent: int = 15,
    n_layers: int = 2,
    dropout_rate: float = 0.0,
    gene_likelihood: Literal["b", "nb", "zinb", "poisson"] = "b",
    latent_distribution: Literal["normal", "ln"] = "normal",
    log_variational: bool = True,
    scale_activation: Literal["softmax", "softplus", "softplus_sp"] = "softplus_sp",
    sparsity: float | None = None,
    plan: Literal["fast", "reference"] = "fast",
    max_epochs: int | None = None,
    batch_size: int | None = None,
    train_size: float | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    n_epochs_kl_warmup: float | None = None,
    early_stopping: bool = False,
    early_stopping_patience: int = 45,
    device: str = "auto",
    precision: Literal["float32", "tf32", "bfloat16"] | None = None,
    random_state: int = 0,
    progress: bool | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Take ambient RNA out of counts with scAR :cite:p:`Sheng22`.

    RNA that floats between the cells gets into every droplet, so that cells seem to express what their neighbours do. The
    model knows the ambient profile from the empty droplets in ``raw``, learns which native profiles there are, and tells for
    every cell which of its counts are native. Use it first, on all genes, before anything is selected or normalised, and go
    on with ``layers["scar"]``, such as ``scvitl.tl.scvi(adata, layer="scar")``.

    Parameters
    ----------
    adata
        Cells × genes with raw counts: the cells that were called, all genes or those in enough cells.
    raw
        All droplets before cells were called, as :func:`scvitl.tl.ambient_profile` takes them: an AnnData (also backed), a
        path, or these by batch.
    ambient
        The ambient profile itself, in place of ``raw``: share of each gene, as an array in the order of ``var_names``, a
        frame or series by gene (with a column for each batch, if there are several), or its key in ``varm``. With neither,
        the profile that :func:`scvitl.tl.ambient_profile` or an earlier fit left is taken, or else the cells together stand
        for it.
    feature_type
        What the features are: genes, surface proteins (``"ADT"``), guides (``"sgRNA"``), tags of samples (``"CMO"``,
        ``"tag"``). Where ``var["feature_types"]`` tells several types apart, only these features are looked at.
    batch_key
        Column of ``obs`` with the batches, each with an ambient profile of its own.
    layer
        Layer with the counts. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    output
        ``"posterior"``: which of the counts that were seen are native, never more than were seen. ``"generative"``: native
        counts drawn anew, as in scvi-tools; they can be where none were seen.
    excess
        As many counts of a cell are taken away as are expected to be ambient, the most probable ones first, and this share
        of the others: since it is not known for sure which they are, a little excess gets more of the ambient ones. 0 keeps
        totals of cells right, more cleans harder. `None` draws which counts are kept: more mistakes in a cell, but totals of
        genes are right as well, as sums over many cells need it. Of no account with ``output="generative"``.
    n_hidden
        Units of a hidden layer.
    n_latent
        Dimensions of the latent space.
    n_layers
        Hidden layers of encoder and decoder.
    dropout_rate
        Share of the encoder's units left out at every training step.
    gene_likelihood
        Distribution of the counts: binomial (``"b"``), (zero-inflated) negative binomial or Poisson.
    latent_distribution
        ``"normal"``, or ``"ln"`` for a logistic normal, whose dimensions are shares that sum to one.
    log_variational
        Whether the encoder sees log(1 + counts).
    scale_activation
        How native shares are made positive. ``"softplus_sp"`` lets genes be absent altogether.
    sparsity
        From 0 to 1, how readily a gene counts as absent with ``"softplus_sp"``. `None` takes 0.9, and 1 for guides and tags.
        Lower it where only variable genes are left.
    plan
        ``"fast"`` or ``"reference"``, the schedule of scvi-tools. Either chooses everything below by the number of cells;
        leave these arguments alone unless training goes wrong.
    max_epochs
        Times that training goes through the cells.
    batch_size
        Cells of a minibatch.
    train_size
        Share of the cells to train on; the others are held out to watch the fit. `None` takes 0.9.
    learning_rate
        Size of a step of Adam; its peak in the fast plan.
    weight_decay
        L2 penalty of the weights.
    n_epochs_kl_warmup
        Epochs over which the penalty on the latent space grows to its full weight.
    early_stopping
        Whether to stop once the held-out loss has not improved for ``early_stopping_patience`` epochs.
    early_stopping_patience
        See there.
    device
        ``"auto"`` takes a CUDA GPU if there is one, else the CPU; or a device of torch by name.
    precision
        Of the factors of matrix products in training. ``"bfloat16"`` is faster on CPUs that have such products,
        ``"tf32"`` on GPUs; likelihoods, sums and weights have float32 regardless. `None` leaves what torch is set to.
    random_state
        Seed of the initial weights, the split and all noise. On a CPU, equal seeds give equal results.
    progress
        Whether to show a progress bar. `None` shows one unless ``scanpy.settings.verbosity`` is 0.
    key_added
        Stem of the names of the results, in place of ``"scar"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.layers['scar' | key_added]` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Native counts, whole numbers. Features of another type are as they were.
    `adata.obs['scar_noise' | key_added + '_noise']` : :class:`pandas.Series` (dtype `float32`)
        Share of the counts of a cell that is ambient.
    `adata.obsm['X_scar' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space, cells × ``n_latent``: the posterior mean.
    `adata.varm['scar_ambient' | key_added + '_ambient']` : :class:`pandas.DataFrame` (dtype `float64`)
        The ambient profile that was used, with a column ``"ambient"`` or one for each batch; NaN for features of another
        type. Genes that empty droplets show rarely or never have a share that leans on that in the cells.
    `adata.uns['scar' | key_added]` : :class:`dict`
        The fitted model, as :func:`scvitl.tl.scvi` writes it.
    `adata.uns['scar_ambient' | key_added + '_ambient']` : :class:`dict`
        With ``raw``: the droplets, as :func:`scvitl.tl.ambient_profile` writes them.

    Raises
    ------
    KeyError
        A column, a layer, a key of ``varm``, or the droplets of a batch do not exist.
    FileNotFoundError
        There is nothing at the path ``raw``.
    TypeError
        ``adata`` is a MuData, or ``raw`` or ``ambient`` is nothing that can be read.
    ValueError
        Values are not counts, a cell has none or has them all in one gene, ``raw`` has other genes or is the filtered object,
        a profile is NaN, negative or of other genes, names of genes repeat, or an option is not legal.
    FloatingPointError
        The loss became infinite during training.

    Notes
    -----
    The decoder gives cells that look alike about the same share of ambient counts. What is in ``obs``, and what counts are
    told by, is closer to the cell: the share that makes its own counts most likely, with the decoded one as prior that weighs
    ten counts. Interrupting ends training early and keeps the best weights so far.

    Examples
    --------
    >>> import scvitl
    >>> raw = scvitl.datasets.toy(n_empty_droplets=2000)
    >>> adata = raw[raw.obs["is_cell"]].copy()
    >>> scvitl.tl.scar(adata, raw, max_epochs=2, progress=False)
    >>> bool((adata.layers["scar"] > adata.X).nnz == 0)
    True
    >>> scvitl.tl.scvi(adata, layer="scar", batch_key="batch", max_epochs=2, progress=False)
    """
    arguments = dict(locals())
    check_copy(adata, copy)
    check_output(output, excess)
    names = keys("scar", key_added)
    if sparsity is None:
        arguments["sparsity"] = SPARSITY.get(feature_type, 1.0)
    start = logg.info("fitting scAR")
    setting = prepare(adata, "scAR", names, **grouped("scAR", {**arguments, **FIXED}))
    check_names(setting.schema, names)
    check_layer(adata, setting.schema.layer, names)
    schema, genes = setting.schema, features.chosen(adata, feature_type)
    counts = _counts(adata, schema.layer, genes, feature_type)
    shares, record = profile(
        adata,
        raw,
        ambient,
        names=names,
        genes=genes,
        counts=counts,
        feature_type=feature_type,
        batch=schema.batch,
        random_state=random_state,
    )
    setting = setting.of_genes(genes)
    setting.training.update(feature_type=feature_type, output=output, excess=excess)
    fitted = fit(adata, setting, priors={"ambient": shares.astype(np.float32)})
    options = {"output": output, "excess": excess, "random_state": random_state}
    slots = tables(adata, fitted.model, fitted.data, names, shares=shares, **options)
    slots |= {"obsm": {names.latent: fitted.latent}, "uns": {names.model: store.to_uns(fitted.model)}}
    slots["uns"][names.ambient] = record
    adata = adata.copy() if copy else adata
    write(adata, slots)
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.counts!r}, native counts (adata.layers)\n"
            f"    {names.noise!r}, share of ambient counts (adata.obs)\n"
            f"    {names.latent!r}, latent space (adata.obsm)\n"
            f"    {names.ambient!r}, ambient profile (adata.varm)\n"
            + (f"    {names.ambient!r}, droplets it comes from (adata.uns)\n" if record else "")
            + f"    {names.model!r}, fitted model (adata.uns)"
        ),
    )
    return adata if copy else None


def _counts(adata: AnnData, layer: str | None, genes: np.ndarray, feature_type: str) -> csr_matrix:
    """Counts of the ``genes`` (a mask), of which every cell has some that can be told apart; guides may be all of one kind."""
    counts = find_counts(adata, layer)
    if not genes.all():
        counts = counts[:, genes]
        without = np.flatnonzero(np.asarray(counts.sum(1)).ravel() == 0)
        if len(without):
            matrix = "adata[:, mask]." + ("X" if layer is None else f"layers[{layer!r}]")
            msg = (
                f"{len(without)} of {adata.n_obs} cells have no counts of {feature_type} (such as "
                f"{adata.obs_names[without[0]]!r}): fit the others, adata[np.asarray({matrix}.sum(1)).ravel() > 0].copy() with "
                f"mask = adata.var['feature_types'].isin([{feature_type!r}, {features.TYPES[feature_type]!r}])."
            )
            raise ValueError(msg)
    if feature_type in features.ASSIGNED:
        return counts
    if counts.shape[1] == 1:
        msg = f"adata has one gene only, {adata.var_names[genes][0]!r}, of which no counts can be told apart."
        raise ValueError(msg)
    largest = counts.max(axis=1).toarray().ravel()
    alone = np.flatnonzero(largest == np.asarray(counts.sum(1)).ravel())
    if len(alone):
        gene = adata.var_names[genes][counts[alone[0]].argmax()]
        which = "1 cell has all its" if len(alone) == 1 else f"{len(alone)} cells have all their"
        msg = (
            f"{which} counts in one gene ({adata.obs_names[alone[0]]!r} in {gene!r}), so that there is nothing to tell "
            "apart: drop such cells first."
        )
        raise ValueError(msg)
    return counts
