"""scVI: a variational autoencoder of counts (Lopez et al., Nature Methods 2018, doi 10.1038/s41592-018-0229-2).

Generative story of a cell n with batch s_n and total counts exp(l_n), for genes g = 1..G:

    z_n      ~ Normal(0, I)                          latent state, D numbers ("ln": softmax of it)
    rho_n    = softmax(f(z_n, s_n))                  expected share of each gene
    mu_ng    = exp(l_n) rho_ng
    x_ng     ~ ZINB(mu_ng, theta_g, pi_ng) or NB, Poisson, Normal

q(z | x) is normal with mean and variance from a second network. Where the library size is not observed, l_n is
latent too, with a normal prior per batch. Shapes below: B cells, G genes, D latent, H hidden, K batches, S samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..likelihoods import LIKELIHOODS, decoded
from .blocks import Encoder, append, kl_normal, log_normal, one_hot
from .decoder import Decoder
from .records import Expression, Loss, Posterior
from .sparse import Counts, counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Cells


UNDISPERSED = ("poisson", "b")


class VAE(nn.Module):
    """scVI; the arguments are those of `scvitl.tl.scvi`, with sizes in place of names of columns."""

    # whether batch norm and dropout stay as they are after training, whatever is trained further
    frozen = False

    def __init__(  # noqa: PLR0913
        self,
        n_genes: int,
        *,
        n_batch: int = 1,
        n_labels: int = 1,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = "gene",
        gene_likelihood: str = "zinb",
        latent_distribution: str = "normal",
        log_variational: bool = True,
        encode_covariates: bool = False,
        deeply_inject_covariates: bool = True,
        batch_representation: str = "one-hot",
        embedding_dim: int = 5,
        use_batch_norm: str = "both",
        use_layer_norm: str = "none",
        use_size_factor: bool = False,
        use_observed_lib_size: bool = True,
        var_activation: str = "exp",
        library_log_means: Tensor | None = None,
        library_log_vars: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.gene_likelihood, self.dispersion = gene_likelihood, dispersion
        self.latent_distribution, self.log_variational = latent_distribution, log_variational
        self.encode_covariates = encode_covariates
        self.latent_library = not (use_observed_lib_size or use_size_factor)

        # Every part draws its initial weights, in the order of scvi-tools, and those of no use here are dropped: a
        # seed then gives the parts that two configurations share the same weights.
        sets = {"gene": (), "gene-batch": (n_batch,), "gene-label": (n_labels,)}.get(dispersion)
        px_r = None if sets is None else nn.Parameter(torch.randn(n_genes, *sets))  # log theta
        self.px_r = None if gene_likelihood in UNDISPERSED else px_r
        embedded = batch_representation == "embedding"
        self.embedding = nn.Embedding(n_batch, embedding_dim) if embedded else None
        self.sizes = [*([] if embedded else [n_batch]), *n_categories]
        n_covariates = sum(size for size in self.sizes if size > 1)
        n_dense = n_continuous + (embedding_dim if embedded else 0)

        def norms(part: str) -> dict[str, Any]:
            return {
                "use_batch_norm": use_batch_norm in {part, "both"},
                "use_layer_norm": use_layer_norm in {part, "both"},
                "inject_covariates": deeply_inject_covariates,
            }

        encoder = {
            "n_hidden": n_hidden,
            "n_covariates": n_covariates if encode_covariates else 0,
            "dropout_rate": dropout_rate,
            "var_activation": var_activation,
            **norms("encoder"),
        }
        n_in = n_genes + (n_dense if encode_covariates else 0)
        self.z_encoder = Encoder(n_in, n_latent, n_layers=n_layers, **encoder)
        l_encoder = Encoder(n_in, 1, n_layers=1, **encoder)
        self.l_encoder = l_encoder if self.latent_library else None
        self._keep_library_prior(n_batch, library_log_means, library_log_vars)
        heads = {
            "scale": True,
            "dispersion": dispersion == "gene-cell" and gene_likelihood not in UNDISPERSED,
            "dropout": gene_likelihood == "zinb",
        }
        self.decoder = Decoder(
            n_latent + n_dense,
            n_genes,
            n_hidden=n_hidden,
            n_layers=n_layers,
            n_covariates=n_covariates,
            softmax=not use_size_factor,
            heads={name for name, used in heads.items() if used},
            **norms("decoder"),
        )

    def _keep_library_prior(self, n_batch: int, means: Tensor | None, variances: Tensor | None) -> None:
        """Mean and variance of the log library size by batch, where it is latent."""
        if self.latent_library:
            zeros = torch.zeros(1, n_batch)
            self.register_buffer("library_log_means", zeros if means is None else means)
            self.register_buffer("library_log_vars", zeros + 1 if variances is None else variances)

    @property
    def width(self) -> int:
        """Entries per cell of the largest tensors that a reader of the model makes."""
        return self.decoder.n_genes

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights to train, with what is different about some of them."""
        return [{"params": [weight for weight in self.parameters() if weight.requires_grad]}]

    def train(self, mode: bool = True) -> VAE:  # noqa: FBT001, FBT002
        return super().train(mode and not self.frozen)

    def covariates(self, cells: Cells, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Dense columns for the first layer (continuous, batch embedding) and one-hot columns for every layer."""
        dense = cells.continuous  # (B, c)
        codes = [*([batch] if self.embedding is None else []), *cells.categorical.unbind(1)]
        if self.embedding is not None:
            dense = append(dense, self.embedding(batch))  # (B, c + E)
        if not codes:
            return dense, dense[:, :0]
        return dense, one_hot(codes, self.sizes)

    def transform(self, z: Tensor) -> Tensor:
        """From the normal draw to the latent state that the decoder reads."""
        return torch.softmax(z, dim=-1) if self.latent_distribution == "ln" else z

    def encode(self, cells: Cells, generator: torch.Generator | None = None) -> Posterior:
        """Posterior q(z | x), and q(l | x) where the library is latent; of minified cells, the one they come with."""
        if cells.posterior is not None:
            return Posterior(*cells.posterior, cells.library, None)
        seen = self.seen(cells)
        z = self.z_encoder(*seen, generator)  # mean and variance, (B, D)
        library = self.l_encoder(*seen, generator) if self.latent_library else (cells.library, None)
        return Posterior(*z, *library)

    def seen(self, cells: Cells) -> tuple[Tensor | Counts, Tensor]:
        """What the encoders see: counts with dense columns, and one-hot columns for every layer."""
        x = counts(cells).log1p() if self.log_variational else counts(cells)  # (B, G)
        if not self.encode_covariates:
            return x, cells.continuous[:, :0]
        dense, columns = self.covariates(cells, cells.batch)
        return append(x, dense), columns

    def decode(self, z: Tensor, cells: Cells, batch: Tensor | None = None) -> Tensor:
        """Hidden units of the decoder, (..., B, H); ``batch`` (B,) replaces the batches of the cells."""
        return self.decoder(*self.state(z, cells, batch))

    def state(self, z: Tensor, cells: Cells, batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder sees: latent states with dense columns, and one-hot columns for every layer."""
        dense, columns = self.covariates(cells, cells.batch if batch is None else batch)
        return append(self.transform(z), dense), columns

    def generative(
        self,
        z: Tensor,
        library: Tensor,
        cells: Cells,
        *,
        batch: Tensor | None = None,
        genes: Tensor | None = None,
    ) -> Expression:
        """Parameters of the counts for latent states ``z``, decoded as if from ``batch`` where that is given."""
        return self.expression(self.decode(z, cells, batch), library, cells, batch=batch, genes=genes)

    def expression(
        self,
        h: Tensor,
        library: Tensor,
        cells: Cells,
        *,
        batch: Tensor | None = None,
        genes: Tensor | None = None,
    ) -> Expression:
        """Parameters of the counts from hidden units (..., B, H) of the decoder."""
        scale = self.decoder.scale(h, genes)
        theta = self.theta(h, cells.batch if batch is None else batch, cells.labels, genes)
        dropout = self.decoder.head("dropout", h, genes) if self.gene_likelihood == "zinb" else None
        return Expression(scale, torch.exp(library) * scale, theta, dropout)

    def theta(self, h: Tensor, batch: Tensor, labels: Tensor, genes: Tensor | None = None) -> Tensor | None:
        """Inverse dispersions (G), (B, G) or (..., B, G); Poisson and binomial have none."""
        if self.gene_likelihood in UNDISPERSED:
            return None
        if self.dispersion == "gene-cell":
            return torch.exp(self.decoder.head("dispersion", h, genes))
        px_r = self.px_r if genes is None else self.px_r[genes]
        if self.dispersion == "gene":
            return torch.exp(px_r)
        return torch.exp(px_r.T[batch if self.dispersion == "gene-batch" else labels])

    def log_likelihood(self, x: Tensor, p: Expression) -> Tensor:
        """Log p(x | z, l) of every cell, (..., B)."""
        likelihood, names = LIKELIHOODS[self.gene_likelihood]
        return likelihood.log_likelihood(x, *(getattr(p, name) for name in names))

    def explain(
        self, z: Tensor, library: Tensor, cells: Cells, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log-likelihood of all counts of every cell at ``z`` (..., B, D), (..., B); further latent variables are drawn."""
        return self.explain_decoded(self.decode(z, cells), library, cells)

    def explain_decoded(self, h: Tensor, library: Tensor, cells: Cells) -> Tensor:
        """The same from hidden units (..., B, H) of the decoder."""
        if self.gene_likelihood not in {"nb", "zinb"}:
            return self.log_likelihood(cells.x, self.expression(h, library, cells))
        logits, dropout = self.decoder.logits(h)
        theta, softmax = self.theta(h, cells.batch, cells.labels), self.decoder.softmax
        return decoded.log_likelihood(cells.counts, logits, library, theta, dropout, softmax=softmax)

    def log_weight(
        self,
        z: Tensor,
        library: Tensor,
        posterior: Posterior,
        cells: Cells,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Log of p(x, z, l) / q(z, l | x) at draws, (..., B), whose mean over draws is p(x)."""
        ratio = self.log_prior_ratio(z, library, posterior, cells, generator)
        return self.explain(z, library, cells, generator) + ratio

    def sample(self, p: Expression, generator: torch.Generator | None = None) -> Tensor:
        """Counts drawn from p(x | z, l), (..., B, G)."""
        likelihood, names = LIKELIHOODS[self.gene_likelihood]
        return likelihood.sample(*(getattr(p, name) for name in names), generator=generator)

    def library_prior(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Mean and variance of the prior of a latent log library size, each (B, 1)."""
        return self.library_log_means[0, cells.batch, None], self.library_log_vars[0, cells.batch, None]

    def kl(
        self, z: Tensor, posterior: Posterior, cells: Cells, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """KL of the latent state, and of the library (zero where it is observed), per cell.

        Here the first has a formula; a model whose prior has none estimates it at the draw ``z`` (B, D).
        """
        return kl_normal(posterior.mean, posterior.variance), self.kl_library(posterior, cells)

    def kl_library(self, posterior: Posterior, cells: Cells) -> Tensor | float:
        """KL of the library size, (B,), zero where it is observed."""
        if posterior.library_variance is None:
            return 0.0
        return kl_normal(posterior.library, posterior.library_variance, *self.library_prior(cells))

    def log_prior(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log p(z) of latent states (..., D), or an unbiased estimate of p(z) that draws from ``generator``."""
        return log_normal(z, 0.0, 1.0)

    def log_prior_ratio(
        self,
        z: Tensor,
        library: Tensor,
        posterior: Posterior,
        cells: Cells,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Log p(z, l) - log q(z, l | x) of draws, (..., B): minus the KL, on average over draws."""
        ratio = self.log_prior(z, generator) - log_normal(z, posterior.mean, posterior.variance)
        if posterior.library_variance is None:
            return ratio
        q = log_normal(library, posterior.library, posterior.library_variance)
        return ratio + log_normal(library, *self.library_prior(cells)) - q

    def loss(self, cells: Cells, *, kl_weight: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """Negative evidence lower bound: mean over cells of -log p(x | z) + kl_weight KL(z) + KL(l)."""
        posterior = self.encode(cells, generator)
        z, library = posterior.draw(generator=generator)
        reconstruction = -self.explain_decoded(self.decode(z, cells), library, cells)
        kl_z, kl_l = self.kl(z, posterior, cells)
        return Loss((reconstruction + kl_weight * kl_z + kl_l).mean(), reconstruction, kl_z + kl_l)
