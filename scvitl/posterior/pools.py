"""Which draws stand for which cells when sets of cells are compared.

Every set of cells gets one pool of draws, which serves all comparisons: as the group itself, and in proportion to
its size as part of "the rest" of the others. Sides decoded from other batches have pools of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .draws import spread

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Pool:
    """The draws of one set of cells, as many from each batch that they are decoded from."""

    cells: np.ndarray
    batches: tuple[int | None, ...]
    size: int  # draws per batch
    start: int  # row of the first draw among those of all pools

    def rows(self, segment: int) -> np.ndarray:
        """Rows of the draws decoded from one of the batches."""
        return self.start + segment * self.size + np.arange(self.size)


@dataclass(frozen=True)
class Sampling:
    """Cells to draw from and the batches to decode them from, row by row, and the rows that each pair compares."""

    pools: tuple[Pool, ...]
    index: np.ndarray  # (N,), cells
    batch: np.ndarray | None  # (N,), `None` for the cells' own
    sides: list[tuple[list[tuple[Pool, int]], list[tuple[Pool, int]]]]  # per pair: pools and draws per batch

    def rows(
        self, rng: np.random.Generator, weights: dict[int, np.ndarray] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of both sides of every pair, which belong together one by one.

        ``weights`` of the draws, by the start of their pool, draw rows again by weight.
        """
        pairs = []
        for sides in self.sides:
            first, second = (_side(side, rng, weights) for side in sides)
            n = min(len(first), len(second))
            pairs.append((first[:n], second[:n]))
        return pairs


def sampling(
    sets: Sequence[np.ndarray],
    pairs: Sequence[tuple[int, tuple[int, ...]]],
    *,
    n_draws: int,
    batches: tuple[Sequence[int | None], Sequence[int | None]] = ((None,), (None,)),
    rng: np.random.Generator,
) -> Sampling:
    """Plan ``n_draws`` draws per side of every pair.

    A pair is a set against several taken together, by their positions in ``sets``; ``batches`` are those that the
    first and the second side are decoded from.
    """
    batches = tuple(map(tuple, batches))
    per_batch = [max(2, n_draws // len(codes)) for codes in batches]
    # Draws per batch needed of each set by the batches they are decoded from.
    needed: dict[tuple[int, tuple], int] = {}
    shares = []
    for group, reference in pairs:
        weights = np.array([len(sets[i]) for i in reference])
        shares.append(apportion(per_batch[1], weights))
        wanted = [
            (group, batches[0], per_batch[0]),
            *zip(reference, [batches[1]] * len(weights), shares[-1], strict=True),
        ]
        for i, codes, size in wanted:
            needed[i, codes] = max(needed.get((i, codes), 0), int(size))
    pools, start = {}, 0
    for (i, codes), size in needed.items():
        pools[i, codes] = Pool(sets[i], codes, size, start)
        start += size * len(codes)
    every = tuple(pools.values())
    index = [pool.cells[spread(len(pool.cells), pool.size, rng)] for pool in every for _ in pool.batches]
    own = batches == ((None,), (None,))
    codes = [np.full(pool.size, code) for pool in every for code in pool.batches] if not own else []
    sides = [
        (
            [(pools[group, batches[0]], per_batch[0])],
            [(pools[i, batches[1]], int(n)) for i, n in zip(reference, share, strict=True)],
        )
        for (group, reference), share in zip(pairs, shares, strict=True)
    ]
    return Sampling(every, np.concatenate(index), None if own else np.concatenate(codes), sides)


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Split ``total`` in proportion to ``weights`` into whole numbers, the largest remainders rounded up."""
    exact = total * weights / weights.sum()
    parts = np.floor(exact).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: total - parts.sum()]] += 1
    return parts


def _side(
    side: list[tuple[Pool, int]], rng: np.random.Generator, weights: dict[int, np.ndarray] | None
) -> np.ndarray:
    """Rows of one side, batch after batch, in random order within a batch."""
    parts = []
    for segment in range(len(side[0][0].batches)):
        rows = []
        for pool, n in side:
            known = pool.rows(segment)
            p = None
            if weights is not None:
                p = weights[pool.start][segment * pool.size : (segment + 1) * pool.size]
                p = p / p.sum()
            rows.append(rng.choice(known, n, replace=p is not None, p=p))
        parts.append(rng.permutation(np.concatenate(rows)))
    return np.concatenate(parts)
