"""The decoder of scVI: hidden units, and heads that turn them into numbers per gene.

Shapes: B cells, G genes, D latent, H hidden; further dimensions may come first, as for posterior draws.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import FullyConnected


class Decoder(nn.Module):
    """From the latent state and the covariates to hidden units, and from these by head to numbers per gene."""

    def __init__(
        self, n_in: int, n_genes: int, *, n_hidden: int, softmax: bool, heads: set[str], **stack
    ) -> None:
        super().__init__()
        self.hidden = FullyConnected(n_in, n_hidden, n_hidden=n_hidden, dropout_rate=0, **stack)
        self.softmax, self.n_hidden, self.n_genes = softmax, n_hidden, n_genes
        built = {name: nn.Linear(n_hidden, n_genes) for name in ("scale", "dispersion", "dropout")}
        self.heads = nn.ModuleDict({name: head for name, head in built.items() if name in heads})

    def forward(self, z: Tensor, covariates: Tensor) -> Tensor:
        return self.hidden(z, covariates)  # (..., B, H)

    def affine(self, name: str) -> tuple[Tensor, Tensor]:
        """What a fitted head does: weight (G, H) and bias (G)."""
        return self.heads[name].weight, self.heads[name].bias

    def seen(self, name: str, h: Tensor) -> Tensor:
        """Those of the hidden units that a head sees."""
        return h

    def head(self, name: str, h: Tensor, genes: Tensor | None = None) -> Tensor:
        """Output of one head for all genes, (..., B, G), or for those at the positions ``genes``."""
        (weight, bias), h = self.affine(name), self.seen(name, h)
        return F.linear(h, weight, bias) if genes is None else F.linear(h, weight[genes], bias[genes])

    def logits(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the shares and, where there are any, of dropout, each (..., B, G)."""
        return self.head("scale", h), self.head("dropout", h) if "dropout" in self.heads else None

    def log_total(self, h: Tensor) -> Tensor | None:
        """What the softmax divides by, as a logarithm (..., B, 1); it takes all genes."""
        return torch.logsumexp(self.head("scale", h), dim=-1, keepdim=True) if self.softmax else None

    def scale(self, h: Tensor, genes: Tensor | None = None) -> Tensor:
        """Share of each gene, (..., B, G), or of those at ``genes``."""
        logits = self.head("scale", h, genes)
        if not self.softmax:
            return F.softplus(logits)
        return torch.softmax(logits, dim=-1) if genes is None else torch.exp(logits - self.log_total(h))

    def scale_by_gene(
        self,
        h: Tensor,
        genes: slice | Tensor | None = None,
        log_total: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Shares of all genes of B cells, or of ``genes`` if ``log_total`` is known: (g, B), into ``out`` if given.

        So the draws of a gene lie side by side, as statistics of genes like them.
        """
        (weight, bias), which = self.affine("scale"), slice(None) if genes is None else genes
        logits = torch.addmm(bias[which, None], weight[which], self.seen("scale", h).T)
        if not self.softmax:
            shares = F.softplus(logits)
            return shares if out is None else out.copy_(shares)
        if genes is not None:
            return torch.exp(logits.sub_(log_total.T), out=out)
        shares = logits.sub_(logits.amax(0)).exp_()
        return torch.div(shares, shares.sum(0), out=out)
