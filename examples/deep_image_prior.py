"""
A net that has seen no other image, stopped in time
===================================================

An untrained encoder-decoder is fitted to one noisy photograph. At convergence it fits the noise as
well; on the way there it has fitted the photograph and little else (Ulyanov et al. 2018,
https://arxiv.org/abs/1711.10925). When should it stop, and why does it work?

.. note:: This page is not run when the documentation is built: it takes some minutes.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import psnr

size, steps = 64, 600
net = "fast"  # or "paper", of the size that was published
sigma = 25 / 255

random = torch.Generator().manual_seed(0)
clean = zoo.imaging.example_photograph()[-size:, :size, None]  # (height, width, channel)
noisy = (clean + sigma * torch.randn(clean.shape, generator=random)).clamp(0, 1)
truth = clean.movedim(-1, 0)[None]


def run(y, sigma, steps, **options):
    """Run the net on an image for all of its steps."""
    y = y.movedim(-1, 0)[None]
    model = zoo.DeepImagePrior(y.shape[1:], net=net, prior_scale=None, clipped=sigma > 0.01)
    solver = zoo.EarlyStopping(
        steps, truth=truth if options.get("rule") != "none" else y, **options
    )
    return zoo.fit(model, (y, torch.full((1,), sigma)), solver, progress=False)


# %%
# How close the net's image is to the truth, step by step, and where each rule would end it. None
# sees the truth. Patience without end, and a margin out of reach, show what comes after.

figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
for rule, axis in zip(("discrepancy", "variance", "held-out"), axes.flat, strict=False):
    options = {"patience": steps, "margin": 1.0, "window": min(100, steps // 8)}
    done = run(noisy, sigma, steps, rule=rule, **options)
    curve, score = done.history["psnr"][0], done.history["scores"][0]
    at = np.flatnonzero(np.isfinite(score))
    stop = at[np.argmin(score[at])]
    if rule == "discrepancy":
        score = score - 1.0
        low = score[at] <= -zoo.EarlyStopping().make_rule(noisy.numel()).margin
        stop = at[np.argmax(low)] if low.any() else at[-1]
    print(f"{rule}: {curve[stop]:.2f} dB at step {stop}, the best {curve.max():.2f} dB")
    axis.plot(curve)
    axis.axvline(stop, color="black", linestyle=":")
    axis.set(title=f"{rule}: stops at step {stop}", xlabel="step", ylabel="PSNR, dB")

# %%
# Why it works: a photograph is fitted long before its own pixels in another order, or noise.

order = torch.randperm(size * size, generator=random)
targets = {
    "photograph": clean,
    "shuffled": clean.flatten(0, 1)[order].reshape(clean.shape),
    "noise": torch.rand(clean.shape, generator=random),
}
for name, image in targets.items():
    done = run(image, 0.01, steps // 4, rule="none")
    left = 10 ** (-done.history["psnr"][0] / 10) / float(image.var())
    axes[1, 1].semilogy(left, label=name)
    print(f"{name}: {100 * left[-1]:.0f} % of the variance is left after {steps // 4} steps")
axes[1, 1].set(title="what is left of an image to be fitted", xlabel="step")
axes[1, 1].legend()
plt.show()

# %%
# Its answer, beside that of a prior learned from other photographs.

clean, noisy = clean.squeeze(-1), noisy.squeeze(-1)
dip = zoo.restore(noisy, None, sigma, method="dip", net=net, steps=steps, progress=False)
epll = zoo.restore(noisy, None, sigma, progress=False)
answers = {"noisy": noisy, "deep image prior": dip.image, "EPLL": epll.image, "truth": clean}
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
for axis, (name, image) in zip(axes, answers.items(), strict=True):
    close = "" if name == "truth" else f", {psnr(image, clean):.2f} dB"
    axis.imshow(image.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(name + close)
    axis.set_axis_off()
    print(name + close)
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/deep-image-prior.png"
