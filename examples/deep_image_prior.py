"""Take the noise off a photograph with a net that has seen no other image, and stop in time.

    python examples/deep_image_prior.py [photo.png]

Draws three figures: how close the net's answer is to the truth, step by step, and where each
stopping rule would have ended it; why it works (the net fits a photograph long before it fits
noise, or the same photograph's pixels in another order); and the answer beside that of a patch
prior.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import psnr, read_image

RULES = ("discrepancy", "variance", "held-out")


def fit(y, sigma, net, steps, seed=0, **options):
    """Run the net on an image ``(height, width, channels)`` for all of its steps."""
    y = y.movedim(-1, 0)[None]
    model = zoo.DeepImagePrior(y.shape[1:], net=net, prior_scale=None, clipped=sigma > 0.01)
    solver = zoo.EarlyStopping(steps, **options)
    return zoo.fit(model, (y, torch.full((1,), sigma)), solver, seed=seed, progress=False)


def main(
    photo: str | None = None,
    *,
    size: int = 64,
    steps: int = 600,
    net: object = "fast",
    out: str = ".",
) -> None:
    """Degrade a photograph by noise of 25 grey levels and restore it."""
    from matplotlib.figure import Figure

    clean = zoo.imaging.example_photograph() if photo is None else read_image(photo)
    clean = (clean if clean.ndim == 3 else clean[..., None])[-size:, :size]
    sigma, random = 25 / 255, torch.Generator().manual_seed(0)
    noisy = (clean + sigma * torch.randn(clean.shape, generator=random)).clamp(0, 1)
    truth = clean.movedim(-1, 0)[None]

    figure = Figure(figsize=(11, 8))
    axes = figure.subplots(2, 2)
    for rule, axis in zip(RULES, axes.flat, strict=False):
        # patience without end, and a margin that is never reached, show what comes after
        options = {"patience": steps, "margin": 1.0, "window": min(100, steps // 8)}
        done = fit(noisy, sigma, net, steps, rule=rule, truth=truth, **options)
        curve, score = done.history["psnr"][0], done.history["scores"][0]
        at = np.flatnonzero(np.isfinite(score))
        stop = at[np.argmin(score[at])]
        if rule == "discrepancy":
            score = score - 1.0
            low = score[at] <= -zoo.EarlyStopping().make_rule(noisy.numel()).margin
            stop = at[np.argmax(low)] if low.any() else at[-1]
        print(f"{rule}: {curve[stop]:.2f} dB at step {stop}, the best {curve.max():.2f} dB")
        axis.plot(curve, color="tab:blue")
        axis.axvline(stop, color="black", linestyle=":")
        axis.set(title=f"{rule}: stops at step {stop}", xlabel="step", ylabel="PSNR, dB")
        twin = axis.twinx()
        twin.plot(at, score[at], color="tab:orange")
        low, high = np.quantile(score[at], (0.0, 0.8))
        twin.set(ylabel="score", ylim=(low - 0.1 * (high - low), high))

    order = torch.randperm(size * size, generator=random)
    shuffled = clean.flatten(0, 1)[order].reshape(clean.shape)
    noise = torch.rand(clean.shape, generator=random)
    for name, image in {"photograph": clean, "shuffled": shuffled, "noise": noise}.items():
        target = image.movedim(-1, 0)[None]
        done = fit(image, 0.01, net, steps // 4, rule="none", truth=target)
        left = 10 ** (-done.history["psnr"][0] / 10) / float(target.var())
        axes[1, 1].semilogy(left, label=name)
        print(f"{name}: {100 * left[-1]:.0f} % of the variance is left after {steps // 4} steps")
    axes[1, 1].legend()
    axes[1, 1].set(title="what is left of an image to be fitted", xlabel="step")
    figure.tight_layout()
    figure.savefig(Path(out) / "deep-image-prior.png", dpi=120)

    clean, noisy = clean.squeeze(-1), noisy.squeeze(-1)
    answers = {
        "noisy": noisy,
        "deep image prior": zoo.restore(
            noisy, None, sigma, method="dip", net=net, steps=steps, progress=False
        ).image,
        "EPLL": zoo.restore(noisy, None, sigma, progress=False).image,
        "truth": clean,
    }
    side = Figure(figsize=(14, 3.8))
    for axis, (name, image) in zip(side.subplots(1, 4), answers.items(), strict=True):
        close = "" if name == "truth" else f", {psnr(image, clean):.2f} dB"
        axis.imshow(image.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name + close, fontsize=10)
        axis.set_axis_off()
        print(name + close)
    side.savefig(Path(out) / "deep-image-prior-beside-epll.png", dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:2])
