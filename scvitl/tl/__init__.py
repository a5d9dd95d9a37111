"""Tools: each fits a model or uses one, and writes its results into the AnnData."""

from __future__ import annotations

from ._ambient_profile import ambient_profile
from ._assign_features import assign_features
from ._differential_abundance import differential_abundance
from ._ldvae import ldvae
from ._map_query import map_query
from ._minify import minify
from ._normalized_expression import normalized_expression
from ._rank_genes_groups import rank_genes_groups
from ._scanvi import scanvi
from ._scar import scar
from ._scvi import scvi
from ._totalvi import totalvi

__all__ = [
    "ambient_profile",
    "assign_features",
    "differential_abundance",
    "ldvae",
    "map_query",
    "minify",
    "normalized_expression",
    "rank_genes_groups",
    "scanvi",
    "scar",
    "scvi",
    "totalvi",
]
