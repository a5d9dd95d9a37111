from __future__ import annotations

import pytest
import torch

import scvitl


def test_module_is_a_plain_torch_module(fitted):
    module = scvitl.get.model(fitted).module
    assert isinstance(module, torch.nn.Module)
    assert not module.training
    assert next(module.parameters()).device.type == "cpu"


def test_repr_is_a_summary(fitted):
    text = repr(scvitl.get.model(fitted))
    for line in (
        "scVI model of 200 cells × 40 genes",
        "latent space    4 dimensions (normal)",
        "counts          zinb, dispersion by gene, from X",
        "batches         2 in obs['batch']: batch_0, batch_1",
        "training        fast plan, 4 epochs in",
        "held-out loss",
    ):
        assert line in text


def test_no_model(toy):
    with pytest.raises(
        KeyError, match=r"no fitted model in adata\.uns\['scvi'\]\. Fit one with scvitl\.tl\.scvi"
    ):
        scvitl.get.model(toy)


def test_another_key(fitted):
    fitted.uns["neighbors"] = {"params": {}}
    for key in ("scvii", "neighbors"):
        with pytest.raises(KeyError, match="Models here: 'scvi'"):
            scvitl.get.model(fitted, key=key)
