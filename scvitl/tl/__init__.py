"""Tools: each fits a model or uses one, and writes its results into the AnnData."""

from __future__ import annotations

from ._scvi import scvi

__all__ = ["scvi"]
