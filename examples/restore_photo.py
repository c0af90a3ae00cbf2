"""
Restore a photograph, and see how sure each pixel is
====================================================

Noise is added to a photograph and taken off again by a mixture of Gaussians over its patches
(EPLL: Zoran & Weiss 2011, https://doi.org/10.1109/ICCV.2011.6126278). Draws of the restored image
are independent; their spread is the uncertainty, to be read like any other posterior.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import psnr

size, draws = 96, 32
sigma = 25 / 255  # sd of the noise; grey levels go from 0 to 1

# %%
# A photograph comes with the package; ``zoo.imaging.read_image("photo.png", grey=True)`` reads one
# of yours. Where the noise level is not known, it is estimated.

clean = zoo.imaging.example_photograph()[-size:, :size]
noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
found = zoo.imaging.estimate_noise(noisy)
print(f"noise level: 25.0 grey levels, estimated {255 * found:.1f}")

# %%
# Restore. The posterior mean is the best guess in mean square; ``sd`` is that of each pixel.

done = zoo.restore(noisy, None, sigma, method="posterior", num_draws=draws, progress=False)
error = done.image - clean
inside = (error.abs() < 1.645 * done.sd).float().mean()
print(f"{psnr(noisy, clean):.2f} dB -> {psnr(done.image, clean):.2f} dB")
print(f"error {255 * error.square().mean().sqrt():.2f} grey levels")
print(f"posterior sd {255 * done.sd.square().mean().sqrt():.2f} grey levels")
print(f"90 % intervals hold {100 * inside:.0f} % of the pixels")

# %%
# A question of your own to the posterior: is a pixel brighter than its left neighbour?

images = done.fit.posterior(draws // 2)["image"]  # (chain, draw, image, row, column)
brighter = (images[..., 1:] > images[..., :-1]).float().mean((0, 1, 2))
unsure = ((brighter > 0.1) & (brighter < 0.9)).float().mean()
print(f"which of two neighbours is brighter is open at {100 * unsure:.0f} % of places")

# %%
# Edges are less sure than flat places.

figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
panels = {"photograph": clean, "noisy": noisy, "restored": done.image}
for axis, (name, image) in zip(axes, panels.items(), strict=False):
    axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(name)
shown = axes[3].imshow(255 * done.sd.numpy(), cmap="viridis")
axes[3].set_title("sd, grey levels")
figure.colorbar(shown, ax=axes[3])
for axis in axes:
    axis.set_axis_off()
plt.show()
