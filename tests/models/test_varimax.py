from __future__ import annotations

import pytest
import torch

from scvitl.models.varimax import simple_axes, varimax


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def simple():
    """Loadings of three factors, each with genes of its own, more up than down, the third the strongest."""
    loadings = 0.02 * noise(60, 3)
    for factor, strength in enumerate((1.0, 2.0, 3.0)):
        loadings[20 * factor : 20 * factor + 6, factor] += strength
        loadings[20 * factor + 6 : 20 * factor + 12, factor] -= 0.8 * strength
    return loadings - loadings.mean(0)


@pytest.mark.parametrize("seed", range(5))
def test_axes_are_found_from_any_rotation(simple, seed):
    turned = simple @ torch.linalg.qr(noise(3, 3, seed=seed))[0]
    found = turned @ simple_axes(turned, noise(500, 3, seed=9))
    # The strongest first, and its genes above zero.
    torch.testing.assert_close(found, simple[:, [2, 1, 0]], atol=0.1, rtol=0)


def test_order_is_by_contribution(simple):
    states = noise(500, 3) * torch.tensor([10.0, 1.0, 0.1])
    found = simple @ simple_axes(simple, states)
    torch.testing.assert_close(found, simple, atol=0.1, rtol=0)


def test_signs_make_the_largest_loadings_positive(simple):
    found = -simple @ simple_axes(-simple, noise(500, 3))
    assert ((found**3).sum(0) > 0).all()


@pytest.mark.parametrize("shape", [(60, 1), (60, 10), (3, 5), (1, 1)])
def test_it_is_a_rotation(shape):
    loadings, states = noise(*shape).float(), noise(50, shape[1]).float()
    rotation = simple_axes(loadings, states)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(shape[1], dtype=torch.float64))
    torch.testing.assert_close(simple_axes(loadings, states), rotation, atol=0, rtol=0)


def test_factors_without_genes(simple):
    simple = torch.cat([torch.zeros(60, 2), simple], 1)
    rotation = simple_axes(simple, noise(500, 5))
    assert rotation.isfinite().all()
    assert ((simple @ rotation).norm(dim=0)[3:] < 1e-6).all()


def test_the_criterion_grows(simple):
    turned = simple @ torch.linalg.qr(noise(3, 3))[0]

    def criterion(loadings):
        return (loadings**2).var(0).sum()

    assert criterion(turned @ varimax(turned)) > criterion(turned)
    torch.testing.assert_close(criterion(turned @ varimax(turned)), criterion(simple @ varimax(simple)))
