"""Cards of the mixtures."""

from __future__ import annotations

from ppl_zoo.card import Card, Figure, Recipe, Reference

__all__ = ["CARDS"]

_SKLEARN = "scikit-learn GaussianMixture, best of 20 starts, no regularisation"


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

CARDS = (GAUSSIAN_MIXTURE,)
