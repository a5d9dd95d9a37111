"""The decoder of scAR: native share of each gene, and the share of a cell's counts that is ambient.

Shapes: B cells, G genes, D latent, H hidden, c covariates; further dimensions may come first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import FullyConnected
from .decoder import Decoder

TINY = 1e-5  # added to what shares are divided by
STEEPNESS = 10.0  # of the threshold below which a gene counts as absent, in the sparsity


class ScarDecoder(Decoder):
    """From the latent state to hidden units, and from these to native shares and the share of ambient counts.

    Shares are positive values v of the genes, divided by their sum: exp(u) for ``"softmax"``, softplus(u) for ``"softplus"``.
    ``"softplus_sp"`` takes a threshold off that grows with ``sparsity``, so that genes can be absent altogether. In the
    latter two, v is times the `level` of the gene, which is 1 unless training starts elsewhere.
    """

    def __init__(
        self,
        n_in: int,
        n_genes: int,
        *,
        n_hidden: int,
        activation: str,
        sparsity: float,
        heads: set[str],
        **stack,
    ) -> None:
        nn.Module.__init__(self)
        self.n_hidden, self.n_genes, self.activation, self.softmax = n_hidden, n_genes, activation, True
        self.hidden = FullyConnected(n_in, n_hidden, n_hidden=n_hidden, dropout_rate=0, **stack)
        # Parts draw their initial weights in the order of scvi-tools.
        built = {"scale": nn.Linear(n_hidden, n_genes), "noise": nn.Linear(n_hidden, 1)}
        built["dropout"] = nn.Linear(n_hidden, n_genes)
        self.heads = nn.ModuleDict({name: head for name, head in built.items() if name in {"noise", *heads}})
        self.register_buffer("level", torch.ones(n_genes))
        sparse = activation == "softplus_sp"
        self.threshold = math.log1p(math.exp(-(1 - sparsity) * STEEPNESS)) if sparse else 0.0

    def noise(self, h: Tensor) -> Tensor:
        """Share of the counts of a cell that is ambient, (..., B, 1)."""
        return (1 + torch.tanh(self.head("noise", h))) / 2

    def positive(self, u: Tensor, level: Tensor) -> Tensor:
        """Values (..., G) that shares are made of, other than exponentials, for genes at ``level`` (G)."""
        values = F.softplus(u)
        if self.threshold:
            values = torch.relu(values - self.threshold)
        return values * level

    def log_total(self, h: Tensor) -> Tensor:
        """What the shares are divided by, as a logarithm (..., B, 1); it takes all genes."""
        u = self.head("scale", h)
        if self.activation == "softmax":
            return torch.logsumexp(u, dim=-1, keepdim=True) + math.log1p(TINY)
        return torch.log(self.positive(u, self.level).sum(-1, keepdim=True) + TINY)

    def scale(self, h: Tensor, genes: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Native share of each gene, (..., B, G), or of those at ``genes``; never in ``out``."""
        u = self.head("scale", h, genes)
        if self.activation == "softmax":
            return (
                torch.softmax(u, dim=-1) / (1 + TINY) if genes is None else torch.exp(u - self.log_total(h))
            )
        if genes is None:
            values = self.positive(u, self.level)
            return values / (values.sum(-1, keepdim=True) + TINY)
        return self.positive(u, self.level[genes]) / torch.exp(self.log_total(h))

    def scale_by_gene(
        self,
        h: Tensor,
        genes: slice | Tensor | None = None,
        log_total: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Shares of all genes of B cells, or of ``genes`` if ``log_total`` is known: (g, B), into ``out`` if given."""
        if self.activation == "softmax":
            values = super().scale_by_gene(h, genes, log_total, out)
            return values if genes is not None else values.div_(1 + TINY)
        (weight, bias), which = self.affine("scale"), slice(None) if genes is None else genes
        u = torch.addmm(bias[which, None], weight[which], h.T)
        values = self.positive(u, self.level[which, None])
        total = values.sum(0) + TINY if genes is None else torch.exp(log_total.T)
        return torch.div(values, total, out=out)
