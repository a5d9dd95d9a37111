"""Plots of what `scvitl.get` returns, in scanpy's manner."""

from __future__ import annotations

from ._ambient import ambient
from ._confusion import confusion
from ._correlation import correlation
from ._denoising import denoising
from ._history import history
from ._loadings import loadings
from ._posterior_predictive import posterior_predictive
from ._protein import protein
from ._volcano import volcano

__all__ = [
    "ambient",
    "confusion",
    "correlation",
    "denoising",
    "history",
    "loadings",
    "posterior_predictive",
    "protein",
    "volcano",
]
