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

# Heads of totalVI, each a layer.
HEADS = {
    "px_scale_decoder": "scale",
    "px_dropout_decoder_gene": "dropout",
    "py_back_mean_log_alpha": "background_mean",
    "py_back_mean_log_beta": "background_sd",
    "py_fore_scale_decoder": "foreground",
    "py_background_decoder": "mixing",
}
# Patterns in the names of scvi-tools, and what they become. "Layer_0" and a scale decoder without ".0" are old spellings.
NAMES = (
    (r"\.factor_regressor\.fc_layers\.Layer[ _]0\.0\.", ".heads.scale.linear."),
    (r"\.factor_regressor\.fc_layers\.Layer[ _]0\.1\.", ".heads.scale.batch_norm."),
    (r"\.px_dropout_decoder\.fc_layers\.Layer[ _]0\.0\.", ".heads.dropout.linear."),
    (r"\.px_dropout_decoder\.fc_layers\.Layer[ _]0\.1\.", ".heads.dropout.batch_norm."),
    *((rf"\.{name}\.fc_layers\.Layer[ _]0\.0\.", f".heads.{head}.") for name, head in HEADS.items()),
    # Names that totalVI alone has.
    (r"^encoder\.l_gene_encoder\.", "l_encoder.encoder."),
    (r"^encoder\.l_gene_", "l_encoder."),
    (r"^encoder\.(?:z_)?", "z_encoder."),
    (r"^decoder\.py_back_decoder\.", "decoder.background."),
    (r"^decoder\.py_fore_decoder\.", "decoder.foreground."),
    (r"^decoder\.sigmoid_decoder\.", "decoder.mixing."),
    (r"^background_pro_alpha$", "protein_counts.background_mean"),
    (r"^background_pro_log_beta$", "protein_counts.background_log_sd"),
    (r"^log_per_batch_efficiency$", "protein_counts.log_efficiency"),
    (r"^py_r$", "protein_counts.py_r"),
    (r"\.(?:encoder|decoder|px_decoder|classifier\.0)\.fc_layers\.", ".hidden.fc_layers."),
    (r"\.fc_layers\.Layer[ _](\d+)\.0\.", r".layers.\1.linear."),
    (r"\.fc_layers\.Layer[ _](\d+)\.1\.", r".layers.\1.batch_norm."),
    (r"\.mean_(?:en|de)coder\.", ".mean."),
    (r"\.var_(?:en|de)coder\.", ".variance."),
    (r"\.px_scale_decoder\.(?:0\.)?", ".heads.scale."),
    (r"\.px_noise_decoder\.0\.", ".heads.noise."),
    (r"\.px_r_decoder\.", ".heads.dispersion."),
    (r"\.px_dropout_decoder\.", ".heads.dropout."),
    (r"^_embeddings_dict\.batch\.", "embedding."),
    (r"^classifier\.classifier\.[01]\.", "classifier.types."),
    (r"^encoder_z2_z1\.", "u_encoder."),
    (r"^decoder_z1_z2\.", "u_decoder."),
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
    if "y_prior" in renamed:
        # scvi-tools takes shares of any sum, as a row or without one.
        prior = renamed["y_prior"].reshape(1, -1)
        renamed["y_prior"] = prior / prior.sum()
    return renamed


def sizes(title: str, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the tensors tell of the networks of the model ``title``."""
    n_latent, n_hidden = weights["z_encoder.mean.weight"].shape
    found = {"n_hidden": n_hidden, "n_latent": n_latent}
    n_layers = _n_layers("z_encoder", weights)
    if title == "LDVAE":
        return {
            **found,
            "n_layers_encoder": n_layers,
            "use_batch_norm": "decoder.heads.scale.batch_norm.weight" in weights,
            "bias": "decoder.heads.scale.linear.bias" in weights,
        }
    if title == "totalVI":
        return {
            **found,
            "n_layers_encoder": n_layers,
            "n_layers_decoder": _n_layers("decoder", weights),
        }
    found["n_layers"] = n_layers
    if "embedding.weight" in weights:
        found["embedding_dim"] = weights["embedding.weight"].shape[1]
    if title == "scANVI":
        found["classifier_n_layers"] = n = _n_layers("classifier", weights)
        # Without hidden layers, the number of their units is of no account.
        found["classifier_n_hidden"] = weights["classifier.types.weight"].shape[1] if n else n_hidden
    return found


def _n_layers(network: str, weights: dict[str, np.ndarray]) -> int:
    pattern = re.compile(rf"{network}\.hidden\.layers\.\d+\.linear\.weight")
    return sum(pattern.fullmatch(name) is not None for name in weights)


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
