"""Muon on one vector: against the iteration written plainly, and against Adam on a net."""

import numpy as np
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.solvers.early_stopping.muon import POLYNOMIAL, MuonVector, orthogonalisers

SHAPES = [(6, 20), (6,), (9, 4), (5,), (4, 4)]


def plainly(matrix):
    """Iterate with the matrix itself, as Jordan's code does."""
    a, b, c = POLYNOMIAL
    X = matrix / matrix.norm()
    for _ in range(5):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


@pytest.mark.parametrize("shape", [(6, 20), (16, 16), (3, 100)])
def test_products_of_the_small_side_do_the_same(shape):
    torch.manual_seed(0)
    X = torch.randn(4, *shape, dtype=torch.float64)
    Q = orthogonalisers(X @ X.mT)
    torch.testing.assert_close(Q @ X, torch.stack([plainly(each) for each in X]))


def test_singular_values_become_even():
    torch.manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 8)).Q for n in (8, 30))
    X = U @ torch.diag(torch.logspace(-1.5, 0, 8)) @ V.T
    values = torch.linalg.svdvals(orthogonalisers(X @ X.T[None])[0] @ X)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_steps_are_those_written_plainly():
    torch.manual_seed(0)
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    start = torch.randn(sum(sizes), dtype=torch.float64)
    vector = torch.nn.Parameter(start.clone())
    ours = MuonVector([vector], SHAPES, lr=0.1, adam_lr=0.02, momentum=0.7)
    pieces = [torch.nn.Parameter(p.clone()) for p in start.split(sizes)]
    rest = [p for p, shape in zip(pieces, SHAPES, strict=True) if len(shape) == 1]
    adam = torch.optim.Adam(rest, lr=0.02, betas=(0.7, 0.999))
    means = [torch.zeros_like(p) for p in pieces]
    for _ in range(4):
        grad = torch.randn_like(start)
        vector.grad = grad.clone()
        ours.step()
        for p, shape, mean, g in zip(pieces, SHAPES, means, grad.split(sizes), strict=True):
            p.grad = g.clone()
            mean.lerp_(g, 0.3)
            if len(shape) == 2:
                matrix = (0.3 * g + 0.7 * mean).view(shape)
                tall = shape[0] > shape[1]
                even = plainly(matrix.T).T if tall else plainly(matrix)
                scale = 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5
                p.data -= scale * even.flatten()
        adam.step()
    torch.testing.assert_close(vector.data, torch.cat([p.data for p in pieces]))


def test_a_matrix_without_a_gradient_stays():
    vector = torch.nn.Parameter(torch.ones(12))
    vector.grad = torch.zeros(12)
    MuonVector([vector], [(3, 4)]).step()
    assert torch.equal(vector.data, torch.ones(12))


@pytest.mark.slow
def test_a_net_arrives_in_half_of_adams_steps():
    row = torch.arange(32) / 32
    clean = 0.3 + 0.4 * (row[:, None] + 0.5 * row > 0.8) + 0.2 * row
    random = torch.Generator().manual_seed(0)
    y = (clean + 0.1 * torch.randn(32, 32, generator=random))[None, None]
    net = {"num_inputs": 4, "down": (8, 16), "up": (8, 16), "skip": (0, 4)}
    steps = {}
    for optimizer in ("muon", "adam"):
        model = zoo.DeepImagePrior((1, 32, 32), net=net, prior_scale=None)
        solver = zoo.EarlyStopping(1500, optimizer=optimizer)
        fit = zoo.fit(model, (y, torch.full((1,), 0.1)), solver, progress=False)
        assert fit.stopped == "converged"
        steps[optimizer] = fit.solution.steps[0]
    assert steps["muon"] < 0.5 * steps["adam"]


def test_the_optimizer_is_chosen_by_the_net():
    with pytest.raises(DataError, match="optimizer: got 'sgd', expected one of auto, muon, adam"):
        zoo.EarlyStopping(optimizer="sgd")
    narrow, wide = (zoo.DeepImagePrior((1, 8, 8), net=net) for net in ("fast", "paper"))
    options = zoo.EarlyStopping(average=0.9)
    assert [options.resolve(m).optimizer for m in (narrow, wide)] == ["muon", "adam"]
    assert [options.resolve(m).learning_rate for m in (narrow, wide)] == [0.05, 0.01]
    assert options.resolve(wide).average == 0.9
    assert zoo.EarlyStopping(optimizer="adam", learning_rate=0.1).resolve(narrow).average == 0.99
