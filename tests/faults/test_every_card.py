"""Every card under every solver that it names: fit, check, ArviZ, pictures, disk, resuming."""

import dataclasses
import io
import math

import matplotlib
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo import diagnostics
from ppl_zoo.models.catalogue import ZOO

PLOTS = ("plot_fit", "plot_history", "plot_posterior", "plot_samples")
#: cards whose program has latents only with this option
BAYESIAN = {
    "bayes-net",
    "bernoulli-mixture",
    "categorical",
    "chain-rule",
    "independent-bernoulli",
    "logistic-regression",
    "markov-chain",
    "naive-bayes",
}
#: one of each kind, without a compiler; the long tests take the others
QUICK = {
    ("eight-schools", "SVI"),
    ("naive-bayes", "EM"),
    ("gaussian-mixture", "EM"),
    ("epll", "Tiling"),
}


def real(*shape):
    return torch.randn(*shape)


def states(*sizes, rows=30):
    return torch.stack([torch.randint(0, size, (rows,)).float() for size in sizes], -1)


def labelled():
    x = real(30, 2)
    return x, (x[:, 0] + 0.5 * torch.randn(30) > 0).long()


def line():
    x = real(30, 2)
    return x, x[:, 0] + 0.3 * torch.randn(30)


def patch_mixture_parts(components=2, size=16):
    root = 0.1 * torch.randn(components, size, size) + 0.2 * torch.eye(size)
    weights = torch.full((components,), 1.0 / components)
    return weights, torch.zeros(components, size), root @ root.mT


def small_leaves():
    return zoo.MiniDeadLeaves(size=3, contrasts=(0.02, 0.1), noise_sd=0.02, grid=(12, 6))


def small_photo_net():
    net = {"num_inputs": 4, "down": (8, 8), "up": (8, 8), "skip": (2, 0)}
    return zoo.DeepImagePrior((1, 14, 17), net=net, precision="full")


def small_net(**options):
    return zoo.BayesNet({"a": [], "b": ["a"]}, {"a": 2, "b": 3}, **options)


#: small model and data of each card
CASES = {
    "bayesian-linear-regression": (lambda: zoo.BayesianLinearRegression(2), line),
    "bayesian-logistic-regression": (lambda: zoo.BayesianLogisticRegression(2), labelled),
    "linear-regression": (lambda: zoo.LinearRegression(2), line),
    "eight-schools": (zoo.EightSchools, lambda: zoo.data.load("eight-schools").train),
    "bayes-net": (small_net, lambda: states(2, 3)),
    "independent-bernoulli": (
        lambda **o: zoo.IndependentBernoulli(3, **o),
        lambda: states(2, 2, 2),
    ),
    "categorical": (lambda **o: zoo.Categorical(2, [2, 3], **o), lambda: states(2, 3)),
    "chain-rule": (lambda **o: zoo.ChainRule(2, [2, 3], **o), lambda: states(2, 3)),
    "markov-chain": (lambda **o: zoo.MarkovChain(3, 1, **o), lambda: states(3, 3, 3, 3)),
    "naive-bayes": (lambda **o: zoo.NaiveBayes(2, kind="gaussian", **o), labelled),
    "logistic-regression": (lambda **o: zoo.LogisticRegression(2, **o), labelled),
    "bernoulli-mixture": (lambda **o: zoo.BernoulliMixture(2, 4, **o), lambda: states(2, 2, 2, 2)),
    "gaussian-mixture": (lambda: zoo.GaussianMixture(2, 2), lambda: real(40, 2)),
    "bayesian-gaussian-mixture": (lambda: zoo.BayesianGaussianMixture(2, 2), lambda: real(40, 2)),
    "gaussian-scale-mixture": (lambda: zoo.GaussianScaleMixture(2, 2), lambda: real(40, 2)),
    "vae": (lambda: zoo.VAE(4, 2, (6,)), lambda: states(2, 2, 2, 2)),
    "hierarchical-vae": (
        lambda: zoo.HierarchicalVAE(4, [2, 1], [[4], [4]]),
        lambda: states(2, 2, 2, 2),
    ),
    "linear-vae": (lambda: zoo.LinearVAE(3, 1), lambda: real(30, 3)),
    "normal-gamma": (zoo.NormalGamma, lambda: real(30)),
    "factor-analysis": (lambda: zoo.FactorAnalysis(4, 2), lambda: real(40, 4)),
    "bayesian-factor-analysis": (lambda: zoo.BayesianFactorAnalysis(4, 2), lambda: real(40, 4)),
    "probabilistic-pca": (lambda: zoo.ProbabilisticPCA(4, 2), lambda: real(40, 4)),
    "ising": (
        lambda: zoo.Ising(4, 4, coupling=0.3, noise=0.9, learn_noise=True),
        lambda: real(6, 4, 4),
    ),
    "fvsbn": (lambda: zoo.FVSBN(4), lambda: states(2, 2, 2, 2)),
    "nade": (lambda: zoo.NADE(4, 5), lambda: states(2, 2, 2, 2)),
    "deep-nade": (lambda: zoo.DeepNADE(4, (5,)), lambda: states(2, 2, 2, 2)),
    "rnade": (lambda: zoo.RNADE(4, 2, 5), lambda: real(30, 4)),
    "made": (lambda: zoo.MADE(4, (5,)), lambda: states(2, 2, 2, 2)),
    "recurrent-ar": (lambda: zoo.RecurrentAR(4, 5), lambda: states(2, 2, 2, 2)),
    "transformer-ar": (
        lambda: zoo.TransformerAR(4, 8, num_heads=2),
        lambda: states(2, 2, 2, 2),
    ),
    "pixelcnn": (lambda: zoo.PixelCNN((3, 3), 4, 2), lambda: states(*[2] * 9).reshape(-1, 3, 3)),
    "order-ensemble": (
        lambda: zoo.OrderEnsemble("NADE", [{"num_features": 4, "num_hidden": 4}] * 2),
        lambda: states(2, 2, 2, 2),
    ),
    "epll": (
        lambda: zoo.EPLL(*patch_mixture_parts()),
        lambda: (torch.rand(1, 12, 11), torch.full((1,), 0.1)),
    ),
    "deep-image-prior": (
        small_photo_net,
        lambda: (torch.rand(1, 1, 14, 17), torch.full((1,), 0.1)),
    ),
    "independent-pixels": (lambda: zoo.IndependentPixels(3, 2), lambda: real(40, 3)),
    "multivariate-gaussian": (lambda: zoo.MultivariateGaussian(3), lambda: real(40, 3)),
    "pca-laplace": (lambda: zoo.PCALaplace(3), lambda: real(40, 3)),
    "ica": (lambda: zoo.ICA(3), lambda: real(40, 3)),
    "mixture-of-scale-mixtures": (
        lambda: zoo.MixtureOfScaleMixtures(2, 2, 3),
        lambda: real(40, 3),
    ),
    "mini-dead-leaves": (small_leaves, lambda: small_leaves().sample(8)),
}
#: a short solver, and what makes it go on for longer
SOLVERS = {
    "EM": (zoo.EM(steps=2), {"steps": 4}),
    "CAVI": (zoo.CAVI(steps=2), {"steps": 4}),
    "SVI": (zoo.SVI(steps=3, compile=False), {"steps": 5}),
    "NUTS": (zoo.NUTS(num_samples=20, num_warmup=20, num_chains=2), {"num_samples": 25}),
    "EarlyStopping": (zoo.EarlyStopping(4, rule="none"), {"steps": 6}),
    "Tiling": (zoo.Tiling(num_samples=8), {}),
    "SplitGibbs": (zoo.SplitGibbs(num_samples=8), {}),
}
PAIRS = [
    pytest.param(
        card,
        solver,
        id=f"{card.name}-{solver}",
        marks=() if (card.name, solver) in QUICK else pytest.mark.slow,
    )
    for card in ZOO
    for solver in card.solvers
]


def test_every_card_is_tried():
    assert set(CASES) == {card.name for card in ZOO}
    assert {solver for card in ZOO for solver in card.solvers} <= set(SOLVERS)


def small_model(card, solver):
    make, _ = CASES[card.name]
    bayesian = card.name in BAYESIAN and solver in ("CAVI", "NUTS")
    return make(bayesian=True) if bayesian else make()


def check_export(fit):
    """Convert a fit to ArviZ and summarise its posterior, if it has one."""
    idata = fit.to_arviz(num_samples=20)
    names = diagnostics.group_names(idata)
    assert {"fit", "observed_data"} <= set(names)
    for name in names:
        for variable, values in diagnostics.get_group(idata, name).data_vars.items():
            assert values.size > 0, (name, variable)
    if "posterior" in names:
        posterior = diagnostics.get_group(idata, "posterior")
        table = diagnostics.summary(idata)
        assert len(table) == sum(math.prod(v.shape[2:]) for v in posterior.data_vars.values())
        assert table["mean"].notna().all()
    return names


def render(figure):
    """Draw a figure, of which something has to be seen."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    stream.seek(0)
    assert matplotlib.image.imread(stream)[..., :3].std() > 0.02


def same_state(one, other):
    return all(torch.equal(a, other[name]) for name, a in one.items())


@pytest.mark.filterwarnings("ignore:NUTS runs on Pyro's sampler")  # of programs without a graph
@pytest.mark.filterwarnings(
    "ignore:NUTS. .* draws of BayesianFactorAnalysis diverged"
)  # after so short a warm-up
@pytest.mark.parametrize(("card", "name"), PAIRS)
def test_a_card_under_a_solver(card, name, tmp_path):
    torch.manual_seed(0)
    solver, longer = SOLVERS[name]
    model, data = small_model(card, name), CASES[card.name][1]()
    fit = zoo.fit(model, data, solver, progress=False)
    assert repr(fit)

    checked = fit.check(num_samples=100)
    assert str(checked)
    assert isinstance(checked.passed, bool)
    render(checked.plot())
    names = check_export(fit)
    for plot in PLOTS:
        render(getattr(diagnostics, plot)(fit))

    again = zoo.load(fit.save(tmp_path / "run", include_data=True))
    assert same_state(fit.model.state_dict(), again.model.state_dict())
    assert diagnostics.group_names(again.to_arviz(num_samples=20)) == names

    if longer:
        further = dataclasses.replace(solver, **longer)
        resumed = zoo.fit(again.model, data, further, resume=again, progress=False)
        at_once = zoo.fit(model, data, further, resume=fit, progress=False)
        assert same_state(at_once.model.state_dict(), resumed.model.state_dict())
