from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scvitl


def test_curves_and_kept_epoch(fitted):
    ax = scvitl.pl.history(fitted, show=False)
    frame = scvitl.get.history(fitted)
    train, held_out, kept = ax.lines
    assert np.array_equal(train.get_ydata(), frame["elbo_train"])
    assert np.array_equal(held_out.get_ydata(), frame["elbo_validation"])
    epoch = frame.attrs["restored_epoch"]
    assert kept.get_xydata().tolist() == [[epoch + 1, frame["elbo_validation"][epoch]]]
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == [
        "training cells",
        "held-out cells",
        "kept",
    ]
    assert "epoch" in ax.get_xlabel()
    assert "ELBO" in ax.get_ylabel()


def test_the_steep_start_does_not_flatten_the_rest(fitted):
    fitted.uns["scvi"]["history"] = fitted.uns["scvi"]["history"].loc[[0, *[3] * 19]].reset_index(drop=True)
    fitted.uns["scvi"]["history"].loc[0, "elbo_train"] = 1e6
    low, high = scvitl.pl.history(fitted, show=False).get_ylim()
    assert high < 1e3
    assert low < fitted.uns["scvi"]["history"]["elbo_train"].min()


def test_given_axes(fitted):
    _, ax = plt.subplots()
    assert scvitl.pl.history(fitted, ax=ax, show=False) is ax


def test_show(fitted, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert scvitl.pl.history(fitted, show=True) is None
    assert shown == [1]


def test_empty_history(fitted):
    fitted.uns["scvi"]["history"] = fitted.uns["scvi"]["history"].iloc[:0, :0]
    with pytest.raises(ValueError, match="interrupted in its first epoch"):
        scvitl.pl.history(fitted, show=False)


def test_without_held_out_cells_or_with_one_epoch(toy):
    scvitl.tl.scvi(toy, n_hidden=8, max_epochs=1, train_size=1.0, progress=False)
    ax = scvitl.pl.history(toy, show=False)
    assert len(ax.lines) == 2
    assert ax.lines[0].get_marker() == "o"
