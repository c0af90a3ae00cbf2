"""Patch priors: contracts, densities and restored patches against independent oracles."""

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, check_model

MIX = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.7, 0.5], [0.2, 0.0, 0.4]], dtype=torch.float64)


def laplace_rows(n=4000, seed=0):
    """Rows of three Laplace sources, mixed."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).log() @ MIX + torch.tensor([1.0, 0.0, -2.0])


PRIORS = {
    "pixels": lambda: zoo.IndependentPixels(3, 2),
    "gaussian": lambda: zoo.MultivariateGaussian(3),
    "pca": lambda: zoo.PCALaplace(3),
    "ica": lambda: zoo.ICA(3),
    "scale-mixtures": lambda: zoo.MixtureOfScaleMixtures(2, 2, 3),
}


@pytest.mark.parametrize("name", PRIORS)
def test_contract(name):
    assert check_model(PRIORS[name], lambda: laplace_rows(80)) == tuple(CLAUSES)


def small_leaves(**options):
    return zoo.MiniDeadLeaves(size=3, contrasts=(0.02, 0.1), grid=(4, 3), **options)


def test_contract_of_dead_leaves():
    assert check_model(small_leaves, lambda: small_leaves().sample(12)) == tuple(CLAUSES)
