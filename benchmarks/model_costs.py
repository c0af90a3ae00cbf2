"""Cost of each model of the zoo: CPU seconds of a density and of a step, by rows and by features.

Synthetic data of each model's kind, at three numbers of rows and three of features; the exponents
are slopes of a line through the logarithms. Steps of EM and CAVI are iterations over all rows,
those of SVI are stochastic steps of Pyro's interpreted program over all rows (compiling makes a
small one some hundred times cheaper: docs/programs.md). One thread, float32.

    python benchmarks/model_costs.py                  # writes results/model_costs.json
    python benchmarks/model_costs.py --only nade ica  # some models, their part of the record anew
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "model_costs.json"

#: sizes of most models; those that need others name them below
ROWS, FEATURES = (2000, 8000, 32_000), (16, 32, 64)
#: repeats of a measurement, of which the shortest counts
REPEATS = 2
#: calls that are shorter, seconds, tell more of Python than of their growth
SHORTEST = 2e-3


def bits(n: int, d: int) -> Tensor:
    """Draw binary rows ``(n, d)`` that are correlated along a row."""
    return (torch.randn(n, d).cumsum(1) > 0).float()


def reals(n: int, d: int) -> Tensor:
    """Draw real rows ``(n, d)`` of eight clusters."""
    return torch.randn(n, d) + 4.0 * torch.randn(8, d)[torch.randint(8, (n,))]


def line(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Draw inputs ``(n, d)`` and a noisy linear function of them ``(n,)``."""
    x = torch.randn(n, d)
    return x, x.sum(1) + torch.randn(n)


def classes(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Draw binary inputs ``(n, d)`` and a class that they tell noisily ``(n,)``."""
    x = bits(n, d)
    return x, (x.mean(1) + 0.3 * torch.randn(n) > 0.5).float()


def schools(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Draw estimates of ``n`` schools and their standard errors."""
    return 10.0 * torch.randn(n), torch.full((n,), 10.0)


def image(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Draw noisy grey images ``(n, side, side)`` of ``d`` pixels, and their noise level."""
    side = math.isqrt(d)
    return torch.rand(n, side, side), torch.full((n,), 0.1)


def chain(d: int) -> zoo.BayesNet:
    """Make a Bayes net whose nodes form a chain."""
    parents = {f"x{i}": [f"x{i - 1}"] if i else [] for i in range(d)}
    return zoo.BayesNet(parents, dict.fromkeys(parents, 2))


def ensemble(d: int) -> zoo.OrderEnsemble:
    """Make an ensemble of two masked autoencoders."""
    member = {"num_features": d, "hidden": (64,), "order": "random"}
    return zoo.OrderEnsemble("MADE", [member | {"seed": seed} for seed in range(2)])


#: by the card's name: the model of d features, data of (n, d), and sizes other than the usual
CASES: dict[str, tuple[Callable[[int], zoo.Model], Callable[[int, int], Any], dict[str, Any]]] = {
    "bayesian-linear-regression": (zoo.BayesianLinearRegression, line, {}),
    "bayesian-logistic-regression": (
        zoo.BayesianLogisticRegression,
        lambda n, d: (lambda x, y: (x, (y > 0).float()))(*line(n, d)),
        {},
    ),
    "linear-regression": (zoo.LinearRegression, line, {"rows": (500, 2000, 8000)}),
    "eight-schools": (
        lambda d: zoo.EightSchools(),
        schools,
        {"rows": (10, 100, 1000), "features": (1,)},
    ),
    "bayes-net": (chain, lambda n, d: bits(n, d).long(), {}),
    "independent-bernoulli": (zoo.IndependentBernoulli, bits, {}),
    "categorical": (zoo.Categorical, bits, {}),
    "chain-rule": (zoo.ChainRule, bits, {"features": (6, 9, 12)}),
    "markov-chain": (lambda d: zoo.MarkovChain(2), lambda n, d: bits(n, d).long(), {}),
    "naive-bayes": (zoo.NaiveBayes, classes, {}),
    "logistic-regression": (zoo.LogisticRegression, classes, {"rows": (500, 2000, 8000)}),
    "bernoulli-mixture": (
        lambda d: zoo.BernoulliMixture(10, d),
        bits,
        {"rows": (1000, 4000, 16_000)},
    ),
    "gaussian-mixture": (
        lambda d: zoo.GaussianMixture(10, d),
        reals,
        {"rows": (1000, 4000, 16_000)},
    ),
    "bayesian-gaussian-mixture": (
        lambda d: zoo.BayesianGaussianMixture(10, d),
        reals,
        {"rows": (1000, 4000, 16_000)},
    ),
    "gaussian-scale-mixture": (
        lambda d: zoo.GaussianScaleMixture(10, d),
        reals,
        {"rows": (1000, 4000, 16_000)},
    ),
    "vae": (lambda d: zoo.VAE(d, 2, (64, 64)), bits, {"rows": (100, 300, 900)}),
    "hierarchical-vae": (
        lambda d: zoo.HierarchicalVAE(d, (8, 2), ((64, 64), (32,))),
        bits,
        {"rows": (100, 300, 900)},
    ),
    "linear-vae": (lambda d: zoo.LinearVAE(d, 2), reals, {"rows": (100, 300, 900)}),
    "normal-gamma": (
        lambda d: zoo.NormalGamma(),
        lambda n, d: torch.randn(n),
        {"features": (1,)},
    ),
    "factor-analysis": (lambda d: zoo.FactorAnalysis(d, 4), reals, {}),
    "probabilistic-pca": (
        lambda d: zoo.ProbabilisticPCA(d, 4, init="random"),
        reals,
        {},
    ),
    "bayesian-factor-analysis": (
        lambda d: zoo.BayesianFactorAnalysis(d, 4),
        reals,
        {"rows": (100, 300, 900)},
    ),
    "ising": (
        lambda d: zoo.Ising(math.isqrt(d), math.isqrt(d)),
        lambda n, d: bits(n, d).view(n, math.isqrt(d), -1) + 0.5,
        {"rows": (10, 40, 160), "features": (256, 576, 1024)},
    ),
    "fvsbn": (zoo.FVSBN, bits, {"rows": (500, 2000, 8000), "features": (16, 64, 256)}),
    "nade": (
        lambda d: zoo.NADE(d, 64),
        bits,
        {"rows": (500, 2000, 8000), "features": (16, 64, 256)},
    ),
    "deep-nade": (
        lambda d: zoo.DeepNADE(d, (64,)),
        bits,
        {"rows": (100, 400, 1600), "features": (16, 64, 256)},
    ),
    "rnade": (lambda d: zoo.RNADE(d, 5, 50), reals, {"rows": (100, 400, 1600)}),
    "made": (
        lambda d: zoo.MADE(d, (64,)),
        bits,
        {"rows": (500, 2000, 8000), "features": (16, 64, 256)},
    ),
    "recurrent-ar": (
        lambda d: zoo.RecurrentAR(d, 64),
        bits,
        {"rows": (100, 400, 1600), "features": (16, 32, 64)},
    ),
    "transformer-ar": (
        lambda d: zoo.TransformerAR(d, 32, num_layers=2),
        bits,
        {"rows": (50, 100, 200), "features": (16, 64, 256)},
    ),
    "pixelcnn": (
        lambda d: zoo.PixelCNN((math.isqrt(d), math.isqrt(d)), 16, 3),
        lambda n, d: bits(n, d).view(n, math.isqrt(d), -1),
        {"rows": (25, 50, 100), "features": (16, 36, 64)},
    ),
    "order-ensemble": (ensemble, bits, {"rows": (500, 2000, 8000), "features": (16, 64, 256)}),
    "epll": (
        lambda d: zoo.EPLL.of(zoo.load("gmm20-patches")),
        image,
        {"rows": (1, 2, 4), "features": (256, 1024, 4096)},
    ),
    "deep-image-prior": (
        lambda d: zoo.DeepImagePrior((1, math.isqrt(d), math.isqrt(d))),
        lambda n, d: (lambda y, noise: (y[:, None], noise))(*image(n, d)),
        {"rows": (1,), "features": (1024, 4096, 16_384)},
    ),
    "independent-pixels": (zoo.IndependentPixels, reals, {"rows": (1000, 4000, 16_000)}),
    "multivariate-gaussian": (zoo.MultivariateGaussian, reals, {}),
    "pca-laplace": (zoo.PCALaplace, reals, {}),
    "ica": (zoo.ICA, reals, {"rows": (1000, 4000, 16_000)}),
    "mixture-of-scale-mixtures": (
        lambda d: zoo.MixtureOfScaleMixtures(5, 4, d),
        reals,
        {"rows": (1000, 4000, 16_000)},
    ),
    "mini-dead-leaves": (
        lambda d: zoo.MiniDeadLeaves(math.isqrt(d), grid=(4, 4)),
        lambda n, d: 0.5 + 0.1 * torch.randn(n, d),
        {"rows": (4, 8, 16), "features": (16, 25, 36)},
    ),
}


def shortest(run: Callable[[], Any]) -> float:
    """CPU seconds of a call, the shortest of some."""
    found = []
    for _ in range(REPEATS):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def solver(card: Any, steps: int) -> Any:
    """Return the card's own solver with so many steps, and nothing that would end it sooner."""
    name = card.model_class.default_solver[0]
    if name == "EM":
        return zoo.EM(steps=steps, tol=0.0)
    if name == "CAVI":
        return zoo.CAVI(steps=steps, tol=0.0)
    if name == "EarlyStopping":
        return zoo.EarlyStopping(steps, rule="none", compile=False)
    return zoo.SVI(steps=steps, objective="stochastic", compile=False, tol=0.0, parameter_tol=0.0)


def step_seconds(card: Any, make: Callable[[], zoo.Model], data: Any) -> float | None:
    """CPU seconds of a step, from fits of few and of more; None if the solution is closed."""
    few, more = (2, 8) if card.model_class.default_solver[0] in ("EM", "CAVI") else (4, 14)
    taken = []
    for steps in (few, more):
        found, done = [], None
        for _ in range(REPEATS):
            torch.manual_seed(0)
            model, begun = make(), time.process_time()
            done = zoo.fit(
                model, data, solver(card, steps), progress=False, device="cpu", validation=None
            )
            found.append(time.process_time() - begun)
        taken.append((min(found), done.solution.steps[0]))
    (first, ran_few), (last, ran_more) = taken
    if ran_more <= ran_few:
        return None
    return (last - first) / (ran_more - ran_few) if last > first else None


def exponent(sizes: list[int], seconds: list[float | None]) -> float | None:
    """Slope of log seconds against log size; None where calls are too short to tell."""
    if len(sizes) < 2 or None in seconds or max(seconds) < SHORTEST:
        return None
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sizes, seconds))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def measure(card: Any) -> dict[str, Any]:
    """Seconds by rows and by features, and their exponents."""
    make, draw, sizes = CASES[card.name]
    rows, features = sizes.get("rows", ROWS), sizes.get("features", FEATURES)
    middle = features[len(features) // 2], rows[len(rows) // 2]
    record: dict[str, Any] = {"solver": card.model_class.default_solver[0]}
    for what, fixed, grid in (
        ("rows", middle[0], [(n, middle[0]) for n in rows]),
        ("features", middle[1], [(middle[1], d) for d in features]),
    ):
        density, step = [], []
        for n, d in grid:
            torch.manual_seed(0)
            data = draw(n, d)
            parts = data if isinstance(data, tuple) else (data,)
            model = make(d)
            if card.queries["log_prob"] != "none":
                zoo.fit(
                    model, data, solver(card, 1), progress=False, device="cpu", validation=None
                )
                with torch.no_grad():
                    density.append(shortest(lambda m=model, p=parts: m.log_prob(*p)))
            step.append(step_seconds(card, lambda d=d: make(d), data))
        sizes_of = [n if what == "rows" else d for n, d in grid]
        record[what] = {
            "sizes": sizes_of,
            "at": fixed,
            "log_prob_seconds": density or None,
            "step_seconds": None if None in step else step,
            "log_prob_exponent": exponent(sizes_of, density) if density else None,
            "step_exponent": exponent(sizes_of, step),
        }
    return record


def main(only: list[str] | None = None) -> None:
    """Measure and write the record."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # so few steps do not converge
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    for card in zoo.ZOO:
        if only and card.name not in only:
            continue
        begun = time.perf_counter()
        record["models"][card.name] = found = measure(card)
        exponents = [
            found[w][f"{k}_exponent"] for w in ("rows", "features") for k in ("log_prob", "step")
        ]
        words = ["-" if e is None else f"{e:.2f}" for e in exponents]
        print(f"{card.name:28} {' '.join(words)}  {time.perf_counter() - begun:.1f} s", flush=True)
        order = [c.name for c in zoo.ZOO if c.name in record["models"]]
        record["models"] = {name: record["models"][name] for name in order}
        record["versions"] = {n: version(n) for n in ("torch", "pyro-ppl")}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*")
    main(**vars(parser.parse_args()))
