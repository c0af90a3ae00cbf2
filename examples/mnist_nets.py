"""Digits of 28x28 pixels from the nets that the package ships, whole and by halves.

No training and no downloads: weights come with the package. Every net draws digits anew; then the
upper half of a digit is held and the lower one drawn. MADE goes row by row, so its draws are
exact; the others have a random order of the pixels and resample weighted walks. With ``--data``
the digits are those of the MNIST test split, stand beside the samples, and each net tells what it
makes of all of them. Run:

    python examples/mnist_nets.py --picture digits.png
"""

import argparse
from pathlib import Path

import torch

import ppl_zoo as zoo

NETS = {"FVSBN": "fvsbn-mnist", "NADE": "nade-mnist", "MADE": "made-mnist"}


def main(draws=10, halves=4, data=False, picture=None):
    torch.manual_seed(0)
    rows, nets = {}, {name: zoo.load(weights) for name, weights in NETS.items()}
    test = None
    if data:
        test = zoo.data.load("mnist-binarized").test.reshape(-1, 28, 28)
        rows["data"] = test[:: len(test) // draws][:draws]  # sorted by digit: take all kinds
    for name, net in nets.items():
        rows[name] = net.sample(draws)
        told = "" if test is None else f", test digits {net.log_prob(test).mean():.2f} nats"
        print(f"{name}: its samples {net.log_prob(rows[name]).mean():.1f} nats{told}")
    digits = rows["data"] if data else net.sample(halves)
    step = max(1, len(digits) // halves)
    for name, net in nets.items():
        shares = []
        for digit in digits[::step][:halves]:
            given = digit.clone()
            given[14:] = torch.nan
            drawn = net.sample(draws - 2, given)
            shares.append((drawn != digit)[:, 14:].float().mean())
            line = torch.cat([given.nan_to_num(0.5)[None], drawn, digit[None]])
            rows[f"{name}, half {len(shares)}"] = line
        share = torch.stack(shares).mean()
        print(f"{name}: upper half given, {share:.1%} of the lower pixels differ")
    if picture is not None:
        draw(rows, Path(picture))


def draw(rows, path):
    from matplotlib.figure import Figure

    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(0.8 * columns + 1.2, 0.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        line[0].text(-4, 14, name, ha="right", va="center")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--halves", type=int, default=4)
    parser.add_argument("--data", action="store_true", help="use the MNIST test split")
    parser.add_argument("--picture", help="where to write the picture")
    main(**vars(parser.parse_args()))
