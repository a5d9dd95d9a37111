"""The compiled Adam takes the steps of torch's."""

from __future__ import annotations

import pytest
import torch

from scvitl.models import VAE
from scvitl.training.adam import Adam, optimizer
from scvitl.training.plan import resolve


def weights():
    """One that lies by column, and small ones."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator) for shape in ((5, 7), (33,), (4, 3), (1,))]
    parts[0] = parts[0].T.contiguous().T
    return [torch.nn.Parameter(part) for part in parts]


def train(kind, *, by_column, **options):
    """Eleven steps, the first weight without a gradient in four of them."""
    parts, generator = weights(), torch.Generator().manual_seed(1)
    optimiser = kind([{"params": parts[:2]}, {"params": parts[2:], "lr": 0.03}], lr=0.1, **options)
    for i in range(11):
        for group, rate in zip(optimiser.param_groups, (0.1, 0.05), strict=True):
            group["lr"], group["betas"] = rate * (1 - i / 12), (0.95 - i / 100, 0.999)
        for part in parts[(i < 4) :]:
            grad = torch.randn(part.shape, generator=generator)
            part.grad = grad.T.contiguous().T if by_column and part.ndim == 2 else grad
        optimiser.step()
    return parts


@pytest.mark.parametrize("by_column", [True, False])
@pytest.mark.parametrize("options", [{}, {"eps": 0.01, "weight_decay": 0.1}], ids=["plain", "decay"])
def test_same_steps(by_column, options):
    expected = train(torch.optim.Adam, by_column=by_column, foreach=False, **options)
    for found, part in zip(train(Adam, by_column=by_column, **options), expected, strict=True):
        # of eleven steps of up to 0.1, in another order of rounding
        torch.testing.assert_close(found, part, rtol=1e-5, atol=1e-5)


def test_weights_without_gradient_stay():
    parts = weights()
    before = [part.detach().clone() for part in parts]
    parts[1].grad = torch.ones_like(parts[1])
    Adam([{"params": parts[:2]}, {"params": parts[2:]}], lr=0.1).step()
    moved = [not torch.equal(part, old) for part, old in zip(parts, before, strict=True)]
    assert moved == [False, True, False, False]


def test_torchs_own_elsewhere():
    plan = resolve("fast", 1000)
    assert type(optimizer(VAE(5), plan)) is Adam
    assert type(optimizer(VAE(5).double(), plan)) is torch.optim.Adam
