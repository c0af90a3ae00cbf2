"""Fuzzing: random programs, whose captured densities and gradients are held against Pyro's.

A program is composed of plates (nested, crossed, of chosen rows), latents of many supports,
discrete ones that are enumerated (also along a Markov chain), masks, scales, deterministic sites
and parameters that are used twice.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from functools import partial

import jax
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from potentials import by_enumeration
from pyro import poutine
from torch import nn
from torch.distributions import constraints

from ppl_zoo.compiler import capture
from ppl_zoo.compiler.xla.lowering import lower, to_jax
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.solvers.unconstrained import Unconstrained

ROWS, COLUMNS = 5, 3

CONTINUOUS = {
    "real": lambda v: dist.Normal(v, 1.5),
    "heavy": lambda v: dist.StudentT(4.0, v, 1.0),
    "positive": lambda v: dist.LogNormal(0.1 * v, 0.7),
    "rate": lambda v: dist.Gamma(2.0 + v.square(), 1.5),
    "interval": lambda v: dist.Beta(1.5 + v.square(), 2.0),
    "bounded": lambda v: dist.Uniform(v - 1.0, v + 2.0),
    "vector": lambda v: dist.Normal(v.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1),
    "simplex": lambda v: dist.Dirichlet(1.0 + v.square().unsqueeze(-1) + torch.ones(3)),
}
DISCRETE = {
    "bernoulli": lambda v: dist.Bernoulli(logits=v),
    "categorical": lambda v: dist.Categorical(
        logits=v.unsqueeze(-1) * torch.tensor([0.0, 0.5, -1.0])
    ),
}
OBSERVED = {
    "normal": lambda v: dist.Normal(v, 0.8),
    "laplace": lambda v: dist.Laplace(v, 1.2),
    "poisson": lambda v: dist.Poisson(v.clamp(-3, 3).exp()),
    "bernoulli": lambda v: dist.Bernoulli(logits=v),
}


class RandomProgram:
    """A program composed by a seed: a list of statements within plates."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.sizes = {"rows": (ROWS, -1), "columns": (COLUMNS, -2)}
        self.indices = torch.tensor(sorted(rng.sample(range(ROWS), 3)))
        self.subsampled = rng.random() < 0.2
        self.statements = [self._statement(rng, i) for i in range(rng.randint(2, 6))]
        self.chain = rng.random() < 0.3
        self.observation = (rng.choice(list(OBSERVED)), rng.choice(((), ("columns",))))
        self.mask, self.scale = rng.random() < 0.4, rng.choice([None, None, 0.5, 3.0])
        if self.chain or any(line["kind"] == "discrete" for line in self.statements):
            # Pyro takes one scale for all that is enumerated, and no support that depends on it
            self.scale, self.subsampled = None, False
            for line in self.statements:
                line["scale"] = None
                if line["family"] == "bounded":
                    line["family"] = "interval"

    def _statement(self, rng: random.Random, index: int) -> dict:
        kind = rng.choice(["latent"] * 5 + ["discrete", "parameter", "deterministic"])
        table = DISCRETE if kind == "discrete" else CONTINUOUS
        plates = [(), ("rows",), ("columns",), ("columns", "rows")]
        return {
            "name": f"{kind}_{index}",
            "kind": kind,
            "family": rng.choice(list(table)),
            "plates": rng.choice([("rows",), ()] if kind == "discrete" else plates),
            "uses": rng.random(),
            "scale": rng.choice([None, None, None, 2.0]),
        }

    def __call__(self, x: torch.Tensor, keep: torch.Tensor) -> None:
        """Run as a Pyro program; ``x (columns, rows)``."""
        chosen = self.indices if self.subsampled else torch.arange(ROWS)
        plates = {
            "rows": pyro.plate("rows", ROWS, subsample=chosen, dim=-1),
            "columns": pyro.plate("columns", COLUMNS, dim=-2),
        }
        values = [torch.tensor(0.3)]
        for line in self.statements:
            known = [v for v, within in self.known(values) if set(within) <= set(line["plates"])]
            base = known[int(line["uses"] * len(known))]
            with contextlib.ExitStack() as stack:
                if line["scale"]:
                    stack.enter_context(poutine.scale(scale=line["scale"]))
                for plate in line["plates"]:
                    stack.enter_context(plates[plate])
                values.append(self.run(line, base))
        loc = sum(v for v, _ in self.known(values)) / len(values)
        if self.chain:
            z: torch.Tensor | int = 0
            move = torch.tensor([[0.2, -0.4], [1.0, 0.3]])
            for t in pyro.markov(range(3)):
                z = pyro.sample(f"z_{t}", dist.Categorical(logits=move[z]))
                pyro.sample(f"w_{t}", dist.Normal(1.5 * z, 1.0), obs=x[0, t])
        family, within = self.observation
        y = x if within else x[0]
        y = (
            y.abs().round()
            if family == "poisson"
            else (y > 0).to(y)
            if family == "bernoulli"
            else y
        )
        with contextlib.ExitStack() as stack:
            for plate in (*within, "rows"):
                stack.enter_context(plates[plate])
            if self.mask:
                stack.enter_context(poutine.mask(mask=keep[chosen]))
            if self.scale:
                stack.enter_context(poutine.scale(scale=self.scale))
            loc = loc if within else self.without_columns(values)
            pyro.sample("y", OBSERVED[family](loc), obs=y[..., chosen])

    def known(self, values: list) -> list:
        """Values so far as numbers with the plates that they lie in."""
        plates = [(), *(line["plates"] for line in self.statements)]
        return list(zip(values, plates, strict=False))

    def without_columns(self, values: list) -> torch.Tensor:
        return sum(v for v, within in self.known(values) if "columns" not in within)

    def run(self, line: dict, base: torch.Tensor) -> torch.Tensor:
        name, kind = line["name"], line["kind"]
        if kind == "parameter":
            shared = pyro.param("shared", torch.tensor(1.3), constraint=constraints.positive)
            own = pyro.param(f"own.{name}", torch.tensor(-0.4))
            return base * shared + own
        if kind == "deterministic":
            return pyro.deterministic(name, (base * 0.7).tanh())
        if kind == "discrete":
            return 0.8 * pyro.sample(name, DISCRETE[line["family"]](base))
        value = pyro.sample(name, CONTINUOUS[line["family"]](base))
        return value.mean(-1) if line["family"] in ("vector", "simplex") else value


class Point(nn.Module):
    def __init__(self, z: torch.Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(z)


def ours(program, data, seed):
    """Density and gradient of the captured graph; of every tenth program lowered to JAX."""
    model = FunctionModel(program).double()
    rows = model.as_rows(data)
    with model.defaults():
        problem = Unconstrained(model, rows)
        z = torch.randn(problem.size, generator=torch.Generator().manual_seed(seed)).double()
        point = Point(z)
        captured = capture(lambda *d: problem.energy(point.z, *d), [point], problem.data)
    if seed % 10:
        with torch.no_grad():
            value, gradient = captured.graph(z, *problem.data)
        return problem, z, value.item(), gradient.numpy()
    with jax.enable_x64(True):
        lowered = jax.jit(partial(lower(captured), None))
        value, gradient = lowered(to_jax(z), *map(to_jax, problem.data))
    return problem, z, float(value), np.asarray(gradient)


def compare(seed):
    program = RandomProgram(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(COLUMNS, ROWS, generator=generator).double()
    data = (x, torch.rand(ROWS, generator=generator) < 0.7)
    if not any(line["kind"] == "latent" for line in program.statements):
        return False
    before = torch.get_default_dtype()
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem, z, value, gradient = ours(program, data, seed)
            other, their_gradient = by_enumeration(program, data, {}, problem, z)
    finally:
        torch.set_default_dtype(before)
        pyro.clear_param_store()
    np.testing.assert_allclose(value, other, rtol=1e-9, err_msg=f"program {seed}")
    np.testing.assert_allclose(
        gradient, their_gradient.numpy(), rtol=1e-7, atol=1e-9, err_msg=f"program {seed}"
    )
    return True


def test_some_random_programs():
    assert sum(compare(seed) for seed in range(4)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_two_thousand_random_programs(part):
    first = 100 + 230 * part
    assert sum(compare(seed) for seed in range(first, first + 230)) >= 200
