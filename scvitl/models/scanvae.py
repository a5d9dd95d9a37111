"""scANVI: scVI with cell types (Xu et al., Molecular Systems Biology 2021, doi 10.15252/msb.20209620).

Generative story of a cell n, on top of that of scVI, for L types:

    y_n      ~ Categorical(prior)                    type, seen in some cells
    u_n      ~ Normal(0, I)                          what is left of the state when the type is known
    z_n      ~ Normal(m(u_n, y_n), v(u_n, y_n))      latent state
    x_n      as in scVI

q(y | z) is a classifier, q(u | z, y) a network of its own. The type is summed out in all cells, labelled or not; that
the classifier agrees with the labels is a term of its own in the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Encoder, FullyConnected, kl_normal, log_normal, sample_normal
from .records import Loss, Posterior
from .vae import VAE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Cells


class Classifier(nn.Module):
    """Logits of the types from the latent state.

    With ``groups``, the code of the group of every type, the type is found in two steps: the group, and the type within
    it. The logits are then the logarithms of the product of both probabilities.
    """

    def __init__(
        self, n_in: int, n_labels: int, *, n_layers: int, n_hidden: int, groups: Sequence[int] | None, **layer
    ) -> None:
        super().__init__()
        stack = {"n_hidden": n_hidden, "n_layers": n_layers, **layer}
        self.hidden = FullyConnected(n_in, n_hidden, **stack) if n_layers else None
        self.types = nn.Linear(n_hidden if n_layers else n_in, n_labels)
        self.groups = None
        if groups is not None:
            self.groups = nn.Linear(self.types.in_features, max(groups) + 1)
            member = F.one_hot(torch.tensor(groups)).T.bool()  # (groups, L)
            self.register_buffer("member", member, persistent=False)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map ``z`` (..., D) to logits, (..., L)."""
        h = z if self.hidden is None else self.hidden(z, z[..., :0], generator)
        types = self.types(h)
        if self.groups is None:
            return types
        # log p(y) = log p(group of y) + log p(y | group)
        within = types[..., None, :].masked_fill(~self.member, -torch.inf).log_softmax(-1)  # (..., groups, L)
        return torch.logsumexp(self.groups(h).log_softmax(-1)[..., None] + within, dim=-2)


class SCANVAE(VAE):
    """scANVI; the arguments are those of `scvitl.tl.scanvi`, with sizes in place of names of columns."""

    def __init__(  # noqa: PLR0913
        self,
        n_genes: int,
        *,
        n_labels: int,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        use_batch_norm: str = "both",
        use_layer_norm: str = "none",
        classifier_n_layers: int = 0,
        classifier_n_hidden: int = 128,
        classifier_dropout_rate: float = 0.1,
        classification_ratio: float = 50.0,
        y_prior: Tensor | None = None,
        groups: Sequence[int] | None = None,
        **vae,
    ) -> None:
        network = {"n_hidden": n_hidden, "n_layers": n_layers}
        norms = {"use_batch_norm": use_batch_norm, "use_layer_norm": use_layer_norm}
        super().__init__(
            n_genes,
            n_labels=n_labels,
            n_latent=n_latent,
            dropout_rate=dropout_rate,
            **network,
            **norms,
            **vae,
        )
        in_encoder = {name: value in {"encoder", "both"} for name, value in norms.items()}
        in_decoder = {name: value in {"decoder", "both"} for name, value in norms.items()}
        self.n_labels, self.classification_ratio = n_labels, classification_ratio
        self.classifier = Classifier(
            n_latent,
            n_labels,
            n_layers=classifier_n_layers,
            n_hidden=classifier_n_hidden,
            dropout_rate=classifier_dropout_rate,
            groups=groups,
            **in_encoder,
        )
        pair = {"n_covariates": n_labels, **network}
        self.u_encoder = Encoder(n_latent, n_latent, dropout_rate=dropout_rate, **pair, **in_encoder)
        self.u_decoder = Encoder(n_latent, n_latent, dropout_rate=0, min_variance=0, **pair, **in_decoder)
        self.register_buffer(
            "y_prior", torch.full((1, n_labels), 1 / n_labels) if y_prior is None else y_prior
        )

    @property
    def width(self) -> int:
        """As in scVI, unless what `by_type` makes is larger: for every type, hidden units and the types themselves."""
        return max(super().width, self.n_labels * (self.decoder.n_hidden + self.n_labels))

    def theta(self, h: Tensor, batch: Tensor, labels: Tensor, genes: Tensor | None = None) -> Tensor | None:
        """As in scVI; cells without a label take the mean over labels of the logarithms."""
        if self.dispersion != "gene-label" or self.px_r is None:
            return super().theta(h, batch, labels, genes)
        px_r = self.px_r if genes is None else self.px_r[genes]
        return torch.exp(torch.cat([px_r, px_r.mean(1, keepdim=True)], 1).T[labels])

    def classify(self, cells: Cells, generator: torch.Generator | None = None) -> Tensor:
        """Logits of the types at the posterior mean, (B, L)."""
        # Not `encode`, in which batch norm of a library's encoder would learn of these cells.
        mean, _ = self.z_encoder(*self.seen(cells), generator)
        return self.classifier(mean, generator)

    def by_type(
        self, z: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """What would hold if the cells with states ``z`` (..., D) were of each type in turn.

        Returns log p(z | u, y), (L, ...), for a draw of u, (L, ..., D), and mean and variance of q(u | z, y).
        """
        types = torch.eye(self.n_labels, device=z.device).view(-1, *[1] * (z.ndim - 1), self.n_labels)
        z = z.expand(self.n_labels, *z.shape)
        q = self.u_encoder(z, types, generator)
        u = sample_normal(*q, None, generator)
        return log_normal(z, *self.u_decoder(u, types)), u, q

    def terms(
        self, z: Tensor, posterior: Posterior, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The KL of the latent state and the type at the draw ``z`` (B, D), in two parts (B,).

        With p = q(y | z): log q(z | x) - sum_y p_y log p(z | u, y), and
        sum_y p_y KL(q(u | z, y) | p(u)) + KL(p | prior). Only the second is warmed up.
        """
        log_p, _, q = self.by_type(z, generator)
        log_types = self.classifier(z, generator).log_softmax(-1)  # (B, L)
        types = log_types.exp()
        first = log_normal(z, posterior.mean, posterior.variance) - (types * log_p.T).sum(-1)
        second = (types * (kl_normal(*q).T + log_types - self.y_prior.log())).sum(-1)
        return first, second

    def kl(
        self, z: Tensor, posterior: Posterior, cells: Cells, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """KL of the latent state, estimated at the draw ``z`` (B, D), and of the library, per cell."""
        return sum(self.terms(z, posterior, generator)), self.kl_library(posterior, cells)

    def log_prior(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log of an estimate of p(z) = sum_y p(y) E_q(u | z, y) [ p(z | u, y) p(u) / q(u | z, y) ], (...)."""
        log_p, u, q = self.by_type(z, generator)
        log_u = log_normal(u, 0.0, 1.0) - log_normal(u, *q)  # (L, ...)
        return torch.logsumexp((log_p + log_u).movedim(0, -1) + self.y_prior[0].log(), dim=-1)

    def loss(
        self,
        cells: Cells,
        labelled: Cells | None = None,
        *,
        kl_weight: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Loss:
        """Negative evidence lower bound of ``cells``, and the cross-entropy of ``labelled`` ones.

        Without these, the labelled ones among the cells take their place.
        """
        posterior = self.encode(cells, generator)
        z, library = posterior.draw(generator=generator)
        unweighted, weighted = self.terms(z, posterior, generator)
        reconstruction = unweighted - self.explain_decoded(self.decode(z, cells), library, cells)
        kl = weighted + self.kl_library(posterior, cells)
        total = (reconstruction + kl_weight * kl).mean()
        if labelled is None:
            known = cells.labels < self.n_labels
            logits, labels = self.classifier(posterior.mean, generator)[known], cells.labels[known]
        else:
            logits, labels = self.classify(labelled, generator), labelled.labels
        if len(labels) == 0:
            return Loss(total, reconstruction, kl)
        error = F.cross_entropy(logits, labels, reduction="none")  # (b,)
        right = (logits.argmax(-1) == labels).float()
        metrics = {"classification_loss": error.detach(), "accuracy": right}
        return Loss(total + self.classification_ratio * error.mean(), reconstruction, kl, metrics)
