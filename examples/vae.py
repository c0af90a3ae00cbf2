"""A VAE of handwritten digits: its bounds held against each other, and what z has learnt.

Prints ELBO, IWAE bounds and importance-sampled log likelihood with their errors, and holds the
guide's z of six digits against NUTS. Draws samples, the map of the latents, reconstructions, and
both posteriors of those six. Run:

    python examples/vae.py --out runs/vae
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo
from ppl_zoo import evaluation


def main(steps=6000, latents=2, samples=5000, nuts=500, out="runs/vae"):
    digits = zoo.data.load("digits", binarize=True)
    vae = zoo.VAE(num_features=64, num_latents=latents, hidden=[128, 128])
    solver = zoo.SVI(steps=steps, batch_size=128, learning_rate=1e-3, elbo=zoo.LocalELBO())
    fit = zoo.fit(vae, digits.train, solver)
    print(fit)
    x = digits.test
    for k in (1, 5, 50):
        value, error = evaluation.iwae_bound(vae, x, num_particles=k).mean
        print(f"bound with {k:2} draws:        {value:8.3f} +- {error:.3f} nats a digit")
    value, error = evaluation.importance_sampling(vae, x, num_samples=samples).mean
    print(f"importance sampling:       {value:8.3f} +- {error:.3f}")
    prior = evaluation.prior_sampling(vae, x, num_samples=samples)
    size = prior.ess.median()
    print(f"draws of the prior:        {prior.mean[0]:8.3f}, effective number {size:.0f}")
    use = evaluation.latent_use(vae, x)
    print("KL of each latent:", [round(v, 2) for v in use.kl.tolist()], "nats")
    path = draw(vae, x, digits.labels["test"], Path(out))
    seen = fit.check_rows(x[:6], reference=zoo.NUTS(nuts, nuts, num_chains=2))
    print(f"the guide's z of six digits beside NUTS, in posterior sds:\n{seen}")
    seen.plot().savefig(path.with_name("rows.png"), dpi=120)
    print(f"wrote {path} and {path.with_name('rows.png')}")


def draw(vae, x, labels, out):
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    panel(axes[0], vae.sample(64), "samples")
    z = vae.encode(x)
    dots = axes[1].scatter(*z.mT.tolist(), c=labels.tolist(), cmap="tab10", s=8)
    fig.colorbar(dots, ax=axes[1])
    axes[1].set_title("posterior means of z, coloured by class")
    pairs = torch.stack([x[:32], vae.reconstruct(x[:32])], 1).flatten(0, 1)
    panel(axes[2], pairs, "rows and their reconstructions")
    out.mkdir(parents=True, exist_ok=True)
    fig.savefig(out / "vae.png", dpi=120)
    plt.close(fig)
    return out / "vae.png"


def panel(ax, images, title):
    framed = torch.nn.functional.pad(images.reshape(64, 8, 8), (1, 1, 1, 1), value=0.3)
    tiles = framed.reshape(8, 8, 10, 10).permute(0, 2, 1, 3).reshape(80, 80)
    ax.imshow(tiles.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_axis_off()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--latents", type=int, default=2)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--nuts", type=int, default=500, help="draws, after as many to warm up")
    parser.add_argument("--out", default="runs/vae")
    main(**vars(parser.parse_args()))
