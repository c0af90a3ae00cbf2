"""Half of a digit is hidden; an autoregressive model draws what it may have been.

With the upper half given, the order of the pixels makes the draws exact. With the lower half
given, the order is against them: NADE resamples weighted particles, and a NADE of the reverse
order and an order-agnostic one, which start from what they are given, need not. Run:

    python examples/inpainting.py --picture inpainting.png
"""

import argparse
from pathlib import Path

import torch

import ppl_zoo as zoo

SHAPE = (8, 8)


def main(steps=1500, draws=6, digits=3, picture=None):
    data = zoo.data.load("digits", binarize=True)
    splits = {s: getattr(data, s).reshape(-1, *SHAPE) for s in ("train", "valid", "test")}
    data = zoo.data.Dataset(data.name, data.card, **splits)
    reverse = list(range(63, -1, -1))
    models = {
        "NADE": lambda: zoo.NADE(SHAPE, 100),
        "NADE, from below": lambda: zoo.NADE(SHAPE, 100, order=reverse),
        "DeepNADE": lambda: zoo.DeepNADE(SHAPE, (200, 200)),
    }
    rows = []
    for name, make in models.items():
        torch.manual_seed(0)
        solver = zoo.SVI(
            steps=steps, batch_size=100, learning_rate=3e-3, patience=10, average=0.99
        )
        model = zoo.fit(make(), data, solver, progress=False).model
        for half, hidden in (("upper", slice(4, 8)), ("lower", slice(0, 4))):
            errors = []
            for digit in data.test[:: len(data.test) // digits][:digits]:
                given = digit.clone()
                given[hidden] = torch.nan
                torch.manual_seed(1)
                drawn = model.sample(draws, given)
                errors.append((drawn != digit).float().mean(0)[hidden].mean())
                rows.append((f"{name}: {half} half given", given, drawn, digit))
            share = torch.stack(errors).mean()
            print(f"{name:17} {half} half given: {share:6.1%} of the hidden pixels differ")
    if picture is not None:
        draw(rows, Path(picture))


def draw(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0][2]) + 2, squeeze=False)
    for line, (name, given, drawn, digit) in zip(axes, rows, strict=True):
        for axis, image in zip(line, [given.nan_to_num(0.5), *drawn, digit], strict=True):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    axes[0, 0].set_title("given")
    axes[0, -1].set_title("truth")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--digits", type=int, default=3)
    parser.add_argument("--picture", help="where to write the picture")
    main(**vars(parser.parse_args()))
