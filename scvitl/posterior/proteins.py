"""What a model of proteins decodes: expression, background, foreground, new counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from ..likelihoods import nb_mixture
from .draws import ROWS_TOGETHER, draw, spread
from .engine import noise, stream
from .expression import constant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ..data.batches import CellData
    from ..models import TOTALVAE, Cells
    from ..models.records import ProteinExpression
    from .draws import Draws

    Quantity = Callable[[ProteinExpression, torch.Generator], Tensor]


def foreground(p: ProteinExpression, generator: torch.Generator) -> Tensor:
    """Probability that a count is more than background, (..., B, P)."""
    return torch.sigmoid(-p.mixing)


def background(p: ProteinExpression, generator: torch.Generator) -> Tensor:
    """Mean of background counts, (..., B, P)."""
    return p.background


@dataclass(frozen=True)
class Expression:
    """Mean counts of the proteins without background, or with it; (..., B, P) when called.

    ``sample_mixing`` decides in every draw whether a count is background, rather than to weigh by the probability.
    """

    sample_mixing: bool = False
    include_background: bool = False

    def __call__(self, p: ProteinExpression, generator: torch.Generator) -> Tensor:
        below = torch.sigmoid(p.mixing)
        if self.sample_mixing:
            below = torch.bernoulli(below, generator=generator)
        value = p.foreground * (1 - below)
        return value + p.background * below if self.include_background else value


@torch.inference_mode()
def protein_quantities(  # noqa: PLR0913
    model: TOTALVAE,
    data: CellData,
    quantities: Sequence[Quantity],
    *,
    batches: Sequence[int | None] = (None,),
    shares: np.ndarray | None = None,
    scale: bool = False,
    give_mean: bool = False,
    n_samples: int = 1,
    return_mean: bool = True,
    batch_size: int | None = None,
    random_state: int = 0,
) -> list[np.ndarray]:
    """Several quantities of the proteins of every cell, each (n, P), or (S, n, P) for samples that are not averaged.

    Decoded as of the ``batches``, of which every protein takes its ``shares`` (batches, P), even ones if `None`. With
    ``scale``, values of a cell and draw sum to one. ``give_mean`` decodes means in place of draws. Latent states are
    those of `expression.normalized_expression` for the same ``random_state``.
    """
    states, other = noise(data, random_state), noise(data, random_state + 1)
    shares = _shares(shares, model, data, batches)
    parts: list[list[np.ndarray]] = [[] for _ in quantities]
    for cells, posterior in stream(model, data, n_samples=n_samples, batch_size=batch_size):
        z = posterior.mean[None] if give_mean else posterior.draw(n_samples, states)[0]
        totals = [0.0] * len(quantities)
        for batch, share in zip(batches, shares, strict=True):
            p = model.proteins(z, cells, batch=constant(batch, cells), give_mean=give_mean, generator=other)
            totals = [total + share * of(p, other) for total, of in zip(totals, quantities, strict=True)]
        for part, total in zip(parts, totals, strict=True):
            values = F.normalize(total, p=1, dim=-1) if scale else total  # (S, B, P); none stays none
            part.append((values.mean(0) if return_mean else values).cpu().numpy())
    joined = [np.concatenate(part, axis=-2) for part in parts]
    return [values[0] if values.ndim == 3 and len(values) == 1 else values for values in joined]


@torch.inference_mode()
def protein_values(
    model: TOTALVAE,
    data: CellData,
    quantity: Quantity,
    n_draws: int,
    *,
    batches: Sequence[int | None] = (None,),
    shares: np.ndarray | None = None,
    scale: bool = False,
    random_state: int = 0,
) -> np.ndarray:
    """A quantity of the proteins in ``n_draws`` draws from the cells together, (N, P), decoded as by `protein_quantities`.

    Cells and latent states are those of `expression.expression_draws` for the same ``random_state``.
    """
    index = torch.from_numpy(spread(data.n_cells, n_draws, np.random.default_rng(random_state)))
    draws, other = draw(model, data, index, noise(data, random_state)), noise(data, random_state + 1)
    total = sum(
        share * protein_draws(model, draws, quantity, other, batch=batch).T
        for batch, share in zip(batches, _shares(shares, model, data, batches), strict=True)
    )
    return (F.normalize(total, p=1, dim=-1) if scale else total).cpu().numpy()


def _shares(
    shares: np.ndarray | None, model: TOTALVAE, data: CellData, batches: Sequence[int | None]
) -> Tensor:
    """What every batch contributes to a protein, (batches, P); the same if it is not said."""
    if shares is None:
        shares = np.full((len(batches), model.protein_counts.n_proteins), 1 / len(batches))
    return torch.as_tensor(shares, dtype=torch.float32, device=data.device)


@torch.inference_mode()
def protein_draws(
    model: TOTALVAE,
    draws: Draws,
    quantity: Quantity,
    generator: torch.Generator,
    *,
    batch: np.ndarray | int | None = None,
    shares: np.ndarray | None = None,
) -> Tensor:
    """A quantity of proteins in ``draws``, decoded from their own batches or from ``batch``, (P, N).

    Proteins that have ``shares`` (K, P) above zero are decoded as of all these batches instead, and summed by share.
    """
    own = draws.cells.batch
    batch = own if batch is None else torch.as_tensor(batch, device=own.device).expand_as(own)
    parts = []
    for rows in torch.arange(len(own), device=own.device).split(ROWS_TOGETHER):
        z, cells = draws.z[rows], draws.cells.take(rows)

        def decoded(batch: Tensor, z: Tensor = z, cells: Cells = cells) -> Tensor:
            return quantity(model.proteins(z, cells, batch=batch, generator=generator), generator)

        values = decoded(batch[rows])
        if shares is not None:
            shared = torch.as_tensor(shares, dtype=values.dtype, device=values.device)
            used = [code for code in range(len(shared)) if shared[code].any()]
            total = sum(shared[code] * decoded(constant(code, cells)) for code in used)
            values = torch.where(shared.any(0), total, values)
        parts.append(values)
    return torch.cat(parts).T.contiguous()


def incomplete(in_batch: np.ndarray, *, first: bool = False) -> np.ndarray | None:
    """Shares (K, P) of the batches that measured a protein, for those that some did not; `None` if there are none.

    With ``first``, all of it for the first such batch.
    """
    there = np.asarray(in_batch, float)
    if there.all():
        return None
    shares = np.eye(len(there))[:, there.argmax(0)] if first else there / there.sum(0)
    return np.where(there.all(0), 0.0, shares)


@dataclass(frozen=True)
class DecodedProteins:
    """Proteins in N draws, in place of `draws.Decoded` for genes."""

    hidden: Tensor  # (N, 0), as long as there are draws
    values: Tensor  # (P, N)

    @property
    def n_genes(self) -> int:
        """Proteins that there are."""
        return len(self.values)

    def scale(self, genes: slice | Tensor | None = None) -> Tensor:
        """Values of all proteins, or of some, (p, N)."""
        return self.values if genes is None else self.values[genes]


@torch.inference_mode()
def protein_parameters(
    model: TOTALVAE,
    data: CellData,
    names: Sequence[str],
    *,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    random_state: int = 0,
) -> dict[str, np.ndarray]:
    """Parameters of the counts of proteins, (n, P) each, or (S, n, P) for several samples that are not averaged.

    The draws are those of `expression.likelihood_parameters`; means are as they are in the batches.
    """
    of: dict[str, Quantity] = {
        "protein_background": lambda p, _: p.means[0],
        "protein_foreground": lambda p, _: p.means[1],
        "protein_mixing": lambda p, _: torch.sigmoid(p.mixing),
        "protein_dispersions": lambda p, _: p.theta.expand_as(p.mixing),
    }
    values = protein_quantities(
        model,
        data,
        [of[name] for name in names],
        n_samples=n_samples,
        return_mean=give_mean,
        batch_size=batch_size,
        random_state=random_state,
    )
    return dict(zip(names, values, strict=True))


@torch.inference_mode()
def protein_predictive(
    model: TOTALVAE,
    data: CellData,
    *,
    batches: Sequence[int | None] = (None,),
    proteins: np.ndarray | None = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    random_state: int = 0,
) -> list[sp.csr_matrix]:
    """Counts of proteins drawn from the model for every cell, in place of `expression.posterior_predictive` for genes."""

    def counts(p: ProteinExpression, generator: torch.Generator) -> Tensor:
        return nb_mixture.sample(*p.means, p.theta, p.mixing, generator=generator)

    (drawn,) = protein_quantities(
        model,
        data,
        [counts],
        batches=batches,
        n_samples=n_samples,
        return_mean=False,
        batch_size=batch_size,
        random_state=random_state,
    )
    drawn = drawn[None] if drawn.ndim == 2 else drawn
    return [sp.csr_matrix(sample if proteins is None else sample[:, proteins]) for sample in drawn]
