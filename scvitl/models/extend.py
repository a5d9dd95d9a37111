"""Room in a trained model for categories that it has not seen, and training of that room alone.

As in scArches (Lotfollahi et al., Nature Biotechnology 2022, doi 10.1038/s41587-021-01001-7), new batches get weights of
their own and everything else stays as it is. Codes of new categories come after those of the old ones.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .vae import VAE


@dataclass(frozen=True)
class Room:
    """Entries of a weight that belong to new categories."""

    owner: nn.Module
    name: str
    dim: int
    at: Tensor  # positions along ``dim``


def extend(old: VAE, new: VAE) -> list[Room]:
    """Give ``new``, the same model built for more categories, the weights of ``old``; say which it has beyond these.

    Those of a new category start as the mean over the old ones. What ``new`` does to cells of old categories is what
    ``old`` did.
    """
    rooms, before = [], old.state_dict()
    with torch.no_grad():
        for path, tensor in new.state_dict().items():
            parent, _, name = path.rpartition(".")
            owner = new.get_submodule(parent)
            differ = [dim for dim, size in enumerate(tensor.shape) if size != before[path].shape[dim]]
            if not differ:
                tensor.copy_(before[path])
                continue
            (dim,) = differ
            if isinstance(owner, nn.Linear):
                # Its last columns are the one-hot ones, where a covariate with a single category has none.
                blocks = [[size if size > 1 else 0 for size in module.sizes] for module in (old, new)]
            else:
                blocks = [[before[path].shape[dim]], [tensor.shape[dim]]]
            at = _copy_blocks(before[path].movedim(dim, -1), tensor.movedim(dim, -1), *blocks)
            if isinstance(getattr(owner, name), nn.Parameter):
                rooms.append(Room(owner, name, dim, at))
    return rooms


def _copy_blocks(old: Tensor, new: Tensor, old_sizes: Sequence[int], new_sizes: Sequence[int]) -> Tensor:
    """Copy ``old`` (..., n) into ``new`` (..., m), whose last columns are blocks that may have grown at their ends.

    Returns the positions of the columns that are new.
    """
    first = old.shape[-1] - sum(old_sizes)
    new.zero_()
    new[..., :first] = old[..., :first]
    read, write, added = first, first, []
    for before, after in zip(old_sizes, new_sizes, strict=True):
        block = old[..., read : read + before]  # (..., before)
        new[..., write : write + before] = block
        if after > before:
            # A block that had no columns is one of a single category, which goes on adding nothing.
            start = write + max(before, 1)
            added.append(torch.arange(start, write + after))
            if before:
                new[..., start : write + after] = block.mean(-1, keepdim=True)
        read, write = read + before, write + after
    return torch.cat(added)


class Part(nn.Module):
    """A weight of which only the entries at some positions along a dimension are trained."""

    def __init__(self, weight: Tensor, dim: int, at: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("at", at.to(weight.device))

    def forward(self, trained: Tensor) -> Tensor:
        return self.weight.index_copy(self.dim, self.at, trained)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.index_select(self.dim, self.at)


@contextmanager
def only(model: VAE, rooms: Sequence[Room]) -> Iterator[None]:
    """Within, nothing but ``rooms`` of ``model`` can be trained: no other weight, no running mean, no dropout."""
    model.requires_grad_(requires_grad=False)
    model.frozen = True
    for room in rooms:
        part = Part(getattr(room.owner, room.name), room.dim, room.at)
        parametrize.register_parametrization(room.owner, room.name, part)
        room.owner.parametrizations[room.name].original.requires_grad_()
    try:
        yield
    finally:
        for room in rooms:
            parametrize.remove_parametrizations(room.owner, room.name, leave_parametrized=True)
        model.frozen = False
        model.requires_grad_()
