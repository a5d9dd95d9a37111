"""Work shared between torch's threads, and done by one where there is no such sharing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scvitl.compiled import team
from scvitl.compiled.team import floats, integers


@team.kernel("fi")
def mark(record, part, parts):
    """Write into every row who it was, and add integers to it."""
    out, added = floats(record, 0), integers(record, 1)
    for row in range(part * len(out) // parts, (part + 1) * len(out) // parts):
        for j in range(out.shape[1]):
            out[row, j] += part + added[j]


def marked(*arrays):
    team.run(mark, *arrays)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_part_is_done_once(threads, n):
    threads(n)
    out, added = torch.zeros(10, 3), torch.tensor([0, 10, 200], dtype=torch.int32)
    marked(out, added)
    parts = team.n_parts()
    assert parts == (1 if team._openmp() is None else n)
    rows = np.repeat(np.arange(parts), 10 // parts)
    assert np.array_equal(out, rows[:, None] + [0, 10, 200])


def test_without_openmp(threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(team, "_openmp", lambda: None)
    out = torch.zeros(4, 1)
    marked(out, torch.zeros(1, dtype=torch.int32))
    assert team.n_parts() == 1
    assert not out.any()


@pytest.mark.parametrize(
    "array",
    [
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.int32),
        torch.zeros(2, 3).T,
        torch.zeros(2, 3, 4),
        torch.zeros(()),
        torch.zeros(2, device="meta"),
    ],
)
def test_other_arrays_are_refused(array):
    """Of these, the compiled loop would read what is not there."""
    with pytest.raises(TypeError, match=r"contiguous vector or matrix of torch\.float32 on the CPU"):
        marked(array, torch.zeros(1, dtype=torch.int32))


def test_a_kernel_gets_all_that_it_reads():
    with pytest.raises(TypeError, match="expected 2 arrays or more, found 1"):
        marked(torch.zeros(1, 3))


@team.kernel("f", alone=True)
def count(record, part, parts):
    """Add up who was here."""
    floats(record, 0)[0, 0] += parts


def test_alone(threads):
    threads(3)
    out = torch.zeros(1)
    team.run(count, out)
    assert out.item() == 1
