"""The classes of scvi-tools that can be read, and what scvi-tools takes where a file does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reader:
    """How one class becomes a model of ours."""

    title: str
    function: str  # of `tl`, whose results these are
    options: dict[str, Any]  # what scvi-tools takes where the file does not say
    idle: frozenset[str]  # arguments that make no difference, or that the tensors tell


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
# Options of dictionaries, with the name of the dictionary.
NESTED = ("batch_embedding_kwargs", "classifier_parameters")
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
}
