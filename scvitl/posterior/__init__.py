"""What a fitted model says about cells: arrays in, arrays out."""

from __future__ import annotations

from .abundance import log_densities
from .assignment import assigned, log_bayes_factors
from .classify import calibration_error, label_probabilities, temperature
from .compare import compare
from .correlation import feature_correlation
from .denoise import denoise
from .engine import stream
from .expression import (
    expression_blocks,
    expression_draws,
    likelihood_parameters,
    normalized_expression,
    posterior_predictive,
)
from .importance import importance_weights
from .latent import aggregated_posterior, latent, latent_distribution, library_size
from .proteins import (
    Expression,
    background,
    foreground,
    protein_parameters,
    protein_predictive,
    protein_quantities,
    protein_values,
)
from .scores import elbo, marginal_ll, reconstruction_error

__all__ = [
    "Expression",
    "aggregated_posterior",
    "assigned",
    "background",
    "calibration_error",
    "compare",
    "denoise",
    "elbo",
    "expression_blocks",
    "expression_draws",
    "feature_correlation",
    "foreground",
    "importance_weights",
    "label_probabilities",
    "latent",
    "latent_distribution",
    "library_size",
    "likelihood_parameters",
    "log_bayes_factors",
    "log_densities",
    "marginal_ll",
    "normalized_expression",
    "posterior_predictive",
    "protein_parameters",
    "protein_predictive",
    "protein_quantities",
    "protein_values",
    "reconstruction_error",
    "stream",
    "temperature",
]
