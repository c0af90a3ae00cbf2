"""The catalogue: a card for each model of the zoo, listed by hand.

To add a model, add its card to ``ZOO``. Cards are data: nothing is imported until it is used.
"""

from __future__ import annotations

import difflib

from ppl_zoo.card import Card, Figure, Recipe, Reference
from ppl_zoo.errors import DataError

__all__ = ["ZOO", "Card", "find"]

_SKLEARN = "scikit-learn GaussianMixture, best of 20 starts, no regularisation"

LINEAR_REGRESSION = Card(
    name="linear-regression",
    title="Bayesian linear regression",
    family="regression",
    factory="ppl_zoo.models:LinearRegression",
    summary="A line through the data, with a conjugate prior on its coefficients and noise; the"
    " smallest model of the zoo, and the one to copy.",
    solvers=("SVI",),
    references=(
        Reference(
            "Bishop",
            2006,
            "Pattern Recognition and Machine Learning, section 3.3",
            "https://www.microsoft.com/en-us/research/publication/"
            "pattern-recognition-machine-learning/",
        ),
    ),
    recipes=(
        Recipe(
            name="old-faithful",
            title="The wait for the next eruption, from the length of the last",
            data="old-faithful",
            data_options={"supervised": True},
            # the intercept is 33 minutes from the start: steps of 0.02 would take long
            options={"restarts": 2, "learning_rate": 0.5},
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of the slope, minutes of waiting a minute of eruption",
            published=10.7296,
            source="least squares, R: lm(waiting ~ eruptions, faithful)",
            reproduced=10.7406,
            command="ppl-zoo reproduce linear-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.posterior(4000)["weights"].mean().item(),
            tolerance=0.03,  # a tenth of the standard error of the slope
        ),
        Figure(
            what="posterior mean of the intercept, minutes",
            published=33.4744,
            source="least squares, R: lm(waiting ~ eruptions, faithful)",
            reproduced=33.4464,
            command="ppl-zoo reproduce linear-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.posterior(4000)["intercept"].mean().item(),
            tolerance=0.12,
        ),
    ),
)

EIGHT_SCHOOLS = Card(
    name="eight-schools",
    title="Eight schools",
    family="regression",
    factory="ppl_zoo.models:EightSchools",
    summary="Effects of coaching in eight schools, pooled as far as the data ask for it; the"
    " hierarchical model on which samplers and guides are tried.",
    solvers=("SVI",),
    references=(
        Reference(
            "Rubin",
            1981,
            "Estimation in parallel randomized experiments",
            "https://doi.org/10.3102/10769986006004377",
        ),
        Reference(
            "Papaspiliopoulos, Roberts & Skold",
            2007,
            "A general framework for the parametrization of hierarchical models",
            "https://arxiv.org/abs/0708.3797",
        ),
    ),
    recipes=(
        Recipe(
            name="noncentered",
            title="Partial pooling without the funnel",
            data="eight-schools",
            model={"parametrization": "noncentered"},
            demo=True,
        ),
        Recipe(
            name="centered",
            title="Partial pooling as the story is told: harder for a mean-field guide",
            data="eight-schools",
            model={"parametrization": "centered"},
            options={"restarts": 4},
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of mu, points of the test",
            published=4.4105,
            source="posteriordb, 10,000 reference draws of eight_schools_noncentered",
            reproduced=4.4994,
            command="ppl-zoo reproduce eight-schools",
            recipe="noncentered",
            measure=lambda fit, data: fit.posterior(4000)["mu"].mean().item(),
            tolerance=0.17,  # 0.05 posterior sd
        ),
        Figure(
            what="posterior mean of theta in school A, points of the test",
            published=6.1505,
            source="posteriordb, 10,000 reference draws of eight_schools_noncentered",
            reproduced=5.3446,
            command="ppl-zoo reproduce eight-schools",
            recipe="noncentered",
            measure=lambda fit, data: fit.posterior(4000)["theta"][..., 0].mean().item(),
            tolerance=1.3,  # the mean-field family itself is 0.22 posterior sd away
        ),
    ),
)


def _faithful(name: str, title: str, components: int, kind: str, demo: bool = False) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        data="old-faithful",
        model={"num_components": components, "covariance": kind},
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


def _objective(fit: object, data: object) -> float:
    return fit.objective


def _bic(fit: object, data: object) -> float:
    return fit.model.bic(*fit.data())


GAUSSIAN_MIXTURE = Card(
    name="gaussian-mixture",
    title="Mixture of Gaussians",
    family="mixtures",
    factory="ppl_zoo.models:GaussianMixture",
    summary="Each row comes from one of K normal distributions; all three queries are exact,"
    " missing values and conditional samples included.",
    solvers=("EM", "SVI"),
    references=(
        Reference(
            "Dempster, Laird & Rubin",
            1977,
            "Maximum likelihood from incomplete data via the EM algorithm",
            "https://doi.org/10.1111/j.2517-6161.1977.tb01600.x",
        ),
        Reference(
            "Fraley & Raftery",
            2007,
            "Bayesian regularization for normal mixture estimation and model-based clustering",
            "https://doi.org/10.1007/s00357-007-0004-5",
        ),
    ),
    recipes=(
        _faithful("old-faithful", "Two kinds of eruption", 2, "full", demo=True),
        Recipe(
            name="photo-patches",
            title="Twenty kinds of 8x8 patch of a photograph",
            data="photo-patches",
            model={"num_components": 20},
            solver="EM",
            options={"max_steps": 100, "tol": 1e-2},  # nats a patch, of some 180
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
            "BIC of Old Faithful, K=3 tied, the best of all kinds",
            "old-faithful-tied-3",
            published=2314.296,
            reproduced=2314.2957,
            bic=True,
        ),
    ),
)

#: every model of the zoo
ZOO: tuple[Card, ...] = (LINEAR_REGRESSION, EIGHT_SCHOOLS, GAUSSIAN_MIXTURE)


def find(name: str) -> Card:
    """Return the card of a model.

    Parameters
    ----------
    name
        As ``ppl-zoo list`` shows it; the name of the class will do too.

    Returns
    -------
    Card

    Raises
    ------
    DataError
        If there is no such model; the message names the nearest ones.

    Examples
    --------
    >>> find("eight-schools").title
    'Eight schools'
    """
    key = _plain(name)
    for card in ZOO:
        if key in (_plain(card.name), _plain(card.factory.partition(":")[2])):
            return card
    names = [card.name for card in ZOO]
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise DataError(f"model: got {name!r}; {hint}The zoo has: {', '.join(names)}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
