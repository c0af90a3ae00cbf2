"""Autoregressive models are fitted: NADE's gradients, early stopping, averages, schedules."""

import dataclasses

import numpy as np
import pytest
import torch
from autoregressive_models import shaken

import ppl_zoo as zoo
from ppl_zoo.models.autoregressive import nade
from ppl_zoo.models.autoregressive.nade import nade_conditionals


def plain_nade(f, W, c, V, b):
    """The definition: a hidden layer for each variable, differentiated by autograd."""
    a, out = c.expand(len(f), -1), []
    for i in range(f.shape[1]):
        out.append(torch.sigmoid(a) @ V[i].T + b[i])
        a = a + f[:, i] @ W[i]
    return torch.stack(out, 1)


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("shape", [(150, 30, 1, 1), (7, 20, 3, 2)])
@pytest.mark.parametrize("kept", [0, 2**26])
def test_gradients_of_nade_are_those_of_autograd(density, shape, kept, monkeypatch):
    monkeypatch.setattr(nade, "MAX_KEPT_ACTIVATIONS", kept)  # 0: backward makes the layers again
    rows, size, inputs, outputs = shape
    f = (torch.rand(rows, size, inputs) < density).double() * torch.randn(rows, size, inputs)
    weights = [
        torch.randn(size, inputs, 11),
        torch.randn(11),
        torch.randn(size, outputs, 11),
        torch.randn(size, outputs),
    ]
    found = []
    for function in (plain_nade, nade._autograd_conditionals, nade_conditionals):
        own = [w.double().requires_grad_() for w in weights]
        value = function(f, *own)
        found.append([value, *torch.autograd.grad(value.sin().sum(), own)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_nade_compiled_is_nade():
    """XLA gets a formulation of its own, and "auto" leaves it alone."""
    x = zoo.data.load("digits", binarize=True).train[:64, :12]
    runs = []
    for engine in (False, "xla"):
        torch.manual_seed(0)
        solver = zoo.SVI(steps=100, learning_rate=0.01, schedule="constant", compile=engine)
        runs.append(zoo.fit(zoo.NADE(12, 5, "random"), x, solver, progress=False))
    assert [run.solution.engine for run in runs] == ["interpreted", "xla"]
    assert np.allclose(*(run.history["objective"] for run in runs), rtol=1e-4)
    assert not zoo.NADE.compiles


def test_gradient_with_respect_to_the_data():
    model = shaken(lambda: zoo.NADE(5, 4))
    x = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model.conditionals(x), x)


@pytest.mark.slow
def test_fvsbn_finds_the_logistic_regressions():
    """Each conditional is a logistic regression, with one optimum: scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    x = zoo.data.load("digits", binarize=True).train[:400, 10:15].double()
    model = zoo.FVSBN(5).double()
    zoo.fit(
        model,
        x,
        zoo.SVI(steps=600, learning_rate=0.1, compile=False),
        progress=False,
        device="cpu",
    )
    for i in range(1, 5):
        oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(x[:, :i].numpy(), x[:, i].numpy())
        own = model.weights[i, :i].detach().numpy()
        assert own == pytest.approx(oracle.coef_[0], abs=0.02)


def test_early_stopping_keeps_the_best_and_averages():
    data = zoo.data.load("digits", binarize=True)
    small = dataclasses.replace(data, train=data.train[:150], labels=None)
    solver = zoo.SVI(
        steps=2000, learning_rate=0.03, batch_size=50, patience=5, average=0.9, compile=False
    )
    model = zoo.FVSBN(64)
    fit = zoo.fit(model, small, solver, progress=False)
    assert fit.stopped == "converged" and fit.solution.steps[0] < 1000
    kept = float(model.log_prob(small.valid).double().mean())
    values = fit.solution.state_values["0"]["watch"]["values"]
    assert kept == pytest.approx(max(values), abs=1e-4)
    assert values.index(max(values)) == len(values) - 6
    assert fit.objective == pytest.approx(150 * kept, rel=1e-5)
    with pytest.raises(zoo.DataError, match="without validation rows"):
        zoo.fit(zoo.FVSBN(64), small.train, solver, validation=None, progress=False)


@pytest.mark.parametrize("engine", [False, "xla"])
def test_a_watched_fit_resumes(engine, tmp_path):
    data = zoo.data.load("digits", binarize=True)
    solver = zoo.SVI(
        steps=60,
        batch_size=200,
        window=20,
        patience=50,
        average=0.9,
        schedule="constant",
        compile=engine,
    )
    whole = zoo.fit(zoo.FVSBN(64), data, solver, progress=False)
    half = dataclasses.replace(solver, steps=40)
    zoo.fit(zoo.FVSBN(64), data, half, progress=False, checkpoint=tmp_path / "run")
    model = zoo.FVSBN(64)
    zoo.fit(model, data, solver, progress=False, resume=tmp_path / "run")
    assert torch.allclose(model.weights, whole.model.weights, atol=1e-6)


def test_an_average_is_that_of_the_steps():
    x = zoo.data.load("digits", binarize=True).train[:100]
    options = {"steps": 3, "learning_rate": 0.1, "schedule": "constant", "compile": False}
    steps = []
    for count in (1, 2, 3):
        model = zoo.FVSBN(64)
        solver = zoo.SVI(**{**options, "steps": count})
        zoo.fit(model, x, solver, validation=None, progress=False)
        steps.append(model.bias.detach().clone())
    expected = zoo.FVSBN(64)
    expected.initialize(expected.as_rows(x))
    expected = expected.bias.detach()
    for seen, value in enumerate(steps, 1):
        keep = min(0.5, (1 + seen) / (10 + seen))
        expected = keep * expected + (1 - keep) * value
    model = zoo.FVSBN(64)
    zoo.fit(model, x, zoo.SVI(**options, average=0.5), validation=None, progress=False)
    assert torch.allclose(model.bias, expected, atol=1e-6)


def test_cosine_schedule_ends_at_zero():
    x = zoo.data.load("digits", binarize=True).train[:100]
    solver = zoo.SVI(steps=30, learning_rate=0.1, schedule="cosine", compile=False)
    fit = zoo.fit(zoo.FVSBN(64), x, solver, progress=False)
    assert fit.solution.state_values["0"]["optimizer"]["groups"][0]["lr"] == pytest.approx(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: zoo.FVSBN((8, 8)),
        lambda: zoo.NADE((8, 8), 20),
        lambda: zoo.MADE((8, 8), (30,)),
        lambda: zoo.RecurrentAR((8, 8), 20, block=8),
        pytest.param(
            lambda: zoo.TransformerAR((8, 8), 16, num_heads=2, num_layers=1),
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda: zoo.PixelCNN((8, 8), 8, 2), marks=pytest.mark.slow),
    ],
)
def test_mixed_precision_fits_like_single(make):
    """The net runs in bfloat16: another fit, but as good a one; parameters keep their digits."""
    x = zoo.data.load("digits", binarize=True).train.reshape(-1, 8, 8)
    models = []
    for precision in (None, "bfloat16"):
        torch.manual_seed(0)
        solver = zoo.SVI(
            steps=60,
            batch_size=100,
            learning_rate=0.01,
            compile=False,
            clip_norm=1e5,
            precision=precision,
        )
        models.append(zoo.fit(make(), x, solver, progress=False).model)
    single, mixed = (float(m.log_prob(x).mean()) for m in models)
    assert mixed == pytest.approx(single, abs=0.1) and mixed != single
    assert all(p.dtype == torch.float32 for p in models[1].parameters())


def test_mixed_precision_gradients_of_nade():
    """Eight bits of each product: gradients agree to a percent of their size."""
    model = shaken(lambda: zoo.NADE(30, 11)).float()
    x = (torch.rand(200, 30) < 0.3).float()
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.score(x).mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        assert loss.dtype == torch.float32
    for exact, rounded in zip(*gradients, strict=True):
        error = float((exact - rounded).norm() / exact.norm())
        assert 0 < error < 0.02


def test_an_ensemble_of_orders_is_their_mixture():
    """Each net is fitted by itself, and rows are scored by the mean of their probabilities."""
    x = torch.randn(60, 3) @ torch.randn(3, 3)
    model = zoo.RNADE(3, 2, 8, "random", num_orders=3)
    assert len(model.orders.unique(dim=0)) > 1
    zoo.fit(model, x, zoo.SVI(steps=20, compile=False), progress=False)
    with torch.no_grad():
        each = torch.stack([model.score_member(x, k) for k in range(3)])
    assert torch.allclose(model.log_prob(x), each.exp().mean(0).log(), atol=1e-5)
    with torch.enable_grad():
        assert torch.allclose(model.score(x), each.mean(0), atol=1e-5)
