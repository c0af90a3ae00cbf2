"""What a mixture of Gaussians learns from patches of photographs, and what dead leaves teach it.

The figures of Zoran & Weiss (2012), Natural images, Gaussian mixtures and dead leaves, from
embedded patches: log likelihood against K beside simpler priors; eigenvectors of the leading
components and their common spectrum (the same shape at many contrasts); textures and edges
further on; samples of each prior; and a mixture trained on mini dead leaves. Run:

    python examples/patch_priors.py             # minutes; writes patch_priors.png
"""

import argparse
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import ppl_zoo as zoo
from ppl_zoo.imaging import cosine_basis

BASIS = cosine_basis(8)[1:]  # orthonormal coordinates of a patch without its mean
GREY_LEVEL = 1.0 / 12.0 / 256.0**2  # variance of the noise that makes grey levels continuous


def mixture(components):
    return zoo.GaussianMixture(
        components,
        63,
        mean_prior=[0.0] * 63,
        mean_strength=1e9,  # holds the means at zero
        covariance_prior=[GREY_LEVEL] * 63,
        covariance_strength=20.0,
    )


def fitted(prior, x, steps):
    solver = zoo.EM(max_steps=steps, tol=0.01)
    zoo.fit(prior, x, solver, device="cpu", progress=False)
    return prior


def tiles(patches, columns):
    """Patches ``(n, 64)`` side by side, each over its own range, with a white border."""
    patches = patches.reshape(-1, 8, 8)
    scale = patches.flatten(1).abs().amax(1).clamp_min(1e-6).view(-1, 1, 1)
    padded = torch.nn.functional.pad(patches / scale, (0, 1, 0, 1), value=1.0)
    return padded.view(-1, columns, 9, 9).transpose(1, 2).reshape(-1, 9 * columns)


def show(axis, patches, columns, title):
    axis.imshow(tiles(patches, columns), cmap="gray", vmin=-1, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def eigenvectors(prior, which, count=6):
    """Leading eigenvectors of some components, in pixels, a row each."""
    vectors = torch.linalg.eigh(prior.covariances[which]).eigenvectors.flip(-1)
    return (vectors[..., :count].mT @ BASIS).flatten(0, 1)


def likelihoods(axis, priors, mixtures, x):
    score = {name: float(prior.log_prob(x).mean()) for name, prior in priors.items()}
    curve = {k: float(prior.log_prob(x).mean()) for k, prior in mixtures.items()}
    for name, value in score.items():
        axis.axhline(value, color="grey", lw=0.7)
        axis.text(max(curve), value, name, fontsize=7, ha="right", va="bottom")
        print(f"{name:24} {value:8.2f} nats a patch")
    for k, value in curve.items():
        print(f"mixture of {k:3} Gaussians  {value:8.2f}")
    axis.semilogx(list(curve), list(curve.values()), "o-")
    axis.set_title("log likelihood of other patches against K, nats", fontsize=9)


def spectra(axis, prior, count=6):
    values = torch.linalg.eigvalsh(prior.covariances[:count]).flip(-1)
    for k, value in enumerate(values):
        axis.semilogy(value / value[0], label=f"{k}: sd {value.sum().div(63).sqrt():.4f}")
    axis.legend(fontsize=6)
    axis.set_title("spectra of the leading components over their largest", fontsize=9)


def leaves_like(patches, steps, rows):
    """Mini dead leaves with the shares of edges and contrasts of photographs, and draws."""
    leaves = zoo.MiniDeadLeaves(size=8, level_sd=0.2, noise_sd=0.003, grid=(8, 6))
    fitted(leaves, patches, steps)
    weights = [round(w, 2) for w in leaves.weights.tolist()]
    print(f"\ndead leaves: {leaves.edge_probability:.2f} with an edge, contrasts {weights}")
    return leaves.sample(rows)


def main(rows=20_000, components=(1, 2, 5, 10, 20, 50), steps=30, leaf_rows=500, out="."):
    torch.manual_seed(0)
    data = zoo.data.load("photo-patches")
    train, test = data.train[:rows] @ BASIS.T, data.test @ BASIS.T
    mixtures = {k: fitted(mixture(k), train, steps) for k in components}
    priors = {
        "Gaussian": fitted(zoo.MultivariateGaussian(63), train, 1),
        "PCA, Laplace": fitted(zoo.PCALaplace(63), train, 1),
        "ICA": fitted(zoo.ICA(63), train, steps),
        "scale mixture": fitted(zoo.GaussianScaleMixture(8, 63, zero_mean=True), train, steps),
    }
    best = mixtures[max(components)]
    leaves = leaves_like(
        data.train[: leaf_rows * (rows // leaf_rows) : rows // leaf_rows], 5, rows
    )
    learnt = fitted(mixture(min(20, max(components))), leaves @ BASIS.T, steps)
    print(f"photographs under the mixture of leaves: {learnt.log_prob(test).mean():.2f} nats")

    figure, axes = plt.subplots(3, 4, figsize=(15, 11))
    likelihoods(axes[0, 0], priors, mixtures, test)
    spectra(axes[0, 1], best)
    count = min(6, best.num_components)
    columns = 6
    show(
        axes[0, 2], eigenvectors(best, slice(0, count)), columns, "leading components, a row each"
    )
    # where directions are unlike the common ones: edges and textures
    further = slice(best.num_components - count, None)
    show(
        axes[0, 3], eigenvectors(best, further), columns, "the rarest components: edges, textures"
    )
    show(axes[1, 0], test[::37][:64] @ BASIS, 8, "photographs")
    drawn = {**priors, f"mixture of {best.num_components}": best}
    for axis, (name, prior) in zip(axes.flat[5:], drawn.items(), strict=False):
        show(axis, prior.sample(64).detach() @ BASIS, 8, f"draws: {name}")
    centred = leaves - leaves.mean(1, keepdim=True)
    show(axes[2, 2], centred[:64], 8, "draws: mini dead leaves")
    few = min(6, learnt.num_components)
    further = slice(learnt.num_components - few, None)
    show(axes[2, 3], eigenvectors(learnt, further), columns, "mixture trained on dead leaves")
    figure.tight_layout()
    path = Path(out) / "patch_priors.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--components", type=int, nargs="*", default=(1, 2, 5, 10, 20, 50))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--leaf-rows", type=int, default=500)
    parser.add_argument("--out", default=".")
    main(**vars(parser.parse_args()))
