"""The progress bar: time that is left is told only where the end is known."""

import io

import pytest
import torch
from tqdm import tqdm

import ppl_zoo as zoo
from ppl_zoo.solvers import loop

X = torch.linspace(-1.0, 1.0, 40)[:, None].expand(40, 2) * torch.tensor([1.0, -0.5])


def told(monkeypatch, model, solver, data=X):
    """What a terminal would have shown."""
    shown = io.StringIO()

    def bar(**options):
        return tqdm(**{**options, "disable": False, "file": shown, "mininterval": 0.0})

    monkeypatch.setattr(loop, "tqdm", bar)
    zoo.fit(model, data, solver)
    return shown.getvalue()


@pytest.mark.parametrize(
    "solver", [zoo.EM(steps=1000), zoo.SVI(steps=50, compile=False)], ids=["EM", "SVI"]
)
def test_no_time_is_left_where_a_rule_ends_the_fit(monkeypatch, solver):
    text = told(monkeypatch, zoo.GaussianMixture(2, 2), solver)
    assert " steps [" in text and "objective" in text
    assert "%|" not in text and "<" not in text and f"/{solver.steps}" not in text


def test_a_sampler_tells_what_is_left(monkeypatch):
    pair = (X[:, :1], X[:, 0])
    text = told(monkeypatch, zoo.LinearRegression(1), zoo.SGLD(8, 2, num_samples=4), pair)
    assert "10/10" in text and "100%|" in text
