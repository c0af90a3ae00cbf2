"""
A variational autoencoder, its bounds, and what z has learnt
============================================================

A VAE of handwritten digits. Its bounds are held against each other, the use of each latent is
told, and the guide's z of six digits is held against NUTS.

.. note:: This page is not run when the documentation is built: it takes some minutes.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo
from ppl_zoo import evaluation

steps, latents, samples, nuts = 6000, 2, 5000, 500

# %%
# Fit. With ``LocalELBO`` the KL divergence of z is in closed form.

digits = zoo.data.load("digits", binarize=True)
vae = zoo.VAE(num_features=64, num_latents=latents, hidden=[128, 128])
solver = zoo.SVI(steps=steps, batch_size=128, learning_rate=1e-3, elbo=zoo.LocalELBO())
fit = zoo.fit(vae, digits.train, solver, progress=False)
print(fit)

# %%
# How probable is a digit? The bound rises with the draws; importance sampling goes further.

x = digits.test
for k in (1, 5, 50):
    value, error = evaluation.iwae_bound(vae, x, num_particles=k).mean
    print(f"bound with {k:2} draws:        {value:8.3f} +- {error:.3f} nats a digit")
value, error = evaluation.importance_sampling(vae, x, num_samples=samples).mean
print(f"importance sampling:       {value:8.3f} +- {error:.3f}")
prior = evaluation.prior_sampling(vae, x, num_samples=samples)
print(f"draws of the prior:        {prior.mean[0]:8.3f}, {prior.ess.median():.0f} effective")
use = evaluation.latent_use(vae, x)
print("KL of each latent:", [round(v, 2) for v in use.kl.tolist()], "nats")

# %%
# New digits; the map of the latents; rows beside their reconstructions.


def panel(axis, images, title):
    framed = torch.nn.functional.pad(images.reshape(64, 8, 8), (1, 1, 1, 1), value=0.3)
    tiles = framed.reshape(8, 8, 10, 10).permute(0, 2, 1, 3).reshape(80, 80)
    axis.imshow(tiles.numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title)
    axis.set_axis_off()


figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
panel(axes[0], vae.sample(64), "samples")
z = vae.encode(x)
dots = axes[1].scatter(*z.mT[:2].tolist(), c=digits.labels["test"].tolist(), cmap="tab10", s=8)
figure.colorbar(dots, ax=axes[1])
axes[1].set_title("posterior means of z, coloured by class")
pairs = torch.stack([x[:32], vae.reconstruct(x[:32])], 1).flatten(0, 1)
panel(axes[2], pairs, "rows and their reconstructions")
plt.show()

# %%
# Is the encoder's posterior of a digit the true one? NUTS knows, row by row.

seen = fit.check_rows(x[:6], reference=zoo.NUTS(nuts, nuts, num_chains=2))
print(f"the guide's z of six digits beside NUTS, in posterior sds:\n{seen}")
figure = seen.plot()
figure

# sphinx_gallery_thumbnail_path = "pictures/vae.png"
