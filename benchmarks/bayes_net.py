"""Exact inference and learning in Bayes nets: this library, pyAgrum and pgmpy side by side.

All in one run, one thread each, the same evidence and data. The two others are peers, not
dependencies: install them into an environment of its own,

    python -m venv peers && peers/bin/pip install -e . pyagrum pgmpy
    PPL_ZOO_DATA=... OMP_NUM_THREADS=1 peers/bin/python benchmarks/bayes_net.py

The nets are read from $PPL_ZOO_DATA/bif. Times are CPU times in milliseconds, the best of a few.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "bayes_net.json"
SEED = 0
BATCH = 2000
ROWS = 100_000


def best(function, repeats=5):
    """CPU milliseconds of the fastest of a few calls, and what the last one returned."""
    times, value = [], function()
    for _ in range(repeats):
        start = time.process_time()
        value = function()
        times.append(time.process_time() - start)
    return 1e3 * min(times), value


def worst_difference(net, found, others):
    return max(
        float(np.abs(np.asarray(others[r][n]) - found[n][r].numpy()).max())
        for r in range(len(others))
        for n in net.nodes
    )


def agrum_net(net):
    """Build the same net in pyAgrum from its tables: its reader refuses some state names."""
    import pyagrum as gum

    other = gum.BayesNet()
    plain = {n: f"v{i}" for i, n in enumerate(net.nodes)}
    for i, n in enumerate(net.nodes):
        other.add(gum.RangeVariable(plain[n], plain[n], 0, net.state_space.sizes[i] - 1))
    for n in net.nodes:
        for p in net.parents_of(n):
            other.addArc(plain[p], plain[n])
    for n in net.nodes:
        cpt = other.cpt(plain[n])
        axes = [*net.parents_of(n), n]
        order = [axes.index(next(k for k, v in plain.items() if v == name)) for name in cpt.names]
        table = net.cpt(n).numpy().transpose(order)  # first name changes fastest in fillWith
        cpt.fillWith(table.transpose().reshape(-1).tolist())
    return other, plain


def agrum_inference(net, x, rows):
    import pyagrum as gum

    other, plain = agrum_net(net)
    results = {}
    for engine in ("LazyPropagation", "ShaferShenoyInference"):
        inference = getattr(gum, engine)(other)
        inference.setNumberOfThreads(1)

        def ask(inference=inference):
            out = []
            for row in x[:rows].tolist():
                inference.setEvidence(
                    {plain[n]: c for n, c in zip(net.nodes, row, strict=True) if c >= 0}
                )
                inference.makeInference()
                out.append({n: inference.posterior(plain[n]).toarray() for n in net.nodes})
            return out

        elapsed, found = best(ask, 3)
        results[engine] = (elapsed / rows, found)
    return results


def pgmpy_inference(path, net, x):
    from pgmpy.inference import VariableElimination
    from pgmpy.readwrite import BIFReader

    engine = VariableElimination(BIFReader(str(path)).get_model())
    row = x[0].tolist()
    seen = {n: net.states[n][c] for n, c in zip(net.nodes, row, strict=True) if c >= 0}

    def ask():
        out = {}
        for n in net.nodes:
            if n in seen:
                out[n] = [float(s == seen[n]) for s in net.states[n]]
                continue
            factor = engine.query([n], evidence=seen, show_progress=False)
            out[n] = [factor.get_value(**{n: s}) for s in net.states[n]]
        return [out]

    return best(ask, 1)


def measure(name, peers, folder):
    path = folder / f"{name}.bif"
    net = zoo.BayesNet.from_bif(path)
    torch.manual_seed(SEED)
    x = net.sample(BATCH)
    x[torch.rand(x.shape) < 0.8] = -1
    seen = {n: int(c) for n, c in zip(net.nodes, x[0], strict=True) if c >= 0}
    record = {"nodes": len(net.nodes), "cells": net.tree.num_cells}
    record["single_ms"] = best(lambda: net.marginals(seen), 50)[0]
    elapsed, found = best(lambda: net.marginals(x))
    record["batch_ms_per_row"] = elapsed / BATCH
    if "pyagrum" in peers:
        for engine, (per_row, others) in agrum_inference(net, x, 50).items():
            record[f"pyagrum_{engine}_ms_per_row"] = per_row
            record[f"pyagrum_{engine}_difference"] = worst_difference(net, found, others)
        fastest = min(v for k, v in record.items() if k.startswith("pyagrum") and "ms" in k)
        record["times_faster_than_pyagrum_in_batch"] = fastest / record["batch_ms_per_row"]
    if "pgmpy" in peers and name == "alarm":
        elapsed, others = pgmpy_inference(path, net, x)
        record["pgmpy_ms_per_row"] = elapsed
        record["pgmpy_difference"] = worst_difference(net, found, others)
    return net, record


def learning(net, peers, folder):
    torch.manual_seed(SEED)
    x, own = net.sample(ROWS), net.fresh()
    record = {"rows": ROWS, "ours_ms": best(lambda: own.learn(x))[0]}
    if "pyagrum" in peers:
        import pandas as pd
        import pyagrum as gum

        other, plain = agrum_net(net)
        frame = pd.DataFrame(x.numpy(), columns=[plain[n] for n in net.nodes])

        def learn():
            learner = gum.BNLearner(frame, other)
            learner.setNumberOfThreads(1)
            return learner.learnParameters(other.dag())

        elapsed, learned = best(learn, 1)
        record["pyagrum_ms"] = elapsed
        node = max(net.nodes, key=lambda n: net.cpt(n).numel())
        record["pyagrum_checked"] = learned.cpt(plain[node]).domainSize() == own.cpt(node).numel()
    if "pgmpy" in peers:
        import pandas as pd
        from pgmpy.models import DiscreteBayesianNetwork

        frame = pd.DataFrame(x.numpy(), columns=list(net.nodes))
        model = DiscreteBayesianNetwork([(p, n) for n in net.nodes for p in net.parents_of(n)])
        record["pgmpy_ms"] = best(lambda: model.copy().fit(frame), 1)[0]
    return record


def recovery(net):
    """KL from the truth to nets learned by EM, 20 % of the values missing at random."""
    out = {}
    for rows in (500, 2000, 8000):
        torch.manual_seed(SEED)
        x = net.sample(rows)
        whole = zoo.BayesNet(net.graph.parents, net.states, concentration=1.1).learn(x)
        x[torch.rand(x.shape) < 0.2] = -1
        own = zoo.BayesNet(net.graph.parents, net.states, concentration=1.1, missing=True)
        start = time.process_time()
        fit = zoo.fit(own, x, zoo.EM(steps=50, tol=1e-4), progress=False)
        out[str(rows)] = {
            "kl_nats": net.kl_divergence(own),
            "kl_nats_nothing_missing": net.kl_divergence(whole),
            "steps": fit.solution.steps[0],
            "cpu_seconds": time.process_time() - start,
        }
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=["asia", "child", "alarm", "hailfinder"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not os.environ.get("PPL_ZOO_DATA"):
        print("PPL_ZOO_DATA is not set: there are no nets to measure")
        return
    folder = Path(os.environ["PPL_ZOO_DATA"]) / "bif"
    torch.set_num_threads(1)
    peers, versions = [], {}
    for package in ("pyagrum", "pgmpy"):
        try:
            versions[package] = version(package)
            __import__(package)
            peers.append(package)
        except ImportError:
            print(f"{package} is not installed: left out", file=sys.stderr)
    record = {
        "versions": versions
        | {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "ppl-zoo")},
        "seed": SEED,
        "batch": BATCH,
        "share_observed": 0.2,
        "nets": {},
    }
    for name in arguments.nets:
        net, record["nets"][name] = measure(name, peers, folder)
        print(name, json.dumps(record["nets"][name], indent=1))
        if name == "alarm":
            record["learning_alarm"] = learning(net, peers, folder)
            print(json.dumps(record["learning_alarm"], indent=1))
            record["em_alarm"] = recovery(net)
            print(json.dumps(record["em_alarm"], indent=1))
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
