from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .. import _checks, store
from .._keys import keys
from .._logging import logg
from ..data.multimodal import MODALITIES, copied, joined
from . import _background
from ._fit import check_copy, fit, prepare, write
from ._options import check_place, grouped
from ._proteins import check_key, tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from ._fit import Setting

# Of the current totalVI; models of older versions are read by `io`.
CURRENT = {"normalize_counts": True, "protein_efficiency": True, "background_activation": "softplus"}


def totalvi(  # noqa: PLR0913
    adata: AnnData,
    *,
    protein_key: str = "protein_expression",
    protein_names: Sequence[str] | str | None = None,
    modalities: tuple[str, str] = MODALITIES,
    batch_key: str | None = None,
    panel_key: str | None = None,
    missing_proteins: Mapping[str, Sequence[str]] | Literal["auto"] = "auto",
    raw: AnnData | pd.DataFrame | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    n_hidden: int = 256,
    n_latent: int = 20,
    n_layers_encoder: int = 2,
    n_layers_decoder: int = 1,
    dropout_rate_encoder: float = 0.2,
    dropout_rate_decoder: float = 0.2,
    gene_dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
    protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein",
    gene_likelihood: Literal["nb", "zinb"] = "nb",
    latent_distribution: Literal["normal", "ln"] = "normal",
    log_variational: bool = True,
    encode_covariates: bool = True,
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "both",
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none",
    use_observed_lib_size: bool = True,
    protein_background_prior: Literal["auto", "empirical", "learned"] | tuple[ArrayLike, ArrayLike] = "auto",
    plan: Literal["fast", "reference"] = "fast",
    adversarial_classifier: bool | None = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    train_size: float | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    n_epochs_kl_warmup: float | None = None,
    early_stopping: bool | None = None,
    early_stopping_patience: int = 45,
    device: str = "auto",
    precision: Literal["float32", "tf32", "bfloat16"] | None = None,
    random_state: int = 0,
    progress: bool | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed and integrate cells with RNA and protein counts (CITE-seq) with totalVI :cite:p:`Gayoso21`.

    One latent state explains the counts of genes and proteins of a cell; protein counts are a mixture of background,
    antibodies that stick where they should not, and foreground. Use it for a latent space of both, for proteins without
    background, and to impute proteins in batches that were stained with fewer antibodies, or none.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, and the counts of proteins in ``obsm``; or a MuData of both, into which the results
        are written. A few thousand variable genes are best.
    protein_key
        Table of proteins in ``obsm``: a frame, an array or a sparse matrix, cells × proteins.
    protein_names
        Names of the proteins where the table has none, or their name in ``uns``.
    modalities
        Of a MuData: the names of its modalities of genes and of proteins.
    batch_key
        Column of ``obs`` with the batch.
    panel_key
        Column of ``obs`` with the panel of antibodies that a cell was stained with. `None` takes every batch for one.
    missing_proteins
        Proteins that were not measured, by batch (or panel): those have no part in the fit, and are imputed. ``"auto"``
        takes what has no count in a whole batch, and says so; ``{}`` takes all as measured.
    raw
        Droplets from before cells were called, as AnnData of proteins (or with these in ``obsm``) or as a frame: those without
        a cell tell the background.
    labels_key
        Column of ``obs`` with labels, for dispersions by label.
    layer
        Layer with the counts of genes. `None` takes ``X`` if it holds counts, else ``layers["counts"]``.
    size_factor_key
        Column of ``obs`` with size factors of the genes, in place of the total counts.
    categorical_covariate_keys
        Further columns of ``obs`` to account for.
    continuous_covariate_keys
        The same for columns of numbers, which are standardised.
    n_hidden
        Units of a hidden layer.
    n_latent
        Dimensions of the latent space.
    n_layers_encoder
        Hidden layers of the encoder.
    n_layers_decoder
        Hidden layers of each of the four networks of the decoder.
    dropout_rate_encoder
        Share of units that are dropped at random in training.
    dropout_rate_decoder
        The same in the decoder.
    gene_dispersion
        What has a dispersion of its own: a gene, a gene in a batch, or a gene in a label.
    protein_dispersion
        The same for proteins.
    gene_likelihood
        Negative binomial, or with further zeros.
    latent_distribution
        ``"normal"``, or ``"ln"`` for a softmax of it.
    log_variational
        Whether the encoder sees logarithms.
    encode_covariates
        Whether the encoder sees batch and covariates.
    use_batch_norm
        Networks with batch norm.
    use_layer_norm
        Networks with layer norm.
    use_observed_lib_size
        Whether the library size is the total count of genes, or is latent.
    protein_background_prior
        What the background is before training, which refines it: ``"learned"`` leaves it to training, which in the fast plan
        starts from the low counts of every protein; ``"empirical"`` takes the lower of two modes within cells, one level for
        all proteins. ``"auto"`` is the former, in the reference plan the latter if there are more than ten proteins. Or mean
        and standard deviation of the log background: numbers, arrays of proteins, or of proteins × batches (panels).
    plan
        ``"fast"`` takes a few hundred to some thousand steps; ``"reference"`` trains as scvi-tools does.
    adversarial_classifier
        Whether the encoder learns against a classifier of batches. `None` does where proteins are missing.
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
        Epochs over which the penalty on the latent space, and the weight of the proteins, grow to their full size.
    early_stopping
        Whether to stop once the held-out loss has not improved for ``early_stopping_patience`` epochs. `None` does in
        the reference plan.
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
        Stem of the names of the results, in place of ``"totalvi"``.
    copy
        Whether to return a copy rather than write into ``adata``.

    Returns
    -------
    `None`, or a copy of ``adata`` if ``copy=True``. These fields are set:

    `adata.obsm['X_totalvi' | 'X_' + key_added]` : :class:`numpy.ndarray` (dtype `float32`)
        Latent space, cells × ``n_latent``: the posterior mean.
    `adata.obsm['totalvi_protein']` : :class:`pandas.DataFrame` (dtype `float32`)
        Counts of proteins without background, cells × proteins. Each is decoded as of the batches in which it was
        measured, and averaged over these: so batches are corrected for, and what is missing is imputed.
    `adata.obsm['totalvi_protein_foreground']` : :class:`pandas.DataFrame` (dtype `float32`)
        Probability that the protein is there, that its counts are more than background.
    `adata.uns['totalvi']` : :class:`dict`
        The fitted model, as of :func:`scvitl.tl.scvi`.

    Raises
    ------
    KeyError
        A column of ``obs``, a layer, the table of proteins or a modality does not exist, or ``missing_proteins`` names what
        does not.
    ValueError
        Values are not counts, a cell has none of genes, a protein has none at all, the table is of other cells, names
        repeat, a category is missing for some cell, or an option is not legal.
    FloatingPointError
        The loss became infinite during training.

    Notes
    -----
    Denoised RNA comes from :func:`scvitl.tl.normalized_expression` with ``key="totalvi"``. Interrupting ends training early
    and keeps the best weights so far.

    Examples
    --------
    >>> import scvitl
    >>> adata = scvitl.datasets.cite()
    >>> scvitl.tl.totalvi(adata, batch_key="batch", max_epochs=2, progress=False)
    >>> adata.obsm["totalvi_protein"].shape
    (400, 29)
    """
    arguments = dict(locals())
    check_copy(adata, copy)
    cells = joined(adata, modalities, protein_key)
    _check(cells, arguments)
    names = keys("totalvi", key_added)
    check_place(adata, names)
    check_key(protein_key, names)
    start = logg.info("fitting totalVI")
    setting = prepare(cells, "totalVI", names, **grouped("totalVI", {**arguments, **CURRENT}))
    if cells is not adata:
        setting = _of_modalities(setting, modalities)
    several = setting.schema.batch is not None and len(setting.schema.batch.categories) > 1
    setting.training["adversarial_classifier"] = _adversary(adversarial_classifier, setting.schema, several)
    priors = _background.prior(
        cells, setting.schema, protein_background_prior, raw, plan=plan, random_state=random_state
    )
    setting.training["protein_background_prior"] = _background.kind(protein_background_prior, raw, priors)
    fitted = fit(cells, setting, priors=priors)
    slots: dict[str, Any] = {
        "obsm": {
            names.latent: fitted.latent,
            **tables(fitted.model, fitted.data, names, random_state=random_state),
        },
        "uns": {names.model: store.to_uns(fitted.model)},
    }
    adata = copied(adata) if copy else adata
    write(adata, slots)
    logg.info(
        "    finished",
        time=start,
        deep=(
            f"added\n    {names.latent!r}, latent space (adata.obsm)\n"
            f"    {names.protein!r}, proteins without background (adata.obsm)\n"
            f"    {names.protein_foreground!r}, probability that a protein is there (adata.obsm)\n"
            f"    {names.model!r}, fitted model (adata.uns)"
        ),
    )
    return adata if copy else None


def _check(cells: AnnData, arguments: dict[str, Any]) -> None:
    """What concerns this model alone; the gene dispersion gets the name that all models share."""
    _checks.one_of("gene_likelihood", arguments["gene_likelihood"], ("nb", "zinb"))
    arguments["dispersion"] = arguments["gene_dispersion"]
    _checks.one_of("gene_dispersion", arguments["dispersion"], ("gene", "gene-batch", "gene-label"))
    _background.check(cells, arguments["protein_background_prior"], arguments["raw"])


def _of_modalities(setting: Setting, modalities: tuple[str, str]) -> Setting:
    """The setting with a schema that knows where in a MuData the cells were."""
    proteins = replace(setting.schema.proteins, modalities=tuple(modalities))
    return replace(setting, schema=replace(setting.schema, proteins=proteins))


def _adversary(wanted: bool | None, schema: Any, several: bool) -> bool:  # noqa: FBT001
    """Whether to train against an adversary."""
    if wanted and not several:
        logg.warning("there is one batch only, so there is nothing for an adversary to tell apart")
    return several and (not schema.proteins.complete if wanted is None else wanted)
