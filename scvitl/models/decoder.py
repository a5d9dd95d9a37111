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

    @torch.no_grad()
    def start_at(self, shares: Tensor, shifts: Tensor, frequencies: Tensor) -> None:
        """Let the decoder begin where the cells are, which would take much of a short training to find.

        ``shares`` (G) are those of the genes in all counts, all above zero, and ``shifts`` (K, G) the logarithms of what
        they are in the batches by these; the batches have these ``frequencies`` (K) among the cells, zero for one to be
        left alone. A hidden unit is given to each: on in its cells, off in others, it shifts the logits.
        """
        self.heads["scale"].bias.copy_(shares.log())
        last = self.hidden.layers[-1]
        if not self.hidden.injected[-1] or last.layer_norm is not None:
            return
        # the one-hot columns of the batch are the first of the covariates
        linear, column = last.linear, last.linear.in_features - self.hidden.n_covariates
        most = frequencies.argsort(descending=True)[: self.n_hidden // 2]
        for unit, batch in enumerate(most[frequencies[most] > 0].tolist()):
            linear.weight[unit], linear.bias[unit] = 0, 0
            linear.weight[unit, column + batch] = 1
            self.heads["scale"].weight[:, unit] = shifts[batch] / self._height(frequencies[batch])

    def _height(self, frequency: Tensor) -> Tensor | float:
        """What is left of a one after the last batch norm, if all else is zero and ones have this ``frequency``."""
        norm = self.hidden.layers[-1].batch_norm
        if norm is None:
            return 1.0
        return (1 - frequency) / torch.sqrt(frequency * (1 - frequency) + norm.eps)

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

    def scale(self, h: Tensor, genes: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Share of each gene, (..., B, G), or of those at ``genes``; in ``out`` if given and where that saves a copy."""
        logits = self.head("scale", h, genes)
        if not self.softmax:
            return F.softplus(logits)
        if genes is None:
            return torch.softmax(logits, dim=-1, out=out)
        return torch.exp(logits - self.log_total(h))

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
