"""Handwritten digits drawn by every autoregressive model, beside the data.

Fits each for a minute or less to the embedded 8x8 digits in black and white, prints what the test
digits say of it, and draws a picture. Run:

    python examples/autoregressive_samples.py --picture samples.png
"""

import argparse
import time
from pathlib import Path

import torch

import ppl_zoo as zoo

SHAPE = (8, 8)
MODELS = {
    "FVSBN": lambda: zoo.FVSBN(SHAPE),
    "NADE": lambda: zoo.NADE(SHAPE, 100),
    "DeepNADE": lambda: zoo.DeepNADE(SHAPE, (200, 200)),
    "MADE": lambda: zoo.MADE(SHAPE, (200,)),
    "MADE, 4 orders": lambda: zoo.OrderEnsemble(
        "MADE",
        [
            {"num_features": SHAPE, "hidden": (200,), "order": "random", "seed": k}
            for k in range(4)
        ],
    ),
    "RecurrentAR": lambda: zoo.RecurrentAR(SHAPE, 100, block=8),
    "TransformerAR": lambda: zoo.TransformerAR(SHAPE, 32, num_layers=2),
    "PixelCNN": lambda: zoo.PixelCNN(SHAPE, 16, 3),
    "RNADE": lambda: zoo.RNADE(SHAPE, 5, 50),
}


def load(name):
    """Load the digits as images; for the model of real data in grey, with noise of a level."""
    data = zoo.data.load("digits", binarize=name != "RNADE")
    splits = {s: getattr(data, s).reshape(-1, *SHAPE) for s in ("train", "valid", "test")}
    if name == "RNADE":
        splits = {s: x + torch.rand_like(x) / 16 for s, x in splits.items()}
    return zoo.data.Dataset(data.name, data.card, **splits)


def main(steps=1500, draws=8, picture=None, only=""):
    rows = {"data": load("FVSBN").test[:draws]}
    print("model          test, nats a digit   steps   seconds")
    for name, make in MODELS.items():
        if only not in name:
            continue
        torch.manual_seed(0)
        data, begun = load(name), time.perf_counter()
        solver = zoo.SVI(
            steps=steps, batch_size=100, learning_rate=3e-3, patience=10, average=0.99
        )
        fit = zoo.fit(make(), data, solver, progress=False)
        torch.manual_seed(1)
        rows[name] = fit.model.sample(draws)
        score, seconds = fit.model.log_prob(data.test).mean(), time.perf_counter() - begun
        print(f"{name:14} {score:18.2f} {fit.solution.steps[0]:7} {seconds:9.1f}", flush=True)
    if picture is not None:
        draw(rows, Path(picture))


def draw(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(next(iter(rows.values()))), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--picture", help="where to write the picture")
    parser.add_argument("--only", default="", help="part of a model's name")
    main(**vars(parser.parse_args()))
