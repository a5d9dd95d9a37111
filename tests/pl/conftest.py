from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Annotation, Text

import scvitl


@pytest.fixture(autouse=True)
def _agg():
    before = mpl.get_backend()
    parameters = dict(mpl.rcParams)
    plt.switch_backend("agg")
    yield
    changed = {name for name, value in mpl.rcParams.items() if value != parameters[name]} - {"backend"}
    plt.close("all")
    plt.switch_backend(before)
    assert not changed


@pytest.fixture(scope="session")
def _ranked():
    adata = scvitl.datasets.toy(n_cells=300, n_genes=60, random_state=1)
    scvitl.tl.scvi(
        adata, batch_key="batch", n_hidden=32, n_latent=8, max_epochs=40, batch_size=32, progress=False
    )
    scvitl.tl.rank_genes_groups(adata, "cell_type", n_samples=1000)
    scvitl.tl.rank_genes_groups(adata, "cell_type", mode="vanilla", n_samples=1000, key_added="vanilla")
    return adata


@pytest.fixture
def ranked(_ranked):
    """A copy of an AnnData with a fitted model and ranked genes."""
    return _ranked.copy()


@pytest.fixture
def names_of():
    """The names that are written beside points, none upon another and none out of the figure."""

    def check(ax) -> dict[str, Annotation]:
        figure = ax.figure
        figure.draw_without_rendering()
        texts = [text for text in ax.texts if isinstance(text, Annotation) and text.arrow_patch is not None]
        boxes = [Text.get_window_extent(text) for text in texts]
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)
        for box in boxes:
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
        return {text.get_text(): text for text in texts}

    return check
