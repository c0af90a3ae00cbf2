"""Model cards of the regressions."""

from ppl_zoo.models.card import Card, Figure, Recipe
from ppl_zoo.models.references import (
    BISHOP_2006,
    DRUGOWITSCH_2013,
    DURANTE_2019,
    JAAKKOLA_2000,
    PAPASPILIOPOULOS_2007,
    RUBIN_1981,
)

__all__ = ["CARDS"]

LINEAR_REGRESSION = Card(
    name="linear-regression",
    title="Bayesian linear regression",
    family="regression",
    factory="ppl_zoo.models:LinearRegression",
    summary="A line through the data, with a conjugate prior on its coefficients and noise; the"
    " smallest model of the zoo, and the one to copy.",
    solvers=("SVI",),
    references=(BISHOP_2006.part("section 3.3"),),
    recipes=(
        Recipe(
            name="old-faithful",
            title="The wait for the next eruption, from the length of the last",
            data="old-faithful",
            data_options={"supervised": True},
            options={"restarts": 2},
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of the slope, minutes of waiting a minute of eruption",
            published=10.7296,
            source="least squares, R: lm(waiting ~ eruptions, faithful)",
            reproduced=10.7358,
            command="ppl-zoo reproduce linear-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.posterior(4000)["weights"].mean().item(),
            tolerance=0.03,  # a tenth of the standard error of the slope
        ),
        Figure(
            what="posterior mean of the intercept, minutes",
            published=33.4744,
            source="least squares, R: lm(waiting ~ eruptions, faithful)",
            reproduced=33.4507,
            command="ppl-zoo reproduce linear-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.posterior(4000)["intercept"].mean().item(),
            tolerance=0.12,
        ),
    ),
    formula=(
        r"p(y \mid x, \mathcal{D}) \approx \frac{1}{S} \sum_{s=1}^{S} \mathcal{N}\left(y"
        r" \mid b_s + w_s^\top x,\, \sigma_s^2\right)"
    ),
    failure_modes=(
        (
            "A mean-field guide (guide='normal') on correlated columns has sds that are too"
            " small; the default one is of full rank."
        ),
        (
            "The noise is normal with one sd for all rows: outliers move the plane, and a"
            " funnel-shaped scatter is described badly."
        ),
    ),
)

EIGHT_SCHOOLS = Card(
    name="eight-schools",
    title="Eight schools",
    family="regression",
    factory="ppl_zoo.models:EightSchools",
    summary="Effects of coaching in eight schools, pooled as far as the data support it; the"
    " hierarchical model on which samplers and guides are tested.",
    solvers=("SVI",),
    references=(RUBIN_1981, PAPASPILIOPOULOS_2007),
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
            title="The centered parametrisation: harder for a mean-field guide",
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
            reproduced=4.5559,
            command="ppl-zoo reproduce eight-schools",
            recipe="noncentered",
            measure=lambda fit, data: fit.posterior(4000)["mu"].mean().item(),
            tolerance=0.17,  # 0.05 posterior sd
        ),
        Figure(
            what="posterior mean of theta in school A, points of the test",
            published=6.1505,
            source="posteriordb, 10,000 reference draws of eight_schools_noncentered",
            reproduced=5.7381,
            command="ppl-zoo reproduce eight-schools",
            recipe="noncentered",
            measure=lambda fit, data: fit.posterior(4000)["theta"][..., 0].mean().item(),
            tolerance=1.0,  # the normal family itself is 0.17 posterior sd away
        ),
    ),
    formula=(
        r"p(y) = \int \prod_j \mathcal{N}(y_j \mid \mu, \sigma_j^2 + \tau^2)\; p(\mu)\,"
        r" p(\tau)\, d\mu\, d\tau"
    ),
    failure_modes=(
        (
            "Centred, theta and tau make a funnel that a mean-field guide cannot follow:"
            " the sd of tau is too small, and k-hat above 0.7."
        ),
        (
            "Eight schools say little about tau: its posterior leans on the prior, and a"
            " wider HalfCauchy moves it."
        ),
    ),
)

BAYESIAN_LINEAR_REGRESSION = Card(
    name="bayesian-linear-regression",
    title="Linear regression with relevances",
    family="regression",
    factory="ppl_zoo.models:BayesianLinearRegression",
    summary="Linear regression with unknown noise and prior precisions, one for all weights or one"
    " for each (automatic relevance determination).",
    solvers=("CAVI", "NUTS"),
    references=(DRUGOWITSCH_2013,),
    recipes=(
        Recipe(
            name="old-faithful",
            title="The wait for the next eruption, from the length of the last",
            data="old-faithful",
            data_options={"supervised": True},
            dtype="float64",
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of the slope, minutes of waiting a minute of eruption",
            published=10.7296,
            source="least squares, R: lm(waiting ~ eruptions, faithful)",
            reproduced=10.7155,
            command="ppl-zoo reproduce bayesian-linear-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.model.coefficients[0].item(),
            tolerance=0.03,  # a tenth of the standard error of the slope
        ),
    ),
    formula=(
        r"p(y \mid x, \mathcal{D}) \approx \int \mathcal{N}\left(y \mid b + w^\top x,\,"
        r" \lambda^{-1}\right) q(b, w, \lambda)\, db\, dw\, d\lambda"
    ),
    failure_modes=(
        (
            "With a relevance for each feature, weights and relevances are held independent:"
            " the intervals of weights close to zero are too narrow; fit.check(zoo.NUTS())"
            " shows by how much."
        ),
        (
            "A relevance shrinks one of two collinear features to zero and keeps the other:"
            " that is no finding about which of them matters."
        ),
        (
            "The noise is normal with one sd for all rows: a single outlier moves the plane"
            " and widens every interval."
        ),
    ),
)

BAYESIAN_LOGISTIC_REGRESSION = Card(
    name="bayesian-logistic-regression",
    title="Bayesian logistic regression",
    family="regression",
    factory="ppl_zoo.models:BayesianLogisticRegression",
    summary="Logistic regression with a normal prior, by Polya-gamma augmentation.",
    solvers=("CAVI", "NUTS"),
    references=(JAAKKOLA_2000, DURANTE_2019),
    recipes=(
        Recipe(
            name="old-faithful",
            title="Whether the next wait takes more than 70 minutes, from the last eruption",
            data="old-faithful",
            data_options={"supervised": True, "longer_than": 70.0},
            model={"standardize": False},  # as the published number
            dtype="float64",
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of the slope, logits a minute of eruption",
            published=3.8580,
            source="quadrature on a grid of both coefficients",
            reproduced=3.7590,
            command="ppl-zoo reproduce bayesian-logistic-regression",
            recipe="old-faithful",
            measure=lambda fit, data: fit.model.q_loc[0].item(),
            tolerance=0.15,  # 0.3 posterior sd: mean field over omega is that far off
        ),
    ),
    formula=(
        r"p(y = 1 \mid x, \mathcal{D}) \approx \int \sigma(b + w^\top x)\,"
        r" \mathcal{N}(b, w \mid m, V)\, db\, dw"
    ),
    failure_modes=(
        (
            "Sds are too small where logits are large, a third of the true ones on well"
            " separated classes: the Polya-gamma variables are held independent of the"
            " weights."
        ),
        (
            "On separable classes the likelihood has no maximum, so that the size of the"
            " weights is the prior's (prior_scale), not the data's."
        ),
    ),
)

CARDS = (
    BAYESIAN_LINEAR_REGRESSION,
    BAYESIAN_LOGISTIC_REGRESSION,
    LINEAR_REGRESSION,
    EIGHT_SCHOOLS,
)
