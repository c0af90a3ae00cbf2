"""Pictures of the model pages: each model fitted by a recipe of its card, or a trained net.

Written once and kept in ``docs/pictures/``, so that building the pages fits nothing.

    python docs/make_pictures.py                     # all, some minutes
    python docs/make_pictures.py --only nade ising
    python docs/make_pictures.py --programs          # the graphical models alone, seconds
"""

import argparse
import dataclasses
import io
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import ppl_zoo as zoo
from ppl_zoo.cli.listing import graphical_model
from ppl_zoo.cli.recipes import run
from ppl_zoo.cli.restore import restoration_figure
from ppl_zoo.diagnostics.plots.fit import plot_fit
from ppl_zoo.diagnostics.plots.samples import plot_samples
from ppl_zoo.diagnostics.plots.style import figure, image_grid, tidy
from ppl_zoo.models.card import Card

OUT = Path(__file__).parent / "pictures"
DPI = 110
MAX_BYTES = 60_000
#: stochastic steps of a fit that is only to be looked at
STEPS = 400
ITERATIONS = 40
NETS = {
    "fvsbn": "fvsbn-mnist",
    "nade": "nade-mnist",
    "made": "made-mnist",
    "pixelcnn": "pixelcnn-mnist",
    "transformer-ar": "transformer-mnist",
    "vae": "vae-mnist",
}


def recipe_picture(card: Card) -> Figure:
    """Fit the card's recipe, the demo's where there is one, and plot the fit over its data."""
    recipe = min(card.recipes, key=lambda r: not r.demo)
    default, options = card.model_class.default_solver
    own = recipe.solver or default
    most = {"SVI": STEPS, "EM": ITERATIONS, "CAVI": ITERATIONS}[own]
    if {**options, **recipe.options}.get("steps", most + 1) > most:
        recipe = dataclasses.replace(recipe, options={**recipe.options, "steps": most})
    # from a random start EM takes minutes to where it else begins
    arguments = {k: v for k, v in recipe.model.items() if k != "init"}
    recipe = dataclasses.replace(recipe, model=arguments)
    fit, data = run(card, recipe, device="cpu", progress=False)
    plot = plot_samples if data.card.image_shape and not has_components(card) else plot_fit
    return plot(fit, data.card)


def has_components(card: Card) -> bool:
    return card.name in ("gaussian-mixture", "bayesian-gaussian-mixture")


def net_picture(weights: str) -> Figure:
    """Draw digits by a net of the package."""
    fig, axes = figure(6.0, 2.5)
    drawn = zoo.load(weights).sample(40).reshape(40, -1)
    image_grid(axes[0, 0], drawn.detach().numpy(), (28, 28), 10, (0, 1), "gray_r")
    axes[0, 0].set_title(f"Drawn by {weights}", fontsize=10)
    return fig


def bayes_net() -> Figure:
    """Draw the net of a smoker short of breath."""
    parents = {
        **{"asia": [], "smoke": [], "tub": ["asia"], "lung": ["smoke"], "bronc": ["smoke"]},
        **{"either": ["tub", "lung"], "xray": ["either"], "dysp": ["either", "bronc"]},
    }
    tables = {
        **{"asia": [0.01, 0.99], "smoke": [0.5, 0.5], "tub": [[0.05, 0.95], [0.01, 0.99]]},
        **{"lung": [[0.1, 0.9], [0.01, 0.99]], "bronc": [[0.6, 0.4], [0.3, 0.7]]},
        "either": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
        "xray": [[0.98, 0.02], [0.05, 0.95]],
        "dysp": [[[0.9, 0.1], [0.7, 0.3]], [[0.8, 0.2], [0.1, 0.9]]],
    }
    net = zoo.BayesNet(parents, dict.fromkeys(parents, ["yes", "no"]), tables)
    return net.draw({"smoke": "yes", "dysp": "yes"}, marginals=True)


def binary_digits() -> tuple[zoo.data.Dataset, Tensor, Tensor]:
    data = zoo.data.load("digits", binarize=True)
    return data, data.train, torch.as_tensor(data.labels["train"])


def chain_rule() -> Figure:
    """Plot frequencies of four pixels of digits beside the table and independent pixels."""
    x = binary_digits()[1][:, [19, 27, 35, 43]]
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    fig, axes = figure(6.4, 3.0)
    share = (x[:, None] == states).all(-1).double().mean(0)
    axes[0, 0].bar(range(16), share, color="#cccccc", label="digits")
    for make, marker in ((zoo.ChainRule, "o"), (zoo.IndependentBernoulli, "x")):
        fit = zoo.fit(make(4), x, progress=False, device="cpu")
        density = fit.model.log_prob(states).exp().detach()
        axes[0, 0].plot(range(16), density, marker, label=make.__name__)
    names = ["".join(str(int(b)) for b in state) for state in states]
    axes[0, 0].set_xticks(range(16), names, rotation=90, fontsize=8)
    axes[0, 0].set(xlabel="four pixels, one above the other", ylabel="probability")
    tidy(axes[0, 0]).legend(frameon=False)
    return fig


def ising() -> Figure:
    """Restore a ring under noise."""
    side = torch.linspace(-1.0, 1.0, 64)
    radius = (side[:, None] ** 2 + side**2).sqrt()
    truth = torch.where((radius > 0.45) & (radius < 0.8), 1.0, -1.0)
    noisy = truth + torch.randn(1, 64, 64)
    model = zoo.Ising(64, 64, coupling=0.5, noise=2.0, learn_noise=True)
    zoo.fit(model, noisy, progress=False, device="cpu")
    panels = {"given": noisy[0], "mean field": model.encode(noisy)[0], "truth": truth}
    return images({n: (v.reshape(64, 64), -1.5, 1.5) for n, v in panels.items()})


def images(panels: dict[str, tuple[Tensor, float, float]]) -> Figure:
    fig, axes = figure(2.2 * len(panels), 2.5, 1, len(panels))
    for axis, (name, (image, low, high)) in zip(axes[0], panels.items(), strict=True):
        axis.imshow(image.detach().numpy(), cmap="gray", vmin=low, vmax=high)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    return fig


def noisy_photograph(size: int) -> tuple[Tensor, Tensor, float]:
    clean, sigma = zoo.imaging.example_photograph()[-size:, :size], 25 / 255
    return clean, clean + sigma * torch.randn(clean.shape), sigma


def epll() -> Figure:
    """Restore a photograph under noise, with the sd of each pixel."""
    _, noisy, sigma = noisy_photograph(160)
    done = zoo.restore(noisy, None, sigma, method="posterior", progress=False)
    return restoration_figure(noisy, done)


def deep_image_prior() -> Figure:
    """Restore a photograph by an untrained net that is stopped in time."""
    clean, noisy, sigma = noisy_photograph(64)
    done = zoo.restore(noisy, None, sigma, method="dip", net="fast", steps=600, progress=False)
    names = ("given", "the net's image", "truth")
    return images({n: (v, 0, 1) for n, v in zip(names, (noisy, done.image, clean), strict=True)})


def naive_bayes() -> Figure:
    """Show the rates of black pixels in each class of digits."""
    _, x, y = binary_digits()
    fit = zoo.fit(zoo.NaiveBayes(64, 10), (x, y), progress=False, device="cpu")
    rates = fit.model.table("rates")[:, :, 1].detach().numpy()
    fig, axes = figure(6.0, 1.2)
    image_grid(axes[0, 0], rates, (8, 8), 10, (0, 1), "gray_r")
    axes[0, 0].set_title("Rates of black pixels, a class each", fontsize=10)
    return fig


def bernoulli_mixture() -> Figure:
    """Show the rates of black pixels in each component of digits, without classes."""
    fit = zoo.fit(zoo.BernoulliMixture(30, 64), binary_digits()[1], progress=False, device="cpu")
    fig, axes = figure(6.0, 2.2)
    rates = fit.model.rates.detach()
    rates = rates[..., 1] if rates.ndim == 3 else rates
    image_grid(axes[0, 0], rates.numpy(), (8, 8), 10, (0, 1), "gray_r")
    axes[0, 0].set_title("Rates of black pixels, a component each", fontsize=10)
    return fig


def bayesian_factor_analysis() -> Figure:
    """Draw patches that a model of few factors makes, beside those of photographs."""
    data = zoo.data.load("photo-patches").train[:1000].double()
    model = zoo.BayesianFactorAnalysis(data.shape[1], 20).double()
    fit = zoo.fit(model, data, zoo.CAVI(steps=ITERATIONS), progress=False, device="cpu")
    fig, axes = figure(6.4, 2.6, 1, 2)
    drawn = fit.model.sample(50).detach()
    top = float(data.abs().quantile(0.99))
    named = (("photographs", data[::20]), (f"{fit.model.num_relevant()} factors", drawn))
    for axis, (name, patches) in zip(axes[0], named, strict=True):
        image_grid(axis, patches.numpy(), (8, 8), 10, (-top, top))
        axis.set_title(name, fontsize=10)
    return fig


def logistic_regression() -> Figure:
    """Show the weights that tell an eight from the other digits."""
    _, x, y = binary_digits()
    fit = zoo.fit(zoo.LogisticRegression(64), (x, (y == 8).float()), progress=False, device="cpu")
    weights = fit.model.weights.detach().reshape(8, 8)
    fig, axes = figure(3.4, 2.8)
    top = float(weights.abs().max())
    shown = axes[0, 0].imshow(weights.numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
    axes[0, 0].set_axis_off()
    axes[0, 0].set_title("Weights for an eight (red)", fontsize=10)
    fig.colorbar(shown, ax=axes[0, 0])
    return fig


SPECIAL: dict[str, Callable[[], Figure]] = {
    **{name: partial(net_picture, weights) for name, weights in NETS.items()},
    "bayes-net": bayes_net,
    "chain-rule": chain_rule,
    "ising": ising,
    "epll": epll,
    "deep-image-prior": deep_image_prior,
    "naive-bayes": naive_bayes,
    "bernoulli-mixture": bernoulli_mixture,
    "bayesian-factor-analysis": bayesian_factor_analysis,
    "logistic-regression": logistic_regression,
}


def write(fig: Figure, path: Path) -> int:
    """Write a picture with as many colours as its size allows; returns the bytes."""
    raw = io.BytesIO()
    fig.savefig(raw, dpi=DPI, facecolor="white", bbox_inches="tight")
    picture = Image.open(raw).convert("RGB")
    for colours in (128, 64, 32, 16):
        small = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() <= MAX_BYTES:
            path.write_bytes(small.getvalue())
            return small.tell()
    raise ValueError(f"{path.name}: {small.tell()} bytes with 16 colours, expected {MAX_BYTES}")


def main(only: list[str] | None = None, programs: bool = False) -> None:
    """Draw the pictures of all cards, or of those named; of the programs alone if asked."""
    warnings.filterwarnings("ignore")  # short fits do not converge
    OUT.mkdir(exist_ok=True)
    for card in zoo.ZOO:
        if only and card.name not in only:
            continue
        begun = time.perf_counter()
        torch.manual_seed(0)
        np.random.seed(0)
        make = SPECIAL.get(card.name) or partial(recipe_picture, card)
        graph = graphical_model(card)
        if graph is not None:
            graph.save(OUT / f"{card.name}-program.svg")
        if programs:
            continue
        size = write(make(), OUT / f"{card.name}.png")
        seconds = time.perf_counter() - begun
        print(f"{card.name:28} {size / 1000:5.1f} KB  {seconds:5.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--programs", action="store_true", help="the graphical models alone")
    main(**vars(parser.parse_args()))
