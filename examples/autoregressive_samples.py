"""
Digits drawn by every autoregressive model
==========================================

All write p(x) as a product of conditionals, and differ in the net that makes them. Each is fitted
for a minute or less to the embedded 8x8 digits in black and white, told by what it says of the
test digits, and asked to draw.

.. note:: This page is not run when the documentation is built: it takes some minutes.
"""

import time

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

steps, draws = 1500, 8
shape = (8, 8)

# %%
# The models. ``RNADE`` is of real values: it gets grey levels, with noise of a level.

members = [
    {"num_features": shape, "hidden": (200,), "order": "random", "seed": seed} for seed in range(4)
]
models = {
    "FVSBN": lambda: zoo.FVSBN(shape),
    "NADE": lambda: zoo.NADE(shape, 100),
    "DeepNADE": lambda: zoo.DeepNADE(shape, (200, 200)),
    "MADE": lambda: zoo.MADE(shape, (200,)),
    "MADE, 4 orders": lambda: zoo.OrderEnsemble("MADE", members),
    "RecurrentAR": lambda: zoo.RecurrentAR(shape, 100, block=8),
    "TransformerAR": lambda: zoo.TransformerAR(shape, 32, num_layers=2),
    "PixelCNN": lambda: zoo.PixelCNN(shape, 16, 3),
    "RNADE": lambda: zoo.RNADE(shape, 5, 50),
}


def load(name):
    """Load the digits as images, in grey with noise for the model of real values."""
    data = zoo.data.load("digits", binarize=name != "RNADE")
    splits = {s: getattr(data, s).reshape(-1, *shape) for s in ("train", "valid", "test")}
    if name == "RNADE":
        splits = {s: x + torch.rand_like(x) / 16 for s, x in splits.items()}
    return zoo.data.Dataset(data.name, data.card, **splits)


# %%
# Validation rows end each fit (``patience``), an average of the last steps is kept.

pictures = {"data": load("FVSBN").test[:draws]}
print("model          test, nats a digit   steps   seconds")
for name, make in models.items():
    torch.manual_seed(0)
    data, begun = load(name), time.perf_counter()
    solver = zoo.SVI(steps=steps, batch_size=100, learning_rate=3e-3, patience=10, average=0.99)
    fit = zoo.fit(make(), data, solver, progress=False)
    torch.manual_seed(1)
    pictures[name] = fit.model.sample(draws)
    score, seconds = fit.model.log_prob(data.test).mean(), time.perf_counter() - begun
    print(f"{name:14} {score:18.2f} {fit.solution.steps[0]:7} {seconds:9.1f}", flush=True)

# %%
# Data, and draws of each.

figure, axes = plt.subplots(
    len(pictures), draws, figsize=(6, 0.75 * len(pictures)), layout="constrained", squeeze=False
)
for line, (name, images) in zip(axes, pictures.items(), strict=True):
    for axis, image in zip(line, images, strict=True):
        axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/made.png"
