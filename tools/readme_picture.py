"""Picture of the README: a photograph restored, digits drawn by a net, a posterior beside NUTS.

    PPL_ZOO_DATA=... python tools/readme_picture.py     # writes docs/readme.png

MNIST is downloaded where it is not at hand. Takes about a minute on one thread.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch

import ppl_zoo as zoo

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of the back end)
from matplotlib.figure import SubFigure  # noqa: E402

PICTURE = Path(__file__).parent.parent / "docs" / "readme.png"
INK, BLUE, GREY = "#222222", "#1f6fb4", "#888888"
plt.rcParams.update(
    {"font.size": 9, "text.color": INK, "axes.spines.top": False, "axes.spines.right": False}
)


def photograph(panel: SubFigure) -> None:
    """Noisy photograph, its restoration, and the sd of each pixel."""
    clean, sigma = zoo.imaging.example_photograph(), 25 / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = clean + sigma * noise
    restored = zoo.restore(noisy, None, sigma, method="posterior", progress=False)
    images = (noisy, restored.image, restored.sd)
    db = [zoo.imaging.psnr(image, clean) for image in images[:2]]
    titles = (
        f"noisy, {db[0]:.1f} dB",
        f"posterior mean, {db[1]:.1f} dB",
        "sd of each pixel, grey levels",
    )
    axes = panel.subplots(1, 3)
    for axis, image, title in zip(axes, images, titles, strict=True):
        options = {"cmap": "gray", "vmin": 0, "vmax": 1}
        if image is restored.sd:
            image, options = 255 * image, {"cmap": "magma", "vmin": 0}
        drawn = axis.imshow(image.squeeze().numpy(), **options)
        axis.set_title(title, fontsize=8.5)
        axis.set_axis_off()
    panel.colorbar(drawn, ax=axes[2], shrink=0.6, pad=0.04).ax.tick_params(labelsize=7)


def digits(panel: SubFigure) -> None:
    """Binary digits beside those that a net draws."""
    data = zoo.data.load("mnist-binarized").test
    data = data[np.random.default_rng(0).choice(len(data), 24, replace=False)]
    net = zoo.load("pixelcnn-mnist")
    torch.manual_seed(0)
    drawn = net.sample(24)
    for axis, rows, title in zip(
        panel.subplots(1, 2), (data, drawn), ("data (MNIST)", "drawn by a PixelCNN"), strict=True
    ):
        tiles = torch.as_tensor(np.asarray(rows)).reshape(6, 4, 28, 28)
        axis.imshow(1 - tiles.permute(0, 2, 1, 3).reshape(168, 112).numpy(), cmap="gray")
        axis.set_title(title, fontsize=8.5)
        axis.set_axis_off()


def posterior(panel: SubFigure) -> None:
    """Marginal posteriors of a fit beside those of a sampler."""
    data = zoo.data.load("eight-schools")
    sampler = zoo.NUTS(num_samples=5000, target_accept=0.99)
    fits = {
        "zoo.SVI": zoo.fit(zoo.EightSchools(), data, progress=False),
        "zoo.NUTS": zoo.fit(zoo.EightSchools(), data, sampler, progress=False),
    }
    axes = panel.subplots(1, 2)
    for (name, fit), style in zip(
        fits.items(),
        ({"color": BLUE, "lw": 2}, {"color": INK, "lw": 1.2, "ls": "--"}),
        strict=True,
    ):
        draws = fit.to_arviz(num_samples=20_000, groups=["posterior"])["posterior"]
        for axis, site, high in zip(axes, ("mu", "tau"), (18.0, 14.0), strict=True):
            values = draws[site].values.ravel()
            low = -9.0 if site == "mu" else 0.0
            edges = np.linspace(low, high, 46)
            heights, _ = np.histogram(values, edges, density=True)
            axis.stairs(heights, edges, label=name, **style)
            axis.set_xlabel(f"{site}, points of the test")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8)
    panel.suptitle("eight schools: the fit beside a sampler", fontsize=8.5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    figure = plt.figure(figsize=(13, 3.0), layout="constrained")
    panels = figure.subfigures(1, 3, width_ratios=(6.6, 2.6, 3.8), wspace=0.03)
    for draw, panel in zip((photograph, digits, posterior), panels, strict=True):
        draw(panel)
    figure.savefig(PICTURE, dpi=130, facecolor="white")
