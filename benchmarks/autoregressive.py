"""A step of training and 64 samples of FVSBN, NADE and MADE, beside the usual implementations.

The usual ones, restated: a linear layer for each variable in a module list (FVSBN), a loop over
the variables that autograd records (NADE), and sampling by D full passes. One thread, D = 784,
batches of 128, fused Adam; processor seconds, ours and theirs in turn. Run:

    python benchmarks/autoregressive.py     # writes benchmarks/results/autoregressive.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "autoregressive.json"
SIZE, HIDDEN, BATCH = 784, 500, 128


class UsualFVSBN(nn.Module):
    """A linear layer for each variable."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(max(i, 1), 1) for i in range(SIZE))

    def forward(self, x):
        zero = torch.zeros_like(x[:, :1])
        return torch.cat(
            [layer(x[:, :i] if i else zero) for i, layer in enumerate(self.layers)], 1
        )


class UsualNADE(nn.Module):
    """The recursion, recorded by autograd; samples on the way."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(HIDDEN, SIZE) / SIZE**0.5)
        self.c = nn.Parameter(torch.zeros(1, HIDDEN))
        self.V = nn.Parameter(torch.randn(SIZE, HIDDEN) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(SIZE))

    def forward(self, x=None, num_samples=0):
        given = x is not None
        a = self.c.expand(len(x) if given else num_samples, -1)
        logits, drawn = [], []
        for i in range(SIZE):
            h = torch.sigmoid(a)
            logits.append(h @ self.V[i : i + 1].T + self.b[i : i + 1])
            value = x[:, i : i + 1] if given else torch.bernoulli(torch.sigmoid(logits[-1]))
            drawn.append(value)
            a = a + value @ self.W[:, i : i + 1].T
        return torch.cat(logits if given else drawn, 1)


class UsualMADE(nn.Module):
    """Two masked layers."""

    def __init__(self):
        super().__init__()
        degrees = torch.arange(HIDDEN) % (SIZE - 1)
        place = torch.arange(SIZE)
        self.first, self.last = nn.Linear(SIZE, HIDDEN), nn.Linear(HIDDEN, SIZE)
        self.register_buffer("into", (degrees[:, None] >= place).float())
        self.register_buffer("out", (place[:, None] > degrees).float())

    def forward(self, x):
        h = torch.relu(F.linear(x, self.first.weight * self.into, self.first.bias))
        return F.linear(h, self.last.weight * self.out, self.last.bias)


ROWS = {
    "FVSBN": (lambda: zoo.FVSBN(SIZE), UsualFVSBN),
    "NADE-500": (lambda: zoo.NADE(SIZE, HIDDEN), UsualNADE),
    "MADE-500": (lambda: zoo.MADE(SIZE, (HIDDEN,), direct=False), UsualMADE),
}


def stepper(model, x):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step():
        optimizer.zero_grad()
        if isinstance(model, zoo.Model):
            loss = -model.score(x).sum()
        else:
            loss = F.binary_cross_entropy_with_logits(model(x), x, reduction="sum")
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def full_passes(model):
    """Sample as usual: a full pass for each variable."""
    if isinstance(model, UsualNADE):
        return model(num_samples=64)
    x = torch.zeros(64, SIZE)
    for i in range(SIZE):
        x[:, i] = torch.bernoulli(torch.sigmoid(model(x)[:, i]))
    return x


def timed(function, times):
    function()
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        function()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds)


def main(quick=False):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        x, rows = zoo.data.load("mnist-binarized").train[:BATCH], "MNIST"
    except (OSError, ValueError, RuntimeError):
        x, rows = (torch.rand(BATCH, SIZE) < 0.13).float(), "random, as many ones as MNIST"
    dense = (torch.rand(BATCH, SIZE) < 0.5).float()  # no variable that all rows leave at 0
    results = {}
    for name, (make, usual) in ROWS.items():
        ours, theirs = make(), usual()
        count = 3 if quick else 15
        slow = 1 if quick else 3
        row = {
            "step_ms": 1e3 * timed(stepper(ours, x), count),
            "step_ms_dense": 1e3 * timed(stepper(ours, dense), count),
            "usual_step_ms": 1e3 * timed(stepper(theirs, x), slow),
            "samples_s": timed(lambda model=ours: model.sample(64), slow),
            "usual_samples_s": timed(lambda model=theirs: full_passes(model), 1),
        }
        row["step_ratio"] = row["usual_step_ms"] / row["step_ms"]
        row["samples_ratio"] = row["usual_samples_s"] / row["samples_s"]
        results[name] = row
        print(
            f"{name:9} step {row['step_ms']:6.1f} ms (dense rows {row['step_ms_dense']:.1f}), "
            f"usual {row['usual_step_ms']:7.1f}: {row['step_ratio']:.1f} x   "
            f"64 samples {row['samples_s']:.3f} s, usual {row['usual_samples_s']:.2f}: "
            f"{row['samples_ratio']:.0f} x",
            flush=True,
        )
    if not quick:
        record = {
            "rows": results,
            "data": rows,
            "versions": {n: version(n) for n in ("torch", "pyro-ppl")},
            "machine": {"cpus": os.cpu_count(), "architecture": platform.machine(), "threads": 1},
            "clock": "process_time",
        }
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions; writes nothing")
    main(**vars(parser.parse_args()))
