"""
Noise taken off a binary image by the Ising model
=================================================

Pixels like to be as their neighbours are. On a small grid mean field and Gibbs sampling are held
against exact sums; then a picture under noise is restored.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

size, noise, sweeps = 64, 1.0, 300
torch.manual_seed(0)

# %%
# On 4 x 4 pixels every sum is exact. The stronger the coupling, the worse mean field does: it
# holds each pixel independent of the others.

small = torch.sign(torch.randn(1, 4, 4)) + noise * torch.randn(1, 4, 4)
print("4 x 4   coupling   log p(x)   mean-field bound   worst error of a mean   of Gibbs")
for coupling in (0.1, 0.2, 0.4, 0.8):
    model = zoo.Ising(4, 4, coupling, noise).double()
    exact = model.marginals(small, "exact")
    errors = [
        (model.marginals(small, how, num_sweeps=sweeps) - exact).abs().max().item()
        for how in ("mean-field", "gibbs")
    ]
    print(
        f"{coupling:18.1f} {model.log_prob(small).item():10.3f} "
        f"{model.elbo(small).item():18.3f} {errors[0]:23.3f} {errors[1]:10.3f}"
    )

# %%
# A ring and a bar under noise. The fit learns how much noise there is.

side = torch.linspace(-1.0, 1.0, size)
radius = (side[:, None] ** 2 + side**2).sqrt()
bar = (side[:, None].abs() < 0.12) & (side.abs() < 0.3)
image = torch.where(((radius > 0.45) & (radius < 0.8)) | bar, 1.0, -1.0)
noisy = image + noise * torch.randn(1, size, size)
model = zoo.Ising(size, size, coupling=0.5, noise=2.0, learn_noise=True)
fit = zoo.fit(model, noisy, progress=False)
clean = model.denoise(noisy)[0]
gibbs = model.marginals(noisy, "gibbs", num_sweeps=sweeps)[0]
print(f"{fit}\nnoise {noise}, learned {model.noise.item():.3f}; wrong pixels:")
print(f"  by sign       {(noisy[0].sign() != image).float().mean():.4f}")
print(f"  by mean field {(clean != image).float().mean():.4f}")
print(f"  by sampling   {(gibbs.sign() != image).float().mean():.4f}")

# %%
# Truth, data, the most probable pixels, and how sure each is by sampling.

panels = {"truth": image, "noisy": noisy[0], "mean field": clean, "mean, by sampling": gibbs}
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for axis, (name, values) in zip(axes, panels.items(), strict=True):
    axis.imshow(values.numpy(), cmap="gray", vmin=-1, vmax=1)
    axis.set_title(name)
    axis.set_axis_off()
plt.show()
