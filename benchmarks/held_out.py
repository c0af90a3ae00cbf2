"""Defaults on few rows: autoregressive nets on 400 rows, beside fits that were tuned.

The default fit holds out a tenth of its 400 rows and follows a path of weight decays. A tuned
fit sees all 400, and its weight decay and learning rate are the best of a grid by the data set's
own validation rows, which also stop it early. Both are scored on the test rows. The constants of
the path were set with the curves of FVSBN on all three sets in sight; NADE, and MADE on adult
and mushrooms, came after. Run:

    python benchmarks/held_out.py                # writes benchmarks/results/held_out.json
    python benchmarks/held_out.py --only dna     # a data set or a model; renews its rows
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "held_out.json"
NUM_ROWS = 400
MODELS = {
    "FVSBN": lambda num: zoo.FVSBN(num),
    "NADE": lambda num: zoo.NADE(num, 100),
    "MADE": lambda num: zoo.MADE(num),
}
DATA = ("dna", "adult", "mushrooms")
RATES = {"FVSBN": (0.005, 0.02), "NADE": (0.005,), "MADE": (0.001, 0.005)}
DECAYS = (0.0, 1.0, 3.0, 10.0, 30.0)
STEPS = {"FVSBN": 1500, "NADE": 500, "MADE": 1000}


def nats(model: zoo.Model, rows: torch.Tensor) -> float:
    """Negative log likelihood, nats a row."""
    return -float(model.log_prob(rows).double().mean())


def row(data: str, name: str) -> dict:
    """Fit by default and over the grid."""
    table = zoo.data.load(data)
    train, make = table.train[:NUM_ROWS], MODELS[name]
    started = time.perf_counter()
    fit = zoo.fit(make(train.shape[1]), train, progress=False)
    seconds = time.perf_counter() - started
    found = {
        "data": data,
        "model": name,
        "default": nats(fit.model, table.test),
        "default_train": nats(fit.model, fit.rows.all()[0]),
        "default_held_out": -fit.solution.validation_score,
        "generalisation": str(fit.check(num_samples=100).generalisation),
        "steps": fit.solution.steps[0],
        "seconds": seconds,
    }
    tried = []
    for rate in RATES[name]:
        for decay in DECAYS:
            solver = zoo.SVI(
                batch_size=128,
                learning_rate=rate,
                steps=STEPS[name],
                weight_decay=decay,
                average=0.98,
                patience=1000,
                validate_every=20,
                schedule="constant",
            )
            other = zoo.fit(
                make(train.shape[1]), train, solver, validation=table.valid, progress=False
            )
            tried.append(
                {
                    "rate": rate,
                    "decay": decay,
                    "valid": -other.solution.validation_score,
                    "test": nats(other.model, table.test),
                }
            )
    best = min(tried, key=lambda one: one["valid"])
    excess = found["default"] / best["test"] - 1
    return {**found, "tuned": best["test"], "excess": excess, "best": best, "tried": tried}


def main() -> None:
    """Run the rows asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for data in DATA:
        for name in MODELS:
            if only not in f"{data} {name}":
                continue
            new = row(data, name)
            rows = [r for r in rows if (r["data"], r["model"]) != (data, name)] + [new]
            print(
                f"{data:10} {name:6} default {new['default']:7.2f} (train "
                f"{new['default_train']:.2f}, held out {new['default_held_out']:.2f}) tuned "
                f"{new['tuned']:7.2f}: {new['excess']:+.1%}, {new['seconds']:.0f} s",
                flush=True,
            )
            record = {
                "command": "python benchmarks/held_out.py",
                "num_rows": NUM_ROWS,
                "machine": f"{platform.machine()}, one thread",
                "versions": {"torch": version("torch"), "ppl_zoo": version("ppl_zoo")},
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
