"""Counts as CSR on the device; minibatches are gathered and densified there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ..compiled import rows
from ..compiled.stored import Stored
from ..compiled.team import run
from ..models.cells import Cells
from .counts import find_counts
from .schema import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    from torch import Tensor

    from .schema import Schema


class CellData:
    """All cells of an AnnData as a schema reads them, ready to be gathered on a device.

    Parameters
    ----------
    adata
        Cells to load. Their genes are put into the order of the schema.
    schema
        What the columns mean.
    device
        Where the counts live and the minibatches are made.
    whole
        Whether the values must be whole numbers.
    minified
        Posterior mean and variance (n, D) and library size (n,) of cells whose counts are gone.
    """

    def __init__(
        self,
        adata: ad.AnnData,
        schema: Schema,
        *,
        device: str = "cpu",
        whole: bool = True,
        minified: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> None:
        codes = encode(adata, schema, genes=minified is None)
        counts = None
        if minified is None:
            counts = find_counts(adata, schema.layer, whole=whole, genes=codes.genes)
            total = counts.sum(1, dtype=np.float64) if codes.size_factor is None else codes.size_factor
        else:
            *posterior, total = minified

        def to(values: np.ndarray, dtype: torch.dtype) -> Tensor:
            # torch warns of memory that it may not write to.
            values = np.require(values, requirements=["C", "W"])
            return torch.from_numpy(values).to(device, dtype)

        self.names = adata.obs_names
        self.n_cells, self.n_genes = adata.n_obs, len(schema.genes)
        self.measured = pd.Index(schema.genes).isin(adata.var_names)  # (G,); the others count as 0
        self.device = torch.device(device)
        self.counts = counts
        if counts is not None:
            self.indptr = np.asarray(counts.indptr, np.int64)
            self.indices, self.values = to(counts.indices, torch.int32), to(counts.data, torch.float32)
        self.posterior = None if counts is not None else [to(part, torch.float32) for part in posterior]
        self.library = to(np.log(np.asarray(total, np.float64)).reshape(-1, 1), torch.float32)
        self.batch = to(codes.batch, torch.int64)
        self.labels = to(codes.labels, torch.int64)
        self.categorical = to(codes.categorical, torch.int64)
        self.continuous = to(codes.continuous, torch.float32)
        self.proteins = None if codes.proteins is None else to(codes.proteins, torch.float32)
        self.panel = to(codes.panel, torch.int64)

    def gather(self, index: Tensor, *, counts: bool = True) -> Cells:
        """The cells at ``index`` (B,), on the device, with their ``counts`` or the posterior in their place.

        Without ``counts``, neither.
        """
        stored = self._stored(index) if counts and self.counts is not None else None
        index = index.to(self.device)
        return Cells(
            stored,
            self.library[index],
            self.batch[index],
            self.labels[index],
            self.categorical[index],
            self.continuous[index],
            tuple(part[index] for part in self.posterior) if counts and self.posterior is not None else None,
            self.proteins[index] if counts and self.proteins is not None else None,
            self.panel[index],
        )

    def _stored(self, index: Tensor) -> Stored:
        """Counts of the cells at ``index``."""
        # Row pointers are kept on the CPU: how many values there are is known there, and a device not waited for.
        cells = index.cpu().numpy()
        begin = self.indptr[cells]
        start = np.zeros(len(cells) + 1, np.int32)
        np.cumsum(self.indptr[cells + 1] - begin, out=start[1:])
        pick = self._pick if self.device.type == "cpu" else self._pick_there
        return pick(torch.from_numpy(start), torch.from_numpy(begin), int(start[-1]))

    def _pick(self, start: Tensor, begin: Tensor, n: int) -> Stored:
        """The ``n`` counts of cells (B,) that ``begin`` at these places in all, and shall ``start`` at those (B + 1,)."""
        columns, values = torch.empty(n, dtype=torch.int32), torch.empty(n)
        run(rows.gather, columns, values, start, begin, self.indices, self.values)
        return Stored(start, columns, values, self.n_genes)

    def _pick_there(self, start: Tensor, begin: Tensor, n: int) -> Stored:
        """The same on another device."""
        start = start.to(self.device)
        before = (begin.to(self.device) - start[:-1]).repeat_interleave(start.diff(), output_size=n)
        at = torch.arange(n, device=self.device) + before  # (n,)
        return Stored(start, self.indices[at], self.values[at], self.n_genes)


def minibatches(index: Tensor, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Split ``index`` into minibatches, shuffled if a generator is given.

    A trailing minibatch of a single cell, for which batch norm has no variance, joins the one before it.
    """
    if generator is not None:
        index = index[torch.randperm(len(index), generator=generator)]
    for start, stop in bounds(len(index), batch_size):
        yield index[start:stop]


def singles(
    index: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> list[tuple[Tensor, ...]]:
    """The minibatches of one pass through the cells at ``index``, each as a tuple of what a model takes together."""
    return [(minibatch,) for minibatch in minibatches(index, batch_size, generator)]


@dataclass(frozen=True)
class WithLabelled:
    """Epochs in which every minibatch comes with a second one of labelled cells.

    Parameters
    ----------
    labels
        Codes of all cells, (n,), on the CPU; those of ``n_labels`` and above mean that the label is not known.
    n_labels
        Number of labels.
    batch_size
        Labelled cells of a minibatch.
    n_samples_per_label
        Labelled cells of each label that an epoch uses, drawn anew for each; `None` uses all.
    """

    labels: Tensor
    n_labels: int
    batch_size: int
    n_samples_per_label: int | None = None

    def __call__(
        self, index: Tensor, batch_size: int, generator: torch.Generator
    ) -> list[tuple[Tensor, ...]]:
        """The minibatches of one pass through the cells at ``index``; the labelled cells come again as needed."""
        labelled = minibatches(self.sampled(index, generator), self.batch_size, generator)
        return list(zip(minibatches(index, batch_size, generator), cycle(list(labelled)), strict=False))

    def sampled(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The labelled cells among ``index``, or some of every label."""
        known = index[self.labels[index] < self.n_labels]
        if self.n_samples_per_label is None:
            return known
        codes = self.labels[known]
        parts = [known[codes == code] for code in range(self.n_labels)]
        return torch.cat(
            [
                part[torch.randperm(len(part), generator=generator)[: self.n_samples_per_label]]
                for part in parts
            ]
        )


def bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of every minibatch of ``n`` cells."""
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(pairwise([*starts, n]))
