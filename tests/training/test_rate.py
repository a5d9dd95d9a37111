"""Learning rates are those of torch's schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from scvitl.training.adam import Adam
from scvitl.training.rate import OneCycle, Plateau


def optimisers():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    return Adam(groups, lr=0.1), torch.optim.Adam(groups, lr=0.1)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 257])
def test_one_cycle(n_steps):
    ours, theirs = optimisers()
    cycle, schedule = OneCycle(0.3, n_steps), OneCycleLR(theirs, 0.3, total_steps=n_steps + 1)
    for step in range(n_steps):
        cycle.set(ours, step)
        for mine, group in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert mine["lr"] == pytest.approx(group["lr"])
            assert mine["betas"] == pytest.approx(group["betas"])
        theirs.step()
        schedule.step()


def test_plateau():
    ours, theirs = optimisers()
    plateau = Plateau(0.6, 3)
    schedule = ReduceLROnPlateau(theirs, factor=0.6, patience=3, threshold=0, threshold_mode="abs")
    rates = set()
    for loss in np.random.default_rng(0).choice([3.0, 2.0, 1.0, 0.5], 60, p=[0.5, 0.4, 0.06, 0.04]):
        plateau.step(loss, ours)
        schedule.step(loss)
        rates.add(ours.param_groups[0]["lr"])
        assert ours.param_groups[1]["lr"] == pytest.approx(theirs.param_groups[1]["lr"])
    assert len(rates) > 5
