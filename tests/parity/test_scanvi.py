"""What SCANVI adds to SCVI: the prior of the latent state, the classifier, and its loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import scvitl

# Sums of log densities of either sign, some of them in the hundreds.
ROUNDING = {"atol": 1e-4}
pytestmark = [pytest.mark.usefixtures("means"), pytest.mark.classes("SCANVI")]
COLUMNS = {"batch_key": "batch", "labels_key": "label", "unlabeled_category": "Unknown"}


def tensors_of_theirs(pair, rows=None):
    loader = pair.theirs._make_data_loader(pair.theirs.adata, indices=rows, batch_size=pair.adata.n_obs)
    return next(iter(loader))


@torch.inference_mode()
def test_loss_at_a_latent_state(tools, pair):
    tensors, module = tensors_of_theirs(pair), pair.theirs.module
    z = torch.randn(pair.adata.n_obs, 5, generator=torch.Generator().manual_seed(2))
    inference = {**module.inference(**module._get_inference_input(tensors)), "z": z}
    generative = module.generative(**module._get_generative_input(tensors, inference))
    theirs = module.loss(tensors, inference, generative, kl_weight=0.7)

    cells, module = pair.cells(), pair.model.module
    posterior = module.encode(cells)
    unweighted, weighted = module.terms(z, posterior)
    expression = module.generative(z, posterior.library, cells)
    reconstruction = unweighted - module.log_likelihood(cells.x, expression)
    kl = weighted + module.kl_library(posterior, cells)
    tools.agree(reconstruction, theirs.reconstruction_loss["reconstruction_loss"], **ROUNDING)
    tools.agree(kl, theirs.kl_local["kl_local"])
    tools.agree((reconstruction + 0.7 * kl).mean(), theirs.loss)


@torch.inference_mode()
def test_loss_with_labelled_cells(tools, pair):
    rows = np.flatnonzero(pair.adata.obs["label"] != pair.theirs.unlabeled_category_)[:30]
    _, _, theirs = pair.theirs.module(
        tensors_of_theirs(pair),
        loss_kwargs={
            "labelled_tensors": tensors_of_theirs(pair, rows),
            "classification_ratio": 50,
            "kl_weight": 0.7,
        },
    )
    cells = pair.cells()
    ours = pair.model.module.loss(cells, cells.take(torch.from_numpy(rows)), kl_weight=0.7)
    tools.agree(ours.reconstruction, theirs.reconstruction_loss["reconstruction_loss"], **ROUNDING)
    tools.agree(ours.kl, theirs.kl_local["kl_local"])
    if pair.theirs.module.classifier.logits:
        tools.agree(ours.metrics["classification_loss"].mean(), theirs.classification_loss)
        tools.agree(ours.total, theirs.loss)
    else:
        # There, probabilities are taken for logits in training.
        assert (ours.total - theirs.loss).abs() > 0.1


def test_labels(pair):
    labels, n = pair.model.schema.labels, pair.theirs.n_labels
    assert list(labels.categories) == list(pair.theirs._label_mapping[:n])
    assert labels.unlabeled == pair.theirs.unlabeled_category_
    codes = pair.cells().labels.numpy()
    assert np.array_equal(codes, pair.theirs.adata.obs["_scvi_labels"])


def test_predictions(tools, pair):
    theirs = pair.theirs.predict(soft=True)
    # Reading took place before the fixture `means`.
    scvitl.io.read_scvi_tools(pair.folder, pair.adata)
    tools.agree(pair.adata.obsm["scanvi_proba"], theirs)
    assert pair.adata.obsm["scanvi_proba"].columns.equals(pd.Index(theirs.columns))
    assert (pair.adata.obs["scanvi"] == pair.theirs.predict()).all()
    tools.agree(pair.adata.obs["scanvi_confidence"], theirs.max(axis=1))


def test_a_label_without_cells(scvi, tools, tmp_path):
    """scvi-tools then learns the word for having no label as a label, too."""
    adata = tools.cells()
    adata.obs["label"] = adata.obs["label"].cat.add_categories("v")
    theirs = tools.make(scvi, adata.copy(), COLUMNS, {}, name="SCANVI")
    tools.save(theirs, tmp_path)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    expected = theirs.predict(soft=True)
    assert expected.columns.tolist() == ["w", "x", "y", "z", "v", "Unknown"]
    pd.testing.assert_frame_equal(adata.obsm["scanvi_proba"], expected, rtol=1e-5, check_names=False)
    assert scvitl.get.model(adata, key="scanvi").schema.labels.unlabeled == "Unknown (no label)"


def test_logistic_normal(scvi, tools, tmp_path, said):
    """The prior is another one there, but what is predicted and decoded is the same."""
    adata = tools.cells()
    theirs = tools.make(scvi, adata.copy(), COLUMNS, {"latent_distribution": "ln"}, name="SCANVI")
    tools.shake(theirs.module)
    tools.save(theirs, tmp_path)
    scvitl.io.read_scvi_tools(tmp_path, adata)
    assert "its ELBO is another one" in said()
    tools.agree(adata.obsm["scanvi_proba"], theirs.predict(soft=True))
    tools.agree(scvitl.get.normalized_expression(adata, key="scanvi"), theirs.get_normalized_expression())
    elbo = np.ravel(theirs.get_elbo(return_mean=False))
    assert np.abs(scvitl.get.elbo(adata, key="scanvi", return_mean=False) - elbo).mean() > 0.1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {
                "use_labels_groups": True,
                "labels_groups": [0, 1, 0, 1],
                "classifier_parameters": {"logits": False},
            },
            "made with use_labels_groups,",
        ),
        ({"classifier_parameters": {"activation_fn": torch.nn.ELU}}, r"\['activation_fn'\],"),
        ({"classifier_parameters": {"bias": False}}, r"\['bias'\],"),
    ],
    ids=["groups", "activation", "bias"],
)
def test_what_we_do_not_have(scvi, tools, tmp_path, arguments, problem):
    adata = tools.cells()
    tools.save(tools.make(scvi, adata.copy(), COLUMNS, arguments, name="SCANVI"), tmp_path)
    with pytest.raises(ValueError, match=problem + " which scvitl's scANVI does not have"):
        scvitl.io.read_scvi_tools(tmp_path, adata)


def test_one_label(scvi, tools, tmp_path):
    adata = tools.cells()
    adata.obs["label"] = "w"
    tools.save(tools.make(scvi, adata.copy(), COLUMNS, {}, name="SCANVI"), tmp_path)
    with pytest.raises(ValueError, match="knows one label only, 'w'"):
        scvitl.io.read_scvi_tools(tmp_path, adata)
