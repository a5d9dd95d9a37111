"""Tools: each fits a model or uses one, and writes its results into the AnnData."""

from __future__ import annotations

from ._rank_genes_groups import rank_genes_groups
from ._scvi import scvi

__all__ = ["rank_genes_groups", "scvi"]
