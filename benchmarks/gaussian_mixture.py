"""EM for a full-covariance Gaussian mixture, beside scikit-learn, one thread each.

Run `python benchmarks/gaussian_mixture.py`. Both get the same 100,000 dequantised 8x8 patches of
the photographs that scikit-learn ships (float32), the same start (moments of parts of the data,
halved along principal axes) and the same number of iterations. Every run is a process of its
own, so that its peak of memory is its own. The log likelihood is held against scikit-learn in
float64 with our prior in the place of its constant on the diagonal: components of fewer rows
than features, which K = 100 has, depend on it. A poor start (random rows as means, the
covariance of all data) is tried as well. Times are of the wall and of the processor; on a busy
machine only the latter compare. The result goes to `benchmarks/results/gaussian_mixture.json`.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
RESULT = Path(__file__).parent / "results" / "gaussian_mixture.json"
STRENGTH = 1e-6  # our default covariance_strength


def make_patches(path: Path, num_rows: int, seed: int = 0) -> None:
    import numpy as np
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    images = [image.mean(-1) for image in load_sample_images().images]
    patches = np.empty((num_rows, 64), np.float32)
    for n in range(num_rows):
        image = images[rng.integers(2)]
        i, j = (rng.integers(size - 7) for size in image.shape)
        patches[n] = ((image[i : i + 8, j : j + 8] + rng.random((8, 8))) / 256).ravel()
    np.save(path, patches)


def make_start(path: Path, x, num_components: int, poor: bool, seed: int = 1) -> None:
    import numpy as np

    x, rng = np.asarray(x, np.float64), np.random.default_rng(seed)
    if poor:
        means = x[rng.choice(len(x), num_components, replace=False)]
        weights = np.full(num_components, 1.0 / num_components)
        covariances = np.repeat(np.cov(x.T)[None], num_components, 0)
    else:  # halve the largest part along its principal axis, until there are enough
        parts = [x]
        while len(parts) < num_components:
            part = parts.pop(max(range(len(parts)), key=lambda i: len(parts[i])))
            axis = np.linalg.eigh(np.cov(part.T))[1][:, -1]
            order = np.argsort(part @ axis)
            parts += [part[order[: len(order) // 2]], part[order[len(order) // 2 :]]]
        means = np.stack([part.mean(0) for part in parts])
        weights = np.array([len(part) / len(x) for part in parts])
        covariances = np.stack([np.cov(part.T) for part in parts])
    np.savez(path, weights=weights, means=means, covariances=covariances)


def run_ours(x, start, num_iterations: int) -> tuple[Watch, float]:
    import torch

    import ppl_zoo as zoo

    torch.set_num_threads(1)
    num_components = len(start["means"])
    model = zoo.GaussianMixture(num_components, x.shape[1])
    model.set_parameters(**start)
    solver = zoo.EM(steps=num_iterations, tol=0.0, initialize=False)
    data = torch.from_numpy(x)
    watch = Watch()
    fit = zoo.fit(model, data, solver, device="cpu", progress=False)
    watch.stop()
    objective = fit.history["objective"].ravel()
    assert len(objective) == num_iterations + 1, len(objective)
    assert all(p.isfinite().all() for p in fit.model.parameters())
    return watch, (float(objective[-1]) - fit.model.log_prior().item()) / len(x)


def conjugate_covariances(x):
    """Our prior in the place of scikit-learn's constant on the diagonal."""
    import numpy as np
    from sklearn.mixture import _gaussian_mixture as module

    original, prior = module._estimate_gaussian_covariances_full, np.diag(x.var(0))

    def estimate(resp, x, nk, means, reg_covar, **kwargs):
        covariances = original(resp, x, nk, means, 0.0, **kwargs) * nk[:, None, None]
        return (covariances + STRENGTH * prior) / (nk + STRENGTH)[:, None, None]

    return mock.patch.object(module, "_estimate_gaussian_covariances_full", estimate)


def run_reference(x, start, num_iterations: int) -> tuple[Watch, float]:
    with conjugate_covariances(x):
        return run_sklearn(x, start, num_iterations)


def run_sklearn(x, start, num_iterations: int) -> tuple[Watch, float]:
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore", ConvergenceWarning)
    num_components = len(start["means"])
    model = GaussianMixture(
        num_components,
        max_iter=num_iterations,
        tol=0.0,
        weights_init=start["weights"].astype(x.dtype),
        means_init=start["means"].astype(x.dtype),
        precisions_init=np.linalg.inv(start["covariances"]).astype(x.dtype),
    )
    watch = Watch()
    model.fit(x)
    watch.stop()
    assert model.n_iter_ == num_iterations, model.n_iter_
    return watch, float(model.score(x))


class Watch:
    """Time, processor time and memory added since it was made (Linux)."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
        self.before = memory_mb("VmRSS")
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.added = memory_mb("VmHWM") - self.before


def memory_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ValueError(name)


def work(who: str, patches: str, start: str, num_iterations: int) -> dict:
    import numpy as np

    x, start = np.load(patches), dict(np.load(start))
    if who == "sklearn-float64":
        x = x.astype(np.float64)
    tiny = {key: value[:2] for key, value in start.items()} | {"weights": np.array([0.5, 0.5])}
    try:
        run = {"ppl_zoo": run_ours, "sklearn": run_sklearn}.get(who, run_reference)
        run(x[:2000], tiny, 1)  # libraries load their code at first use: no memory of EM
        watch, log_likelihood = run(x, start, num_iterations)
    except ValueError as error:  # what scikit-learn raises for a covariance it cannot factorise
        return {"failed": str(error).split(".")[0]}
    return {
        "seconds_per_iteration": watch.wall / num_iterations,
        "cpu_seconds_per_iteration": watch.cpu / num_iterations,
        "memory_added_mb": watch.added,
        "log_likelihood": log_likelihood,
    }


def in_own_process(*arguments: object) -> dict:
    command = [sys.executable, __file__, "--work", *map(str, arguments)]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout.splitlines()[-1])


def compare(num_rows: int, sizes: list[int], num_iterations: int) -> dict:
    import numpy as np
    import sklearn
    import torch

    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        patches = Path(folder, "patches.npy")
        make_patches(patches, num_rows)
        for size in sizes:
            start = Path(folder, "start.npz")
            make_start(start, np.load(patches), size, poor=False)
            run = {
                who: in_own_process(who, patches, start, num_iterations)
                for who in ("ppl_zoo", "sklearn", "sklearn-float64")
            }
            ours, peer = run["ppl_zoo"], run["sklearn"]
            for clock, name in (("", "times_faster"), ("cpu_", "times_faster_cpu")):
                key = f"{clock}seconds_per_iteration"
                run[name] = peer[key] / ours[key]
            run["log_likelihood_difference"] = (
                ours["log_likelihood"] - run["sklearn-float64"]["log_likelihood"]
            )
            make_start(start, np.load(patches), size, poor=True)
            run["poor_start"] = {
                who: in_own_process(who, patches, start, num_iterations)
                for who in ("ppl_zoo", "sklearn")
            }
            runs[f"K={size}"] = run
            report(size, run)
    return {
        "data": f"{num_rows} dequantised 8x8 patches, 64 features, float32",
        "start": "moments of parts of the data, halved along principal axes",
        "iterations": num_iterations,
        "threads": 1,
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "runs": runs,
    }


def report(size: int, run: dict) -> None:
    print(f"\nK={size:<19}s/iteration    CPU s   MB added   log likelihood per sample")
    lines = {who: run[who] for who in ("ppl_zoo", "sklearn", "sklearn-float64")}
    lines |= {f"{who}, poor start": result for who, result in run["poor_start"].items()}
    for name, r in lines.items():
        if "failed" in r:
            print(f"  {name:20}failed: {r['failed']}")
            continue
        print(
            f"  {name:20}{r['seconds_per_iteration']:11.3f}{r['cpu_seconds_per_iteration']:9.3f}"
            f"{r['memory_added_mb']:11.1f}"
            f"{r['log_likelihood']:19.6f}"
        )
    print(
        f"  {run['times_faster']:.2f} times faster than scikit-learn "
        f"({run['times_faster_cpu']:.2f} by processor time); log likelihood differs by "
        f"{run['log_likelihood_difference']:+.1e} from its float64",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--components", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        who, patches, start, num_iterations = options.work
        print(json.dumps(work(who, patches, start, int(num_iterations))))
        return
    result = compare(options.rows, options.components, options.iterations)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
