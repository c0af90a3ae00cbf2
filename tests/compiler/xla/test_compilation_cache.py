"""Programs that XLA compiled are there for the next process."""

import os
import subprocess
import sys

import pytest

FIT = """
import torch, ppl_zoo as zoo
fit = zoo.fit(
    zoo.EightSchools(),
    zoo.data.load("eight-schools"),
    zoo.NUTS(num_samples=5, num_warmup=200, num_chains=2),
    progress=False,
    device="cpu",
)
print(fit.posterior()["tau"].sum().item())
"""


def run(**settings):
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-W", "ignore", "-c", FIT]
    done = subprocess.run(
        command, env={**kept, **settings}, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = tmp_path / "programs"
    first = run(PPL_ZOO_XLA_CACHE=str(folder))
    files = {f.name for f in folder.iterdir() if f.name.endswith("-cache")}
    assert files
    assert run(PPL_ZOO_XLA_CACHE=str(folder)) == first
    assert {f.name for f in folder.iterdir() if f.name.endswith("-cache")} == files
    own = tmp_path / "own"  # JAX's own setting comes first
    run(PPL_ZOO_XLA_CACHE=str(tmp_path / "not"), JAX_COMPILATION_CACHE_DIR=str(own))
    assert own.exists() and not (tmp_path / "not").exists()


@pytest.mark.slow
def test_nothing_is_kept_where_that_is_switched_off(tmp_path):
    run(PPL_ZOO_XLA_CACHE="off", XDG_CACHE_HOME=str(tmp_path))
    assert not (tmp_path / "ppl_zoo" / "xla").exists()
