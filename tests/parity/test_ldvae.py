"""The linear decoder of LinearSCVI, read by us."""

from __future__ import annotations

import numpy as np
import pytest

import scvitl


@pytest.mark.classes("LinearSCVI")
def test_loadings(tools, pair):
    theirs = pair.theirs.get_loadings()
    tools.agree(pair.adata.varm["ldvae_loadings"], theirs)
    tools.agree(pair.model.module.loadings().detach(), theirs)


def test_loadings_among_other_genes(scvi, tools, tmp_path):
    adata = tools.cells()
    tools.save(tools.make(scvi, adata[:, 5:].copy(), {"batch_key": "batch"}, {}, name="LinearSCVI"), tmp_path)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    alone = adata[:, :4:-1].copy()
    scvitl.io.read_scvi_tools(tmp_path, alone)
    loadings = adata.varm["ldvae_loadings"]
    assert np.isnan(loadings[:5]).all()
    assert np.array_equal(loadings[5:], alone.varm["ldvae_loadings"][::-1])
    tools.agree(loadings[5:], scvitl.get.model(adata, key="ldvae").module.loadings().detach())
