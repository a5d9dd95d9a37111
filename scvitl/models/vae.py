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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..likelihoods import nb, normal, poisson, zinb
from .blocks import Encoder, FullyConnected, append, kl_normal, one_hot, sample_normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Cells


@dataclass(frozen=True, slots=True)
class Latent:
    """Posterior of the latent variables and a draw from it."""

    mean: Tensor  # (B, D), of the normal before any softmax
    variance: Tensor  # (B, D)
    z: Tensor  # (B, D) or (S, B, D)
    library: Tensor  # (B, 1) or (S, B, 1), log
    library_posterior: (
        tuple[Tensor, Tensor] | None
    )  # mean and variance, each (B, 1), where the library is latent


@dataclass(frozen=True, slots=True)
class Expression:
    """Parameters of the counts."""

    scale: Tensor  # (..., B, G), share of each gene (with a size factor: its level before scaling)
    rate: Tensor  # (..., B, G), exp(library) scale
    theta: Tensor | None  # (G) or (..., B, G), inverse dispersion; standard deviation for "normal"
    dropout: Tensor | None  # (..., B, G), logits of the zero inflation


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective of a minibatch and its parts per cell."""

    total: Tensor  # ()
    reconstruction: Tensor  # (B,), negative log-likelihood
    kl: Tensor  # (B,), unweighted


class Decoder(nn.Module):
    """From the latent state and the covariates to the parameters of the counts."""

    def __init__(
        self, n_in: int, n_genes: int, *, n_hidden: int, softmax: bool, heads: set[str], **stack
    ) -> None:
        super().__init__()
        self.hidden = FullyConnected(n_in, n_hidden, n_hidden=n_hidden, dropout_rate=0, **stack)
        self.softmax = softmax
        built = {name: nn.Linear(n_hidden, n_genes) for name in ("scale", "dispersion", "dropout")}
        self.heads = nn.ModuleDict({name: head for name, head in built.items() if name in heads})

    def forward(self, z: Tensor, covariates: Tensor) -> dict[str, Tensor]:
        h = self.hidden(z, covariates)  # (..., B, H)
        out = {name: head(h) for name, head in self.heads.items()}  # (..., B, G) each
        out["scale"] = torch.softmax(out["scale"], dim=-1) if self.softmax else F.softplus(out["scale"])
        return out


class VAE(nn.Module):
    """scVI; the arguments are those of `scvitl.tl.scvi`, with sizes in place of names of columns."""

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
        self.px_r = None if gene_likelihood == "poisson" else px_r
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
        if self.latent_library:
            zeros = torch.zeros(1, n_batch)
            self.register_buffer(
                "library_log_means", zeros if library_log_means is None else library_log_means
            )
            self.register_buffer(
                "library_log_vars", zeros + 1 if library_log_vars is None else library_log_vars
            )
        heads = {
            "scale": True,
            "dispersion": dispersion == "gene-cell" and gene_likelihood != "poisson",
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

    def inference(
        self, cells: Cells, n_samples: int | None = None, generator: torch.Generator | None = None
    ) -> Latent:
        """Posterior q(z | x), and q(l | x) where the library is latent, with draws from them."""
        x = torch.log1p(cells.x) if self.log_variational else cells.x  # (B, G)
        columns = x[:, :0]
        if self.encode_covariates:
            dense, columns = self.covariates(cells, cells.batch)
            x = append(x, dense)
        mean, variance = self.z_encoder(x, columns, generator)  # (B, D)
        z = self.transform(sample_normal(mean, variance, n_samples, generator))  # (S, B, D) or (B, D)
        if not self.latent_library:
            return Latent(mean, variance, z, cells.library.expand(*z.shape[:-1], 1), None)
        posterior = self.l_encoder(x, columns, generator)  # (B, 1)
        return Latent(mean, variance, z, sample_normal(*posterior, n_samples, generator), posterior)

    def generative(
        self, z: Tensor, library: Tensor, cells: Cells, transform_batch: int | None = None
    ) -> Expression:
        """Parameters of the counts for latent states ``z``; ``transform_batch`` decodes all cells as if from that batch."""
        batch = cells.batch if transform_batch is None else torch.full_like(cells.batch, transform_batch)
        dense, columns = self.covariates(cells, batch)
        out = self.decoder(append(z, dense), columns)
        theta = self.theta(out, batch, cells.labels)
        return Expression(out["scale"], torch.exp(library) * out["scale"], theta, out.get("dropout"))

    def theta(self, out: dict[str, Tensor], batch: Tensor, labels: Tensor) -> Tensor | None:
        """Inverse dispersions (G), (B, G) or (..., B, G); a Poisson has none."""
        if self.gene_likelihood == "poisson":
            return None
        if self.dispersion == "gene-cell":
            return torch.exp(out["dispersion"])
        if self.dispersion == "gene":
            return torch.exp(self.px_r)
        return torch.exp(self.px_r.T[batch if self.dispersion == "gene-batch" else labels])

    def log_likelihood(self, x: Tensor, p: Expression) -> Tensor:
        """Log p(x | z, l) of every cell, (..., B)."""
        if self.gene_likelihood == "zinb":
            return zinb.log_likelihood(x, p.rate, p.theta, p.dropout)
        if self.gene_likelihood == "nb":
            return nb.log_likelihood(x, p.rate, p.theta)
        if self.gene_likelihood == "poisson":
            return poisson.log_likelihood(x, p.rate)
        return normal.log_likelihood(x, p.rate, p.theta)

    def kl(self, latent: Latent, cells: Cells) -> tuple[Tensor, Tensor | float]:
        """KL of z, and of the library (zero where it is observed), per cell."""
        kl_z = kl_normal(latent.mean, latent.variance)
        if latent.library_posterior is None:
            return kl_z, 0.0
        prior = (
            self.library_log_means[0, cells.batch, None],
            self.library_log_vars[0, cells.batch, None],
        )  # (B, 1)
        return kl_z, kl_normal(*latent.library_posterior, *prior)

    def loss(self, cells: Cells, kl_weight: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """Negative evidence lower bound: mean over cells of -log p(x | z) + kl_weight KL(z) + KL(l)."""
        latent = self.inference(cells, generator=generator)
        reconstruction = -self.log_likelihood(cells.x, self.generative(latent.z, latent.library, cells))
        kl_z, kl_l = self.kl(latent, cells)
        return Loss((reconstruction + kl_weight * kl_z + kl_l).mean(), reconstruction, kl_z + kl_l)
