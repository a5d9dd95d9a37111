"""Read results: frames, arrays, numbers; nothing is written."""

from __future__ import annotations

from ._aggregated_posterior import aggregated_posterior
from ._bayes_factors import bayes_factors
from ._confusion import confusion
from ._denoised import denoised
from ._elbo import elbo
from ._factor_association import factor_association
from ._feature_correlation import feature_correlation
from ._history import history
from ._importance_weights import importance_weights
from ._label_probabilities import label_probabilities
from ._latent import latent
from ._latent_library_size import latent_library_size
from ._likelihood_parameters import likelihood_parameters
from ._loadings import loadings
from ._marginal_ll import marginal_ll
from ._model import model
from ._normalized_expression import normalized_expression
from ._posterior_predictive import posterior_predictive
from ._protein_background import protein_background
from ._protein_expression import protein_expression
from ._protein_foreground import protein_foreground
from ._rank_genes_groups import rank_genes_groups
from ._reconstruction_error import reconstruction_error
from ._removed import removed

__all__ = [
    "aggregated_posterior",
    "bayes_factors",
    "confusion",
    "denoised",
    "elbo",
    "factor_association",
    "feature_correlation",
    "history",
    "importance_weights",
    "label_probabilities",
    "latent",
    "latent_library_size",
    "likelihood_parameters",
    "loadings",
    "marginal_ll",
    "model",
    "normalized_expression",
    "posterior_predictive",
    "protein_background",
    "protein_expression",
    "protein_foreground",
    "rank_genes_groups",
    "reconstruction_error",
    "removed",
]
