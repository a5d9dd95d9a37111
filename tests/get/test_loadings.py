from __future__ import annotations

import numpy as np
import pytest

import scvitl
from scvitl import get

SMALL = {"n_hidden": 8, "n_latent": 3, "max_epochs": 2, "progress": False}


def test_genes_by_factors(toy):
    scvitl.tl.ldvae(toy, batch_key="batch", **SMALL)
    table = get.loadings(toy)
    assert list(table.index) == list(toy.var_names)
    assert list(table) == ["Z_0", "Z_1", "Z_2"]
    assert np.array_equal(table, toy.varm["ldvae_loadings"])
    assert (table.dtypes == np.float32).all()


def test_genes_are_those_of_the_model(toy):
    scvitl.tl.ldvae(toy, key_added="foo", **SMALL)
    expected, model = get.loadings(toy, key="foo"), get.model(toy, key="foo")
    some = toy[:, 10:5:-1].copy()
    assert get.loadings(some, key="foo").equals(expected)
    del some.uns["foo"]
    assert get.loadings(some, model=model).equals(expected)


def test_only_of_linear_decoders(toy):
    scvitl.tl.scvi(toy, **SMALL)
    with pytest.raises(KeyError, match=r"no fitted model in adata\.uns\['ldvae'\]"):
        get.loadings(toy)
    with pytest.raises(
        ValueError, match=r"uns\['scvi'\] is scVI, whose decoder is not linear.* Fit one with scvitl.tl.ldvae"
    ):
        get.loadings(toy, key="scvi")
    scvitl.tl.ldvae(toy, **SMALL)
    with pytest.raises(ValueError, match="Models that have: 'ldvae'"):
        get.loadings(toy, key="scvi")
    with pytest.raises(ValueError, match="the model given is scVI"):
        get.loadings(toy, model=get.model(toy))
    with pytest.raises(TypeError, match=r"model takes what scvitl\.get\.model\(adata\) returns, not str"):
        get.loadings(toy, model="ldvae")
