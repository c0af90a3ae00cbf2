"""Digits of 28x28 pixels from the nets that the package ships, whole and by halves.

No training and no downloads: weights come with the package. Every net draws digits anew; then the
upper half of a digit is held and the lower one drawn. PixelCNN goes row by row, so its draws are
exact; the others have random orders of the pixels and resample weighted particles. With ``--data``
the digits are those of the MNIST test split, stand beside the samples, and each net tells what it
makes of all of them. Run:

    python examples/mnist_nets.py --picture digits.png
"""

import argparse
from pathlib import Path

import torch

import ppl_zoo as zoo

NETS = {
    "FVSBN": "fvsbn-mnist",
    "NADE": "nade-mnist",
    "two MADE": "made-mnist",
    "PixelCNN": "pixelcnn-mnist",
    "TransformerAR": "transformer-mnist",
}


def main(draws=10, halves=2, data=False, picture=None):
    torch.manual_seed(0)
    whole, nets = {}, {name: zoo.load(weights) for name, weights in NETS.items()}
    test = None
    if data:
        test = zoo.data.load("mnist-binarized").test.reshape(-1, 28, 28)
        whole["data"] = test[:: len(test) // draws][:draws]  # sorted by digit: take all kinds
    for name, net in nets.items():
        whole[name] = net.sample(draws)
        told = "" if test is None else f", test digits {net.log_prob(test).mean():.2f} nats"
        print(f"{name}: its samples {net.log_prob(whole[name]).mean():.1f} nats{told}")
    digits = whole["data"] if data else net.sample(halves)
    groups, errors = [whole], {name: [] for name in nets}
    for digit in digits[:: max(1, len(digits) // halves)][:halves]:
        given = digit.clone()
        given[14:] = torch.nan
        groups.append({"given, and the digit": torch.stack([given.nan_to_num(0.3), digit])})
        for name, net in nets.items():
            drawn = groups[-1][name] = net.sample(draws, given)
            errors[name].append((drawn != digit)[:, 14:].float().mean())
    for name, shares in errors.items():
        share = torch.stack(shares).mean()
        print(f"{name}: upper half given, {share:.1%} of the lower pixels differ")
    if picture is not None:
        draw(groups, Path(picture))


def draw(groups, path):
    """Draw a line of images a net, and a gap between what is given and what is next."""
    from matplotlib.figure import Figure

    columns = max(len(images) for rows in groups for images in rows.values())
    heights = [h for rows in groups for h in [*[1.0] * len(rows), 0.3]][:-1]
    figure = Figure(figsize=(0.7 * columns + 1.8, 0.7 * sum(heights)), layout="constrained")
    axes = iter(figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights))
    for axis in figure.axes:
        axis.axis("off")
    for rows in groups:
        for (name, images), line in zip(rows.items(), axes, strict=False):
            for axis, image in zip(line, images, strict=False):
                axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            line[0].text(-4, 14, name, ha="right", va="center")
        next(axes, None)  # the gap
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--halves", type=int, default=2, help="digits that are halved")
    parser.add_argument("--data", action="store_true", help="use the MNIST test split")
    parser.add_argument("--picture", help="where to write the picture")
    main(**vars(parser.parse_args()))
