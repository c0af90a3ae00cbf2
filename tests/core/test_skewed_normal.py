"""Skewed normals: densities against the Jacobian of their draws, mixtures, room for directions."""

import math

import pytest
import torch

from ppl_zoo.core.skewed_normal import SkewedComponent, SkewedNormal


def component(size, k, seed):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return 0.3 * torch.randn(*shape, generator=generator).double()

    unit = torch.eye(size).double()
    return SkewedComponent(
        loc=random(size),
        factor=random(size, size).tril(-1) + 1.3 * unit,
        rotation=torch.linalg.qr(random(size, size))[0],
        shift=random(size),
        log_scale=random(size),
        slopes=random(size, 2 * k),
        scale_slopes=random(size, 2 * k),
        skew=random(k),
        log_tail=random(k, 2),
        mixing=random(size - k, size - k).tril(-1) + torch.eye(size - k).double(),
    )


@pytest.mark.parametrize(("size", "k"), [(1, 0), (1, 1), (2, 1), (5, 2), (4, 3), (3, 3)])
def test_density_is_that_of_the_draws(size, k):
    own = component(size, k, seed=size)
    normals = torch.randn(6, size).double()
    draws, log_prob = own.transform(normals)
    assert torch.allclose(own.log_prob(draws), log_prob)
    assert torch.allclose(own.log_prob(draws[2]), log_prob[2])
    jacobian = torch.autograd.functional.jacobian(lambda e: own.transform(e)[0], normals[2])
    expected = -0.5 * normals[2].square().sum() - size / 2 * math.log(2 * math.pi)
    expected = expected - torch.linalg.slogdet(jacobian)[1]
    assert log_prob[2].item() == pytest.approx(expected.item())


def test_a_component_without_directions_is_a_normal():
    loc, factor = torch.randn(3).double(), torch.tensor([[1, 0, 0], [2, 1, 0], [0, 1, 3]]).double()
    own = SkewedComponent.of_normal(loc, factor, torch.linalg.qr(torch.randn(3, 3).double())[0], 0)
    x = torch.randn(5, 3).double()
    normal = torch.distributions.MultivariateNormal(loc, scale_tril=factor)
    assert torch.allclose(own.log_prob(x), normal.log_prob(x))


def test_mixtures_integrate_to_one_and_draw_each_component():
    parts = [component(2, 1, seed=1), component(2, 2, seed=2), component(2, 0, seed=3)]
    density = SkewedNormal.of(parts, torch.tensor([0.3, 1.0, -0.5]).double())
    edge = torch.linspace(-14.0, 14.0, 900).double()
    grid = torch.cartesian_prod(edge, edge)
    cell = (edge[1] - edge[0]) ** 2
    mass = density.log_prob(grid).exp() * cell
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-3)
    draws = density.sample((40_000,))
    mean = (mass[:, None] * grid).sum(0)
    sd = (mass[:, None] * (grid - mean).square()).sum(0).sqrt()
    assert torch.allclose(draws.mean(0), mean, atol=0.03)
    assert torch.allclose(draws.std(0), sd, rtol=0.05)
    vectorised = torch.func.vmap(lambda _: density.sample(), randomness="different")
    assert torch.allclose(vectorised(torch.zeros(40_000)).mean(0), mean, atol=0.03)


def test_components_of_no_weight_change_nothing():
    density = SkewedNormal.of([component(3, 2, seed=4)], torch.zeros(1).double())
    padded = density.padded(3)
    x = torch.randn(5, 3).double()
    assert torch.allclose(padded.log_prob(x), density.log_prob(x))
    assert torch.isfinite(padded.sample((100,))).all()
    assert padded.stacked.slopes.shape == (3, 3, 6)  # room for three directions
