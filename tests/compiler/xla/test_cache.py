"""The cache of compiled programs is bounded, and what it evicts is freed."""

import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from tiny_models import Mean, line

import ppl_zoo as zoo
from ppl_zoo.compiler.xla import potential, svi_steps
from ppl_zoo.compiler.xla.cache import PROGRAMS, ProgramCache
from ppl_zoo.compiler.xla.lowering import to_jax
from ppl_zoo.compiler.xla.potential import XLAPotential
from ppl_zoo.solvers.nuts import numpyro_engine

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "memory.py"


class Program:
    """Something that can be referred to weakly."""


def executables():
    """Names of the compiled programs that are alive."""
    gc.collect()
    client = jax.local_devices()[0].client
    return [e.hlo_modules()[0].name for e in client.live_executables()]


@pytest.fixture
def small(monkeypatch):
    """A cache of two programs in place of that of all solvers."""
    programs = ProgramCache(2)
    for module in (potential, svi_steps, numpyro_engine):
        assert module.PROGRAMS is PROGRAMS
        monkeypatch.setattr(module, "PROGRAMS", programs)
    return programs


def test_the_least_recently_used_is_evicted_and_collected():
    programs, built = ProgramCache(2), []

    def build(key):
        def make():
            built.append(key)
            return Program()

        return programs.get(key, make)

    first, second = weakref.ref(build("a")), weakref.ref(build("b"))
    assert build("a") is first()
    build("c")
    assert len(programs) == 2 and built == ["a", "b", "c"]
    assert first() is not None and second() is None
    held = build("a")
    programs.clear()
    assert len(programs) == 0 and first() is held  # whoever runs it keeps it
    build("a")
    assert built == ["a", "b", "c", "a"]


def test_threads_that_build_the_same_program_share_one():
    programs, barrier = ProgramCache(2), threading.Barrier(4)
    found = []

    def build():
        barrier.wait(timeout=10)  # all build at once
        return Program()

    def ask():
        found.append(programs.get("a", build))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({id(program) for program in found}) == 1
    assert len(programs) == 1


def test_a_build_that_fails_leaves_nothing():
    programs = ProgramCache(2)

    def fail():
        raise ValueError("no program")

    with pytest.raises(ValueError, match="no program"):
        programs.get("a", fail)
    assert len(programs) == 0


@pytest.mark.slow
def test_evicted_potentials_are_freed(small):
    def energy(z, x):
        return ((z - x.mean()) ** 2).sum()

    def on(num_rows):
        data = torch.arange(float(num_rows))
        block = XLAPotential(energy, torch.zeros(2), (data,), 4)
        values, gradients = block(np.ones((4, 2), np.float32))
        assert np.isfinite(values).all() and gradients.shape == (4, 2)
        return weakref.ref(block.compiled)

    before = executables().count("jit_at_all")
    programs = [on(n) for n in range(3, 8)]
    assert executables().count("jit_at_all") == before + 2
    assert [program() is not None for program in programs] == [False, False, False, True, True]
    assert on(7)() is programs[-1]()
    small.clear()
    assert executables().count("jit_at_all") == before


@pytest.mark.slow
def test_evicted_steps_are_freed(small):
    svi = zoo.SVI(objective="stochastic", steps=4, window=2, compile="xla")
    before = executables().count("jit_run")
    for n in range(3, 7):
        fit = zoo.fit(Mean(), line(n), svi, progress=False, device="cpu")
        assert fit.solution.engine == "xla"
    assert len(small) == 2
    assert executables().count("jit_run") == before + 2
    small.clear()
    assert executables().count("jit_run") == before  # neither the fit nor JAX holds one


@pytest.mark.slow
def test_evicted_samplers_are_freed(small):
    nuts = zoo.NUTS(num_samples=4, num_warmup=4, num_chains=2)
    names = ("jit_run", "jit_start", "jit_values", "jit_gradients")
    before = [executables().count(name) for name in names]
    for n in range(3, 6):
        zoo.fit(Mean(), line(n), nuts, progress=False, device="cpu")
    assert [executables().count(name) for name in names] == [b + 2 for b in before]
    small.clear()
    assert [executables().count(name) for name in names] == before


def test_handing_data_over_compiles_nothing():
    before = len(executables())
    for n in range(3, 8):
        assert to_jax(torch.zeros(n, n + 1)).shape == (n, n + 1)
    assert len(executables()) == before


@pytest.mark.slow
def test_a_long_process_stays_within_its_bound():
    """Forty shapes, two fifths of them beyond the cache's bound."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import memory; "
        "print(json.dumps(memory.main(40, 10, quick=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(BENCHMARK.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    resident = json.loads(done.stdout.splitlines()[-1])
    assert resident["40"] - resident["3"] < 1000  # MB
