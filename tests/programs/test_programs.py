"""Programs of others go through unchanged: Pyro's numbers, and all that follows a fit."""

import warnings

import pyro
import pytest
import torch
from potentials import by_enumeration, by_potential_fn
from published import PUBLISHED
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed
from ppl_zoo.solvers.unconstrained import Unconstrained

for module in ("tutorials", "regressions", "sequences", "mixtures", "nets", "epidemics"):
    __import__(module)

#: programs that are compiled, exported and saved in the quick tests; the others in the slow ones
QUICK = {
    *("coin in mini-batches", "crossed plates", "a guide of blocks by EasyGuide", "HMM 1"),
    "arguments by name, a mapping, a flag and None",
}
#: programs that Pyro's NUTS takes, without latents to enumerate and with
SAMPLED = [
    *("coin", "a prior that depends on another", "eight schools, non-centred by a handler"),
    *("Bayesian regression by PyroSample", "baseball, partially pooled", "sparse regression"),
    *("Gaussian process, priors on its kernel", "a prior on correlations", "ordinal regression"),
    *("varying intercepts and slopes", "robust regression by auxiliary gammas", "crossed plates"),
    *(
        "HMM 7",
        "Gaussian HMM",
        "autoregression in pyro.markov",
        "SEIR continuous",
        "nested plates",
    ),
]
ENUMERATED = [
    *("captures, one rate of survival", "captures, a rate of survival each season", "HMM 1"),
    *("HMM 4", "HMM 6", "two normals at their mode", "Dirichlet process mixture", "topics"),
    *("answers known, guessed or slipped", "SIR enumerated", "SIR relaxed"),
]
CPU = torch.device("cpu")


def cases(quick):
    """Every program, those that are not named marked slow."""
    assert quick <= PUBLISHED.keys()
    return [
        pytest.param(p, id=name, marks=[] if name in quick else [pytest.mark.slow])
        for name, p in PUBLISHED.items()
    ]


#: programs whose numbers are held in the quick tests: one of each idiom
IDIOMS = QUICK.union(SAMPLED, ENUMERATED)
WHOLE = cases(QUICK)


@pytest.fixture(autouse=True)
def empty_store():
    pyro.clear_param_store()
    with warnings.catch_warnings():
        # what programs are warned of by Pyro as well: latents that a guide leaves out
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        warnings.filterwarnings("ignore", message="the guide leaves out the latents")
        yield
    pyro.clear_param_store()


def make(case):
    """Model, guide and data anew, nets from one seed; an autoguide class made an object."""
    with fork_generators(CPU):
        torch.manual_seed(0)
        return case.make()


def fitted(case, **options):
    model, guide, data = make(case)
    solver = zoo.SVI(guide=guide, elbo=case.elbo(), **options)
    return zoo.fit(model, data, solver, progress=False), model, guide


@pytest.mark.parametrize("case", cases(IDIOMS))
def test_pyros_numbers(case):
    """Losses and parameters of Pyro's own SVI, step by step, from the same noise."""
    steps, rate = 4, 0.01
    model, guide, data = make(case)
    args, kwargs = ((), data) if isinstance(data, dict) else (data, {})
    with fork_generators(CPU):
        if guide is None or isinstance(guide, type):
            guide = (guide or AutoNormal)(model)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": rate}), case.elbo())
        svi.evaluate_loss(*args, **kwargs)  # declares the parameters
        losses = []
        for step in range(steps):
            set_seed(chain_seed(0, 0, step), CPU)
            losses.append(svi.step(*args, **kwargs))
    theirs = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    options = {"steps": steps, "learning_rate": rate, "schedule": "constant", "compile": False}
    ours = fitted(case, objective="stochastic", **options)[0]
    assert [-v for v in ours.history["objective"][0]] == pytest.approx(losses, rel=2e-4, abs=1e-3)
    found = ours.params
    assert found.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("case", WHOLE)
def test_compiled_or_told_why_not(case, monkeypatch):
    monkeypatch.setattr("ppl_zoo.solvers.svi.engines.COMPILE_FROM", 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit, _, _ = fitted(case, steps=3, objective="stochastic")
    said = [str(w.message) for w in told if "uncompiled" in str(w.message)]
    if case.falls_back:
        assert fit.solution.engine == "interpreted"
        assert len(said) == 1 and case.falls_back in said[0]
        assert __file__.rpartition("/")[0] in said[0] or "the program" in said[0]
    else:
        assert (fit.solution.engine, said) == ("xla", [])


@pytest.mark.parametrize("case", [c for c in WHOLE if c.values[0].exports])
def test_what_follows_a_fit(case, tmp_path):
    fit, model, guide = fitted(case, steps=5, compile=False, objective="stochastic")
    assert fit.model.model_name == getattr(model, "__name__", type(model).__name__)
    draws = fit.posterior(8)
    assert draws and all(v.shape[:2] == (1, 8) for v in draws.values())
    exported = fit.to_arviz(8)
    assert exported["posterior"].sizes["draw"] == 8
    assert fit.check(num_samples=20).verdict is not None
    own = None if guide is None or isinstance(guide, type) else guide
    again = zoo.load(fit.save(tmp_path / "run"), model=model, guide=own)
    assert again.params.keys() == fit.params.keys()
    for name, value in fit.posterior(8).items():
        torch.testing.assert_close(again.posterior(8)[name], value)


@pytest.mark.parametrize("name", SAMPLED + ENUMERATED)
def test_potential_of_nuts(name):
    """NUTS' potential and its gradient are Pyro's.

    With latents summed out they are those of ``TraceEnum_ELBO``: ``potential_fn`` leaves out masks
    and scales of enumerated sites, so that each masked state adds the log of their number.
    """
    model, _, data = make(PUBLISHED[name])
    args, kwargs = ((), data) if isinstance(data, dict) else (data, {})
    own = FunctionModel(model)
    with own.defaults():
        problem = Unconstrained(own, own.as_rows(data))
        z = 0.3 * torch.randn(problem.size)
        energy = problem.energy(z.requires_grad_(), *problem.data)
        (gradient,) = torch.autograd.grad(energy, z)
    assert bool(problem.summed_out) == (name in ENUMERATED)
    theirs = by_enumeration if name in ENUMERATED else by_potential_fn
    pyro.clear_param_store()
    value, their_gradient = theirs(model, args, kwargs, problem, z)
    assert energy.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-3, atol=1e-3)


def test_a_density_that_is_noise_is_refused_by_nuts():
    """Pyro's Binary likelihood draws the process's value outside of a sample site."""
    model, _, data = make(PUBLISHED["Gaussian process, variational"])
    with pytest.raises(DataError, match="draws outside of its sample sites"):
        zoo.fit(model, data, zoo.NUTS(5, 5, num_chains=1), progress=False)
