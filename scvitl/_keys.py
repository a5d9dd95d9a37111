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
    def label(self) -> str:
        """Predicted label, in ``obs``."""
        return self.stem

    @property
    def confidence(self) -> str:
        """Probability of that label, in ``obs``."""
        return f"{self.stem}_confidence"

    @property
    def group(self) -> str:
        """Predicted group of labels, in ``obs``."""
        return f"{self.stem}_group"

    @property
    def probabilities(self) -> str:
        """Probabilities of all labels, in ``obsm``."""
        return f"{self.stem}_proba"

    @property
    def loadings(self) -> str:
        """Loadings of the genes, in ``varm``."""
        return f"{self.stem}_loadings"

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
    def protein(self) -> str:
        """Denoised proteins, in ``obsm``."""
        return f"{self.stem}_protein"

    @property
    def protein_foreground(self) -> str:
        """Probability that a count of a protein is more than background, in ``obsm``."""
        return f"{self.stem}_protein_foreground"

    @property
    def counts(self) -> str:
        """Counts without what is ambient, in ``layers``."""
        return self.stem

    @property
    def noise(self) -> str:
        """Share of ambient counts, in ``obs``."""
        return f"{self.stem}_noise"

    @property
    def feature(self) -> str:
        """Feature that a cell has, such as a guide, in ``obs``."""
        return f"{self.stem}_feature"

    @property
    def n_features(self) -> str:
        """How many of them it has, in ``obs``."""
        return f"{self.stem}_n_features"

    @property
    def ambient(self) -> str:
        """Ambient profile, in ``varm``; the droplets it was found in, in ``uns``."""
        return f"{self.stem}_ambient"

    @property
    def abundance(self) -> str:
        """Log densities of samples, in ``obsm``."""
        return f"{self.stem}_abundance"


def colors(column: str) -> str:
    """Colours of the categories of a column of ``obs``, in ``uns``: scanpy's own name."""
    return f"{column}_colors"


RANKING = "rank_genes_groups"  # scanpy's own name
PROTEINS = "_protein"  # follows the name of a ranking of genes in that of the proteins
RANKING_TABLE = "table"  # the full table, inside uns[RANKING]


def keys(function: str, key_added: str | None = None) -> Keys:
    """Names of the results of ``function``, or of ``key_added`` where the user gave that."""
    return Keys(function if key_added is None else key_added)
