"""The precision of products is set for a training and no longer."""

from __future__ import annotations

import pytest
import torch

import scvitl
from scvitl.tl._options import CHOICES
from scvitl.training import precision


@pytest.mark.parametrize(("name", "torchs"), precision.PRECISIONS.items())
def test_only_within(name, torchs):
    before = torch.get_float32_matmul_precision()
    seen = []

    def interrupted():
        with precision.products_in(name):
            seen.append(torch.get_float32_matmul_precision())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == [torchs]
    assert torch.get_float32_matmul_precision() == before


def test_what_torch_is_set_to_is_left_alone(toy, monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "set_float32_matmul_precision", None)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", None)
    scvitl.tl.scvi(toy, n_hidden=8, n_latent=2, max_epochs=1, progress=False)
    monkeypatch.undo()
    assert torch.get_float32_matmul_precision() == before


def test_the_names_are_those_of_the_option():
    assert CHOICES["precision"] == tuple(precision.PRECISIONS)


def test_in_training(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "scvitl.training.fit.evaluate",
        lambda model, data, held_out: seen.append(torch.get_float32_matmul_precision()) or {},
    )
    scvitl.tl.scvi(toy, n_hidden=8, n_latent=2, max_epochs=2, precision="bfloat16", progress=False)
    assert seen == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == "highest"
    assert scvitl.get.model(toy).params["precision"] == "bfloat16"
