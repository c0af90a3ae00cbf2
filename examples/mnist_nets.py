"""
Digits from the nets that the package ships
===========================================

No training and no downloads: weights come with the package. Every net draws digits anew; then the
upper half of a digit is held and the lower one drawn. PixelCNN goes row by row, so its draws are
exact; the others have random orders of the pixels and resample weighted particles.

.. note:: This page is not run when the documentation is built: it takes half a minute.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

draws, halves = 8, 2
use_data = False  # hold real digits and score the test split: MNIST is downloaded
nets = {
    "FVSBN": zoo.load("fvsbn-mnist"),
    "NADE": zoo.load("nade-mnist"),
    "two MADE": zoo.load("made-mnist"),
    "PixelCNN": zoo.load("pixelcnn-mnist"),
    "TransformerAR": zoo.load("transformer-mnist"),
}

# %%
# Whole digits. The density of each sample is exact; so is that of the test digits.

torch.manual_seed(0)
test = zoo.data.load("mnist-binarized").test.reshape(-1, 28, 28) if use_data else None
whole = {}
for name, net in nets.items():
    whole[name] = net.sample(draws)
    told = "" if test is None else f", test digits {net.log_prob(test).mean():.2f} nats"
    print(f"{name}: its samples {net.log_prob(whole[name]).mean():.1f} nats{told}")

# %%
# Half digits: NaN is what is to be drawn.

digits = nets["TransformerAR"].sample(halves) if test is None else test[:: len(test) // halves]
given = digits[0].clone()
given[14:] = torch.nan
drawn = {name: net.sample(draws, given) for name, net in nets.items()}
for name, images in drawn.items():
    share = (images != digits[0])[:, 14:].float().mean()
    print(f"{name}: upper half given, {share:.1%} of the lower pixels differ")

# %%
# Each net's digits, and what it makes of the upper half.

figure, axes = plt.subplots(
    len(nets), 2 * draws, figsize=(1.2 * draws, 0.65 * len(nets)), layout="constrained"
)
for line, name in zip(axes, nets, strict=True):
    for axis, image in zip(line, [*whole[name], *drawn[name]], strict=True):
        axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
axes[0, draws // 2].set_title("drawn whole")
axes[0, draws + draws // 2].set_title("upper half given")
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/nade.png"
