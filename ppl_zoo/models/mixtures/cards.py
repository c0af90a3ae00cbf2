"""Cards of the mixtures."""

from __future__ import annotations

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.data import Dataset
from ppl_zoo.models.card import Card, Figure, Recipe
from ppl_zoo.models.references import (
    ANDREWS_1974,
    ATTIAS_2000,
    BLEI_2006,
    DEMPSTER_1977,
    FRALEY_2007,
    PORTILLA_2003,
)

__all__ = ["CARDS"]

_SKLEARN = "scikit-learn GaussianMixture, best of 20 starts, no regularisation"


def _faithful(
    name: str, title: str, components: int, covariance: str, demo: bool = False
) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        data="old-faithful",
        model={"num_components": components, "covariance": covariance},
        solver="EM",
        options={"restarts": 10, "tol": 1e-10},
        dtype="float64",
        demo=demo,
    )


def _mixture_figure(
    what: str,
    recipe: str,
    *,
    published: float,
    reproduced: float,
    bic: bool = False,
    better: str | None = None,
) -> Figure:
    return Figure(
        what=what,
        published=published,
        source=_SKLEARN,
        reproduced=reproduced,
        command="ppl-zoo reproduce gaussian-mixture",
        recipe=recipe,
        measure=_bic if bic else _objective,
        tolerance=1e-3,
        better=better,
    )


def _objective(fit: FittedModel, data: Dataset) -> float:
    return fit.objective


def _bic(fit: FittedModel, data: Dataset) -> float:
    return fit.model.bic(*fit.data())


GAUSSIAN_MIXTURE = Card(
    name="gaussian-mixture",
    title="Mixture of Gaussians",
    family="mixtures",
    factory="ppl_zoo.models:GaussianMixture",
    summary="Each row comes from one of K normal distributions; all three queries are exact,"
    " missing values and conditional samples included.",
    solvers=("EM", "SVI"),
    references=(DEMPSTER_1977, FRALEY_2007),
    recipes=(
        _faithful("old-faithful", "Two kinds of eruption", 2, "full", demo=True),
        Recipe(
            name="photo-patches",
            title="Twenty kinds of 8x8 patch of a photograph",
            data="photo-patches",
            model={"num_components": 20},
            solver="EM",
            options={"steps": 100, "tol": 1e-2},  # nats a patch, of some 180
            demo=True,
        ),
        _faithful("old-faithful-full-3", "Three kinds of eruption", 3, "full"),
        _faithful("old-faithful-tied-3", "Three kinds of one shape: the best BIC", 3, "tied"),
    ),
    figures=(
        _mixture_figure(
            "log likelihood of Old Faithful, K=2 full, nats",
            "old-faithful",
            published=-1130.2640,
            reproduced=-1130.2640,
        ),
        _mixture_figure(
            "BIC of Old Faithful, K=2 full",
            "old-faithful",
            published=2322.192,
            reproduced=2322.1918,
            bic=True,
        ),
        _mixture_figure(
            "log likelihood of Old Faithful, K=3 full, nats (the best maximum found)",
            "old-faithful-full-3",
            published=-1119.2140,
            reproduced=-1114.4401,
            better="higher",
        ),
        _mixture_figure(
            "log likelihood of Old Faithful, K=3 tied, nats",
            "old-faithful-tied-3",
            published=-1126.3159,
            reproduced=-1126.3159,
        ),
        _mixture_figure(
            "BIC of Old Faithful, K=3 tied, the best of all covariance types",
            "old-faithful-tied-3",
            published=2314.296,
            reproduced=2314.2957,
            bic=True,
        ),
    ),
    formula=r"p(x) = \sum_k \pi_k\, \mathcal{N}(x \mid \mu_k, \Sigma_k)",
    failure_modes=(
        (
            "Components collapse onto single rows, or rows on a line, without a floor on the"
            " variance: the likelihood has no bound there. A fit names them;"
            " covariance_strength holds them open."
        ),
        (
            "EM ends in a local optimum that depends on the start: keep the best of several"
            " restarts."
        ),
        (
            "Components are labelled arbitrarily: across restarts they are permuted, so that"
            " R-hat of single components means nothing."
        ),
    ),
)

GAUSSIAN_SCALE_MIXTURE = Card(
    name="gaussian-scale-mixture",
    title="Gaussian scale mixture",
    family="mixtures",
    factory="ppl_zoo.models:GaussianScaleMixture",
    summary="One covariance with a scale by component: heavy tails with few parameters; all three"
    " queries are exact.",
    solvers=("EM", "SVI"),
    references=(ANDREWS_1974, PORTILLA_2003),
    recipes=(
        Recipe(
            name="photo-patches",
            title="Eight contrasts of one kind of patch",
            data="photo-patches",
            model={"num_components": 8, "zero_mean": True},
            options={"steps": 100, "tol": 1e-3},
        ),
    ),
    formula=r"p(x) = \sum_k \pi_k\, \mathcal{N}(x \mid \mu, s_k \Sigma)",
    failure_modes=(
        (
            "All components share one shape: patches of edges in several directions are"
            " averaged into one spectrum."
        ),
        (
            "Fewer rows than features leave the covariance singular; the fit ends with a"
            " ConvergenceError that says so."
        ),
    ),
)

BAYESIAN_GAUSSIAN_MIXTURE = Card(
    name="bayesian-gaussian-mixture",
    title="Bayesian mixture of Gaussians",
    family="mixtures",
    factory="ppl_zoo.models:BayesianGaussianMixture",
    summary="A mixture with a posterior over its parameters, Dirichlet or stick-breaking weights,"
    " and components that lose their rows when the data do not support them.",
    solvers=("CAVI", "NUTS"),
    references=(ATTIAS_2000, BLEI_2006),
    recipes=(
        Recipe(
            name="old-faithful",
            title="How many kinds of eruption: at most six, by stick breaking",
            data="old-faithful",
            model={"num_components": 6, "weights": "dirichlet-process"},
            dtype="float64",
            demo=True,
        ),
        Recipe(
            name="old-faithful-2",
            title="Two kinds of eruption",
            data="old-faithful",
            model={"num_components": 2},
            options={"tol": 1e-9},
            dtype="float64",
        ),
    ),
    figures=(
        Figure(
            what="mean wait in the longer kind, minutes",
            published=79.9460,
            source="scikit-learn BayesianGaussianMixture, 2 components, no regularisation",
            reproduced=79.9459,
            command="ppl-zoo reproduce bayesian-gaussian-mixture",
            recipe="old-faithful-2",
            measure=lambda fit, data: fit.model.means[0, 1].item(),
            tolerance=2e-3,  # its default prior covariance divides by n - 1
        ),
    ),
    formula=(
        r"\log p(x) \ge \mathbb{E}_q\left[\log p(x, z, \pi, \mu, \Lambda)\right] -"
        r" \mathbb{E}_q\left[\log q(z, \pi, \mu, \Lambda)\right]"
    ),
    failure_modes=(
        (
            "Assignments and parameters are held independent: where clusters overlap, the sds"
            " of means and weights are too small."
        ),
        (
            "The bound has local optima; a component that has lost its rows does not come"
            " back, so that the number found depends on the start."
        ),
        (
            "The number of components that survive depends on weight_concentration and the"
            " prior covariance, not on the data alone."
        ),
    ),
)

CARDS = (GAUSSIAN_MIXTURE, BAYESIAN_GAUSSIAN_MIXTURE, GAUSSIAN_SCALE_MIXTURE)
