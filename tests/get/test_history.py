from __future__ import annotations

import numpy as np

import scvitl


def test_history(fitted):
    frame = scvitl.get.history(fitted)
    assert frame.index.name == "epoch"
    assert list(frame.index) == [0, 1, 2, 3]
    for part in ("train", "validation"):
        assert np.allclose(
            frame[f"elbo_{part}"], frame[f"reconstruction_loss_{part}"] + frame[f"kl_local_{part}"]
        )
    loss = frame["elbo_validation"]
    assert loss[frame.attrs["restored_epoch"]] <= 1.005 * loss.min()


def test_history_is_a_copy(fitted):
    scvitl.get.history(fitted)["elbo_train"] = 0
    assert (scvitl.get.history(fitted)["elbo_train"] > 0).all()
