"""Classes of the models and their arguments, by the title that a model has in its params; sizes follow from the schema."""

from __future__ import annotations

ENCODED = (
    "n_hidden",
    "n_latent",
    "dropout_rate",
    "dispersion",
    "gene_likelihood",
    "latent_distribution",
    "log_variational",
    "use_observed_lib_size",
)
NONLINEAR = (
    *ENCODED,
    "n_layers",
    "encode_covariates",
    "deeply_inject_covariates",
    "batch_representation",
    "embedding_dim",
    "use_batch_norm",
    "use_layer_norm",
    "var_activation",
)
CLASSIFIER = (
    "classifier_n_layers",
    "classifier_n_hidden",
    "classifier_dropout_rate",
    "classification_ratio",
)
PROTEINS = (
    "n_hidden",
    "n_latent",
    "n_layers_encoder",
    "n_layers_decoder",
    "dropout_rate_encoder",
    "dropout_rate_decoder",
    "dispersion",
    "protein_dispersion",
    "gene_likelihood",
    "latent_distribution",
    "log_variational",
    "encode_covariates",
    "use_batch_norm",
    "use_layer_norm",
    "use_observed_lib_size",
    "normalize_counts",
    "protein_efficiency",
    "background_activation",
)
AMBIENT = (*ENCODED, "n_layers", "scale_activation", "sparsity")
ARCHITECTURES = {
    "scVI": ("VAE", NONLINEAR),
    "LDVAE": ("LDVAE", (*ENCODED, "n_layers_encoder", "use_batch_norm", "bias")),
    "scANVI": ("SCANVAE", (*NONLINEAR, *CLASSIFIER)),
    "totalVI": ("TOTALVAE", PROTEINS),
    "scAR": ("SCARVAE", AMBIENT),
}
