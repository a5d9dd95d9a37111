from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

import scvitl

# Back from our names to those of scvi-tools.
NAMES = (
    (r"^decoder\.heads\.scale\.linear\.", "decoder.factor_regressor.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.scale\.batch_norm\.", "decoder.factor_regressor.fc_layers.Layer 0.1."),
    (r"^decoder\.heads\.dropout\.linear\.", "decoder.px_dropout_decoder.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.dropout\.batch_norm\.", "decoder.px_dropout_decoder.fc_layers.Layer 0.1."),
    (r"^classifier\.hidden\.layers\.(\d+)\.linear\.", r"classifier.classifier.0.fc_layers.Layer \1.0."),
    (r"^classifier\.hidden\.layers\.(\d+)\.batch_norm\.", r"classifier.classifier.0.fc_layers.Layer \1.1."),
    (r"^u_decoder\.hidden\.layers\.(\d+)\.linear\.", r"decoder_z1_z2.decoder.fc_layers.Layer \1.0."),
    (r"^u_decoder\.hidden\.layers\.(\d+)\.batch_norm\.", r"decoder_z1_z2.decoder.fc_layers.Layer \1.1."),
    (r"^u_decoder\.mean\.", "decoder_z1_z2.mean_decoder."),
    (r"^u_decoder\.variance\.", "decoder_z1_z2.var_decoder."),
    (r"^(._)encoder\.hidden\.layers\.(\d+)\.linear\.", r"\1encoder.encoder.fc_layers.Layer \2.0."),
    (r"^(._)encoder\.hidden\.layers\.(\d+)\.batch_norm\.", r"\1encoder.encoder.fc_layers.Layer \2.1."),
    (r"^decoder\.hidden\.layers\.(\d+)\.linear\.", r"decoder.px_decoder.fc_layers.Layer \1.0."),
    (r"^decoder\.hidden\.layers\.(\d+)\.batch_norm\.", r"decoder.px_decoder.fc_layers.Layer \1.1."),
    (r"^(._)encoder\.mean\.", r"\1encoder.mean_encoder."),
    (r"^(._)encoder\.variance\.", r"\1encoder.var_encoder."),
    (r"^decoder\.heads\.scale\.", "decoder.px_scale_decoder.0."),
    (r"^decoder\.heads\.noise\.", "decoder.px_noise_decoder.0."),
    (r"^decoder\.heads\.dispersion\.", "decoder.px_r_decoder."),
    (r"^decoder\.heads\.dropout\.", "decoder.px_dropout_decoder."),
    (r"^embedding\.", "_embeddings_dict.batch."),
    (r"^u_encoder\.", "encoder_z2_z1."),
)
PROTEINS = (
    (r"^protein_counts\.background_mean$", "background_pro_alpha"),
    (r"^protein_counts\.background_log_sd$", "background_pro_log_beta"),
    (r"^protein_counts\.log_efficiency$", "log_per_batch_efficiency"),
    (r"^protein_counts\.", ""),
    (r"^z_encoder\.mean\.", "encoder.z_mean_encoder."),
    (r"^z_encoder\.variance\.", "encoder.z_var_encoder."),
    (r"^z_encoder\.hidden\.", "encoder.encoder."),
    (r"^l_encoder\.mean\.", "encoder.l_gene_mean_encoder."),
    (r"^l_encoder\.variance\.", "encoder.l_gene_var_encoder."),
    (r"^l_encoder\.hidden\.", "encoder.l_gene_encoder."),
    (r"^decoder\.hidden\.", "decoder.px_decoder."),
    (r"^decoder\.background\.", "decoder.py_back_decoder."),
    (r"^decoder\.foreground\.", "decoder.py_fore_decoder."),
    (r"^decoder\.mixing\.", "decoder.sigmoid_decoder."),
    (r"\.layers\.(\d+)\.linear\.", r".fc_layers.Layer \1.0."),
    (r"\.layers\.(\d+)\.batch_norm\.", r".fc_layers.Layer \1.1."),
    (r"^decoder\.heads\.scale\.", "decoder.px_scale_decoder.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.dropout\.", "decoder.px_dropout_decoder_gene.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.background_mean\.", "decoder.py_back_mean_log_alpha.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.background_sd\.", "decoder.py_back_mean_log_beta.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.foreground\.", "decoder.py_fore_scale_decoder.fc_layers.Layer 0.0."),
    (r"^decoder\.heads\.mixing\.", "decoder.py_background_decoder.fc_layers.Layer 0.0."),
)
CLASSES = {
    "scVI": "SCVI",
    "LDVAE": "LinearSCVI",
    "scANVI": "SCANVI",
    "totalVI": "TOTALVI",
    "scAR": "SCAR",
}
SIGNATURE = {
    "n_hidden",
    "n_latent",
    "n_layers",
    "dropout_rate",
    "dispersion",
    "gene_likelihood",
    "latent_distribution",
    "use_observed_lib_size",
    "protein_dispersion",
    "dropout_rate_encoder",
    "dropout_rate_decoder",
    "scale_activation",
    "sparsity",
}
OTHERS = {
    "log_variational",
    "encode_covariates",
    "deeply_inject_covariates",
    "batch_representation",
    "use_batch_norm",
    "use_layer_norm",
    "bias",
}


class Content(dict):
    """What `torch.save` gets for a model; tests change it before it is saved."""

    def save(self, folder, name="model.pt"):
        folder.mkdir(exist_ok=True)
        torch.save(dict(self), folder / name)
        return folder

    def save_old(self, folder, prefix=""):
        """The layout from before scvi-tools 0.15."""
        folder.mkdir(exist_ok=True)
        attributes = dict(self["attr_dict"])
        registry = attributes.pop("registry_")
        fields = registry["field_registries"]
        attributes["init_params_"] = {
            **attributes["init_params_"]["non_kwargs"],
            "use_cuda": True,
            "model_kwargs": attributes["init_params_"]["kwargs"]["kwargs"],
        }
        unlabeled = fields["labels"]["state_registry"].get("unlabeled_category")
        if unlabeled is not None:
            attributes["unlabeled_category_"] = unlabeled
        attributes["scvi_setup_dict_"] = setup = {
            "scvi_version": registry["scvi_version"],
            "categorical_mappings": {
                f"_scvi_{name}": {
                    "original_key": fields[name]["state_registry"]["original_key"],
                    "mapping": fields[name]["state_registry"]["categorical_mapping"],
                }
                for name in ("batch", "labels")
            },
            "data_registry": {"X": fields["X"]["data_registry"] | {"attr_key": "None"}},
            "summary_stats": fields["X"]["summary_stats"],
        }
        if "extra_categorical_covs" in fields:
            covariates = fields["extra_categorical_covs"]["state_registry"]
            setup["extra_categoricals"] = {
                "keys": covariates["field_keys"],
                "mappings": covariates["mappings"],
            }
        if "extra_continuous_covs" in fields:
            setup["extra_continuous_keys"] = fields["extra_continuous_covs"]["state_registry"]["columns"]
        if "proteins" in fields:
            setup["protein_names"] = fields["proteins"]["state_registry"]["column_names"]
            setup["data_registry"]["protein_expression"] = fields["proteins"]["data_registry"]
            setup["totalvi_batch_mask"] = fields["proteins"]["state_registry"]["protein_batch_mask"]
        torch.save(self["model_state_dict"], folder / f"{prefix}model_params.pt")
        (folder / f"{prefix}attr.pkl").write_bytes(pickle.dumps(attributes))
        (folder / f"{prefix}var_names.csv").write_text("\n".join(self["var_names"]) + "\n")
        return folder


def column(name, entry):
    categories = entry.categories if entry else [0]
    state = {"original_key": entry.key if entry else f"_scvi_{name}"}
    if hasattr(entry, "unlabeled"):
        categories = [*categories, entry.unlabeled]
        state["unlabeled_category"] = entry.unlabeled
    state["categorical_mapping"] = np.array(categories, object)
    return {"data_registry": {"attr_name": "obs", "attr_key": f"_scvi_{name}"}, "state_registry": state}


def proteins(entry):
    masks = {str(code): np.array(mask) for code, mask in enumerate(entry.measured)}
    return {
        "data_registry": {"attr_name": "obsm", "attr_key": entry.key},
        "state_registry": {"column_names": list(entry.names), "protein_batch_mask": masks},
        "summary_stats": {"n_proteins": len(entry.names)},
    }


def tensors(module):
    """Weights by the names of scvi-tools, with those that it saves though nothing uses them."""
    state = {}
    names = PROTEINS if hasattr(module, "protein_counts") else NAMES
    for ours, tensor in module.state_dict().items():
        name = ours
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    if hasattr(module, "classifier"):
        types = "classifier.classifier.0." if module.classifier.hidden is None else "classifier.classifier.1."
        state = {name.replace("classifier.types.", types): tensor for name, tensor in state.items()}
    if names is PROTEINS:
        state.setdefault("decoder.px_dropout_decoder_gene.fc_layers.Layer 0.0.weight", torch.randn(3, 3))
        state.setdefault("encoder.l_gene_mean_encoder.weight", torch.randn(2, 2))
        return state
    if hasattr(module, "ambient"):
        # An argument there, and genes that are all at one level.
        assert (state.pop("decoder.level") == 1).all()
        del state["ambient"]
        state.setdefault("px_r", torch.randn(module.decoder.n_genes))
    for name in () if hasattr(module, "loadings") else ("px_r_decoder", "px_dropout_decoder"):
        state.setdefault(f"decoder.{name}.weight", torch.randn(3, 3))
        state.setdefault(f"decoder.{name}.bias", torch.randn(3))
    for name in ("encoder.fc_layers.Layer 0.0", "mean_encoder", "var_encoder"):
        state.setdefault(f"l_encoder.{name}.weight", torch.randn(2, 2))
    return state | {"pyro_param_store": {"params": {}, "constraints": {}}}


@pytest.fixture
def as_scvi_tools():
    """A function that turns the model in an AnnData into what scvi-tools saves."""

    def convert(adata, key="scvi"):
        model = scvitl.get.model(adata, key=key)
        p, schema = model.params, model.schema
        n = {"n_cells": adata.n_obs, "n_vars": adata.n_vars}
        where = {"attr_name": "layers", "attr_key": schema.layer} if schema.layer else {"attr_name": "X"}
        fields = {
            "X": {"data_registry": {"attr_key": None, **where}, "summary_stats": n},
            "batch": column("batch", schema.batch),
            "labels": column("labels", schema.labels),
        }
        if schema.size_factor:
            fields["size_factor"] = {"data_registry": {"attr_name": "obs", "attr_key": schema.size_factor}}
        if schema.categorical:
            fields["extra_categorical_covs"] = {
                "state_registry": {
                    "mappings": {c.key: np.array(c.categories, object) for c in schema.categorical},
                    "field_keys": [c.key for c in schema.categorical],
                }
            }
        if schema.proteins:
            fields["proteins"] = proteins(schema.proteins)
            if schema.proteins.panel:
                fields["panel"] = column("panel", schema.proteins.panel)
        others = {name: p[name] for name in OTHERS & p.keys()}
        if p.get("batch_representation") == "embedding":
            others["batch_embedding_kwargs"] = {"embedding_dim": p["embedding_dim"]}
        if p["model"] == "scANVI":
            parts = {name: p[f"classifier_{name}"] for name in ("n_layers", "n_hidden", "dropout_rate")}
            others |= {"classifier_parameters": parts, "y_prior": torch.tensor(p.get("y_prior", 1.0))}
        arguments = {
            "gene_dispersion" if schema.proteins and name == "dispersion" else name: p[name]
            for name in SIGNATURE & p.keys()
        }
        if p["model"] == "scAR":
            arguments["ambient_profile"] = model.module.ambient.clone()
        if p.get("var_activation", "exp") != "exp":
            others["var_activation"] = getattr(torch.nn.functional, p["var_activation"])
        return Content(
            model_state_dict=tensors(model.module),
            var_names=np.array(schema.genes, object),
            attr_dict={
                "is_trained_": True,
                "init_params_": {
                    "non_kwargs": arguments,
                    "kwargs": {"kwargs": others},
                },
                "registry_": {
                    "scvi_version": "1.3.0",
                    "model_name": CLASSES[p["model"]],
                    "field_registries": fields,
                },
                "history_": None,
                "train_indices_": np.arange(adata.n_obs),
            },
        )

    return convert


@pytest.fixture
def saved(fitted, as_scvi_tools):
    """The model of `fitted` as scvi-tools saves it."""
    return as_scvi_tools(fitted)
