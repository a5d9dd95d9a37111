"""Axes for factors that have none of their own: varimax (Kaiser, Psychometrika 1958, doi 10.1007/BF02289233).

A normal prior looks the same from all sides, so a model with a linear decoder describes the data equally well however
its latent space is turned. Varimax takes the axes along which loadings are either large or near zero, so that each
factor is carried by few genes. Shapes: G genes, D latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_STEPS = 1000
TOLERANCE = 1e-10


def simple_axes(loadings: Tensor, states: Tensor) -> Tensor:
    """The rotation (D, D) of ``loadings`` (G, D) to simple structure, for cells with the latent ``states`` (B, D).

    Factors come in the order of what they contribute to the logits of these cells. The sign of each is set such that its
    largest loadings lie rather above zero than below.
    """
    loadings, states = (values.detach().double().cpu() for values in (loadings, states))
    loadings = loadings - loadings.mean(0)  # a constant over genes goes away in the softmax
    rotation = varimax(loadings)
    turned = loadings @ rotation
    signs = torch.where((turned**3).sum(0) < 0, -1.0, 1.0)
    contributed = turned.norm(dim=0) * (states @ rotation).std(0)
    return (rotation * signs)[:, contributed.argsort(descending=True, stable=True)]


def varimax(loadings: Tensor) -> Tensor:
    """The rotation (D, D) that makes the squared ``loadings`` (G, D) vary most within the columns."""
    rotation = torch.eye(loadings.shape[1], dtype=loadings.dtype)
    reached = 0.0
    for _ in range(MAX_STEPS):
        turned = loadings @ rotation
        u, s, v = torch.linalg.svd(loadings.T @ (turned**3 - turned * (turned**2).mean(0)))
        rotation = u @ v
        if s.sum() <= reached * (1 + TOLERANCE):
            break
        reached = float(s.sum())
    return rotation
