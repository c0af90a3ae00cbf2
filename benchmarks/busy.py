"""Fits on a busy machine: a process that keeps each core busy runs beside them.

Each case runs in a process of its own, quiet and then with neighbours, in turns; seconds are those
of the wall clock, the median of the turns. With a neighbour on each core, a fit gets half of it,
so that a ratio of two is the best there is. "torch first" imports torch before ppl_zoo, whose
OpenMP threads then spin while they wait, as torch's default has it; `OMP_WAIT_POLICY=PASSIVE` in
the environment ends that.

    python benchmarks/busy.py                      # writes benchmarks/results/busy.json
    python benchmarks/busy.py --only EM --turns 1  # renews these rows alone
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "busy.json"

DATA = """
import time
g = torch.Generator().manual_seed(0)
x = torch.randn(5000, 10, generator=g) + 5.0 * torch.randint(0, 5, (5000, 1), generator=g)
image = torch.rand(96, 96, generator=g)
options = {"device": "cpu", "progress": False}
"""
CASES = {
    "EM, mixture of 10, 5,000 x 10": (
        "zoo.fit(zoo.GaussianMixture(10, 10), x, zoo.EM(steps=150, tol=0), **options)"
    ),
    "SVI, interpreted, VAE": (
        "zoo.fit(zoo.VAE(10, 2, likelihood='gaussian'), x, zoo.SVI(steps=150, compile=False, "
        "batch_size=500), **options)"
    ),
    "SVI, compiled, eight schools": (
        "zoo.fit(zoo.EightSchools(), zoo.data.load('eight-schools'), zoo.SVI(steps=5000, "
        "objective='stochastic'), **options)"
    ),
    "restore, 96 x 96": "zoo.restore(image, sigma=0.1, device='cpu')",
}
FIRST = {
    "ppl_zoo first": "import ppl_zoo as zoo\nimport torch",
    "torch first": "import torch\nimport ppl_zoo as zoo",
}
BUSY = [sys.executable, "-c", "while True: pass"]


def seconds(imports: str, job: str) -> float:
    """Run a job twice in a new process; seconds of the second time."""
    script = "\n".join(
        [
            "import warnings; warnings.simplefilter('ignore')",
            imports,
            DATA,
            job,
            "begun = time.perf_counter()",
            job,
            "print('SECONDS', time.perf_counter() - begun)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split("SECONDS")[-1])


def main(only: str = "", turns: int = 3) -> None:
    """Measure the cases whose name contains ``only``, and renew them in the record."""
    record: dict[str, dict[str, dict[str, float]]] = {}
    if RESULTS.exists():
        record = json.loads(RESULTS.read_text())["cases"]
    for name, job in CASES.items():
        if only not in name:
            continue
        for order, imports in FIRST.items():
            quiet, busy = [], []
            for _ in range(turns):
                quiet.append(seconds(imports, job))
                neighbours = [subprocess.Popen(BUSY) for _ in range(os.cpu_count() or 1)]
                try:
                    busy.append(seconds(imports, job))
                finally:
                    for process in neighbours:
                        process.kill()
            row = {"quiet": statistics.median(quiet), "busy": statistics.median(busy)}
            row |= {"ratio": row["busy"] / row["quiet"], "turns": turns}
            record.setdefault(name, {})[order] = row
            print(
                f"{name:32} {order:14} quiet {row['quiet']:6.2f} s, busy {row['busy']:6.2f} s: "
                f"{row['ratio']:5.2f} x",
                flush=True,
            )
    about = {"cores": os.cpu_count(), "versions": {n: version(n) for n in ("torch", "jax")}}
    RESULTS.write_text(json.dumps({"cases": record, **about}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--turns", type=int, default=3, help="runs of each case")
    main(**vars(parser.parse_args()))
