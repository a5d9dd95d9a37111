from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import store
from .._keys import keys
from .._logging import logg
from ._fit import check_copy, fit, prepare, write
from ._options import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def scvi(  # noqa: PLR0913
    adata: AnnData,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    n_hidden: int = 128,
    n_latent: int = 10,
    n_layers: int = 1,
    dropout_rate: float = 0.1,
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb",
    latent_distribution: Literal["normal", "ln"] = "normal",
    log_variational: bool = True,
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = True,
    batch_representation: Literal["one-hot", "embedding"] = "one-hot",
    embedding_dim: int = 5,
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "both",
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none",
    use_observed_lib_size: bool = True,
    var_activation: Literal["exp", "softplus", "relu", "sigmoid"] = "exp",
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
    """Embed and integrate cells with scVI, a variational autoencoder of raw counts :cite:p:`Lopez18`.

    The model explains the counts of a cell by a latent state of a few dimensions, its total counts, and the batch
    it comes from; since batch and depth are accounted for, the latent space shows biology. Use it in place of PCA,
    above all when cells come from several samples, donors or technologies. The latent space goes into ``obsm`` for
    :func:`scanpy.pp.neighbors`, the trained model into ``uns``, where every other function of this package finds it.

    Parameters
    ----------
    adata
        Cells × genes with raw counts; usually a few thousand highly variable genes.
    batch_key
        Column of ``obs`` with the batches to integrate. `None` treats all cells as one batch.
    labels_key
        Column of ``obs`` with labels of the cells; used by ``dispersion="gene-label"`` alone.
    layer
        Layer with the counts. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    size_factor_key
        Column of ``obs`` with positive size factors to use in place of the total counts.
    categorical_covariate_keys
        Further columns of ``obs`` whose effect is to be removed, such as donor or sex.
    continuous_covariate_keys
        The same for columns of numbers, such as the share of mitochondrial counts. They are standardised.
    n_hidden
        Units of a hidden layer.
    n_latent
        Dimensions of the latent space.
    n_layers
        Hidden layers of encoder and decoder.
    dropout_rate
        Share of the encoder's units left out at every training step.
    dispersion
        Whether a gene has one dispersion, one per batch, one per label, or one in every cell.
    gene_likelihood
        Distribution of the counts: (zero-inflated) negative binomial or Poisson. ``"normal"`` is experimental and
        takes values that are not whole numbers.
    latent_distribution
        ``"normal"``, or ``"ln"`` for a logistic normal, whose dimensions are shares that sum to one.
    log_variational
        Whether the encoder sees log(1 + counts).
    encode_covariates
        Whether the encoder sees batch and covariates, too.
    deeply_inject_covariates
        Whether covariates enter every hidden layer rather than the first.
    batch_representation
        Batches as one-hot columns or as a learned embedding.
    embedding_dim
        Dimensions of that embedding.
    use_batch_norm
        Which of the two networks use batch normalisation.
    use_layer_norm
        Which of the two networks use layer normalisation.
    use_observed_lib_size
        Whether the total counts of a cell are taken as they are, or inferred as a latent variable.
    var_activation
        Function that makes the variances of the encoder positive.
    plan
        ``"fast"`` reaches the quality of ``"reference"``, the schedule of scvi-tools, in a sixth of the epochs or
        less. Either chooses everything below by the number of cells; leave these arguments alone unless training
        goes wrong.
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
        Stem of the names of the results, in place of ``"scvi"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obsm['X_scvi' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space, cells × ``n_latent``: the posterior mean.
    `adata.uns['scvi' | key_added]` : :class:`dict`
        The fitted model: ``params`` (options and facts of the run), ``schema`` (genes and columns, as JSON),
        ``history`` (a frame with a row per epoch) and ``weights`` (arrays). :func:`scvitl.get.model` reads it.

    Raises
    ------
    KeyError
        A column of ``obs`` or a layer does not exist.
    ValueError
        The values are not counts, a cell has none, a category is missing for some cell, or an option is not legal.
    FloatingPointError
        The loss became infinite during training.

    Notes
    -----
    Interrupting (Ctrl-C, the stop button of a notebook) ends training early: the best weights so far are kept and
    results are written, with ``params["interrupted"]`` set.

    Examples
    --------
    >>> import scanpy as sc, scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.scvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> adata.obsm["X_scvi"].shape
    (600, 10)
    >>> sc.pp.neighbors(adata, use_rep="X_scvi")
    """
    arguments = dict(locals())
    check_copy(adata, copy)
    names = keys("scvi", key_added)
    start = logg.info("fitting scVI")
    setting = prepare(adata, "scVI", names, **grouped("scVI", arguments))
    fitted = fit(adata, setting)
    adata = adata.copy() if copy else adata
    write(adata, {"obsm": {names.latent: fitted.latent}, "uns": {names.model: store.to_uns(fitted.model)}})
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.latent!r}, latent space (adata.obsm)\n"
            f"    {names.model!r}, fitted model (adata.uns)"
        ),
    )
    return adata if copy else None
