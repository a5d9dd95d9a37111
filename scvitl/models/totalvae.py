"""totalVI: RNA and protein of the same cells (Gayoso, Steier et al., Nature Methods 2021, doi 10.1038/s41592-020-01050-x).

Generative story of a cell n of batch s_n, for genes as in scVI, and for proteins p = 1..P:

    z_n        ~ Normal(0, I)                                latent state, of both
    x_n        ~ NB or ZINB as in scVI, from z_n and s_n
    log b_np   ~ Normal(m_p, v_p)                            background of the panel, learned with the rest
    v_np       ~ Bernoulli(pi_p(z_n, s_n))                   whether the count is background
    y_np       ~ NB(e_sp b_np [v = 1, else times a_p(z_n, s_n) > 1], phi_p)

with v summed out. e_sp says how well protein p is caught in batch s. q(z | x, y) is normal, and q(log b | z) is, with
mean and standard deviation that are decoded from z. Proteins that a panel lacks have no term in the loss.
Shapes: B cells, G genes, P proteins, D latent, K batches, M panels, S samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .adversary import Adversary
from .blocks import Encoder, append, kl_normal, sample_normal
from .protein_counts import ProteinCounts
from .records import Loss
from .sparse import counts
from .total_decoder import TotalDecoder
from .vae import VAE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Cells
    from .records import Posterior, ProteinExpression

ADVERSARY_RATE = 1e-3  # learning rate, unless a schedule sets that of all weights


class TOTALVAE(VAE):
    """totalVI; the arguments are those of `scvitl.tl.totalvi`, with sizes in place of names of columns.

    ``measured`` (M, P) says which proteins a panel has, ``in_batch`` (K, P) which batches make the average batch of a
    protein. Models from before scvi-tools 1.3.1 have neither ``normalize_counts`` nor ``protein_efficiency``; with the
    latter, proteins weigh in the loss as the KL terms do.
    """

    def __init__(  # noqa: PLR0913
        self,
        n_genes: int,
        *,
        measured: Sequence[Sequence[bool]],
        in_batch: Sequence[Sequence[bool]] | None = None,
        n_batch: int = 1,
        n_labels: int = 1,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
        n_hidden: int = 256,
        n_latent: int = 20,
        n_layers_encoder: int = 2,
        n_layers_decoder: int = 1,
        dropout_rate_encoder: float = 0.2,
        dropout_rate_decoder: float = 0.2,
        dispersion: str = "gene",
        protein_dispersion: str = "protein",
        gene_likelihood: str = "nb",
        latent_distribution: str = "normal",
        log_variational: bool = True,
        encode_covariates: bool = True,
        use_batch_norm: str = "both",
        use_layer_norm: str = "none",
        use_size_factor: bool = False,
        use_observed_lib_size: bool = True,
        normalize_counts: bool = True,
        protein_efficiency: bool = True,
        background_activation: str = "softplus",
        background_mean: Tensor | None = None,
        background_sd: Tensor | None = None,
        library_log_means: Tensor | None = None,
        library_log_vars: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.gene_likelihood, self.dispersion = gene_likelihood, dispersion
        self.latent_distribution, self.log_variational = latent_distribution, log_variational
        self.encode_covariates, self.embedding = encode_covariates, None
        self.normalize_counts = normalize_counts
        self.latent_library = not (use_observed_lib_size or use_size_factor)
        self.adversary: Adversary | None = None  # while training, where there is one
        self.n_latent, self.n_batch = n_latent, n_batch
        # Parts draw their initial weights in the order of scvi-tools, so that a seed gives equal ones.
        sets = {"gene-batch": (n_batch,), "gene-label": (n_labels,)}.get(dispersion, ())
        self.px_r = nn.Parameter(torch.randn(n_genes, *sets))  # log theta
        self.protein_counts = ProteinCounts(
            measured,
            in_batch=in_batch,
            n_batch=n_batch,
            n_labels=n_labels,
            dispersion=protein_dispersion,
            efficiency=protein_efficiency,
            background_mean=background_mean,
            background_sd=background_sd,
        )
        n_proteins = self.protein_counts.n_proteins
        self.sizes = [n_batch, *n_categories]
        n_covariates = sum(size for size in self.sizes if size > 1)

        def norms(part: str) -> dict[str, bool]:
            return {
                "use_batch_norm": use_batch_norm in {part, "both"},
                "use_layer_norm": use_layer_norm in {part, "both"},
            }

        encoder = {
            "n_hidden": n_hidden,
            "n_covariates": n_covariates if encode_covariates else 0,
            "dropout_rate": dropout_rate_encoder,
            **norms("encoder"),
        }
        n_in = n_genes + n_proteins + (n_continuous if encode_covariates else 0)
        self.z_encoder = Encoder(n_in, n_latent, n_layers=n_layers_encoder, **encoder)
        l_encoder = Encoder(n_in, 1, n_layers=1, **encoder)
        self.l_encoder = l_encoder if self.latent_library else None
        self._keep_library_prior(n_batch, library_log_means, library_log_vars)
        self.decoder = TotalDecoder(
            n_latent + n_continuous,
            n_genes,
            n_proteins,
            n_hidden=n_hidden,
            n_layers=n_layers_decoder,
            n_covariates=n_covariates,
            dropout_rate=dropout_rate_decoder,
            softmax=not use_size_factor,
            zero_inflated=gene_likelihood == "zinb",
            background_activation=background_activation,
            **norms("decoder"),
        )

    def hire(self, weight: float | None) -> None:
        """Train against an adversary from now on, with this ``weight``, or as the KL term is not yet weighed."""
        self.adversary = Adversary(self.n_latent, self.n_batch, weight)

    @torch.no_grad()
    def start_at(self, shares: Tensor, low: Tensor, high: Tensor, *, prior: bool) -> None:
        """Let the decoder begin where the cells are, which would take much of a short training to find.

        ``shares`` (G) are those of the genes in all counts, all above zero; ``low`` and ``high`` (P) low and high counts of
        the proteins, as logarithms. Whether the ``prior`` of the background starts there, too, is up to the caller.
        """
        if self.decoder.softmax:
            self.decoder.heads["scale"].bias.copy_(shares.log())
        self.decoder.heads["background_mean"].bias += low
        self.decoder.heads["foreground"].bias += torch.exp(high - low) - 1
        if prior:
            mean = self.protein_counts.background_mean
            mean.copy_(low[:, None].expand_as(mean))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All weights, those of the adversary apart."""
        (group,) = super().parameter_groups()
        if self.adversary is None:
            return [group]
        apart = [*self.adversary.parameters()]
        own = [weight for weight in group["params"] if not any(weight is other for other in apart)]
        return [{"params": own}, {"params": apart, "lr": ADVERSARY_RATE}]

    def seen(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """What the encoders see: counts of genes and proteins with dense columns, and one-hot columns for every layer."""
        parts = [counts(cells), cells.proteins]  # (B, G) and (B, P)
        if self.normalize_counts:
            means = [values.mean(1, keepdim=True) for values in (cells.x, cells.proteins)]
            parts = [part / (1 + mean) for part, mean in zip(parts, means, strict=True)]
        genes, proteins = (part.log1p() for part in parts) if self.log_variational else parts
        both = append(genes, proteins)
        if not self.encode_covariates:
            return both, cells.continuous[:, :0]
        dense, columns = self.covariates(cells, cells.batch)
        return append(both, dense), columns

    def proteins(
        self,
        z: Tensor,
        cells: Cells,
        *,
        batch: Tensor | None = None,
        give_mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> ProteinExpression:
        """Parameters of the counts of proteins for latent states ``z`` (..., B, D), as if from ``batch`` if given.

        The background is drawn, or with ``give_mean`` is its mean over draws.
        """
        mean, sd, times, mixing = self.decoder.proteins(*self.state(z, cells, batch))
        if give_mean:
            background = torch.exp(mean + sd**2 / 2)
        else:
            background = torch.exp(sample_normal(mean, sd**2, None, generator))
        batch = cells.batch if batch is None else batch
        return self.protein_counts.expression(background, times, mixing, batch, cells.labels)

    def explain(
        self, z: Tensor, library: Tensor, cells: Cells, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log-likelihood of the counts of genes and proteins at ``z`` (..., B, D) and a draw of the background, (..., B)."""
        return sum(self.explain_apart(z, library, cells, generator))

    def explain_apart(
        self, z: Tensor, library: Tensor, cells: Cells, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same for genes and for proteins."""
        p = self.proteins(z, cells, generator=generator)
        return super().explain(z, library, cells), self.protein_counts.log_likelihood(cells, p)

    def log_weight(
        self,
        z: Tensor,
        library: Tensor,
        posterior: Posterior,
        cells: Cells,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Log of p(x, y, z, l, b) / q(z, l, b | x, y) at draws, (..., B)."""
        mean, sd, times, mixing = self.decoder.proteins(*self.state(z, cells))
        log_b = sample_normal(mean, sd**2, None, generator)
        p = self.protein_counts.expression(log_b.exp(), times, mixing, cells.batch, cells.labels)
        genes = super().explain(z, library, cells) + self.log_prior_ratio(z, library, posterior, cells)
        ratio = self.protein_counts.log_prior_ratio(log_b, mean, sd, cells)
        return genes + self.protein_counts.log_likelihood(cells, p) + ratio

    def kl(
        self, z: Tensor, posterior: Posterior, cells: Cells, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """KL of latent state and background, the latter at ``z`` (B, D), and of the library, per cell."""
        mean, sd, _, mixing = self.decoder.proteins(*self.state(z, cells))
        kl_z, kl_l = super().kl(z, posterior, cells)
        return kl_z + self.protein_counts.kl(mean, sd, mixing, cells), kl_l

    def loss(self, cells: Cells, *, kl_weight: float = 1.0, generator: torch.Generator | None = None) -> Loss:
        """Negative evidence lower bound, with proteins weighed as the KL terms, and the adversary's part."""
        posterior = self.encode(cells, generator)
        z, library = posterior.draw(generator=generator)
        genes, (mean, sd, times, mixing) = self.decoder.together(*self.state(z, cells), generator)
        background = sample_normal(mean, sd**2, None, generator).exp()
        p = self.protein_counts.expression(background, times, mixing, cells.batch, cells.labels)
        of_genes = -self.explain_decoded(genes, library, cells)
        of_proteins = -self.protein_counts.log_likelihood(cells, p)
        kl = kl_normal(posterior.mean, posterior.variance)
        kl, kl_l = kl + self.protein_counts.kl(mean, sd, mixing, cells), self.kl_library(posterior, cells)
        protein_weight = 1.0 if self.protein_counts.log_efficiency is None else kl_weight
        total = (of_genes + kl_l + protein_weight * of_proteins + kl_weight * kl).mean()
        if self.adversary is not None and self.training:
            states = self.transform(z)
            total = total + self.adversary.loss(states, cells.batch, kl_weight=kl_weight, generator=generator)
        metrics = {"reconstruction_loss_gene": of_genes, "reconstruction_loss_protein": of_proteins}
        return Loss(total, of_genes + of_proteins, kl + kl_l, metrics)
