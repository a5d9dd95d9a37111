from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

import scvitl
from scvitl import _checks, posterior


def test_the_layer_is_what_get_returns(fitted):
    options = {"transform_batch": "all", "library_size": 1e4, "n_samples": 3, "random_state": 2}
    frame = scvitl.get.normalized_expression(fitted, **options)
    assert scvitl.tl.normalized_expression(fitted, **options) is None
    layer = fitted.layers["scvi_normalized"]
    assert layer.dtype == np.float32
    assert np.array_equal(layer, frame.to_numpy())
    assert np.allclose(layer.sum(1), 1e4, rtol=1e-4)


def test_only_the_genes_asked_for_are_decoded(fitted):
    genes = ["gene_007", "gene_003"]
    expected = scvitl.get.normalized_expression(fitted, genes=genes, transform_batch="all")
    scvitl.tl.normalized_expression(fitted, genes=genes, transform_batch="all")
    layer = fitted.layers["scvi_normalized"]
    assert np.array_equal(layer[:, [7, 3]], expected.to_numpy())
    assert np.isnan(np.delete(layer, [7, 3], axis=1)).all()


def test_genes_that_the_model_does_not_know_are_nan(fitted):
    import anndata as ad

    new = fitted[:, :2].copy()
    new.var_names = ["new_1", "new_2"]
    more = ad.concat([fitted, new], axis=1, join="outer", merge="first", uns_merge="first")
    more = more[:, ::-1].copy()
    scvitl.tl.normalized_expression(more, transform_batch="all", give_mean=True)
    scvitl.tl.normalized_expression(fitted, transform_batch="all", give_mean=True)
    layer = more.layers["scvi_normalized"]
    assert np.isnan(layer[:, :2]).all()
    assert np.array_equal(layer[:, :1:-1], fitted.layers["scvi_normalized"])


def test_blocks_do_not_matter(fitted):
    scvitl.tl.normalized_expression(fitted, transform_batch="all", give_mean=True)
    scvitl.tl.normalized_expression(
        fitted, transform_batch="all", give_mean=True, batch_size=7, key_added="small"
    )
    # Sums in another order.
    assert np.allclose(fitted.layers["scvi_normalized"], fitted.layers["small_normalized"], rtol=1e-5)


def test_no_more_than_a_block_beyond_the_layer(fitted, monkeypatch):
    """What the engine hands out is small; the layer is filled piece by piece."""
    sizes, blocks = [], posterior.expression_blocks

    def watched(*args, **options):
        for block in blocks(*args, **options):
            sizes.append(block.shape)
            yield block

    monkeypatch.setattr(posterior, "expression_blocks", watched)
    scvitl.tl.normalized_expression(fitted, transform_batch="all", n_samples=2, batch_size=64)
    assert sizes == [(2, 64, 40)] * 3 + [(2, 8, 40)]


def test_not_corrected_is_said_once(fitted, said):
    scvitl.tl.normalized_expression(fitted, batch_size=50)
    assert said().count("not batch-corrected") == 1
    scvitl.tl.normalized_expression(fitted, transform_batch="batch_0")
    assert said().count("not batch-corrected") == 1


def test_serves_scanpys_plots(fitted):
    import matplotlib.pyplot as plt

    scvitl.tl.normalized_expression(fitted, transform_batch="all")
    fitted.obs["batch"] = fitted.obs["batch"].astype("category")
    axes = sc.pl.dotplot(fitted, ["gene_001"], "batch", layer="scvi_normalized", show=False)
    assert "mainplot_ax" in axes
    plt.close("all")


def test_copy_leaves_the_original(fitted):
    result = scvitl.tl.normalized_expression(fitted, transform_batch="all", copy=True)
    assert "scvi_normalized" in result.layers
    assert "scvi_normalized" not in fitted.layers


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"genes": ["gene_3"]}, KeyError, "Did you mean 'gene_"),
        ({"transform_batch": "batch_9"}, KeyError, r"no batch of the model\. Did you mean 'batch_"),
        ({"library_size": 0}, ValueError, "library_size=0 is out of range"),
        ({"library_size": "observed"}, ValueError, "Use one of 'latent'"),
        ({"key": "other"}, KeyError, r"no fitted model in adata\.uns\['other'\]"),
    ],
)
def test_errors_write_nothing(fitted, options, error, match):
    with pytest.raises(error, match=match):
        scvitl.tl.normalized_expression(fitted, **options)
    assert not list(fitted.layers)


def test_too_large_a_layer_says_its_size(fitted, monkeypatch):
    import psutil

    class Memory:
        available = 10_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(MemoryError, match="take fewer with n_samples"):
        scvitl.tl.rank_genes_groups(fitted, "cell_type")
    assert _checks.fits_memory(9_000, "a little", "nothing to do") is None
