"""Published Pyro programs: compiled or why not, and a step beside Pyro's own.

The programs of `tests/programs/` go unchanged through `zoo.fit`. A compiled step's time is
that of the blocks of steps after the first, so that capturing and compiling do not count (their
cost is the column beside it); Pyro's is that of `pyro.infer.SVI.step` with the same bound,
guide and Adam. CPU seconds, one thread, one after the other in one run.

    python benchmarks/programs.py            # writes results/programs.json, docs/programs.md
    python benchmarks/programs.py --only HMM # renews the rows of these programs
    python benchmarks/programs.py --page     # docs/programs.md anew from the record
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["PPL_ZOO_XLA_CACHE"] = "off"

import argparse
import dataclasses
import json
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median
from unittest import mock

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal

import ppl_zoo as zoo
from ppl_zoo.compiler.xla import svi_steps
from ppl_zoo.solvers.svi.engines import COMPILE_FROM

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "programs.json"
PAGE = ROOT / "docs" / "programs.md"
sys.path.insert(0, str(ROOT / "tests" / "programs"))

from published import PUBLISHED  # noqa: E402  (a module of the tests)

for module in ("tutorials", "regressions", "sequences", "mixtures", "nets", "epidemics"):
    __import__(module)

RATE = 0.001
#: CPU seconds that steps are measured over, at most so many of them, and steps of a block
MEASURED, MOST, WINDOW = 0.5, 10_000, 1000


def made(case):
    """Model, guide and data of a program, its nets from one seed."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    return case.make()


def time_pyro(case):
    """CPU seconds of one `SVI.step`."""
    model, guide, data = made(case)
    args, kwargs = ((), data) if isinstance(data, dict) else (data, {})
    if guide is None or isinstance(guide, type):
        guide = (guide or AutoNormal)(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), case.elbo())
    svi.step(*args, **kwargs)
    steps, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < MEASURED or steps < 3:
        svi.step(*args, **kwargs)
        steps += 1
    pyro.clear_param_store()
    return spent / steps


def time_ours(case):
    """How the zoo runs it: engine, reason, CPU seconds of a step and until the first one."""
    blocks, run = [], svi_steps.Stepper.run

    def timed(self, steps, rates, *rest):
        if len(blocks) > 1 and sum(seconds for _, seconds in blocks[1:]) > MEASURED:
            raise KeyboardInterrupt  # the fit ends with what it has
        begun = time.process_time()
        values = run(self, steps, rates, *rest)
        blocks.append((len(rates), time.process_time() - begun))
        return values

    model, guide, data = made(case)
    options = {"guide": guide, "elbo": case.elbo(), "learning_rate": RATE}
    options |= {"tol": 0.0, "parameter_tol": 0.0, "schedule": "constant", "window": WINDOW}
    solver = zoo.SVI(steps=MOST, objective="stochastic", **options)
    begun = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with mock.patch.object(svi_steps.Stepper, "run", timed):
            if case.falls_back:
                solver = dataclasses.replace(solver, steps=COMPILE_FROM)
            done = zoo.fit(model, data, solver, progress=False, device="cpu")
    spent = time.process_time() - begun
    reason = [str(w.message) for w in told if "uncompiled" in str(w.message)]
    if done.solution.engine != "xla":
        return done.solution.engine, "".join(reason[:1]), None, None
    measured = blocks[1:]
    step = sum(seconds for _, seconds in measured) / sum(count for count, _ in measured)
    return "xla", "", step, spent - sum(seconds for _, seconds in measured)


def shown(record):
    """Render the page of the documentation from a record."""
    rows = record["programs"]
    ratios = [r["pyro_us"] / r["step_us"] for r in rows.values() if r["step_us"]]
    lines = [
        "# Published Pyro programs through `zoo.fit`",
        "",
        f"{len(rows)} programs written anew after Pyro's examples and tutorials go through",
        "unchanged: losses and parameters equal those of Pyro's own SVI step by step",
        f"(`tests/programs/`). {len(ratios)} compile; a step is {median(ratios):.0f} times",
        f"as fast as Pyro's in the median ({min(ratios):.0f} to {max(ratios):.0f}). Others run on",
        "Pyro's engine, for the reason told.",
        "CPU time, one thread; made by `python benchmarks/programs.py`.",
        "",
        "| program | after | engine | Pyro, us a step | here, us a step | ratio | s to compile |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        here = (
            (f"{row['step_us']:.1f}", f"{row['pyro_us'] / row['step_us']:.0f}", row["compile_s"])
            if row["step_us"]
            else ("", "", "")
        )
        engine = "compiled" if row["step_us"] else f"interpreted: {row['reason']}"
        lines.append(
            f"| {name} | {row['source']} | {engine} | {row['pyro_us']:.0f} | "
            + " | ".join(map(str, here))
            + " |"
        )
    return "\n".join(lines) + "\n"


def main(only="", page=False):
    """Time every program whose name contains ``only``."""
    torch.set_num_threads(1)
    if not page:
        rows = {}
        for name, case in PUBLISHED.items():
            if only not in name:
                continue
            theirs = time_pyro(case)
            engine, reason, step, first = time_ours(case)
            rows[name] = {
                "source": case.source,
                "engine": engine,
                "reason": short(reason),
                "pyro_us": round(theirs * 1e6, 1),
                "step_us": step and round(step * 1e6, 2),
                "compile_s": first and round(first, 1),
            }
            ratio = f"{theirs / step:6.0f} x" if step else rows[name]["reason"]
            print(f"{name[:48]:48} {theirs * 1e6:9.0f} us  {ratio}", flush=True)
        if only:
            rows = json.loads(RESULTS.read_text())["programs"] | rows
        versions = {n: version(n) for n in ("torch", "pyro-ppl", "jax")}
        record = {"programs": rows, "versions": versions, "machine": platform.processor()}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(shown(json.loads(RESULTS.read_text())))


def short(reason):
    """Take the reason alone from a warning that a program runs uncompiled, paths from the root."""
    text = reason.split("\n")[0].replace(f"{ROOT}/", "").replace("|", "/")
    for head in ("SVI runs uncompiled, since ", "SVI runs uncompiled: "):
        text = text.removeprefix(head)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="programs with this in their name")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    main(**vars(parser.parse_args()))
