"""CAVI for a Bayesian mixture of Gaussians, beside scikit-learn, one thread each.

Run `python benchmarks/bayesian_mixture.py`. Both get the same 100,000 dequantised 8x8 patches
(those of `benchmarks/gaussian_mixture.py`), the same priors and the same start: q given parts of
the data, halved along principal axes. They take turns in one process, the same number of
iterations each time; the best turn counts, by processor time. In float64 the parameters that
they reach are compared. Then Old Faithful: q against NUTS on the same program, errors in units
of the posterior's sd. The result goes to `benchmarks/results/bayesian_mixture.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

RESULT = Path(__file__).parent / "results" / "bayesian_mixture.json"


def make_labels(x, num_components: int):
    """Parts of the data, halved along their principal axes."""
    import numpy as np

    parts = [np.arange(len(x))]
    while len(parts) < num_components:
        part = parts.pop(max(range(len(parts)), key=lambda i: len(parts[i])))
        axis = np.linalg.eigh(np.cov(x[part].T))[1][:, -1]
        order = part[np.argsort(x[part] @ axis)]
        parts += [order[: len(order) // 2], order[len(order) // 2 :]]
    labels = np.empty(len(x), int)
    for k, part in enumerate(parts):
        labels[part] = k
    return labels


class Peer:
    """scikit-learn's own steps, from a start that its interface does not take."""

    def __init__(self, x, labels, covariance) -> None:
        import numpy as np
        from sklearn.mixture import BayesianGaussianMixture

        num = labels.max() + 1
        self.x, self.model = (
            x,
            BayesianGaussianMixture(
                n_components=num,
                weight_concentration_prior_type="dirichlet_distribution",
                covariance_prior=covariance,
                reg_covar=0.0,
            ),
        )
        self.model._check_parameters(x)
        self.model._initialize(x, np.eye(num, dtype=x.dtype)[labels])

    @property
    def state(self) -> tuple:
        m = self.model
        return m.mean_precision_ - m.mean_precision_prior_, m.means_, m.covariances_

    def run(self, num_iterations: int) -> None:
        for _ in range(num_iterations):  # as its fit() does
            log_prob, log_resp = self.model._e_step(self.x)
            self.model._m_step(self.x, log_resp)
            self.model._compute_lower_bound(log_resp, log_prob)
        self.model._e_step(self.x)


def make_ours(x, start, covariance):
    import torch

    import ppl_zoo as zoo

    x = torch.from_numpy(x)
    model = zoo.BayesianGaussianMixture(
        len(start[0]), x.shape[1], covariance_prior=torch.from_numpy(covariance)
    ).to(x.dtype)
    model.initialize(model.as_rows(x))
    model.set_posterior(*start)

    def run(num_iterations: int) -> float:
        solver = zoo.CAVI(steps=num_iterations, tol=0.0, initialize=False)
        fit = zoo.fit(model, x, solver, device="cpu", progress=False)
        assert fit.history["objective"].shape == (1, num_iterations + 1)
        return fit.objective

    return model, run


def compare(num_rows: int, num_components: int, num_iterations: int, turns: int) -> dict:
    import numpy as np
    import torch
    from gaussian_mixture import make_patches

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_patches(Path(folder, "x.npy"), num_rows)
        x = np.load(Path(folder, "x.npy"))
    labels = make_labels(x.astype(float), num_components)
    covariance = np.cov(x.T.astype(float))
    clock = {"ppl_zoo": [], "sklearn": []}
    for _ in range(turns):
        peer = Peer(x, labels, covariance.astype(x.dtype))
        _, ours = make_ours(x, peer.state, covariance)
        for who, run in (("ppl_zoo", ours), ("sklearn", peer.run)):
            before = time.process_time()
            run(num_iterations)
            clock[who].append((time.process_time() - before) / num_iterations)
            print(f"  {who:10} {clock[who][-1]:.3f} CPU s/iteration", flush=True)
    x = x.astype(float)[: min(num_rows, 20_000)]
    peer = Peer(x, labels[: len(x)], covariance)
    model, ours = make_ours(x, peer.state, covariance)
    objective = ours(num_iterations)
    peer.run(num_iterations)
    order = np.argsort(-peer.state[0], kind="stable")
    pairs = zip(peer.state, (model.counts, model.means, model.covariances), strict=True)
    best = {who: min(times) for who, times in clock.items()}
    return {
        "rows": num_rows,
        "components": num_components,
        "iterations": num_iterations,
        "cpu_seconds_per_iteration": best,
        "times_faster_cpu": best["sklearn"] / best["ppl_zoo"],
        "float64_rows": len(x),
        "float64_objective": objective,
        "float64_relative_difference": {
            name: float(np.abs(theirs[order] - mine.numpy()).max() / np.abs(theirs).max())
            for name, (theirs, mine) in zip(("counts", "means", "covariances"), pairs, strict=True)
        },
    }


def against_nuts(num_samples: int) -> dict:
    import torch

    import ppl_zoo as zoo

    torch.manual_seed(0)
    x = zoo.data.load("old-faithful").train.double()
    model = zoo.BayesianGaussianMixture(2, 2).double()
    fit = zoo.fit(model, x, zoo.CAVI(tol=1e-9), device="cpu", progress=False)
    # the chains start in q, so that both have the same labels
    nuts = zoo.NUTS(num_samples=num_samples, num_chains=2, init=fit)
    check = fit.check(reference=zoo.fit(model, x, nuts, device="cpu", progress=False))
    lines = {line.name: line for line in check.lines}
    worst = max(lines.values(), key=lambda line: abs(line.mean_error))
    narrow = min(lines.values(), key=lambda line: line.sd_error)
    return {
        "draws": 2 * num_samples,
        "elbo": fit.objective,
        "khat": float(check.khat[0]),
        "largest_mean_error_sd": {worst.name: worst.mean_error},
        "largest_sd_error": {narrow.name: narrow.sd_error},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    import sklearn
    import torch

    speed = compare(options.rows, options.components, options.iterations, options.turns)
    print(f"{speed['times_faster_cpu']:.2f} times faster; {speed['float64_relative_difference']}")
    nuts = against_nuts(options.draws)
    print(nuts)
    result = {
        "data": f"{options.rows} dequantised 8x8 patches, 64 features, float32",
        "start": "q given parts of the data, halved along principal axes",
        "threads": 1,
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "speed": speed,
        "old_faithful_against_nuts": nuts,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
