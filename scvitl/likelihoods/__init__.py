"""Log-likelihoods of counts, summed over the genes of a cell, with their gradients; and draws of counts.

Every module has two functions, ``log_likelihood(x, ...)`` and ``sample(...)``. ``x`` has shape (B, G); the parameters
broadcast against it and may carry leading dimensions of Monte-Carlo samples: (S, B, G) gives (S, B).
"""

from __future__ import annotations

from . import binomial, decoded, nb, nb_mixture, normal, poisson, zinb

__all__ = ["LIKELIHOODS", "binomial", "decoded", "nb", "nb_mixture", "normal", "poisson", "zinb"]

# Likelihood and the parameters of the counts that it takes.
LIKELIHOODS = {
    "zinb": (zinb, ("rate", "theta", "dropout")),
    "nb": (nb, ("rate", "theta")),
    "poisson": (poisson, ("rate",)),
    "normal": (normal, ("rate", "theta")),
}
