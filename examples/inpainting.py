"""
Half of a digit is hidden; what may it have been?
=================================================

With the upper half given, the order of the pixels makes an autoregressive model's draws exact.
With the lower half given, the order is against them: NADE resamples weighted particles; a NADE of
the reverse order, and an order-agnostic one, start from what they are given.

.. note:: This page is not run when the documentation is built: it takes a minute.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

steps, draws, digits = 1500, 6, 3
shape = (8, 8)
data = zoo.data.load("digits", binarize=True)
splits = {s: getattr(data, s).reshape(-1, *shape) for s in ("train", "valid", "test")}
data = zoo.data.Dataset(data.name, data.card, **splits)

# %%
# Fit the three, and let each fill in both halves. NaN is what is to be drawn.

models = {
    "NADE": lambda: zoo.NADE(shape, 100),
    "NADE, from below": lambda: zoo.NADE(shape, 100, order=list(range(63, -1, -1))),
    "DeepNADE": lambda: zoo.DeepNADE(shape, (200, 200)),
}
rows = []
for name, make in models.items():
    torch.manual_seed(0)
    solver = zoo.SVI(steps=steps, batch_size=100, learning_rate=3e-3, patience=10, average=0.99)
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

# %%
# What is given, six draws, and the truth.

figure, axes = plt.subplots(
    len(rows), draws + 2, figsize=(9, 0.75 * len(rows)), layout="constrained", squeeze=False
)
for line, (name, given, drawn, digit) in zip(axes, rows, strict=True):
    for axis, image in zip(line, [given.nan_to_num(0.5), *drawn, digit], strict=True):
        axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
axes[0, 0].set_title("given")
axes[0, -1].set_title("truth")
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/deep-nade.png"
