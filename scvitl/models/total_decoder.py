"""The decoder of totalVI: four networks from the latent state, and heads that see their units and the state itself.

Shapes: B cells, G genes, P proteins, D latent, c covariates, H hidden; further dimensions may come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import FullyConnected, append
from .decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = 1e-8  # added by scvi-tools to scales
SD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"softplus": F.softplus, "exp": torch.exp}


class TotalDecoder(Decoder):
    """Numbers per gene and per protein.

    What the methods of `Decoder` call hidden units are the units of the network for genes (before them, where genes are
    zero-inflated, those of the network for mixing), latent state and covariates.
    """

    def __init__(
        self,
        n_in: int,
        n_genes: int,
        n_proteins: int,
        *,
        n_hidden: int,
        n_covariates: int,
        softmax: bool,
        zero_inflated: bool,
        background_activation: str,
        **stack,
    ) -> None:
        nn.Module.__init__(self)
        self.n_units, self.n_genes, self.softmax, self.zero_inflated = (
            n_hidden,
            n_genes,
            softmax,
            zero_inflated,
        )
        self.n_hidden = n_hidden * (1 + zero_inflated) + n_in + n_covariates
        self.sd_activation = SD_ACTIVATIONS[background_activation]

        def network() -> FullyConnected:
            return FullyConnected(n_in, n_hidden, n_hidden=n_hidden, n_covariates=n_covariates, **stack)

        def head(n_out: int) -> nn.Linear:
            return nn.Linear(n_hidden + n_in + n_covariates, n_out)

        # Parts draw their initial weights in the order of scvi-tools.
        heads = nn.ModuleDict()
        self.hidden, heads["scale"] = network(), head(n_genes)
        self.background = network()
        heads["background_mean"], heads["background_sd"] = head(n_proteins), head(n_proteins)
        self.foreground, heads["foreground"] = network(), head(n_proteins)
        self.mixing, dropout, heads["mixing"] = network(), head(n_genes), head(n_proteins)
        if zero_inflated:
            heads["dropout"] = dropout
        self.heads = heads

    def forward(self, z: Tensor, covariates: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Hidden units for genes, (..., B, n_hidden)."""
        mixing = self.mixing(z, covariates, generator) if self.zero_inflated else None
        return self._of_genes(z, covariates, mixing, generator)

    def _of_genes(
        self, z: Tensor, covariates: Tensor, mixing: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        parts = [mixing] if self.zero_inflated else []
        return torch.cat([*parts, self.hidden(z, covariates, generator), append(z, covariates)], dim=-1)

    def seen(self, name: str, h: Tensor) -> Tensor:
        """Those of the hidden units that a head of genes sees, (..., B, H + D + c)."""
        if not self.zero_inflated:
            return h
        if name == "scale":
            return h[..., self.n_units :]
        return torch.cat([h[..., : self.n_units], h[..., 2 * self.n_units :]], dim=-1)

    def proteins(
        self, z: Tensor, covariates: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every protein, (..., B, P): mean and sd of the log background, foreground over background, logits of background."""
        return self._of_proteins(z, covariates, self.mixing(z, covariates, generator), generator)

    def _of_proteins(
        self, z: Tensor, covariates: Tensor, mixing: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = append(z, covariates)
        networks = (self.background, self.foreground)
        units = [*(network(z, covariates, generator) for network in networks), mixing]
        background, foreground, mixing = (torch.cat([part, state], dim=-1) for part in units)
        sd = self.sd_activation(self.heads["background_sd"](background)) + TINY
        times = torch.relu(self.heads["foreground"](foreground)) + 1 + TINY
        return self.heads["background_mean"](background), sd, times, self.heads["mixing"](mixing)

    def together(
        self, z: Tensor, covariates: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What `forward` and `proteins` return, with one pass through the network for mixing, which both may need."""
        mixing = self.mixing(z, covariates, generator)
        return (
            self._of_genes(z, covariates, mixing, generator),
            self._of_proteins(z, covariates, mixing, generator),
        )
