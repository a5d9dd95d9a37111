"""Tensors of scvi-tools under our names, and the module that they fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import store
from ._unpickle import RefusedError, intact

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..data import Schema

# Patterns in the names of scvi-tools, and what they become. "Layer_0" and a scale decoder without ".0" are old spellings.
NAMES = (
    (r"\.(?:encoder|px_decoder)\.fc_layers\.Layer[ _](\d+)\.0\.", r".hidden.layers.\1.linear."),
    (r"\.(?:encoder|px_decoder)\.fc_layers\.Layer[ _](\d+)\.1\.", r".hidden.layers.\1.batch_norm."),
    (r"\.mean_encoder\.", ".mean."),
    (r"\.var_encoder\.", ".variance."),
    (r"\.px_scale_decoder\.(?:0\.)?", ".heads.scale."),
    (r"\.px_r_decoder\.", ".heads.dispersion."),
    (r"\.px_dropout_decoder\.", ".heads.dropout."),
    (r"^_embeddings_dict\.batch\.", "embedding."),
)
# Saved whether or not the model uses them.
UNUSED = ("l_encoder.", "px_r", "decoder.heads.")
# Of batch norm, which counts its minibatches without ever reading the count.
COUNTER = "num_batches_tracked"


def rename(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under our names; a name that no pattern knows stays as it is."""
    renamed = {}
    for name, tensor in state.items():
        ours = name
        for pattern, replacement in NAMES:
            ours = re.sub(pattern, replacement, ours)
        if not ours.endswith(COUNTER):
            renamed[ours] = tensor
    return renamed


def sizes(weights: dict[str, np.ndarray]) -> dict[str, int]:
    """Sizes of the networks, as the tensors tell them."""
    n_latent, n_hidden = weights["z_encoder.mean.weight"].shape
    found = {
        "n_hidden": n_hidden,
        "n_latent": n_latent,
        "n_layers": sum(
            re.fullmatch(r"z_encoder\.hidden\.layers\.\d+\.linear\.weight", name) is not None
            for name in weights
        ),
    }
    if "embedding.weight" in weights:
        found["embedding_dim"] = weights["embedding.weight"].shape[1]
    return found


def module(file: Path, params: dict[str, Any], schema: Schema, weights: dict[str, np.ndarray]) -> nn.Module:
    """The module that ``params`` describe, with these weights."""
    import torch

    # First without memory: how large the module is, the file says.
    with intact(file), torch.device("meta"):
        expected = shapes(store.build(params, schema, random_state=0))
    found = {name: tensor.shape for name, tensor in weights.items()}
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and not name.startswith(UNUSED)]
    other = [
        f"{name} is {found[name]} and not {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    problems = {"missing": missing, "not known": unknown, "of another shape": sorted(other)}
    if any(problems.values()):
        listed = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
        msg = f"the weights in {str(file)!r} are not those of the model that it describes. {listed}."
        raise RefusedError(msg)
    built = store.build(params, schema, random_state=0)
    tensors = {name: torch.from_numpy(np.array(weights[name], np.float32)) for name in expected}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        msg = f"weights in {str(file)!r} are NaN or infinite ({', '.join(broken)}): its training diverged. Fit the model again."
        raise RefusedError(msg)
    built.load_state_dict(tensors, strict=False)
    return built.eval()


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a module."""
    return {name: tuple(t.shape) for name, t in module.state_dict().items() if not name.endswith(COUNTER)}
