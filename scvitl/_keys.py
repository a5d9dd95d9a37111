"""Names of all results, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Where the results of one model go; ``stem`` is the name of the function or ``key_added``."""

    stem: str

    @property
    def latent(self) -> str:
        """Latent space, in ``obsm``."""
        return f"X_{self.stem}"

    @property
    def model(self) -> str:
        """Fitted model, in ``uns``."""
        return self.stem

    @property
    def latent_mean(self) -> str:
        """Posterior mean of minified cells, in ``obsm``."""
        return f"{self.stem}_latent_mean"

    @property
    def latent_variance(self) -> str:
        """Posterior variance of minified cells, in ``obsm``."""
        return f"{self.stem}_latent_variance"

    @property
    def library(self) -> str:
        """Library size of minified cells, in ``obs``."""
        return f"{self.stem}_library"

    @property
    def normalized(self) -> str:
        """Normalised expression, in ``layers``."""
        return f"{self.stem}_normalized"

    @property
    def abundance(self) -> str:
        """Log densities of samples, in ``obsm``."""
        return f"{self.stem}_abundance"


RANKING = "rank_genes_groups"  # scanpy's own name
RANKING_TABLE = "table"  # the full table, inside uns[RANKING]


def keys(function: str, key_added: str | None = None) -> Keys:
    """Names of the results of ``function``, or of ``key_added`` where the user gave that."""
    return Keys(function if key_added is None else key_added)
