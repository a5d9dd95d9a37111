"""Building blocks that the models share: dropout with a private generator, fully connected stacks, encoders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import hidden
from .sparse import Counts, by_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIN_VARIANCE = 1e-4  # of a posterior; keeps the KL finite when a variance head runs away

VARIANCE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": F.softplus,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
}


class Dropout(nn.Module):
    """Inverted dropout that draws from the generator it is handed, so that no global random state moves."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=generator)
            return x * kept.div_(1 - self.p)
        kept = self.noise(x.shape, generator) >= hidden.threshold(self.p)
        return x * kept * (1 / (1 - self.p))

    def noise(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor | None:
        """A whole number of 16 random bits for each of the units on the CPU, if any are to be left out."""
        if not self.training or self.p == 0:
            return None
        # 64 bits make four numbers, in a tenth of the time that as many of 32 take
        n = shape.numel()
        bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        return bits.view(torch.int16)[:n].view(shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Layer(nn.Module):
    """Linear, batch norm, layer norm, ReLU, dropout, in this order; all but the first are optional."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        dropout_rate: float = 0.1,
        use_batch_norm: bool = True,
        use_layer_norm: bool = False,
        use_activation: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=bias)
        self.batch_norm = nn.BatchNorm1d(n_out, momentum=0.01, eps=1e-3) if use_batch_norm else None
        self.layer_norm = nn.LayerNorm(n_out, elementwise_affine=False) if use_layer_norm else None
        self.use_activation = use_activation
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor | Counts, generator: torch.Generator | None = None) -> Tensor:
        h = x.through(self.linear) if isinstance(x, Counts) else self.linear(x)  # (..., B, n_out)
        usual = self.batch_norm is not None and self.layer_norm is None and self.use_activation
        if usual and hidden.fits(h, self.batch_norm):
            return hidden.through(h, self.batch_norm, self.dropout.noise(h.shape, generator), self.dropout.p)
        if self.batch_norm is not None:
            # Batch norm takes (N, n_out); with Monte-Carlo samples (S, B, n_out) the model is in eval mode, where
            # it is the same affine map for every row.
            h = self.batch_norm(h.flatten(0, -2)).view(h.shape)
        if self.layer_norm is not None:
            h = self.layer_norm(h)
        return self.dropout(torch.relu(h) if self.use_activation else h, generator)


class FullyConnected(nn.Module):
    """Layers n_in -> n_hidden -> ... -> n_out, with covariates appended to the input of the first or of each.

    What is not named here goes to every `Layer`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_covariates: int = 0,
        n_layers: int = 1,
        n_hidden: int = 128,
        inject_covariates: bool = True,
        **layer,
    ) -> None:
        super().__init__()
        self.n_covariates = n_covariates
        self.injected = [i == 0 or inject_covariates for i in range(n_layers)]
        widths = [n_in, *[n_hidden] * (n_layers - 1), n_out]
        inputs = [
            width + n_covariates * injected for width, injected in zip(widths, self.injected, strict=False)
        ]
        self.layers = nn.ModuleList(Layer(*sizes, **layer) for sizes in zip(inputs, widths[1:], strict=True))

    def forward(
        self, x: Tensor | Counts, covariates: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map ``x`` (..., B, n_in) with ``covariates`` (B, n_covariates) to (..., B, n_out)."""
        for layer, injected in zip(self.layers, self.injected, strict=True):
            x = layer(append(x, covariates) if injected else x, generator)
        return x


class Encoder(nn.Module):
    """Mean and variance of a normal distribution of ``n_out`` latent variables."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_hidden: int,
        var_activation: str = "exp",
        min_variance: float = MIN_VARIANCE,
        **stack,
    ) -> None:
        super().__init__()
        self.hidden = FullyConnected(n_in, n_hidden, n_hidden=n_hidden, **stack)
        by_row(self.hidden.layers[0].linear)
        self.mean = nn.Linear(n_hidden, n_out)
        self.variance = nn.Linear(n_hidden, n_out)
        self.activation, self.min_variance = VARIANCE_ACTIVATIONS[var_activation], min_variance

    def forward(
        self, x: Tensor | Counts, covariates: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map ``x`` (B, n_in) to the mean and variance, each (B, n_out)."""
        h = self.hidden(x, covariates, generator)  # (B, H)
        return self.mean(h), self.activation(self.variance(h)) + self.min_variance


def append(x: Tensor | Counts, columns: Tensor) -> Tensor | Counts:
    """Append ``columns`` (B, c) to ``x`` (..., B, n), repeated over the sample dimensions of ``x``."""
    if columns.shape[-1] == 0:
        return x
    if isinstance(x, Counts):
        return x.append(columns)
    return torch.cat([x, columns.expand(*x.shape[:-1], -1)], dim=-1)


def one_hot(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """One-hot columns of several categorical covariates side by side, (B, sum of sizes); codes are below their sizes.

    A covariate with a single category carries no information and gets no column.
    """
    first, starts = 0, []
    for code, size in zip(codes, sizes, strict=True):
        if size > 1:
            starts.append(code + first)
            first += size
    columns = torch.zeros(len(codes[0]), first, device=codes[0].device)
    return columns.scatter_(1, torch.stack(starts, 1), 1.0) if starts else columns


def sample_normal(
    mean: Tensor, variance: Tensor, n_samples: int | None, generator: torch.Generator | None
) -> Tensor:
    """Reparametrised draws, (B, D), or (S, B, D) when ``n_samples`` is given."""
    shape = mean.shape if n_samples is None else (n_samples, *mean.shape)
    noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + variance.sqrt() * noise


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """Log density of diagonal normals at ``x``, summed over the last dimension."""
    variance = torch.as_tensor(variance, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance)).sum(-1)


def kl_normal(
    mean: Tensor,
    variance: Tensor,
    prior_mean: Tensor | float | None = None,
    prior_variance: Tensor | float | None = None,
) -> Tensor:
    """KL divergence from diagonal normals, the standard one if neither is given, summed over the last dimension."""
    if prior_variance is not None:  # in its units
        mean, variance = (mean - prior_mean) / prior_variance**0.5, variance / prior_variance
    return 0.5 * (variance + mean**2 - 1 - torch.log(variance)).sum(-1)
