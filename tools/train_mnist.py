"""Train an autoregressive model on MNIST in black and white, in a run that can be resumed.

    python tools/train_mnist.py fvsbn --run runs/mnist-fvsbn
    python tools/train_mnist.py made --run runs/mnist-made
    python tools/train_mnist.py nade --run runs/mnist-nade

Binarization is the fixed one that papers report on. Every two minutes the run directory is
written; the same command goes on from there. At the end it prints, and writes beside the run as
``RUN.json``, the mean test log likelihood over all 10,000 rows. To ship the weights, add

    --ship ppl_zoo/pretrained/NAME-mnist.safetensors

and a line to ``PRETRAINED`` in ``ppl_zoo/pretrained/reading.py``.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import ppl_zoo as zoo

PASS = 390  # steps over the 50,000 rows of train, in batches of 128

RECIPES = {
    "fvsbn": (
        lambda: zoo.FVSBN((28, 28)),
        {"steps": 60 * PASS, "learning_rate": 3e-3, "average": 0.999, "patience": 8},
    ),
    "made": (
        lambda: zoo.MADE((28, 28), (1000,)),
        {"steps": 120 * PASS, "learning_rate": 1e-3, "average": 0.9995, "patience": 12},
    ),
    "nade": (
        lambda: zoo.NADE((28, 28), 500),
        {"steps": 60 * PASS, "learning_rate": 1e-3, "average": 0.9995, "patience": 8},
    ),
}


def main(
    name: str, run: str, device: str = "cpu", threads: int = 1, ship: str | None = None
) -> None:
    """Train, from where the run directory stands, and score."""
    torch.set_num_threads(threads)
    data = zoo.data.load("mnist-binarized", binarization="fixed")
    splits = {s: getattr(data, s).reshape(-1, 28, 28) for s in ("train", "valid", "test")}
    data = zoo.data.Dataset(data.name, data.card, **splits)
    make, options = RECIPES[name]
    torch.manual_seed(0)
    solver = zoo.SVI(batch_size=128, schedule="cosine", compile=False, **options)
    resume = run if (Path(run) / "fit.json").exists() else None
    started = time.time()
    fit = zoo.fit(
        make(),
        data,
        solver,
        device=device,
        checkpoint=run,
        checkpoint_seconds=120.0,
        resume=resume,
    )
    record = {
        "model": name,
        "options": options,
        "batch_size": 128,
        "seed": 0,
        "binarization": "fixed",
        "orders": 1,
        "steps": fit.solution.steps[0],
        "stopped": fit.stopped,
        "seconds": fit.seconds,
        "valid": float(fit.model.log_prob(data.valid).double().mean()),
        "test": float(fit.model.log_prob(data.test).double().mean()),
    }
    Path(f"{run}.json").write_text(json.dumps(record, indent=1) + "\n")
    if ship is not None:
        weights = {k: v.half().contiguous() for k, v in fit.model.state_dict().items()}
        told = {"class": type(fit.model).__name__, "config": json.dumps(fit.model.config)}
        save_file(weights, ship, metadata=told)
        fit.model.load_state_dict({k: v.float() for k, v in weights.items()})
        record["test_shipped"] = float(fit.model.log_prob(data.test).double().mean())
    print(json.dumps(record), f"{time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ship", help="file to write the weights to, in half precision")
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
