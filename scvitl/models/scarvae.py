"""scAR: native and ambient RNA told apart (Sheng et al., bioRxiv 2022, doi 10.1101/2022.01.14.476312).

Generative story of a cell n with n_n counts in all, for genes g = 1..G:

    z_n      ~ Normal(0, I)                          latent state, D numbers ("ln": softmax of it)
    beta_n   = native shares of the genes, from z_n
    nu_n     = (1 + tanh(f(z_n))) / 2                share of ambient counts
    p_ng     = (1 - nu_n) beta_ng + nu_n alpha_g
    x_ng     ~ Binomial(n_n, p_ng), or NB, ZINB, Poisson of mean n_n p_ng

with alpha the ambient profile, shares of the genes in empty droplets, which is known; per batch where there are several.
q(z | x) is normal. Encoder and decoder see the batch. Shapes: B cells, G genes, D latent, H hidden, K batches, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..likelihoods import binomial
from . import mixture
from .records import Expression, Loss
from .scar_decoder import ScarDecoder
from .vae import VAE

if TYPE_CHECKING:
    from .cells import Cells


@dataclass(frozen=True, slots=True)
class MixedExpression(Expression):
    """Parameters of counts of which some are ambient: ``scale`` is the native share, ``rate`` the mean of all counts."""

    native: Tensor  # (..., B, G), mean of native counts
    total: Tensor  # (..., B, 1), counts of the cell


class SCARVAE(VAE):
    """scAR; the arguments are those of `scvitl.tl.scar`, with sizes in place of names of columns."""

    def __init__(  # noqa: PLR0913
        self,
        n_genes: int,
        *,
        n_batch: int = 1,
        n_hidden: int = 150,
        n_latent: int = 15,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        gene_likelihood: str = "b",
        latent_distribution: str = "normal",
        log_variational: bool = True,
        scale_activation: str = "softplus_sp",
        sparsity: float = 0.9,
        ambient: Tensor | None = None,
        **vae,
    ) -> None:
        # As in scvi-tools, a whole scVI is drawn before its decoder is replaced, so that a seed gives equal weights.
        super().__init__(
            n_genes,
            n_batch=n_batch,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            gene_likelihood=gene_likelihood,
            latent_distribution=latent_distribution,
            log_variational=log_variational,
            encode_covariates=n_batch > 1,
            **vae,
        )
        self.decoder = ScarDecoder(
            n_latent,
            n_genes,
            n_hidden=n_hidden,
            n_layers=n_layers,
            n_covariates=n_batch if n_batch > 1 else 0,
            activation=scale_activation,
            sparsity=sparsity,
            heads=set(self.decoder.heads),
        )
        uniform = torch.full((n_batch, n_genes), 1 / n_genes)
        self.register_buffer("ambient", uniform if ambient is None else ambient)  # (K, G)

    @torch.no_grad()
    def start_at(self, shares: Tensor, noise: float) -> None:
        """Let the decoder begin where the cells are: at ``shares`` (G) of the genes, all above zero, and this ``noise``."""
        decoder = self.decoder
        decoder.heads["noise"].bias.fill_(2 * noise - 1).atanh_()
        if decoder.activation == "softmax":
            decoder.heads["scale"].bias.copy_(shares.log())
        else:
            decoder.level.copy_(shares * len(shares))
            # where softplus(u) - threshold is 1
            one = torch.tensor(1 + decoder.threshold)
            decoder.heads["scale"].bias.fill_(one + torch.log(-torch.expm1(-one)))

    def profile(self, batch: Tensor, genes: Tensor | None = None) -> Tensor:
        """Ambient shares of the batches of cells, (B, G), or (1, G) where there is one batch."""
        rows = self.ambient if len(self.ambient) == 1 else self.ambient[batch]
        return rows if genes is None else rows[:, genes]

    def expression(
        self,
        h: Tensor,
        library: Tensor,
        cells: Cells,
        *,
        batch: Tensor | None = None,
        genes: Tensor | None = None,
    ) -> MixedExpression:
        """Parameters of the counts from hidden units (..., B, H) of the decoder."""
        batch = cells.batch if batch is None else batch
        noise, scale = self.decoder.noise(h), self.decoder.scale(h, genes)
        total = torch.exp(library)
        rate = total * torch.lerp(scale, self.profile(batch, genes).expand_as(scale), noise)
        dropout = self.decoder.head("dropout", h, genes) if self.gene_likelihood == "zinb" else None
        theta = self.theta(h, batch, cells.labels, genes)
        return MixedExpression(scale, rate, theta, dropout, total * (1 - noise) * scale, total)

    def log_likelihood(self, x: Tensor, p: MixedExpression) -> Tensor:
        """Log p(x | z) of every cell, (..., B)."""
        if self.gene_likelihood != "b":
            return super().log_likelihood(x, p)
        return binomial.log_likelihood(x, p.rate / p.total)

    def explain_decoded(self, h: Tensor, library: Tensor, cells: Cells) -> Tensor:
        """Log-likelihood of all counts of every cell from hidden units (..., B, H) of the decoder, (..., B)."""
        return self.log_likelihood(cells.x, self.expression(h, library, cells))

    def sample(self, p: MixedExpression, generator: torch.Generator | None = None) -> Tensor:
        """Counts, native and ambient, drawn from p(x | z), (..., B, G)."""
        if self.gene_likelihood != "b":
            return super().sample(p, generator)
        # totals are kept as logarithms, which are exact enough up to some hundred thousand counts
        return binomial.sample(p.rate / p.total, torch.round(p.total), generator=generator)

    def loss(self, cells: Cells, *, kl_weight: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """Negative evidence lower bound; of a binomial and shares by softplus, all in one."""
        if self.gene_likelihood != "b" or self.decoder.activation == "softmax":
            return super().loss(cells, kl_weight=kl_weight, generator=generator)
        posterior = self.encode(cells, generator)
        z, _ = posterior.draw(generator=generator)
        h = self.decode(z, cells)
        stored = cells.x.flatten().nonzero().squeeze(-1) if cells.stored is None else cells.stored.at()
        reconstruction = -mixture.log_likelihood(
            cells.x,
            stored,
            self.decoder.head("scale", h),
            self.decoder.noise(h),
            self.profile(cells.batch),
            self.decoder.level,
            self.decoder.threshold,
        )
        kl_z, kl_l = self.kl(z, posterior, cells)
        return Loss((reconstruction + kl_weight * kl_z + kl_l).mean(), reconstruction, kl_z + kl_l)
