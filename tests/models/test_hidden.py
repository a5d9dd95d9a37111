"""Batch norm, ReLU and dropout in one pass do what torch's modules do one after the other."""

from __future__ import annotations

import pytest
import torch

from scvitl.models import hidden
from scvitl.models.blocks import FullyConnected, Layer

B, H = 37, 21


def layer(dropout_rate):
    torch.manual_seed(0)
    made = Layer(5, H, dropout_rate=dropout_rate)
    torch.nn.init.uniform_(made.batch_norm.weight, -1, 2)
    torch.nn.init.normal_(made.batch_norm.bias)
    return made.train()


def trained(dropout_rate, *, compiled, monkeypatch):
    """Two minibatches through a layer: outputs, gradients, and what batch norm has seen."""
    if not compiled:
        monkeypatch.setattr(hidden, "fits", lambda *given: False)
    made, generator, found = layer(dropout_rate), torch.Generator().manual_seed(1), []
    for _ in range(2):
        x = (3 + torch.randn(B, 5, generator=generator)).requires_grad_()
        out = made(x, generator)
        weight = torch.randn(B, H, generator=generator)
        (out * weight).sum().backward()
        found += [out, x.grad]
    monkeypatch.undo()
    return [*found, *(weight.grad for weight in made.parameters()), *made.buffers()]


@pytest.mark.parametrize("dropout_rate", [0, 0.1, 0.9])
def test_same_as_torch(dropout_rate, monkeypatch):
    found, expected = (
        trained(dropout_rate, compiled=compiled, monkeypatch=monkeypatch) for compiled in (True, False)
    )
    assert len(found) == len(expected) == 11
    for ours, theirs in zip(found, expected, strict=True):
        # sums of some hundred numbers around one, or 1 / (1 - rate), in another order; those by the bias cancel
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 / (1 - dropout_rate))


def test_units_that_are_left_out_come_by_chance():
    made = Layer(5, H, dropout_rate=0.3).train()
    out = hidden.through(
        torch.randn(4000, H), made.batch_norm, made.dropout.noise(torch.Size([4000, H]), None), 0.3
    )
    # half of them are below zero
    assert abs(float((out > 0).float().mean()) - 0.35) < 0.01


def test_only_what_it_is_made_for(monkeypatch):
    """All else goes through torch's modules, which know more."""
    monkeypatch.setattr(hidden, "through", None)
    x, averaging = torch.randn(B, 5), layer(0.1)
    averaging.batch_norm.momentum = None
    for made in (
        layer(0.1).eval(),
        Layer(5, H, use_layer_norm=True),
        Layer(5, H, use_batch_norm=False),
        Layer(5, H, use_activation=False),
        averaging,
    ):
        assert made(x, torch.Generator()).isfinite().all()
    assert layer(0.1).double()(x.double(), torch.Generator()).dtype == torch.float64
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(0.1)(x[:1], torch.Generator())


def test_layers_after_each_other(monkeypatch):
    """What the second reads has not been changed by the first."""
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(hidden, "fits", lambda *given: False)
        torch.manual_seed(0)
        made = FullyConnected(5, 4, n_layers=2, n_hidden=H, dropout_rate=0.2).train()
        weight = torch.randn(B, 4)
        out = made(torch.randn(B, 5), torch.empty(B, 0), torch.Generator().manual_seed(1))
        (out * weight).sum().backward()
        found.append([part.grad for part in made.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_order_in_memory_does_not_matter():
    torch.manual_seed(0)
    h, weight, norm = torch.randn(H, B).T, torch.randn(H, B).T, layer(0).batch_norm
    found = []
    for values in (h, h.contiguous()):
        given = values.detach().requires_grad_()
        (hidden.through(given, norm, None, 0) * weight).sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(*found)


def test_dropout_can_rest_alone():
    made = layer(0.5)
    made.dropout.eval()
    x = torch.randn(B, 5)
    assert torch.equal(made(x, None), layer(0)(x, None))
