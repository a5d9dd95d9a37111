"""The classes of scvi-tools that can be read, and what scvi-tools takes where a file does not say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..tl._options import OF_AMBIENT


@dataclass(frozen=True)
class Reader:
    """How one class becomes a model of ours."""

    title: str
    function: str  # of `tl`, whose results these are
    options: dict[str, Any]  # what scvi-tools takes where the file does not say
    idle: frozenset[str]  # arguments that make no difference, or that the tensors tell
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)  # fewer than other models have
    # what ours is like, of arguments that could be otherwise
    only: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def nested(self) -> set[str]:
        """Arguments that are dictionaries, of which single options are known."""
        return {name.split("[")[0] for name in (*self.options, *self.idle) if "[" in name}


TOLD = frozenset({"extra_payload_autotune", "n_hidden", "n_latent", "n_layers", "use_cuda"})
COMMON = {
    "dropout_rate": 0.1,
    "dispersion": "gene",
    "gene_likelihood": "zinb",
    "latent_distribution": "normal",
    "log_variational": True,
    "use_observed_lib_size": True,
}
NONLINEAR = {
    **COMMON,
    "encode_covariates": False,
    "deeply_inject_covariates": True,
    "batch_representation": "one-hot",
    "embedding_dim": 5,
    "use_batch_norm": "both",
    "use_layer_norm": "none",
    "var_activation": "exp",
}
# Options of dictionaries have the name of the dictionary before them.
EMBEDDING = frozenset({"batch_embedding_kwargs['embedding_dim']"})
READERS = {
    "SCVI": Reader(title="scVI", function="scvi", options=NONLINEAR, idle=TOLD | EMBEDDING),
    "LinearSCVI": Reader(
        title="LDVAE",
        function="ldvae",
        options={**COMMON, "gene_likelihood": "nb", "use_observed_lib_size": False},
        # Options of an scVI go to networks that are thrown away.
        idle=TOLD
        | {
            "bias",
            "batch_representation",
            "deeply_inject_covariates",
            "encode_covariates",
            "extra_decoder_kwargs",
            "extra_encoder_kwargs",
            "use_batch_norm",
            "use_layer_norm",
            "var_activation",
        },
    ),
    "SCANVI": Reader(
        title="scANVI",
        function="scanvi",
        # `None` is the dropout rate of the other networks. The ratio is an option of training, which is over.
        options={**NONLINEAR, "classifier_parameters['dropout_rate']": None},
        idle=TOLD
        | EMBEDDING
        | {
            "classifier_parameters['logits']",
            "classifier_parameters['n_hidden']",
            "classifier_parameters['n_layers']",
            "datamodule",
            "labels_groups",
            "linear_classifier",
            "pretrained_model",
            "unlabeled_category",
            "y_prior",
        },
    ),
    "TOTALVI": Reader(
        title="totalVI",
        function="totalvi",
        options={
            "gene_dispersion": "gene",
            "protein_dispersion": "protein",
            "gene_likelihood": "nb",
            "latent_distribution": "normal",
            "dropout_rate_encoder": 0.2,
            "dropout_rate_decoder": 0.2,
            "log_variational": True,
            "encode_covariates": True,
            "use_observed_lib_size": True,
            "use_batch_norm": "both",
            "use_layer_norm": "none",
            "override_missing_proteins": False,
            "extra_decoder_kwargs['activation_function_bg']": None,  # as the version has it
        },
        # The prior of the background is among the tensors.
        idle=TOLD
        | {"empirical_protein_background_prior", "n_labels", "n_layers_decoder", "n_layers_encoder"},
        choices={
            "gene_dispersion": ("gene", "gene-batch", "gene-label"),
            "gene_likelihood": ("zinb", "nb"),
            "extra_decoder_kwargs['activation_function_bg']": ("exp", "softplus"),
        },
    ),
    "SCAR": Reader(
        title="scAR",
        function="scar",
        options={
            **COMMON,
            "dropout_rate": 0.0,
            "gene_likelihood": "b",
            "scale_activation": "softplus_sp",
            "sparsity": 0.9,
        },
        # Without a batch in the model, what is made of batches is nothing. Its decoder takes no options.
        idle=TOLD
        | {
            "ambient_profile",
            "batch_representation",
            "deeply_inject_covariates",
            "encode_covariates",
            "extra_decoder_kwargs",
            "use_batch_norm",
            "use_layer_norm",
        },
        choices=OF_AMBIENT,
        only={
            "batch_representation": ("one-hot",),
            "dispersion": ("gene",),
            "use_batch_norm": ("both", "encoder"),
            "use_layer_norm": ("none", "decoder"),
            "use_observed_lib_size": (True,),
        },
    ),
}
