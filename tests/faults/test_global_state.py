"""Global state: what a caller has set is the same after each solver, export and plot as before."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # half a minute, in a process of its own

#: run in a process of its own, in which nothing has been compiled, exported or drawn before
SCRIPT = r"""
import json, logging, os, signal, sys, warnings
import jax, matplotlib, numpy, pyro, torch
# these add filters of warnings, loggers and variables of their own, whoever imports them
import arviz, numpyro, sympy, torch._dynamo, torch._inductor.config
import matplotlib.pyplot, numpyro.infer, pandas, requests, scipy.sparse, scipy.stats
import torch._inductor.runtime.runtime_utils, torch._inductor.utils

# a caller's own settings, none of them a default
torch.set_default_dtype(torch.float32)
torch.manual_seed(17)
numpy.random.seed(18)
pyro.param("callers", torch.ones(2))
warnings.filterwarnings("error", message="of the caller")
matplotlib.rcParams["font.size"] = 11.5


def settings():
    loggers = dict(logging.root.manager.loggerDict) | {"root": logging.root}
    return {
        "torch dtype": str(torch.get_default_dtype()),
        "torch device": str(torch.get_default_device()),
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch gradients": torch.is_grad_enabled(),
        "torch random state": torch.random.get_rng_state().tolist(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "torch precision": torch.get_float32_matmul_precision(),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "numpy random state": numpy.random.get_state()[1].tolist(),
        "numpy errors": numpy.geterr(),
        "numpy printing": str(numpy.get_printoptions()),
        "python random state": str(__import__("random").getstate()),
        "pyro store": sorted(pyro.get_param_store().keys()),
        "pyro settings": {k: str(v) for k, v in pyro.settings.get().items()},
        "pyro handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "warnings": [str(f) for f in warnings.filters],
        "jax": {k: str(v) for k, v in jax.config.values.items()},
        "matplotlib": {k: str(v) for k, v in dict(matplotlib.rcParams).items()},
        "logging": {
            name: [log.level, [type(h).__name__ for h in log.handlers], log.propagate]
            for name, log in loggers.items()
            if isinstance(log, logging.Logger) and (log.level or log.handlers)
        },
        "logging disabled": logging.root.manager.disable,
        "environment": dict(os.environ),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "recursion": sys.getrecursionlimit(),
        "hook": str(sys.excepthook),
    }


def changes(before, after):
    found = {}
    for key, old in before.items():
        new = after[key]
        if isinstance(old, dict) and old != new:
            names = sorted({*old, *new})
            found |= {f"{key}: {n}": new.get(n) for n in names if old.get(n) != new.get(n)}
        elif old != new:
            found[key] = str(new)[:200]
    return found


before, report = settings(), {}


def done(name):
    global before
    after = settings()
    report[name] = changes(before, after)
    before = after


import ppl_zoo as zoo
from ppl_zoo import diagnostics

[getattr(zoo, name) for name in zoo.__all__]
done("import")

options = {"progress": False}
net = {"num_inputs": 4, "down": (8, 8), "up": (8, 8), "skip": (2, 0)}
photo = zoo.DeepImagePrior((1, 14, 17), net=net, precision="full")
before = settings()  # weights are drawn as those of any torch module are
x = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(30, 2).sin()
pair = (x[:, :1].float(), x[:, 1].float())


def fit(*arguments, name):
    try:
        made = zoo.fit(*arguments, **options)
    finally:
        done(name)
    return made


fit(zoo.GaussianMixture(2, 2), x, zoo.EM(steps=2), name="EM")
cavi = fit(zoo.BayesianGaussianMixture(2, 2), x, zoo.CAVI(steps=2), name="CAVI")
interpreted = zoo.SVI(steps=2, compile=False, objective="stochastic")
fit(zoo.LinearRegression(1), pair, interpreted, name="SVI, interpreted")
stochastic = zoo.SVI(steps=2, objective="stochastic")
fit(zoo.LinearRegression(1), pair, stochastic, name="SVI, compiled")
fit(zoo.LinearRegression(1).double(), pair, zoo.SVI(steps=5), name="SVI, fixed draws")
sampler = zoo.NUTS(num_samples=5, num_warmup=5, num_chains=1)
fit(zoo.LinearRegression(1).double(), pair, sampler, name="NUTS")
fit(zoo.LinearRegression(1), pair, zoo.SGLD(steps=8, num_warmup=2, num_samples=3), name="SGLD")
images = (torch.rand(1, 1, 14, 17, generator=torch.Generator()), torch.full((1,), 0.1))
fit(photo, images, zoo.EarlyStopping(2, rule="none"), name="EarlyStopping")
try:
    fit(zoo.GaussianMixture(2, 2), torch.zeros(9, 2), name="an error")
except zoo.DataError:
    pass

cavi.check(num_samples=50)
done("check")
idata = cavi.to_arviz(num_samples=10)
diagnostics.summary(idata)
done("export")
for plot in ("plot_fit", "plot_history", "plot_posterior", "plot_samples"):
    getattr(diagnostics, plot)(cavi).savefig(os.devnull, format="png", dpi=30)
done("plot")
zoo.load(cavi.save(sys.argv[1]))
done("save and load")
print(json.dumps(report))
"""

#: all that is set for good, by the first program that XLA compiles: see docs/global_state.md
FOR_XLA = {
    "environment: XLA_PYTHON_CLIENT_PREALLOCATE",
    "jax: jax_compilation_cache_dir",
    "jax: jax_compilation_cache_max_size",
}
#: a user's settings of the same, which would come first
OWN_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE")
STEPS = (
    "import",
    "EM",
    "CAVI",
    "SVI, interpreted",
    "SVI, compiled",
    "SVI, fixed draws",
    "NUTS",
    "SGLD",
    "EarlyStopping",
    "an error",
    "check",
    "export",
    "plot",
    "save and load",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    kept = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
    kept |= {"PPL_ZOO_XLA_CACHE": str(folder.parent / "xla")}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", STEPS)
def test_a_callers_settings_stay(report, step):
    assert set(report) == set(STEPS)
    changed = {name: value for name, value in report[step].items() if name not in FOR_XLA}
    assert changed == {}


def test_xla_is_set_up_once(report):
    changed = [name for step in report.values() for name in step]
    assert sorted(changed) == sorted(FOR_XLA)
