"""scvi-tools and ours side by side: the same cells, the same weights."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from scvitl.models import records


@pytest.fixture(scope="session")
def scvi():
    """scvi-tools; what it warns of, at import and later, is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "scvi", reason="scvi-tools is not installed; the extra `parity` installs it", exc_type=ImportError
        )


def cells(n_cells=60, n_genes=30):
    """Counts with every kind of column."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 3.0, (n_cells, n_genes))).astype(np.float32)
    counts[:, 0] += 1
    return ad.AnnData(
        counts,
        pd.DataFrame(
            {
                # An order of categories that is not that of the alphabet.
                "batch": pd.Categorical(rng.choice(["b", "c", "a"], n_cells), ["c", "a", "b"]),
                "label": pd.Categorical(rng.choice(list("wxyz"), n_cells)),
                "donor": pd.Categorical(rng.choice(["d1", "d2"], n_cells)),
                "day": pd.Categorical(rng.choice([1, 2, 10], n_cells)),
                "age": rng.normal(40, 10, n_cells),
                "stress": rng.normal(0, 1, n_cells),
                "size": rng.uniform(0.5, 2, n_cells),
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )


def make(scvi, adata, columns, arguments, seed=3):
    """A model of scvi-tools with the initial weights of a seed."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(adata, **columns)
        torch.manual_seed(seed)
        return scvi.model.SCVI(adata, n_hidden=16, n_latent=5, **arguments)


def shake(module):
    """Move every tensor away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("library_log"):
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(0.5 + noise) if name.endswith("running_var") else tensor.add_(0.4 * (noise - 0.5))


@pytest.fixture(scope="session")
def tools():
    """The functions above, for the tests."""
    return SimpleNamespace(cells=cells, make=make, shake=shake)


@pytest.fixture
def means(monkeypatch):
    """Both sides take the posterior mean where they would draw."""
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda self, shape=(): self.loc)
    monkeypatch.setattr(
        records,
        "sample_normal",
        lambda mean, variance, n, generator: mean if n is None else mean.expand(n, *mean.shape),
    )
