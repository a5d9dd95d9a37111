"""The training loop of all models."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..data.batches import minibatches
from .checkpoint import BestWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.batches import CellData
    from ..models.vae import Loss
    from .plan import Plan
    from .progress import Progress

EVALUATION_BLOCK = 1024  # held-out cells looked at together


@dataclass
class History:
    """What happened: a row per epoch, and how it ended."""

    rows: list[dict[str, float]] = field(default_factory=list)
    epoch: int | None = None  # whose weights the model has now, counted from 0
    interrupted: bool = False
    seconds: float = 0.0


CAUSES = (
    "Usual causes: cells or covariates with extreme values (filter them), or a learning rate that is too "
    "high (try learning_rate=1e-3)."
)


class DivergedError(FloatingPointError):
    """The loss became NaN or infinite."""


def fit(
    model: nn.Module,
    data: CellData,
    train: Tensor,
    held_out: Tensor,
    plan: Plan,
    *,
    random_state: int,
    progress: Progress,
) -> History:
    """Train ``model`` in place on the cells ``train`` of ``data``; ``held_out`` cells are only looked at.

    A keyboard interrupt ends training early and keeps the best weights so far.
    """
    shuffle = torch.Generator().manual_seed(random_state)
    noise = torch.Generator(data.device).manual_seed(random_state)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=plan.learning_rate, eps=plan.eps, weight_decay=plan.weight_decay, fused=True
    )
    scheduler = plan.schedule(optimizer, plan.max_epochs * plan.n_minibatches(len(train)))
    history, best, start = History(), BestWeights(), time.perf_counter()
    try:
        for epoch in range(plan.max_epochs):
            row = {"kl_weight": plan.kl_weight(epoch, 0), "learning_rate": optimizer.param_groups[0]["lr"]}
            model.train()
            losses, order = [], list(minibatches(train, plan.batch_size, shuffle))
            for step, index in enumerate(order):
                loss = model.loss(data.gather(index), plan.kl_weight(epoch, step / len(order)), noise)
                optimizer.zero_grad()
                loss.total.backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                losses.append(_parts(loss))
                progress.step()
            row |= _summary(losses, order, data, epoch)
            row |= evaluate(model, data, held_out)
            history.rows.append(row)
            history.epoch = epoch
            best.offer(epoch, row.get("elbo_validation", row["elbo_train"]), model)
            progress.epoch(row)
            if plan.early_stopping and best.stale(epoch, plan.early_stopping_patience):
                break
    except KeyboardInterrupt:
        history.interrupted = True
    if not history.rows and len(held_out):
        # Interrupted in the first epoch: what the weights are worth so far.
        history.rows.append(evaluate(model, data, held_out))
        history.epoch = 0
    if best.epoch is not None and (plan.restore_best or history.interrupted):
        best.restore(model)
        history.epoch = best.epoch
    kept = history.rows[history.epoch] if history.rows else {}
    if not all(map(math.isfinite, kept.values())) or not all(w.isfinite().all() for w in model.parameters()):
        msg = f"training diverged: the weights or the held-out loss are not finite after {len(history.rows)} epochs. {CAUSES}"
        raise DivergedError(msg)
    history.seconds = time.perf_counter() - start
    model.eval()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, data: CellData, held_out: Tensor) -> dict[str, float]:
    """Negative evidence lower bound of the held-out cells, with the same posterior noise at every call."""
    if len(held_out) == 0:
        return {}
    model.eval()
    noise = torch.Generator(data.device).manual_seed(0)
    blocks = minibatches(held_out, EVALUATION_BLOCK)
    parts = torch.stack([_parts(model.loss(data.gather(index), 1.0, noise)) for index in blocks])
    return _row(parts.sum(0), len(held_out), "validation")


def _parts(loss: Loss) -> Tensor:
    """Objective, and sums over cells of reconstruction error and KL, left on the device."""
    return torch.stack([loss.total, loss.reconstruction.sum(), loss.kl.sum()]).detach()


def _row(parts: Tensor, n_cells: int, name: str) -> dict[str, float]:
    reconstruction, kl = (parts[1:] / n_cells).tolist()
    return {
        f"elbo_{name}": reconstruction + kl,
        f"reconstruction_loss_{name}": reconstruction,
        f"kl_local_{name}": kl,
    }


def _summary(losses: list[Tensor], order: list[Tensor], data: CellData, epoch: int) -> dict[str, float]:
    """The training columns of an epoch; an error that names the cells if its loss was not finite."""
    parts = torch.stack(losses)  # (steps, 3)
    bad = (~parts.isfinite().all(1)).nonzero()
    if len(bad) == 0:
        return _row(parts.sum(0), sum(map(len, order)), "train")
    index = order[int(bad[0])]
    largest = index[data.gather(index).x.sum(1).argsort(descending=True)[:3].cpu()]
    totals = data.gather(largest).x.sum(1).tolist()
    cells = ", ".join(
        f"{data.names[cell]!r} ({total:g})" for cell, total in zip(largest.tolist(), totals, strict=True)
    )
    msg = (
        f"the loss was not finite in epoch {epoch + 1}, minibatch {int(bad[0]) + 1}. "
        f"Its cells of the most counts are {cells}. {CAUSES}"
    )
    raise DivergedError(msg)
