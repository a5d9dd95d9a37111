"""Which draws stand for which cells when sets of cells are compared.

Every set of cells gets one pool of draws, which serves all comparisons: as the group itself, and in proportion to its
size as part of "the rest" of the others. Sides decoded from other batches have pools of their own. The draws of a
pool are in random order, so the first of them are as good as any.

What varies most is the cell, and draws are spread evenly over cells. So a small group needs fewer draws than there are
comparisons: each of its draws, several for every cell, meets two draws of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .draws import Decoded, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Draws × genes decoded once and kept, 1 GB of float32; more are decoded again at every pass.
KEPT_ENTRIES = 2**28
PARTNERS = 2  # of a group's draw in the reference, unless the group has more cells than draws
BLOCK_ENTRIES = 2**25  # draws × genes decoded together otherwise


@dataclass(frozen=True)
class Pool:
    """Draws of one set of cells, as many from each of the batches that they are decoded from.

    They stand batch by batch, so that they can meet draws of the same batch; or mixed, where the other side has other
    batches.
    """

    cells: np.ndarray
    batches: tuple[int | None, ...]
    size: int  # draws per batch; of all together, where they are mixed
    mixed: bool = False

    @property
    def segments(self) -> int:
        """Parts of ``size`` draws that it consists of."""
        return 1 if self.mixed else len(self.batches)

    @property
    def n_draws(self) -> int:
        """Draws of all batches together."""
        return self.size * self.segments


@dataclass(frozen=True)
class Plan:
    """Pools to draw, and the pools that the two sides of every pair take draws from, with how many per batch."""

    pools: list[Pool]
    pairs: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]


def plan(
    sets: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, tuple[int, ...]]],
    *,
    n_draws: int,
    batches: tuple[Sequence[int | None], Sequence[int | None]] = ((None,), (None,)),
) -> Plan:
    """Plan ``n_draws`` draws per side of every pair.

    A pair is a set against several taken together, by their positions in ``sets``; ``batches`` are those that the
    first and the second side are decoded from.
    """
    codes = tuple(map(tuple, batches))
    mixed = codes[0] != codes[1]
    n_first, n_second = (n_draws if mixed else max(2, n_draws // len(side)) for side in codes)
    # Draws per batch that the pool of a set needs, by set and batches.
    sizes: dict[tuple[int, tuple], int] = {}
    shares = []
    for group, reference in pairs:
        shares.append(apportion(n_second, np.array([len(sets[i]) for i in reference])))
        needs = [(group, codes[0], min(n_first, max(-(-n_first // PARTNERS), len(sets[group]))))]
        needs += [(i, codes[1], int(n)) for i, n in zip(reference, shares[-1], strict=True) if n]
        for i, side, n in needs:
            sizes[i, side] = max(sizes.get((i, side), 0), n)
    at = {pool: i for i, pool in enumerate(sizes)}
    sides = []
    for (group, reference), share in zip(pairs, shares, strict=True):
        pool = group, codes[0]
        # The draws of the group come again until there are enough.
        first = [(at[pool], min(sizes[pool], n_first - used)) for used in range(0, n_first, sizes[pool])]
        second = [(at[i, codes[1]], int(n)) for i, n in zip(reference, share, strict=True) if n]
        sides.append((first, second))
    return Plan([Pool(sets[i], side, size, mixed) for (i, side), size in sizes.items()], sides)


def cells_and_batches(pool: Pool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cells to draw from, and batches to decode them from (`None` for the cells' own), each (N,)."""
    index = np.concatenate(
        [pool.cells[spread(len(pool.cells), pool.size, rng)] for _ in range(pool.segments)]
    )
    if pool.mixed:
        return index, np.array(pool.batches)[spread(len(pool.batches), pool.size, rng)]
    return index, np.repeat(pool.batches, pool.size)


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Split ``total`` in proportion to ``weights`` into whole numbers, the largest remainders rounded up."""
    exact = total * weights / weights.sum()
    parts = np.floor(exact).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: total - parts.sum()]] += 1
    return parts


class Sides:
    """The draws of both sides of every pair, decoded.

    ``spans`` (k, 2) say for either side of a pair where its draws are among all draws: from which on, how many.
    ``stretches`` (k, 3) say for a pair which draws belong together one by one: starts in both sides, how many.
    """

    def __init__(self, plan: Plan, decoded: Decoded) -> None:
        self.decoded = decoded
        self.n_draws, self.n_genes = len(decoded.hidden), decoded.n_genes
        starts = np.cumsum([0, *(pool.n_draws for pool in plan.pools)])
        self.spans = [tuple(_spans(plan, side, starts) for side in pair) for pair in plan.pairs]
        self.stretches = [_stretches(*pair) for pair in self.spans]
        self.kept: np.ndarray | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """Shares of some genes in all draws, (g, N), until all genes were there."""
        if self.n_draws * self.n_genes <= KEPT_ENTRIES:
            if self.kept is None:
                self.kept = self.decoded.scale().cpu().numpy()
            yield self.kept
            return
        size = max(1, BLOCK_ENTRIES // self.n_draws)
        for start in range(0, self.n_genes, size):
            yield self.decoded.scale(slice(start, start + size)).cpu().numpy()


def _spans(plan: Plan, side: list[tuple[int, int]], starts: np.ndarray) -> np.ndarray:
    """Start and number of the draws of one side, batch after batch."""
    segments = range(plan.pools[side[0][0]].segments)
    return np.array([(starts[i] + k * plan.pools[i].size, n) for k in segments for i, n in side])


def _stretches(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The draws of two sides in pairs, as long as both last."""
    stretches = []
    ends = [np.cumsum(spans[:, 1]) for spans in (first, second)]
    cuts = np.union1d([0], np.concatenate(ends))
    for cut, next_cut in pairwise(cuts[cuts <= min(end[-1] for end in ends)]):
        columns = []
        for spans, end in zip((first, second), ends, strict=True):
            i = np.searchsorted(end, cut, side="right")
            columns.append(spans[i, 0] + cut - (end[i] - spans[i, 1]))
        stretches.append((*columns, next_cut - cut))
    return np.array(stretches)
