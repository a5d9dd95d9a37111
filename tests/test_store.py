from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvitl
from scvitl import store


def write_and_read(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path)
    adata.write_zarr(path)
    return ad.read_zarr(path)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_the_model_survives_a_file_to_the_last_bit(fitted, tmp_path, suffix):
    read = write_and_read(fitted, tmp_path / f"a.{suffix}")
    assert np.array_equal(scvitl.get.latent(read), fitted.obsm["X_scvi"])
    ours, theirs = scvitl.get.model(fitted), scvitl.get.model(read)
    assert theirs.params == ours.params
    assert theirs.schema == ours.schema
    assert repr(theirs) == repr(ours)
    pd.testing.assert_frame_equal(theirs.history, ours.history, check_column_type=False)
    again = write_and_read(read, tmp_path / f"b.{suffix}")
    assert np.array_equal(scvitl.get.latent(again), fitted.obsm["X_scvi"])


def test_only_plain_things_are_stored(fitted):
    record = fitted.uns["scvi"]
    assert all(isinstance(value, (bool, int, float, str)) for value in record["params"].values())
    assert isinstance(json.loads(record["schema"]), dict)
    assert all(w.dtype == np.float32 and type(w) is np.ndarray for w in record["weights"].values())
    assert not any("/" in name for name in record["weights"])
    assert "elbo_validation" in record["history"]


def test_stored_weights_are_copies(fitted):
    model = scvitl.get.model(fitted)
    before = fitted.uns["scvi"]["weights"]["px_r"].copy()
    model.module.px_r.data.add_(1)
    assert np.array_equal(fitted.uns["scvi"]["weights"]["px_r"], before)


def test_what_is_not_a_model(fitted):
    del fitted.uns["scvi"]["params"]
    with pytest.raises(KeyError, match="no fitted model"):
        scvitl.get.model(fitted)


def test_lists_in_params(toy, tmp_path):
    toy.obs["donor"] = np.arange(toy.n_obs) % 2
    scvitl.tl.scvi(toy, categorical_covariate_keys=["donor"], n_hidden=8, max_epochs=1, progress=False)
    read = write_and_read(toy, tmp_path / "a.h5ad")
    assert scvitl.get.model(read).params["categorical_covariate_keys"] == ["donor"]


def test_weights_that_do_not_fit(fitted):
    fitted.uns["scvi"]["params"]["n_latent"] = 5
    with pytest.raises(ValueError, match=r"weights in adata\.uns\['scvi'\] do not fit"):
        scvitl.get.model(fitted)


def test_a_later_format_is_refused(fitted):
    fitted.uns["scvi"]["params"]["format"] = store.FORMAT + 1
    with pytest.raises(ValueError, match="newer version of scvitl"):
        scvitl.get.model(fitted)


def test_building_leaves_the_global_generator_alone(fitted):
    import torch

    before = torch.get_rng_state()
    scvitl.get.model(fitted)
    assert torch.equal(torch.get_rng_state(), before)
