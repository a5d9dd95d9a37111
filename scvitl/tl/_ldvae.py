from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ._fit import check_copy, fit, prepare, write
from ._options import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from .._keys import Keys
    from ._fit import Fit


def ldvae(  # noqa: PLR0913
    adata: AnnData,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    n_hidden: int = 128,
    n_latent: int = 10,
    n_layers_encoder: int = 1,
    dropout_rate: float = 0.1,
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "nb",
    latent_distribution: Literal["normal", "ln"] = "normal",
    log_variational: bool = True,
    use_batch_norm: bool = True,
    bias: bool = False,
    use_observed_lib_size: bool = False,
    rotation: Literal["varimax"] | None = "varimax",
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
    """Find the factors that cells differ by, and their genes, with LDVAE :cite:p:`Svensson20`: scVI whose decoder is linear.

    A gene's share in the counts follows each latent dimension through one number, its loading, so that dimensions can be
    read as factors: sets of genes that go up and down together. It separates cells a little less well than
    :func:`scvitl.tl.scvi`; use it to learn what the axes of variation are, in place of the loadings of PCA when cells come
    from several batches. :func:`scvitl.pl.loadings` draws the factors.

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
    categorical_covariate_keys
        Further columns of ``obs`` whose effect is to be removed, such as donor or sex.
    continuous_covariate_keys
        The same for columns of numbers, such as the share of mitochondrial counts. They are standardised.
    n_hidden
        Units of a hidden layer of the encoder.
    n_latent
        Number of factors. The model leaves idle those that it does not need.
    n_layers_encoder
        Hidden layers of the encoder.
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
    use_batch_norm
        Whether the decoder uses batch normalisation, which becomes part of the loadings.
    bias
        Whether the decoder has a bias beside it.
    use_observed_lib_size
        Whether the total counts of a cell are taken as they are, or inferred as a latent variable.
    rotation
        ``"varimax"`` turns the factors after training so that each is carried by few genes, and puts first the factor that
        contributes most. It describes the data as well as any other rotation, but comes out the same at every fit. `None`
        leaves factors as training left them, as scvi-tools does. Factors of ``latent_distribution="ln"`` are not turned.
    plan
        ``"fast"`` reaches the quality of ``"reference"``, the schedule of scvi-tools, in a quarter of the epochs or
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
        Stem of the names of the results, in place of ``"ldvae"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obsm['X_ldvae' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Factors of the cells, cells × ``n_latent``: the posterior mean.
    `adata.varm['ldvae_loadings' | key_added + '_loadings']` : :class:`numpy.ndarray` (dtype `float32`)
        Loadings of the genes, genes × ``n_latent``: by how much the log of a gene's share changes, relative to other
        genes, when the factor rises by one.
    `adata.uns['ldvae' | key_added]` : :class:`dict`
        The fitted model, as of :func:`scvitl.tl.scvi`. :func:`scvitl.get.model` reads it.

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
    The sign of a factor is arbitrary: with loadings and cells both mirrored, the model is the same. Varimax sets it
    such that the largest loadings are rather positive.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> scvitl.tl.ldvae(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> adata.varm["ldvae_loadings"].shape
    (200, 10)
    """
    arguments = dict(locals())
    check_copy(adata, copy)
    _checks.one_of("rotation", rotation, ("varimax", None))
    names = keys("ldvae", key_added)
    start = logg.info("fitting LDVAE")
    options = grouped("LDVAE", arguments)
    options["architecture"]["rotation"] = rotation if latent_distribution == "normal" else None
    setting = prepare(adata, "LDVAE", names, **options)
    results = _results(fit(adata, setting), names)
    adata = adata.copy() if copy else adata
    write(adata, results)
    added = [f"{names.latent!r}, factors of the cells (adata.obsm)"]
    added += [f"{names.loadings!r}, loadings of the genes (adata.varm)"]
    added += [f"{names.model!r}, fitted model (adata.uns)"]
    logg.info("    finished", time=start, deep="\n    ".join(["added", *added]))
    return adata if copy else None


def _results(fitted: Fit, names: Keys) -> dict[str, dict[str, Any]]:
    """What goes into the slots of the AnnData, along axes of simple structure where that was asked for."""
    import torch

    from ..models.varimax import simple_axes
    from ..posterior import latent

    module, factors = fitted.model.module, fitted.latent
    if fitted.model.params["rotation"] is not None:
        module.rotate(simple_axes(module.loadings(), torch.from_numpy(factors)))
        factors = latent(module, fitted.data)
    return {
        "obsm": {names.latent: factors},
        "varm": {names.loadings: module.loadings().detach().cpu().numpy()},
        "uns": {names.model: store.to_uns(fitted.model)},
    }
