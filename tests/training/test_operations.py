"""What a step of training asks of torch, counted: time would depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch.utils._python_dispatch import TorchDispatchMode

from scvitl.data import learn
from scvitl.data.batches import CellData
from scvitl.models import LDVAE, SCANVAE, SCARVAE, TOTALVAE, VAE
from scvitl.training import adam
from scvitl.training.plan import resolve

B, G, H, P = 64, 500, 32, 4


class Counted(TorchDispatchMode):
    """Operations by name, and those that make a tensor as large as the counts of a minibatch, or as a layer's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.large, self.weights = Counter(), Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        if not func.is_view:
            self.operations[name] += 1
            made = out if isinstance(out, (tuple, list)) else [out]
            given = {part.data_ptr() for part in args if isinstance(part, torch.Tensor)}
            for part in made:
                if isinstance(part, torch.Tensor) and part.data_ptr() not in given:
                    self.large[name] += part.numel() >= B * G
                    self.weights[name] += part.numel() == G * H
        return out


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    adata = AnnData(sp.random(200, G, 0.1, "csr", np.float32, rng, data_rvs=lambda n: rng.integers(1, 9, n)))
    adata.obs["batch"], adata.obs["type"] = ["a", "b"] * 100, ["x", "y", "z", "unknown"] * 50
    adata.obsm["protein"] = rng.poisson(20.0, (200, P))
    return adata


@pytest.fixture(scope="module")
def counted(cells):
    """One step, in which everything was used before."""
    data = CellData(cells, learn(cells, batch_key="batch"))
    model = VAE(G, n_batch=2, n_hidden=H).train()
    optimizer = adam.optimizer(model, resolve("fast", cells.n_obs))
    noise = torch.Generator().manual_seed(0)

    def step():
        loss = model.loss(data.gather(torch.arange(B)), generator=noise)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

    step()
    with Counted() as found:
        step()
    return found


def test_few_operations(counted):
    assert counted.operations.total() <= 110


def test_few_large_tensors(counted):
    """Logits of shares and dropout, and their gradients."""
    assert dict(+counted.large) == {"addmm": 2, "empty_like": 2}


def test_every_gradient_is_made_once(counted):
    """Of the three large layers, and in the place that weights have."""
    assert dict(+counted.weights) == {"mm": 2, "new_empty": 1}


def test_gamma_functions_are_left_to_the_compiled_loop(counted):
    assert not {"lgamma", "digamma", "nonzero", "_softmax", "softplus"} & set(counted.operations)


def test_torchs_compiler_is_not_loaded():
    """It takes two seconds and 70 MB, and is what torch's optimisers begin with."""
    code = """
import sys, scvitl
adata = scvitl.datasets.toy(n_cells=60, n_genes=30)
scvitl.tl.scvi(adata, batch_key="batch", max_epochs=1, progress=False)
scvitl.get.normalized_expression(adata)
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


MODELS = {
    **{name: lambda name=name: VAE(G, n_batch=2, gene_likelihood=name) for name in ("zinb", "nb", "poisson")},
    "latent library": lambda: VAE(G, n_batch=2, use_observed_lib_size=False),
    "LDVAE": lambda: LDVAE(G, n_batch=2),
    "scANVI": lambda: SCANVAE(G, n_batch=2, n_labels=3),
    "totalVI": lambda: TOTALVAE(G, measured=[[True] * P], n_batch=2),
    "scAR": lambda: SCARVAE(G, n_batch=2, ambient=torch.full((2, G), 1 / G)),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_device_is_not_waited_for(name, cells):
    """A tensor on the device "meta" has no numbers, and refuses to be asked for one, as a step on a GPU should not."""
    schema = learn(
        cells, batch_key="batch", labels_key="type", unlabeled_category="unknown", protein_key="protein"
    )
    minibatch = CellData(cells, schema, device="meta").gather(torch.arange(B))
    model = MODELS[name]().to("meta").train()
    loss = model.loss(*[minibatch] * (1 + (name == "scANVI")))
    loss.total.backward()
    assert any(weight.grad is not None for weight in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        loss.total.item()
