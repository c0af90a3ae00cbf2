"""
What a mixture of Gaussians learns from photographs
===================================================

The figures of Zoran & Weiss (2012), Natural images, Gaussian mixtures and dead leaves, from
embedded patches: log likelihood against the number of components beside simpler priors;
eigenvectors of the leading components and their spectra (some of one shape at several contrasts);
textures and edges further on; samples of each prior; and a mixture trained on mini dead leaves.

.. note:: This page is not run when the documentation is built: it takes some minutes.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import cosine_basis
from ppl_zoo.models.images import start_patch_mixture

data = "photo-patches"  # or "bsds300-patches", which are downloaded
rows, components, steps = 20_000, (1, 2, 5, 10, 20, 50), 30
BASIS = cosine_basis(8)[1:]  # orthonormal coordinates of a patch without its mean


# %%
# How a prior is fitted: EM, without the means of the patches, in coordinates of a cosine basis.


def mixture(components, x, steps):
    """Zero-mean Gaussians, from bins of equal norm divided by likeness to a few patches."""
    return fitted(start_patch_mixture(x, components), x, steps, initialize=False)


def fitted(prior, x, steps, **options):
    solver = zoo.EM(steps=steps, tol=0.01, **options)
    zoo.fit(prior, x, solver, device="cpu", progress=False)
    return prior


# %%
# How patches are shown.


def tiles(patches, columns, scale=None):
    """Patches ``(n, 64)`` side by side with a white border, each over its own range by default."""
    patches = patches.reshape(-1, 8, 8)
    if scale is None:
        scale = patches.flatten(1).abs().amax(1).clamp_min(1e-6).view(-1, 1, 1)
    padded = torch.nn.functional.pad(patches / scale, (0, 1, 0, 1), value=1.0)
    return padded.view(-1, columns, 9, 9).transpose(1, 2).reshape(-1, 9 * columns)


def show(axis, patches, columns, title, scale=None):
    axis.imshow(tiles(patches, columns, scale).numpy(), cmap="gray", vmin=-1, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def eigenvectors(prior, which, count=6):
    """Leading eigenvectors of some components, in pixels, a row each."""
    vectors = torch.linalg.eigh(prior.covariances[which].double()).eigenvectors.flip(-1)
    return (vectors[..., :count].mT.float() @ BASIS).flatten(0, 1)


# %%
# What is plotted of the priors.


def likelihoods(axis, priors, mixtures, shipped, x):
    score = {name: float(prior.log_prob(x).detach().mean()) for name, prior in priors.items()}
    curve = {k: float(prior.log_prob(x).mean()) for k, prior in mixtures.items()}
    for index, (name, value) in enumerate(score.items()):
        axis.axhline(value, color=f"C{index + 1}", lw=1, label=name)
        print(f"{name:24} {value:8.2f} nats a patch")
    for k, value in curve.items():
        print(f"mixture of {k:3} Gaussians  {value:8.2f}")
    best = float(shipped.log_prob(x).mean())
    print(f"mixture of 200, shipped  {best:8.2f}")
    axis.semilogx(list(curve), list(curve.values()), "o-")
    axis.semilogx([200], [best], "k*", label="200, of Berkeley photographs")
    ticks = [*curve, 200]
    axis.set_xticks(ticks, [str(k) for k in ticks], fontsize=7)
    axis.minorticks_off()
    axis.legend(fontsize=6, loc="lower right")
    axis.set_title("log likelihood of other patches against K, nats", fontsize=9)


def spectra(axis, prior, count=8):
    values = torch.linalg.eigvalsh(prior.covariances[:count].double()).flip(-1)
    for value in values:
        total = value.sum()
        axis.semilogy((value / total).tolist(), lw=1, label=f"sd {255 * (total / 64).sqrt():.1f}")
    axis.legend(fontsize=6, title="grey levels", title_fontsize=6)
    axis.set_title("share of variance by eigenvector, leading components", fontsize=9)


def spread(prior, first, count=6):
    """Components from the ``first`` to the rarest, evenly spaced."""
    return torch.linspace(first, prior.num_components - 1, count).round().long()


# %%
# Mini dead leaves: patches of one texture, or of two that meet at an edge, as often as in
# photographs.


def leaves_like(patches, steps, rows):
    """Draw mini dead leaves that have edges and contrasts as often as photographs."""
    leaves = zoo.MiniDeadLeaves(
        size=8,
        contrasts=(0.0015, 0.004, 0.012, 0.035, 0.1),
        level_sd=0.2,
        noise_sd=0.0012,  # hardly more than grey levels make
        texture_length=4.0,
        grid=(8, 6),
    )
    fitted(leaves, patches[:: len(patches) // 100], steps)
    weights = [round(w, 2) for w in leaves.weights.tolist()]
    print(f"dead leaves: {leaves.edge_probability:.2f} with an edge, contrasts {weights}\n")
    return leaves.sample(rows)


# %%
# Patches, fits, and the figures.


def read(name, rows):
    """Patches without their means in cosine coordinates, in random order: train and test."""
    data, parts = zoo.data.load(name), []
    for x in (data.train, data.test):
        if x.shape[1] == 63:  # the last pixel was dropped
            x = torch.cat([x, -x.sum(1, keepdim=True)], 1)
        parts.append((x @ BASIS.T)[torch.randperm(len(x))[:rows]])
    return parts


torch.manual_seed(0)
train, test = read(data, rows)
mixtures = {k: mixture(k, train, steps) for k in components}
priors = {
    "Gaussian": fitted(zoo.MultivariateGaussian(63), train, 1),
    "PCA, Laplace": fitted(zoo.PCALaplace(63), train, 1),
    "ICA": fitted(zoo.ICA(63), train, steps),
    "scale mixture": fitted(zoo.GaussianScaleMixture(8, 63, zero_mean=True), train, steps),
}
leaves = leaves_like(zoo.data.load("photo-patches").train, 5, rows)
# leaves are simpler than photographs: with more components their mixture fits little else
learnt = mixture(min(20, max(components)), leaves @ BASIS.T, steps)
shipped = zoo.load("gmm200-patches")  # of the Berkeley photographs

# %%
# All of it.

figure, axes = plt.subplots(3, 4, figsize=(15, 11))
likelihoods(axes[0, 0], priors | {"mixture of leaves": learnt}, mixtures, shipped, test)
spectra(axes[0, 1], shipped)
show(axes[0, 2], eigenvectors(shipped, torch.arange(6)), 6, "leading components, a row each")
few = spread(shipped, 20)
show(axes[0, 3], eigenvectors(shipped, few), 6, "further on: textures and edges")
# one grey scale for all draws, that of photographs: their contrasts are part of what is drawn
scale = 1.5 * float(test.square().sum(1).div(64).sqrt().quantile(0.9))
show(axes[1, 0], test[:64] @ BASIS, 8, "photographs", scale)
drawn = priors | {"mixture of 200": shipped}
for axis, (name, prior) in zip(axes.flat[5:10], drawn.items(), strict=True):
    show(axis, prior.sample(64).detach() @ BASIS, 8, f"draws: {name}", scale)
centred = leaves - leaves.mean(1, keepdim=True)
show(axes[2, 2], centred[:64], 8, "draws: mini dead leaves", scale)
few = spread(learnt, min(4, learnt.num_components - 1))
show(axes[2, 3], eigenvectors(learnt, few), 6, "components of a mixture of leaves")
figure.tight_layout()
plt.show()

# sphinx_gallery_thumbnail_path = "pictures/ica.png"
