"""Steps by Inductor are the interpreter's steps, for the same noise."""

import numpy as np
import pytest
import torch
from test_capture import Branches
from tiny_models import Chain, Groups, Mean, binary, line

import ppl_zoo as zoo
from ppl_zoo.compiler import inductor


def fitted(model, data, mode, **options):
    torch.manual_seed(0)
    device = options.pop("device", "cpu")
    svi = zoo.SVI(**{"steps": 40, "compile": mode, **options})
    return zoo.fit(model(), data, svi, progress=False, device=device)


def agree(one, other, rtol):
    assert (one.solution.engine, other.solution.engine) == ("inductor", "interpreted")
    np.testing.assert_allclose(one.history["objective"], other.history["objective"], rtol=rtol)
    for name, value in other.solution.parameters.items():
        torch.testing.assert_close(one.solution.parameters[name], value, rtol=rtol, atol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (Groups, line(6), {"restarts": 2}),
        (Chain, binary(30, 3), {"batch_size": 8, "clip_norm": 0.5}),
        (Mean, line(6), {"optimizer": torch.optim.RMSprop, "elbo": "mean-field"}),
    ],
    ids=["chains", "batches", "optimizer"],
)
def test_inductor_takes_the_interpreters_steps(model, data, options):
    runs = [fitted(model, data, mode, **options) for mode in ("inductor", False)]
    agree(*runs, rtol=2e-3)


@pytest.mark.slow
def test_resuming_equals_never_stopping():
    whole = fitted(Groups, line(6), "inductor")
    part = fitted(Groups, line(6), "inductor", steps=15)
    svi = zoo.SVI(steps=40, compile="inductor")
    rest = zoo.fit(part.model, line(6), svi, resume=part, progress=False, device="cpu")
    assert np.array_equal(rest.history["objective"], whole.history["objective"])


def test_without_a_compiler_it_says_so_and_interprets(monkeypatch):
    monkeypatch.setattr(inductor, "lacks", lambda device: "Inductor found no C++ compiler")
    with pytest.warns(UserWarning, match="uncompiled: Inductor found no C"):
        fit = fitted(Mean, line(6), "inductor", steps=5)
    assert fit.solution.engine == "interpreted"


def test_a_missing_compiler_is_noticed(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    assert "no C++ compiler" in inductor.lacks(torch.device("cpu"))
    assert inductor.lacks(torch.device("cuda")) is None


def test_programs_without_a_graph_name_their_line():
    with pytest.warns(UserWarning, match="a graph stops at .*test_capture.py"):
        fit = fitted(Branches, line(6), "inductor", steps=5)
    assert fit.solution.engine == "interpreted"


@pytest.mark.gpu
@pytest.mark.slow
def test_cuda_graphs_take_the_interpreters_steps(cuda):
    runs = [fitted(Groups, line(6), m, restarts=2, device=cuda) for m in ("inductor", False)]
    agree(*runs, rtol=2e-3)
