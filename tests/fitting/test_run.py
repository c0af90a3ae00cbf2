"""fit(): what it takes, what it refuses, what it leaves alone."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import Coins, Groups, Mean, binary, line

import ppl_zoo as zoo


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: (x,),
        lambda x: {"x": x},
        lambda x: x.tolist(),
        lambda x: x.numpy()[::-1],
    ],
    ids=["tensor", "array", "float64", "tuple", "mapping", "list", "negative stride"],
)
def test_kinds_of_data(given, request):
    fit = zoo.fit(Mean(), given(line(8)), zoo.SVI(steps=5), progress=False)
    double = request.node.callspec.id in ("float64", "list")  # Python's numbers are double
    assert fit.data()[0].dtype == (torch.float64 if double else torch.float32)


def test_a_data_frame():
    import pandas

    frame = pandas.DataFrame(binary().numpy(), columns=list("abcd"))
    assert zoo.fit(Coins(), frame, zoo.EM(steps=2), progress=False).objective < 0


BAD = {
    "NaN": (lambda: torch.tensor([1.0, float("nan")]), r"x: got nan at \(1,\), expected finite"),
    "infinity": (lambda: torch.tensor([1.0, float("inf")]), r"x: got inf at \(1,\)"),
    "empty": (lambda: torch.zeros(0), "got no rows"),
    "a number": (lambda: torch.tensor(1.0), "got a single number"),
    "text": (lambda: np.array(["a", "b"]), "expected numbers"),
    "other name": (lambda: {"y": torch.zeros(3)}, "got 'y', expected the names"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case):
    make, message = BAD[case]
    with pytest.raises(zoo.DataError, match=message):
        zoo.fit(Mean(), make(), progress=False)


def test_bad_arguments():
    with pytest.raises(zoo.DataError, match=r"expected a zoo\.Model"):
        zoo.fit("model", line(), progress=False)
    # without the tests' own check of types, which would answer first
    unchecked_fit = inspect.unwrap(zoo.fit)
    with pytest.raises(zoo.DataError, match="expected zoo.SVI"):
        unchecked_fit(Mean(), line(), "svi", progress=False)
    with pytest.raises(zoo.DataError, match="not available here"):
        zoo.fit(Mean(), line(), device="cuda:99", progress=False)


def test_queries_before_a_fit_say_so():
    with pytest.raises(zoo.QueryError, match="has not been fitted"):
        Mean().log_prob(line())
    with pytest.raises(zoo.QueryError, match="fit it first"):
        Mean().sample(3)


def test_seeds():
    def fitted(seed):
        return zoo.fit(Groups(), line(5), zoo.SVI(steps=10), seed=seed, progress=False)

    assert np.array_equal(fitted(1).history["objective"], fitted(1).history["objective"])
    assert not np.array_equal(fitted(1).history["objective"], fitted(2).history["objective"])
    assert torch.equal(fitted(1).posterior(5)["mu"], fitted(1).posterior(5)["mu"])


def test_float64_throughout():
    fit = zoo.fit(Groups().double(), line(5), zoo.SVI(steps=5), progress=False)
    assert {v.dtype for v in fit.posterior(3).values()} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32


def test_posterior_has_chains_first_and_the_best_chain_in_the_model():
    fit = zoo.fit(Mean(), line(8), zoo.SVI(steps=30, restarts=3), progress=False)
    assert fit.posterior(7)["mu"].shape == (3, 7)
    best = fit.solution.best
    assert fit.solution.objective[best] == fit.solution.objective.max()
    key = "guide.locs.mu_unconstrained"
    assert torch.equal(
        fit.guide.locs.mu_unconstrained.detach(), fit.solution.parameters[key][best]
    )


def test_khat():
    exact = zoo.fit(Coins(), binary(), zoo.EM(), progress=False)
    assert np.isnan(exact.khat()).all()  # constant weights: nothing to diagnose
    best = zoo.fit(Mean(), line(), progress=False)
    assert np.isnan(best.khat()).all()  # the family holds the posterior, and the fit finds it
    fitted = zoo.fit(Mean(), line(), zoo.SVI(objective="stochastic"), progress=False)
    assert fitted.khat()[0] < 0.7
    worse = zoo.fit(Mean(), line(), zoo.SVI(steps=1), progress=False)
    assert worse.khat()[0] > 0.7


def test_sample_holds_given_latents_fixed():
    fit = zoo.fit(Mean(), line(), zoo.SVI(steps=20), progress=False)
    far = fit.model.sample(200, given={"mu": torch.tensor(100.0)})
    assert far.mean().item() == pytest.approx(100.0, abs=0.5)


def test_a_model_without_the_method_model():
    with pytest.raises(TypeError, match="has no method 'model'"):
        zoo.fit(zoo.Model(), line(), progress=False)


def test_progress_is_silent_away_from_a_terminal(capsys):
    zoo.fit(Mean(), line(), zoo.SVI(steps=5), progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_import_is_light():
    """Packages that come in beside Pyro's own are counted, not seconds."""
    code = (
        "import sys, pyro; before = set(sys.modules); import ppl_zoo.surface;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    brought = set(done.stdout.split()) - set(sys.stdlib_module_names)
    # numpy and safetensors: files of packages that Pyro and torch have brought in before
    assert brought == {"ppl_zoo", "jaxtyping", "safetensors", "numpy"}
