"""Schedules of training: the numbers behind ``plan="fast"`` and ``plan="reference"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.batches import bounds
from .rate import OneCycle, Plateau

if TYPE_CHECKING:
    from torch import Tensor

PLANS = ("fast", "reference")
VERY_SMALL, SMALL, LARGE = 2000, 5000, 20_000  # cells
FEWEST_EPOCHS = 3
TRAIN_SIZE = 0.9
MAPPING_STEPS = 250  # minibatches
PROTEIN_STEPS, PROTEIN_EPOCHS = 240, 12  # of a fast fit with proteins, at least
SEVERAL_STEPS, SEVERAL_EPOCHS = 300, 30  # the same where batches have to mix
AMBIENT_STEPS, AMBIENT_EPOCHS = 200, 8  # of a fast fit that tells ambient counts, at least
LR_FACTOR = 0.6


@dataclass(frozen=True)
class Plan:
    """Everything the loop needs to know about when and how hard to step."""

    name: str
    max_epochs: int
    batch_size: int
    learning_rate: float  # the peak, where it moves
    weight_decay: float  # L2 term in the gradient
    n_epochs_kl_warmup: float
    max_kl_weight: float
    eps: float  # of Adam
    one_cycle: bool
    restore_best: bool
    early_stopping: bool
    early_stopping_patience: int  # epochs without a better held-out loss before stopping
    warmup_by_step: bool = True  # whether the KL weight grows within epochs
    plateau_patience: int | None = None  # epochs without a better held-out loss before steps get smaller
    precision: str | None = None  # of matrix products
    starts_at_shares: bool = False  # whether the decoder begins at the shares of the genes

    @property
    def labelled_batch_size(self) -> int:
        """Labelled cells that come with a minibatch; few in the fast plan, which would learn them by heart."""
        return max(2, self.batch_size // 4) if self.one_cycle else self.batch_size

    def n_minibatches(self, n_cells: int) -> int:
        """Minibatches of an epoch over ``n_cells`` cells."""
        return len(bounds(n_cells, self.batch_size))

    def kl_weight(self, epoch: int, share: float) -> float:
        """Weight of the KL term in ``epoch`` (from 0) when a ``share`` of its minibatches is done."""
        if not self.n_epochs_kl_warmup:
            return self.max_kl_weight
        done = epoch + (share if self.warmup_by_step else 0.0)
        return self.max_kl_weight * min(1.0, done / self.n_epochs_kl_warmup)

    def cycle(self, n_steps: int) -> OneCycle | None:
        """One cycle of the learning rate, or `None` where it stays as it is."""
        return OneCycle(self.learning_rate, n_steps) if self.one_cycle else None

    def plateau(self) -> Plateau | None:
        """Smaller steps where the held-out loss stays as it is, or `None`."""
        return None if self.plateau_patience is None else Plateau(LR_FACTOR, self.plateau_patience)


def resolve(  # noqa: PLR0913
    name: str,
    n_cells: int,
    *,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    n_epochs_kl_warmup: float | None = None,
    early_stopping: bool | None = False,
    early_stopping_patience: int = 45,
    precision: str | None = None,
    proteins: bool = False,
    several: bool = False,
    adversary: bool = False,
    ambient: bool = False,
    plain: bool = False,
) -> Plan:
    """Fill in what the user left open, for ``n_cells`` cells, which may have ``proteins`` or ``ambient`` counts.

    In the former case they may be of ``several`` batches, and an ``adversary`` may guess which. A ``plain`` model has
    nothing but genes to explain, without labels, by a decoder that is not linear.
    """

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    fast = name == "fast"
    if proteins:
        default = of_proteins(fast, n_cells, batch_size, several=several, adversary=adversary)
    elif ambient and fast:
        default = of_ambient(n_cells, batch_size)
    elif plain and fast and n_cells >= SMALL:
        default = of_many_cells(n_cells)
    else:
        default = of_genes(fast, n_cells)
    epochs = given(max_epochs, default["max_epochs"])
    stop = (proteins and not fast) if early_stopping is None else early_stopping
    return Plan(
        name=name,
        max_epochs=epochs,
        batch_size=given(batch_size, default["batch_size"]),
        learning_rate=given(learning_rate, default["learning_rate"]),
        weight_decay=given(weight_decay, 1e-6),
        n_epochs_kl_warmup=given(
            n_epochs_kl_warmup,
            min(default["n_epochs_kl_warmup"], epochs / 4) if fast else default["n_epochs_kl_warmup"],
        ),
        max_kl_weight=default["max_kl_weight"],
        eps=1e-8 if fast else 1e-2,
        one_cycle=fast,
        restore_best=fast or stop,
        early_stopping=stop,
        early_stopping_patience=early_stopping_patience,
        # the reference holds the weight for a whole epoch, unless there are proteins and it is not told otherwise
        warmup_by_step=fast or (proteins and n_epochs_kl_warmup is None),
        plateau_patience=30 if proteins and not fast else None,
        precision=precision,
        starts_at_shares=default.get("starts_at_shares", False),
    )


def of_genes(fast: bool, n_cells: int) -> dict[str, float]:  # noqa: FBT001
    """Defaults of a model of genes."""
    return {
        "max_epochs": default_epochs("fast" if fast else "reference", n_cells),
        "batch_size": fast_batch_size(n_cells) if fast else 128,
        "learning_rate": 8e-3 if fast else 1e-3,
        "n_epochs_kl_warmup": 2 if fast else 400,
        "max_kl_weight": fast_kl_weight(n_cells) if fast else 1.0,
    }


def of_many_cells(n_cells: int) -> dict[str, float]:
    """Defaults of a fast fit of enough cells: few epochs, in larger steps.

    That batches mix as well after so few takes a heavy KL term; that no cell type is lost to it, a slow start of it. Many
    cells mix with less.
    """
    many = n_cells > LARGE
    return {
        "max_epochs": max(FEWEST_EPOCHS, reference_epochs(n_cells) // 10) if many else 60,
        "batch_size": 256,
        "learning_rate": 2e-2,
        "n_epochs_kl_warmup": 12,
        "max_kl_weight": 1.5 if many else 2.5,
        "starts_at_shares": True,
    }


def of_ambient(n_cells: int, batch_size: int | None) -> dict[str, float]:
    """Defaults of a fast fit that tells ambient counts; a long one learns by heart which cell has which of them."""
    usual = 64 if n_cells < SMALL else 128
    n_minibatches = len(bounds(int(TRAIN_SIZE * n_cells), usual if batch_size is None else batch_size))
    return {
        "max_epochs": max(AMBIENT_EPOCHS, -(-AMBIENT_STEPS // n_minibatches)),
        "batch_size": usual,
        "learning_rate": 1e-2,
        "n_epochs_kl_warmup": 2,
        "max_kl_weight": 1.0,
    }


def of_proteins(
    fast: bool,  # noqa: FBT001
    n_cells: int,
    batch_size: int | None,
    *,
    several: bool,
    adversary: bool,
) -> dict[str, float]:
    """Defaults of a model of genes and proteins; counts of proteins say much, so that fewer epochs will do."""
    usual, n_train = (64 if n_cells < SMALL else 128) if fast else 256, int(TRAIN_SIZE * n_cells)
    n_steps, n_epochs = (SEVERAL_STEPS, SEVERAL_EPOCHS) if several else (PROTEIN_STEPS, PROTEIN_EPOCHS)
    epochs = max(min(n_epochs, fast_epochs(n_cells)), -(-n_steps // len(bounds(n_train, usual))))
    n_minibatches = len(bounds(n_train, usual if batch_size is None else batch_size))
    return {
        "max_epochs": epochs if fast else reference_epochs(n_cells),
        "batch_size": usual,
        "learning_rate": 8e-3 if fast else 4e-3,
        # Counted in steps, of which training against an adversary takes two each.
        "n_epochs_kl_warmup": 2 if fast else int(0.75 * n_cells) / n_minibatches / (2 if adversary else 1),
        "max_kl_weight": 1.0,
    }


def default_epochs(name: str, n_cells: int) -> int:
    """Epochs of a plan."""
    return fast_epochs(n_cells) if name == "fast" else reference_epochs(n_cells)


def reference_epochs(n_cells: int) -> int:
    """400 epochs up to 20,000 cells, then in inverse proportion."""
    return max(1, min(round(20000 / n_cells * 400), 400))


def fast_epochs(n_cells: int) -> int:
    """A quarter of the reference or less; small data, where learning by heart comes soon, get fewer epochs."""
    return 60 if n_cells < SMALL else max(8, reference_epochs(n_cells) // 4)


def supervised_epochs(name: str, n_cells: int, *, pretrained: bool) -> int:
    """Epochs with labels, which lead the way: fewer than without, and fewer still from a trained scVI."""
    epochs = default_epochs(name, n_cells)
    if pretrained:
        return min(10, max(2, round(epochs / 3)))
    if name != "fast":
        return epochs
    return 40 if n_cells < SMALL else max(8, epochs // 4)


def fast_kl_weight(n_cells: int) -> float:
    """More than 1, since that mixes batches better at no cost in held-out ELBO; too much erases weak dimensions."""
    return 1.3 if n_cells < SMALL else 1.5


def fast_batch_size(n_cells: int) -> int:
    """Small minibatches for small data, which else would see too few steps."""
    return 32 if n_cells < VERY_SMALL else 64 if n_cells < SMALL else 128


def split(
    n_cells: int, batch_size: int, train_size: float | None, random_state: int
) -> tuple[Tensor, Tensor]:
    """Cells to train on and cells held out.

    The held-out cells come first in the permutation. Without a ``train_size``, 0.9 is taken, and one or two cells
    that would make a minibatch of their own are held out too.
    """
    n_train = int(np.ceil((TRAIN_SIZE if train_size is None else train_size) * n_cells))
    n_held_out = n_cells - n_train
    if n_train < 2:
        msg = f"train_size={train_size} leaves {n_train} of {n_cells} cells to train on; at least two are needed."
        raise ValueError(msg)
    order = np.random.RandomState(random_state).permutation(n_cells)
    moved = n_train % batch_size if train_size is None and n_held_out else 0
    if moved in {1, 2} and n_train > batch_size:
        n_held_out += moved
    order = torch.from_numpy(order)
    return order[n_held_out:], order[:n_held_out]


def split_by_label(labels: Tensor, train_size: float | None, random_state: int) -> tuple[Tensor, Tensor]:
    """The same with the cells of every code in ``labels`` (n,) split alone, so that rare labels are trained on."""
    order = torch.from_numpy(np.random.RandomState(random_state).permutation(len(labels)))
    train, held_out = [], []
    for code in labels.unique():
        cells = order[labels[order] == code]
        n_train = int(np.ceil((TRAIN_SIZE if train_size is None else train_size) * len(cells)))
        train.append(cells[len(cells) - n_train :])
        held_out.append(cells[: len(cells) - n_train])
    return torch.cat(train), torch.cat(held_out)


def mapping(n_cells: int, *, max_epochs: int | None, max_kl_weight: float, gently: bool) -> Plan:
    """For the few weights that new categories bring to a trained model, by its own objective.

    Where the encoder learns along, it has to do so ``gently``: later on, cells move away from the reference.
    """
    batch_size = fast_batch_size(n_cells)
    epochs = int(np.ceil(MAPPING_STEPS / len(bounds(n_cells, batch_size))))
    return Plan(
        name="mapping",
        max_epochs=epochs if max_epochs is None else max_epochs,
        batch_size=batch_size,
        learning_rate=5e-3 if gently else 3e-2,
        weight_decay=0.0,
        n_epochs_kl_warmup=0,
        max_kl_weight=max_kl_weight,
        eps=1e-8,
        one_cycle=True,
        restore_best=True,
        early_stopping=False,
        early_stopping_patience=0,
    )
