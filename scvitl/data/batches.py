"""Counts as CSR on the device; minibatches are gathered and densified there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ..compiled.stored import Stored
from ..models.cells import Cells
from .counts import find_counts
from .schema import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        if counts is not None and self.device.type != "cpu":
            self._load(to)
        self.posterior = None if counts is not None else [to(part, torch.float32) for part in posterior]
        self.library = to(np.log(np.asarray(total, np.float64)).reshape(-1, 1), torch.float32)
        self.batch = to(codes.batch, torch.int64)
        self.labels = to(codes.labels, torch.int64)
        self.categorical = to(codes.categorical, torch.int64)
        self.continuous = to(codes.continuous, torch.float32)
        self.proteins = None if codes.proteins is None else to(codes.proteins, torch.float32)
        self.panel = to(codes.panel, torch.int64)

    def _load(self, to: Callable[[np.ndarray, torch.dtype], Tensor]) -> None:
        """Put the counts on the device."""
        self.indptr = to(self.counts.indptr, torch.int64)
        self.indices = to(self.counts.indices, torch.int32)
        self.values = to(self.counts.data, torch.float32)

    def gather(self, index: Tensor, *, counts: bool = True) -> Cells:
        """The cells at ``index`` (B,), on the device, with dense ``counts`` (B, G) or the posterior in their place.

        Without ``counts``, neither.
        """
        x, stored = self._dense(index) if counts and self.counts is not None else (None, None)
        index = index.to(self.device)
        return Cells(
            x,
            self.library[index],
            self.batch[index],
            self.labels[index],
            self.categorical[index],
            self.continuous[index],
            tuple(part[index] for part in self.posterior) if counts and self.posterior is not None else None,
            self.proteins[index] if counts and self.proteins is not None else None,
            self.panel[index],
            stored,
        )

    def _dense(self, index: Tensor) -> tuple[Tensor, Stored]:
        """Counts of the cells at ``index``, (B, G), and those of them that are not zero."""
        if self.device.type == "cpu":
            # SciPy does in one pass what takes torch several.
            part = self.counts[index.numpy()]
            start, columns = (torch.from_numpy(values).int() for values in (part.indptr, part.indices))
            return torch.from_numpy(part.toarray()), Stored(start, columns, torch.from_numpy(part.data))
        return self._dense_there(index)

    def _dense_there(self, index: Tensor) -> tuple[Tensor, Stored]:
        """The same from the counts on the device."""
        # How many values there are is known from the copy on the CPU, so that the device is not waited for.
        cells = index.cpu().numpy()
        n = int((self.counts.indptr[cells + 1] - self.counts.indptr[cells]).sum())
        index = index.to(self.device)
        start = self.indptr[index]
        length = self.indptr[index + 1] - start
        # Row of each of the n stored values in the minibatch, and its place in the CSR, both (n,).
        row = torch.repeat_interleave(length, output_size=n)
        before = torch.cumsum(length, 0) - length
        at = torch.arange(len(row), device=self.device) + (start - before)[row]
        x = torch.zeros(len(index) * self.n_genes, device=self.device)
        columns, values = self.indices[at], self.values[at]
        x[row * self.n_genes + columns] = values
        start = torch.cat([before, before[-1:] + length[-1:]]).int()
        return x.view(len(index), self.n_genes), Stored(start, columns, values)


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
