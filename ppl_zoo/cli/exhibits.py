"""Exhibits of the demo: what the zoo does beside the fits of its recipes, a picture each.

A photograph restored, a Bayes net asked, a spam filter's words, spins behind noise, and a program
of a user's own.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_zoo import data as datasets
from ppl_zoo import imaging
from ppl_zoo.cli.inspect import verdicts
from ppl_zoo.cli.report import Section, Table, embed_figure
from ppl_zoo.cli.restore import restoration_figure
from ppl_zoo.diagnostics.plots.predictions import plot_shares
from ppl_zoo.diagnostics.plots.style import COLOURS, MODEL, SMALL, figure, tidy
from ppl_zoo.fitting.run import fit
from ppl_zoo.models.card import Reference
from ppl_zoo.models.discrete import BayesNet, NaiveBayes
from ppl_zoo.models.latent import Ising
from ppl_zoo.models.references import KOLLER_2009, LAURITZEN_1988, NIGAM_2000
from ppl_zoo.restoration.restoration import restore

__all__ = ["EXHIBITS", "photograph"]

#: distance (feet), attempts and successes of professional golfers' putts (Berry 1996)
PUTTS = (
    *((2, 1443, 1346), (3, 694, 577), (4, 455, 337), (5, 353, 208), (6, 272, 149)),
    *((7, 256, 136), (8, 240, 111), (9, 217, 69), (10, 200, 67), (11, 237, 75)),
    *((12, 202, 52), (13, 192, 46), (14, 174, 54), (15, 167, 28), (16, 201, 27)),
    *((17, 195, 31), (18, 191, 33), (19, 147, 20), (20, 152, 24)),
)


def photograph(device: str) -> Section:
    """Denoise the photograph that comes with the package."""
    clean, sigma = imaging.example_photograph(), 25.0 / 255.0
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    done = restore(noisy, None, sigma, method="posterior", device=device, progress=False)
    seconds = time.perf_counter() - started
    before, after = (imaging.psnr(image.cpu(), clean) for image in (noisy, done.image))
    error = 255.0 * float((done.image.cpu() - clean).square().mean().sqrt())
    sd = 255.0 * float(done.sd.square().mean().sqrt())
    return Section(
        anchor="photograph",
        title="A photograph restored, with the uncertainty of each pixel",
        text=f"Noise of 25 grey levels, taken off in {seconds:.1f} seconds by a mixture of 200 "
        f"Gaussians over 8x8 patches: {before:.1f} dB become {after:.1f} dB. Each pixel has its "
        f"posterior sd, {sd:.1f} grey levels on the whole; the actual error is {error:.1f}.",
        facts=(
            ("noisy", f"{before:.2f} dB"),
            ("restored", f"{after:.2f} dB"),
            ("posterior sd", f"{sd:.2f} grey levels"),
            ("actual error", f"{error:.2f} grey levels"),
        ),
        figures=(
            embed_figure(
                restoration_figure(noisy, done),
                "Given, restored, and the sd of each pixel: largest at edges, where the noise hid "
                "most.",
            ),
        ),
        commands=("ppl-zoo restore photo.png --sigma 25",),
    )


# ---- a Bayes net answers a question -------------------------------------------------------------

PARENTS: Mapping[str, list[str]] = {
    "asia": [],
    "smoking": [],
    "tuberculosis": ["asia"],
    "cancer": ["smoking"],
    "bronchitis": ["smoking"],
    "either": ["tuberculosis", "cancer"],
    "x-ray": ["either"],
    "dyspnoea": ["either", "bronchitis"],
}
TABLES = {
    "asia": [0.01, 0.99],
    "smoking": [0.5, 0.5],
    "tuberculosis": [[0.05, 0.95], [0.01, 0.99]],
    "cancer": [[0.10, 0.90], [0.01, 0.99]],
    "bronchitis": [[0.60, 0.40], [0.30, 0.70]],
    "either": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    "x-ray": [[0.98, 0.02], [0.05, 0.95]],
    "dyspnoea": [[[0.90, 0.10], [0.70, 0.30]], [[0.80, 0.20], [0.10, 0.90]]],
}


def bayes_net(device: str) -> Section:
    """Ask the net of Lauritzen & Spiegelhalter what makes a smoker short of breath; on the CPU."""
    net = BayesNet(PARENTS, dict.fromkeys(PARENTS, ["yes", "no"]), TABLES)
    causes = ("bronchitis", "cancer", "tuberculosis")
    steps: dict[str, dict[str, str]] = {
        "anyone": {},
        "smoker, short of breath": {"smoking": "yes", "dyspnoea": "yes"},
    }
    steps["and a shadow on the X-ray"] = {**steps["smoker, short of breath"], "x-ray": "yes"}
    found = {}
    for name, seen in steps.items():
        marginals = net.marginals(seen)
        found[name] = {cause: float(marginals[cause][0, 0]) for cause in causes}
    _, breath, shadow = found.values()
    return Section(
        anchor="bayes-net",
        title="A Bayes net answers a question",
        text="What makes this smoker short of breath? Most likely bronchitis "
        f"({breath['bronchitis']:.0%}); lung cancer is at {breath['cancer']:.0%}. A shadow on the "
        f"X-ray raises that to {shadow['cancer']:.0%}, since it speaks for cancer and leaves less "
        f"for bronchitis to explain ({shadow['bronchitis']:.0%}). Exact, by a junction tree.",
        figures=(
            embed_figure(
                net.draw(steps["and a shadow on the X-ray"], marginals=True),
                "The net, what was seen of this patient (blue), and the posterior of the rest.",
            ),
        ),
        table=Table(
            ("probability of", *found),
            tuple((c, *(f"{100 * each[c]:.1f} %" for each in found.values())) for c in causes),
            name="Causes, before and after the evidence",
        ),
        references=(_cited(LAURITZEN_1988), _cited(KOLLER_2009)),
    )


# ---- the words of a spam filter -----------------------------------------------------------------


def spam_filter(device: str) -> Section:
    """Fit naive Bayes to short messages, and look at the words that tell spam."""
    data = datasets.load("short-messages", supervised=True, binary=True)
    (x, y), (x_test, y_test), words = data.train, data.test, data.card.feature_names
    model = NaiveBayes(x.shape[1], concentration=0.5, class_concentration=1.0, bayesian=True)
    fit(model, (x, y), device=device, progress=False)
    rates = model.table("rates")[..., 1].detach().cpu()
    odds = (rates[1] / rates[0]).log()
    right = float((model.predict(x_test).cpu() == y_test).double().mean())
    order = odds.argsort(descending=True)
    picked = torch.cat([order[:10], order[-10:]]).flip(0).tolist()
    fig, axes = figure(6.0, 5.2)
    ax = tidy(axes[0, 0])
    colours = [COLOURS[1] if odds[i] > 0 else MODEL for i in picked]
    ax.barh(range(len(picked)), odds[picked].numpy(), color=colours)
    ax.set_yticks(range(len(picked)), [words[i] for i in picked])
    ax.set_ylabel("word")
    ax.set_xlabel("log odds of spam that the word adds (nats)")
    told = ", ".join(words[i] for i in order[:5].tolist())
    return Section(
        anchor="spam-filter",
        title="A spam filter's words",
        text=f"Naive Bayes reads {len(y)} short messages, written for this package, of which "
        f"{int(y.sum())} are spam. Spam is told by: {told}. Of {len(y_test)} messages that it has "
        f"not seen it gets {right:.0%} right.",
        figures=(
            embed_figure(fig, "Words that speak for spam (orange), and words that speak against."),
        ),
        references=(_cited(NIGAM_2000),),
        commands=("ppl-zoo fit naive-bayes --recipe sms-spam-bernoulli",),
    )


# ---- spins behind noise -------------------------------------------------------------------------


def ising(device: str) -> Section:
    """Restore a binary image by the Ising model, whose noise is learned."""
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    height, width, noise = 44, 104, 1.0
    path = TextPath((4, 12), "p(z|x)", size=33)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)[::-1]), -1).reshape(-1, 2)
    inside = np.zeros(len(grid), bool)
    for polygon in path.to_polygons():  # a hole in a letter is a polygon within another
        inside ^= Path(polygon).contains_points(grid)
    truth = torch.from_numpy(np.where(inside, 1.0, -1.0).reshape(height, width)).float()
    noisy = truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    model = Ising(height, width, coupling=0.5, noise=2.0, learn_noise=True)
    fit(model, noisy[None], device=device, progress=False)
    marginals = model.marginals(noisy[None])[0].cpu()
    wrong = [float((image.sign() != truth).double().mean()) for image in (noisy, marginals)]
    fig, axes = figure(4.6, 4.0, 2, 1)
    for ax, image, limit, name in (
        (axes[0, 0], noisy, 2.0, "given"),
        (axes[1, 0], marginals, 1.0, "posterior mean of each pixel"),
    ):
        ax.imshow(image.numpy(), cmap="gray_r", vmin=-limit, vmax=limit)
        ax.set_title(name, fontsize=SMALL)
        ax.set_axis_off()
    return Section(
        anchor="ising",
        title="Spins behind noise",
        text=f"Black and white pixels under noise as large as themselves. By sign "
        f"{wrong[0]:.1%} of the pixels are wrong, by the Ising model {wrong[1]:.1%}; it has "
        f"learned the sd of the noise, {float(model.noise.detach()):.2f} (true: {noise:.2f}).",
        figures=(embed_figure(fig, "Neighbours tend to agree: that alone brings the ink back."),),
    )


# ---- a program of one's own ---------------------------------------------------------------------


def putting(distance: Tensor, attempts: Tensor, made: Tensor) -> None:
    """Putt at an angle with a normal error: it drops if the ball's centre stays in the hole."""
    degrees = pyro.sample("degrees", dist.HalfNormal(torch.tensor(5.0)))
    angle = torch.asin((4.25 - 1.68) / 24.0 / distance)  # inches of hole and ball; feet
    chance = torch.special.erf(angle / torch.deg2rad(degrees) / 2**0.5)
    with pyro.plate("distances", len(distance)):
        pyro.sample("made", dist.Binomial(attempts, chance), obs=made)


def own_program(device: str) -> Section:
    """Fit a Pyro program of one's own, unchanged, and ask whether its answer holds."""
    distance, attempts, made = (
        torch.tensor(c, dtype=torch.float32) for c in zip(*PUTTS, strict=True)
    )
    found = fit(putting, (distance, attempts, made), device=device, progress=False)
    check = found.check(num_samples=1000)
    degrees = found.posterior(1000)["degrees"][found.solution.best].cpu().double()
    fig, axes = figure(6.0, 4.2)
    ax = tidy(axes[0, 0])
    grid = torch.linspace(1.5, 21.0, 200).double()
    angle = torch.asin((4.25 - 1.68) / 24.0 / grid)
    curves = torch.special.erf(angle / torch.deg2rad(degrees[:, None]) / 2**0.5).numpy()
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    ax.fill_between(grid, low, high, color="#9CC5E3", label="90 % of the posterior")
    ax.plot(grid, curves.mean(0), color=MODEL, label="mean")
    plot_shares(ax, distance.numpy(), made.numpy(), (attempts - made).numpy())
    ax.set_ylim(0, 1)
    ax.set_xlabel("distance (feet)")
    ax.set_ylabel("share of putts that drop")
    ax.legend(fontsize=SMALL, frameon=False)
    low, high = np.quantile(degrees, [0.05, 0.95])
    answer, model = (answer for _, _, answer in verdicts(check)[:2])
    return Section(
        anchor="own-program",
        title="A program of your own",
        text="A few lines of Pyro, handed over as they are: golfers putt with an angle that is a "
        f"little off. Its sd is {degrees.mean():.2f} degrees (90 %: {low:.2f} to {high:.2f}). Is "
        f"that the model's posterior? {answer} Does it describe the data? {model}",
        figures=(
            embed_figure(fig, "Shares of putts with 90 % intervals, and what one angle explains."),
        ),
        commands=(inspect.getsource(putting).rstrip(), "zoo.fit(putting, data).check()"),
        references=(
            (
                "Data: Berry (1996), Statistics: A Bayesian Perspective. Model: Gelman & Nolan "
                "(2002).",
                "https://mc-stan.org/users/documentation/case-studies/golf.html",
            ),
        ),
    )


def _cited(reference: Reference) -> tuple[str, str]:
    return f"{reference.authors} ({reference.year}). {reference.title}.", reference.link


#: name of an exhibit and what makes it on a device, the best pictures first
EXHIBITS: Mapping[str, Callable[[str], Section]] = {
    "photograph": photograph,
    "ising": ising,
    "bayes-net": bayes_net,
    "spam-filter": spam_filter,
    "own-program": own_program,
}
