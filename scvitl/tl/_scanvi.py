from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.labels import frequencies
from ._annotate import annotation, calibrated
from ._fit import check_copy, fit, prepare, write
from ._options import check_names, grouped
from ._pretrained import pretrained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData


def scanvi(  # noqa: PLR0913
    adata: AnnData,
    labels_key: str,
    *,
    unlabeled_category: str = "Unknown",
    labels_groups: Mapping[str, str] | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    scvi_key: str | None = None,
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
    classifier_n_layers: int = 0,
    classifier_n_hidden: int = 128,
    classifier_dropout_rate: float = 0.1,
    y_prior: Mapping[str, float] | Sequence[float] | None = None,
    classification_ratio: float = 50.0,
    n_samples_per_label: int | None = None,
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
    keep_labels: bool = False,
    min_confidence: float = 0.0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Carry cell types over from labelled cells to the others, and integrate them, with scANVI :cite:p:`Xu21`.

    The model is scVI with a classifier: labels shape the latent space, and the latent space tells which label the other
    cells have. Use it when some batches are annotated, or some cells of all. Every cell gets a predicted label, a
    confidence that is calibrated on labelled cells held out from training, and the probabilities of all labels.

    Parameters
    ----------
    adata
        Cells × genes with raw counts; usually a few thousand highly variable genes.
    labels_key
        Column of ``obs`` with the labels. Cells that are NaN or ``unlabeled_category`` have none.
    unlabeled_category
        Word in that column for cells without a label, which need not occur.
    labels_groups
        Group of every label, as a dictionary of names such as ``{"CD4 T": "T", "CD8 T": "T", "B": "B"}``. The
        classifier then finds the group first, and the label within it.
    batch_key
        Column of ``obs`` with the batches to integrate. `None` treats all cells as one batch.
    layer
        Layer with the counts. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    size_factor_key
        Column of ``obs`` with positive size factors to use in place of the total counts.
    categorical_covariate_keys
        Further columns of ``obs`` whose effect is to be removed, such as donor or sex.
    continuous_covariate_keys
        The same for columns of numbers, such as the share of mitochondrial counts. They are standardised.
    scvi_key
        A scVI model in ``uns`` of the same data and options to start from. `None` learns labels from the start in the fast
        plan, which does better; the reference plan then starts from ``uns["scvi"]`` if that suits.
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
    classifier_n_layers
        Hidden layers of the classifier; none makes it linear.
    classifier_n_hidden
        Units of such a layer.
    classifier_dropout_rate
        Share of these left out at every training step.
    y_prior
        How frequent the labels are among all cells: a dictionary, or numbers in the order of the categories, that sum to
        one. `None` takes all as equally frequent.
    classification_ratio
        Weight of the labels in training, against the counts.
    n_samples_per_label
        Labelled cells of each label that an epoch uses, drawn anew each time; evens out frequent and rare labels. `None`
        uses all.
    plan
        ``"fast"`` learns counts and labels together, in a few epochs. ``"reference"`` is the schedule of scvi-tools:
        scVI first, unless there is one to start from, then at most ten epochs with labels, or ``max_epochs``.
    max_epochs
        Times that training goes through the cells.
    batch_size
        Cells of a minibatch.
    train_size
        Share of the cells of each label to train on; the others are held out to watch the fit and to calibrate
        confidence. `None` takes 0.9.
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
    keep_labels
        Whether cells that have a label keep it. Otherwise all get the predicted one, which shows errors among labels.
    min_confidence
        Cells whose likeliest label is less probable than this are called ``unlabeled_category``.
    key_added
        Stem of the names of the results, in place of ``"scanvi"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obs['scanvi' | key_added]` : :class:`pandas.Series` (dtype ``category``)
        Label of every cell, in the colours of ``labels_key`` if it has some.
    `adata.obs['scanvi_confidence']` : :class:`pandas.Series` (dtype `float32`)
        Probability of that label, from 0 to 1.
    `adata.obs['scanvi_group']` : :class:`pandas.Series` (dtype ``category``)
        Group of the label, with ``labels_groups``; of a cell left without a label, the likeliest group.
    `adata.obsm['scanvi_proba']` : :class:`pandas.DataFrame` (dtype `float32`)
        Probabilities of all labels, cells × labels.
    `adata.obsm['X_scanvi']` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space, cells × ``n_latent``: the posterior mean.
    `adata.uns['scanvi']` : :class:`dict`
        The fitted model, as of :func:`scvitl.tl.scvi`. ``params`` has the ``temperature`` of the calibration and, on the
        held-out labelled cells, ``calibration_error`` (expected calibration error, 15 bins) and ``held_out_accuracy``.

    Raises
    ------
    KeyError
        A column of ``obs`` or a layer does not exist, or ``labels_groups`` or ``y_prior`` names a label that does not.
    ValueError
        No cell has a label, there is one label only, a label has a single cell, a label has no group, ``y_prior`` does not
        suit the labels, the values are not counts, a cell has none, or an option is not legal.
    FloatingPointError
        The loss became infinite during training.

    Notes
    -----
    Probabilities are averaged over draws of the latent state, with logits divided by the temperature. A type that no
    labelled cell has cannot be predicted, and confidence may yet be high.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.toy()
    >>> adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] == "batch_0")
    >>> scvitl.tl.scanvi(adata, "known", batch_key="batch", max_epochs=3, progress=False)
    >>> adata.obs[["scanvi", "scanvi_confidence"]].shape
    (600, 2)
    """
    arguments = dict(locals())
    check_copy(adata, copy)
    _checks.word("unlabeled_category", unlabeled_category)
    _checks.true_or_false("keep_labels", keep_labels)
    _checks.number("min_confidence", min_confidence, at_least=0, at_most=1)
    names = keys("scanvi", key_added)
    start = logg.info("fitting scANVI")
    setting = prepare(adata, "scANVI", names, **grouped("scANVI", arguments))
    check_names(setting.schema, names)
    setting.architecture["y_prior"] = frequencies(setting.schema.labels, y_prior)
    fitted = fit(adata, setting, initial=pretrained(adata, setting, scvi_key))
    model, probabilities = calibrated(fitted)
    model.params.update(keep_labels=keep_labels, min_confidence=min_confidence)
    slots = annotation(
        adata, model, probabilities, key=names.stem, keep_labels=keep_labels, min_confidence=min_confidence
    )
    slots["obsm"][names.latent] = fitted.latent
    slots["uns"][names.model] = store.to_uns(model)
    adata = adata.copy() if copy else adata
    write(adata, slots)
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.label!r}, predicted label, and {names.confidence!r}, its probability (adata.obs)\n"
            f"    {names.probabilities!r}, probabilities of all labels (adata.obsm)\n"
            f"    {names.latent!r}, latent space (adata.obsm)\n"
            f"    {names.model!r}, fitted model (adata.uns)"
        ),
    )
    return adata if copy else None
