"""The training loop of all models."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..data.batches import minibatches, singles
from . import adam
from .checkpoint import BestWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from ..data.batches import CellData
    from ..models.vae import Loss
    from .plan import Plan
    from .progress import Progress

# Of held-out cells looked at together: on the CPU cells × width of the model, 4 MB, which stay in the cache.
EVALUATION_ENTRIES, EVALUATION_BLOCK = 2**20, 1024


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
    minibatches_of: Callable[..., list[tuple[Tensor, ...]]] = singles,
) -> History:
    """Train ``model`` in place on the cells ``train`` of ``data``; ``held_out`` cells are only looked at.

    ``minibatches_of`` an epoch are tuples of indices, since some models take several minibatches at a time. A keyboard
    interrupt ends training early and keeps the best weights so far.
    """
    shuffle = torch.Generator().manual_seed(random_state)
    noise = torch.Generator(data.device).manual_seed(random_state)
    optimizer = adam.optimizer(model, plan)
    cycle = plan.cycle(plan.max_epochs * plan.n_minibatches(len(train)))
    if cycle is not None:
        cycle.set(optimizer, 0)
    plateau = plan.plateau()
    history, best, start = History(), BestWeights(), time.perf_counter()
    try:
        for epoch in range(plan.max_epochs):
            row = {"kl_weight": plan.kl_weight(epoch, 0), "learning_rate": optimizer.param_groups[0]["lr"]}
            model.train()
            tally, order = Tally(), minibatches_of(train, plan.batch_size, shuffle)
            for step, indices in enumerate(order):
                kl_weight = plan.kl_weight(epoch, step / len(order))
                loss = model.loss(*map(data.gather, indices), kl_weight=kl_weight, generator=noise)
                optimizer.zero_grad()
                loss.total.backward()
                optimizer.step()
                if cycle is not None:
                    cycle.set(optimizer, epoch * len(order) + step + 1)
                tally.add(loss)
                progress.step()
            _check(tally, order, data, epoch)
            row |= tally.row("train")
            row |= evaluate(model, data, held_out)
            history.rows.append(row)
            history.epoch = epoch
            best.offer(epoch, row.get("elbo_validation", row["elbo_train"]), model)
            progress.epoch(row)
            if plateau is not None:
                plateau.step(row.get("elbo_validation", row["elbo_train"]), optimizer)
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
    tally = Tally()
    size = max(2, EVALUATION_ENTRIES // model.width) if data.device.type == "cpu" else EVALUATION_BLOCK
    for index in minibatches(held_out, size):
        tally.add(model.loss(data.gather(index), generator=noise))
    return tally.row("validation")


class Tally:
    """Losses of minibatches, left on the device, and added up only when they are asked for."""

    def __init__(self) -> None:
        self.totals: list[Tensor] = []
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, loss: Loss) -> None:
        """Count in the cells of a minibatch."""
        self.totals.append(loss.total.detach())
        parts = {"reconstruction_loss": loss.reconstruction, "kl_local": loss.kl, **loss.metrics}
        for name, values in parts.items():
            self.parts.setdefault(name, []).append(values.detach())

    def first_bad(self) -> int | None:
        """The first of the minibatches whose losses are not finite."""
        parts = self.parts["reconstruction_loss"], self.parts["kl_local"]
        finite = torch.stack(self.totals).isfinite()
        if bool(finite.all()) and all(bool(torch.cat(part).isfinite().all()) for part in parts):
            return None
        each = [torch.stack([values.isfinite().all() for values in part]) for part in parts]
        return int((~torch.stack([finite, *each]).all(0)).nonzero()[0])

    def row(self, name: str) -> dict[str, float]:
        """Columns of the history: means over cells."""
        means = {part: float(torch.cat(values).mean()) for part, values in self.parts.items()}
        elbo = means["reconstruction_loss"] + means["kl_local"]
        return {f"elbo_{name}": elbo, **{f"{part}_{name}": mean for part, mean in means.items()}}


def _check(tally: Tally, order: list[tuple[Tensor, ...]], data: CellData, epoch: int) -> None:
    """Raise an error that names the cells if the loss of a minibatch was not finite."""
    bad = tally.first_bad()
    if bad is None:
        return
    index = order[bad][0]
    largest = index[data.gather(index).x.sum(1).argsort(descending=True)[:3].cpu()]
    totals = data.gather(largest).x.sum(1).tolist()
    cells = ", ".join(
        f"{data.names[cell]!r} ({total:g})" for cell, total in zip(largest.tolist(), totals, strict=True)
    )
    msg = (
        f"the loss was not finite in epoch {epoch + 1}, minibatch {bad + 1}. "
        f"Its cells of the most counts are {cells}. {CAUSES}"
    )
    raise DivergedError(msg)
