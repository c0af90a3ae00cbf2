"""Run directories of each kind of solver: how those in `old_runs/` were made.

They were written by the code of commit 8cec48a, before the package moved to its present layout,
but for "auto", which came with that solver; all have to load for good. To make others, with the
wanted version installed: `python tests/fitting/make_old_runs.py FOLDER`. It also writes
`expected.json`: of each run its objective, its steps, and the mean of each latent's draws.
"""

import json
import sys
from pathlib import Path

import torch
from own_model import Shifted

import ppl_zoo as zoo

torch.manual_seed(0)
SCHOOLS = zoo.data.load("eight-schools")
ROWS = torch.tensor([-1.0, 0.5, 2.0, 2.5, -0.3])
POINTS = torch.cat([torch.randn(12, 2), torch.randn(12, 2) + 5.0])
BINARY = (torch.rand(20, 6) < 0.4).float()
IMAGE = torch.linspace(0.2, 0.8, 64).reshape(1, 8, 8)
NOISE = torch.full((1,), 0.1)
PATCHES = zoo.GaussianMixture(num_components=2, num_features=9)
NET = {"num_inputs": 2, "down": (4,), "up": (4,), "skip": (0,)}

RUNS = {
    "svi-fixed-draws": (zoo.EightSchools, SCHOOLS, zoo.SVI(steps=50)),
    "svi-stochastic": (
        zoo.EightSchools,
        SCHOOLS,
        zoo.SVI(steps=30, objective="stochastic", restarts=2, compile=False),
    ),
    "svi-xla": (
        zoo.EightSchools,
        SCHOOLS,
        zoo.SVI(steps=30, objective="stochastic", compile="xla"),
    ),
    "auto": (zoo.EightSchools, SCHOOLS, zoo.Auto()),
    "svi-net": (lambda: zoo.VAE(6, 2, (4,)), BINARY, zoo.SVI(steps=10)),
    "em": (lambda: zoo.GaussianMixture(2, 2), POINTS, zoo.EM(steps=20)),
    "cavi": (lambda: zoo.BayesianGaussianMixture(2, 2), POINTS, zoo.CAVI(steps=20)),
    "cavi-stochastic": (
        lambda: zoo.BayesianGaussianMixture(2, 2),
        POINTS,
        zoo.CAVI(steps=5, stochastic=True),
    ),
    "nuts-numpyro": (
        zoo.EightSchools,
        SCHOOLS,
        zoo.NUTS(num_samples=20, num_warmup=20, num_chains=2),
    ),
    "nuts-pyro": (
        lambda: Shifted(torch.ones(2)),
        ROWS,
        zoo.NUTS(num_samples=5, num_warmup=5, num_chains=1, backend="pyro"),
    ),
    "sgld": (
        lambda: Shifted(torch.ones(2)),
        ROWS,
        zoo.SGLD(steps=40, num_warmup=10, num_samples=10),
    ),
    "early-stopping": (
        lambda: zoo.DeepImagePrior((1, 8, 8), net=NET),
        (IMAGE[None], NOISE),
        zoo.EarlyStopping(10),
    ),
    "tiling": (lambda: zoo.EPLL.of(PATCHES), (IMAGE, NOISE), zoo.Tiling(num_samples=8)),
    "split-gibbs": (
        lambda: zoo.EPLL.of(PATCHES),
        (IMAGE, NOISE),
        zoo.SplitGibbs(num_samples=8, sweeps=1),
    ),
    "own-model": (lambda: Shifted(torch.ones(2), 0.7), ROWS, zoo.SVI(steps=20)),
}


def summary(fit):
    """What a loaded run has to say again: objective, steps, and the mean of each latent."""
    objective = fit.objective
    draws = fit.posterior(8)
    return {
        "objective": None if objective != objective else objective,
        "steps": list(fit.solution.steps),
        "model": type(fit.model).__name__,
        "solver": type(fit.solver).__name__,
        "posterior": {k: float(v.double().mean()) for k, v in sorted(draws.items())},
    }


def main(folder):
    expected = {}
    for name, (make, data, solver) in RUNS.items():
        torch.manual_seed(1)
        fit = zoo.fit(make(), data, solver, progress=False)
        fit.save(folder / name)
        expected[name] = summary(fit)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
