"""Graphical models of the published programs, held against effects that are measured.

The oracle knows nothing of data flow: all sites are held at their values, one is moved, and it is
seen whose distribution changes.
"""

import pyro
import pytest
import torch
from published import PUBLISHED
from pyro import poutine
from torch.distributions import biject_to

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.random import fork_generators
from ppl_zoo.core.tracing.sites import base_of, feasible_point, is_sample
from ppl_zoo.core.tracing.traceable import traceable

for module in ("tutorials", "regressions", "sequences", "mixtures", "nets", "epidemics"):
    __import__(module)

#: one of each idiom; the others are slow
QUICK = {
    *("eight schools, non-centred by a handler", "sparse regression", "Gaussian process, sparse"),
    *("captures, one rate of survival", "HMM 6", "topics", "ordinal regression", "local level"),
    *("bias of each coin in mini-batches", "rows of unlike lengths under a mask"),
    *("crossed plates", "nested plates", "a guide of blocks by EasyGuide"),
}
#: edges without an effect, whatever the values: of terms that are 0 or masked in these data
_DECENTRED = {("mu", "theta_decentered"), ("tau", "theta_decentered")}  # centred by 0
_UNSEEN = {("rho", "y_0"), ("z_0", "y_0")}  # no animal is caught before its first capture
WITHOUT_EFFECT: dict[str, set[tuple[str, str]]] = {
    "eight schools, non-centred by a handler": _DECENTRED,
    "captures, one rate of survival": {*_UNSEEN, ("phi", "z_0")},
    "captures, a rate of survival each season": _UNSEEN,
    # states clamped at the population's size
    "SIR relaxed": {("I_aux", "I_1"), ("S_aux", "S_1"), ("rho", "obs_2")},
    "SIR enumerated": {("S_1", "obs_2"), ("rho", "obs_2")},
}
CASES = [pytest.param(n, id=n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in PUBLISHED]
#: points at which effects are looked for
NUM_POINTS = 2
CPU = torch.device("cpu")


class Hold(poutine.messenger.Messenger):
    """Hold every site at a value, and keep the log densities that these values have then."""

    def __init__(self, values, point):
        super().__init__()
        self.values, self.scores, self.fns, self.point = values, {}, {}, point

    def _pyro_sample(self, msg):
        if is_sample(msg) and msg["value"] is None:
            known = self.values.get(msg["name"])
            if known is None:  # no point of symmetry, where effects vanish
                known = feasible_point(msg["fn"])
                known = None if known is None else moved(known, msg["fn"], 7 + self.point)
            msg["value"] = known

    def _pyro_post_sample(self, msg):
        if not is_sample(msg):
            return
        name, fn = msg["name"], msg["fn"]
        value = self.values.setdefault(name, torch.as_tensor(msg["value"]))
        self.fns[name] = fn
        if isinstance(base_of(fn), pyro.distributions.Delta):
            self.scores[name] = base_of(fn).v
        else:
            score = fn.log_prob(value) * msg["scale"]
            mask = msg["mask"]
            if mask is not None:
                score = torch.where(torch.as_tensor(mask), score, torch.zeros(()))
            self.scores[name] = score
        msg["value"] = value


def run(program, data, values, point):
    with fork_generators(CPU), torch.no_grad(), traceable():
        torch.manual_seed(point)
        with Hold(values, point) as held:
            program(*data)
    return held


def moved(value, fn, seed):
    """Return another value in the support; None where there is no other."""
    with fork_generators(CPU):
        torch.manual_seed(seed)
        return _moved(value, fn, seed) if value.numel() else None


def _moved(value, fn, seed):
    if not value.is_floating_point() or getattr(fn, "has_enumerate_support", False):
        try:
            states = fn.enumerate_support(expand=False).flatten()
        except (NotImplementedError, ValueError, RuntimeError):
            return value + 1
        if not len(states):
            return None
        other = states[torch.randint(0, len(states), value.shape)]
        first = states[0].expand_as(value)
        return torch.where(other == value, first, other) if seed else first
    try:
        transform = biject_to(fn.support)
        u = transform.inv(value)
        return transform(u + 0.3 * torch.randn_like(u))
    except (NotImplementedError, AttributeError):
        return value + 0.1 * torch.randn_like(value)


def effects(program, data, deterministic):
    """Pairs of a site that is moved and a site whose distribution changes."""
    found = set()
    for point in range(NUM_POINTS):
        values = run(program, data, {}, point).values
        before = run(program, data, dict(values), point)
        for name, value in values.items():
            for seed in range(2):
                other = (
                    value + 0.1 if name in deterministic else moved(value, before.fns[name], seed)
                )
                if other is None:
                    continue
                try:
                    after = run(program, data, values | {name: other}, point)
                except RuntimeError:  # a program that cannot run there
                    continue
                found |= {
                    (name, target)
                    for target, score in before.scores.items()
                    if target != name and not same(score, after.scores[target])
                }
    return found


def same(one, other):
    return one.shape == other.shape and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


@pytest.mark.parametrize("name", CASES)
def test_edges_are_the_effects(name):
    pyro.clear_param_store()
    with fork_generators(CPU):
        torch.manual_seed(0)
        model, _, data = PUBLISHED[name].make()
    graph = zoo.render(model, data)
    assert str(graph).startswith(graph.name) and graph.to_dot().startswith("digraph")
    own = FunctionModel(model)
    rows = own.as_rows(data)
    kinds = {n: node.kind for n, node in graph.nodes.items()}
    with own.defaults():
        tensors = rows.all()
        own(*tensors)
        found = effects(own, tensors, {n for n, k in kinds.items() if k == "deterministic"})
    of_sites = {(a, b) for a, b in graph.edges if kinds[a] not in ("parameter", "input")}
    assert not found - of_sites
    assert of_sites - found == WITHOUT_EFFECT.get(name, set())
