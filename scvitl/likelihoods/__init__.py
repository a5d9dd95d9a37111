"""Log-likelihoods of counts, summed over the genes of a cell, with their gradients; and draws of counts.

Every module has two functions, ``log_likelihood(x, ...)`` and ``sample(...)``. ``x`` has shape (B, G); the parameters
broadcast against it and may carry leading dimensions of Monte-Carlo samples: (S, B, G) gives (S, B).
"""

from __future__ import annotations

from . import binomial, nb, nb_mixture, normal, poisson, zinb

__all__ = ["binomial", "nb", "nb_mixture", "normal", "poisson", "zinb"]
