"""Score the shipped nets on MNIST in black and white, beside what was published.

Fixed binarization (Larochelle's draw), all 10,000 test rows. The number of orders stands beside
each score: 1 is one net in one order of the pixels; where it is more, the probabilities that as
many nets give to a row are averaged, and ``training`` tells what each scores by itself. How each
was trained stands in its file and is copied to the results; ``tools/train_mnist.py`` trains them
again. Run:

    python benchmarks/mnist.py     # writes benchmarks/results/mnist.json
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import safe_open

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "mnist.json"
WEIGHTS = Path(zoo.__file__).parent / "models" / "pretrained"

#: test negative log likelihood in nats an image, where from, and what is asked of ours
PUBLISHED = {
    "fvsbn": (97.45, "Larochelle & Murray 2011", 97.5),
    "nade": (88.33, "Larochelle & Murray 2011, 500 hidden units", 88.9),
    "made": (88.40, "Germain et al. 2015, one net of 8,000 hidden units, one mask", 88.6),
    "pixelcnn": (81.30, "van den Oord et al. 2016", None),
    "transformer": (None, "", None),
}


def training(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["training"])


def cpu_seconds(trained):
    """Of all members of an ensemble, and of the net that a training began from."""
    if "members" in trained:
        return sum(cpu_seconds(net) for net in trained["members"])
    before = trained.get("begun from")
    return trained["cpu_seconds"] + (cpu_seconds(before) if before else 0)


def main(only=""):
    torch.set_num_threads(1)
    data = zoo.data.load("mnist-binarized", binarization="fixed")
    rows = {}
    print("model         published     ours   valid   goal   orders   CPU s")
    for name, (published, source, goal) in PUBLISHED.items():
        path = WEIGHTS / f"{name}-mnist.safetensors"
        if only not in name or not path.exists():
            continue
        model, trained = zoo.load(path.stem), training(path)
        scores = model.log_prob(data.test.reshape(-1, 28, 28)).double()
        valid = model.log_prob(data.valid.reshape(-1, 28, 28)).double().mean()
        rows[name] = {
            "published": published,
            "source": source,
            "goal": goal,
            "test": -float(scores.mean()),
            "standard_error": float(scores.std()) / len(scores) ** 0.5,
            "valid": -float(valid),
            "reached": None if goal is None else bool(-scores.mean() <= goal),
            "parameters": sum(p.numel() for p in model.parameters()),
            "binarization": "fixed",
            "orders": model.num_members,
            "training": trained,
        }
        row = rows[name]
        spent = cpu_seconds(trained)
        print(
            f"{name:12} {published or float('nan'):10.2f} {row['test']:8.2f} {row['valid']:7.2f}"
            f" {goal or float('nan'):6.1f} {row['orders']:8} {spent:7}",
            flush=True,
        )
    if not only:
        record = {
            "rows": rows,
            "unit": "nats an image, negative log likelihood",
            "versions": {n: version(n) for n in ("torch", "pyro-ppl")},
            "machine": {"architecture": platform.machine(), "threads": 1},
        }
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a model's name; writes nothing")
    main(**vars(parser.parse_args()))
