"""The module before training: priors from the cells, initial weights, and where the fast plan begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import store

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ..data import Schema
    from ..data.batches import CellData

ADVERSARY_WEIGHT = 5.0  # in the fast plan
NOISE = 0.1  # share of ambient counts before training, a usual one
FEW = 1000  # counts of a batch that say as much as those of all cells
MOST = 4.0  # that a share is shifted by, as a logarithm
MOMENTUM = 0.05  # of batch norm in a training of few minibatches


def new_module(
    data: CellData,
    schema: Schema,
    params: dict[str, Any],
    train: Tensor,
    *,
    fast: bool,
    shares: bool = False,
    initial: store.FittedModel | None = None,
    priors: dict[str, Any] | None = None,
) -> nn.Module:
    """The module that ``params`` describe, with ``priors`` as arrays; with the weights of ``initial``, as far as it has them.

    The decoder may begin at the ``shares`` of the genes in the cells of ``train``, those that training will see.
    """
    import torch

    tensors = {name: torch.from_numpy(values) for name, values in (priors or {}).items()}
    if not (params["use_observed_lib_size"] or schema.size_factor):
        tensors |= library_priors(data, schema)
    if params.get("y_prior") is not None:
        tensors["y_prior"] = torch.tensor([params["y_prior"]], dtype=torch.float32)
    module = store.build(params, schema, random_state=params["random_state"], **tensors)
    if module.latent_library and fast:
        # Libraries start where cells are, not at a single count, which would take most of the training to mend.
        with torch.no_grad():
            module.l_encoder.mean.bias += module.library_log_means.mean()
    if schema.proteins is not None:
        _start_proteins(module, data, params, fast=fast, learned=not priors)
    elif fast and params["model"] == "scAR":
        _start_ambient(module, data)
    elif shares and module.decoder.softmax and params["gene_likelihood"] != "normal":
        _start_genes(module, data, train)
    if initial is not None:
        module.load_state_dict(initial.module.state_dict(), strict=False)
    return module


def _start_proteins(
    module: nn.Module, data: CellData, params: dict[str, Any], *, fast: bool, learned: bool
) -> None:
    """Counts that the decoder begins with, and the adversary."""
    import torch

    from . import _background

    if fast:
        _background.start_at(module, data, prior=learned)
    if params["adversarial_classifier"]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(params["random_state"])
            module.hire(ADVERSARY_WEIGHT if fast else None)


def _start_ambient(module: nn.Module, data: CellData) -> None:
    """Shares of the genes that the decoder begins with, and batch norm that keeps up."""
    import numpy as np
    import torch

    shares = _shares(np.asarray(data.counts.sum(0), np.float64).ravel())
    module.start_at(torch.from_numpy(shares.astype(np.float32)), NOISE)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.momentum = MOMENTUM


def _start_genes(module: nn.Module, data: CellData, train: Tensor) -> None:
    """Shares of the genes in the cells of ``train``, in all and by batch, that the decoder begins with.

    A few counts of a gene in a batch say little of it, so that shares are drawn to those in all cells.
    """
    import numpy as np
    import scipy.sparse as sp
    import torch

    train = train.cpu().numpy()
    batch, n = data.batch.cpu().numpy()[train], len(train)
    member = sp.csr_matrix((np.ones(n), (batch, train)), (batch.max() + 1, data.n_cells))
    counts = (member @ data.counts).toarray()  # (K, G)
    shares = _shares(counts.sum(0))
    # of batches with a one-hot column
    n_batch = 0 if module.embedding is not None or module.sizes[0] == 1 else len(counts)
    counts = counts[:n_batch] + FEW * shares
    shifts = np.log(counts / counts.sum(1, keepdims=True) / shares).clip(-MOST, MOST)
    frequencies = np.bincount(batch)[:n_batch] / n
    frequencies[frequencies == 1] = 0
    start = (torch.from_numpy(part.astype(np.float32)) for part in (shares, shifts, frequencies))
    module.decoder.start_at(*start)


def _shares(totals: np.ndarray) -> np.ndarray:
    """Shares of genes (G) by their total counts, all above zero."""
    totals = totals + 0.1
    return totals / totals.sum()


def library_priors(data: CellData, schema: Schema) -> dict[str, Tensor]:
    """Mean and variance of the log total counts of every batch that has cells, each (1, K)."""
    import torch

    n_batch = 1 if schema.batch is None else len(schema.batch.categories)
    means, variances = torch.zeros(1, n_batch), torch.ones(1, n_batch)
    for code in data.batch.unique().tolist():
        library = data.library[data.batch == code].cpu()
        means[0, code] = library.mean()
        # a batch may hold a single cell
        variances[0, code] = library.var(unbiased=False).clamp_min(1e-4)
    return {"library_log_means": means, "library_log_vars": variances}
