"""Degenerate data: the answer of the limit, or an error of the project; never NaN in silence."""

import pytest
import torch

import ppl_zoo as zoo

DTYPES = [torch.float32, torch.float64]
NUM_FEATURES = 4


def normal_rows(num_rows=40, num_features=NUM_FEATURES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_features, generator=generator, dtype=torch.float64)


def constant_column():
    x = normal_rows()
    x[:, 1] = 3.0
    return x


def collinear_columns():
    x = normal_rows()
    x[:, 3] = x[:, 0] - 2.0 * x[:, 1]
    return x


TABLES = {
    "a constant table": lambda: torch.full((40, NUM_FEATURES), 0.1, dtype=torch.float64),
    "zeros": lambda: torch.zeros(40, NUM_FEATURES, dtype=torch.float64),
    "a constant column": constant_column,
    "one row": lambda: normal_rows(1),
    "two rows": lambda: normal_rows(2),
    "exact duplicates": lambda: normal_rows(4).repeat(10, 1),
    "two distinct rows": lambda: normal_rows(2).repeat(20, 1),
    "a column twice": lambda: normal_rows()[:, [0, 1, 2, 0]],
    "collinear columns": collinear_columns,
    "offset 1e8": lambda: normal_rows() + 1e8,
    "scale 1e-12": lambda: normal_rows() * 1e-12,
    "scale 1e12": lambda: normal_rows() * 1e12,
    "columns of scales 1e-6 to 1e6": lambda: (
        normal_rows() * torch.tensor([1e-6, 1e-2, 1e2, 1e6], dtype=torch.float64)
    ),
    "one row far away": lambda: torch.cat([normal_rows(), torch.full((1, 4), 1e7).double()]),
    "fewer rows than features": lambda: normal_rows(3),
}


def with_target(x):
    """A linear function of the first column, and noise."""
    noise = normal_rows(len(x), 1, seed=1)[:, 0]
    return x, x[:, 0] + 0.1 * noise * x.abs().max()


def with_labels(x):
    return x, (normal_rows(len(x), 1, seed=1)[:, 0] > 0).to(torch.int64)


def alone(x):
    return x


SHORT = zoo.SVI(steps=5, compile=False)
#: name: model, solver of the long test (None for its own), its data
MODELS = {
    "FactorAnalysis": (lambda: zoo.FactorAnalysis(NUM_FEATURES, 2), None, alone),
    "FactorAnalysis random": (
        lambda: zoo.FactorAnalysis(NUM_FEATURES, 2, init="random", steps_per_pass=1),
        zoo.EM(steps=30),
        alone,
    ),
    "FactorAnalysis missing": (
        lambda: zoo.FactorAnalysis(NUM_FEATURES, 1, missing=True),
        zoo.EM(steps=30),
        alone,
    ),
    "FactorAnalysis all factors": (lambda: zoo.FactorAnalysis(NUM_FEATURES, 4), None, alone),
    "BayesianFactorAnalysis": (lambda: zoo.BayesianFactorAnalysis(NUM_FEATURES, 2), None, alone),
    "BayesianFactorAnalysis missing": (
        lambda: zoo.BayesianFactorAnalysis(NUM_FEATURES, 1, missing=True),
        zoo.CAVI(steps=30),
        alone,
    ),
    "Bayesian PCA": (
        lambda: zoo.BayesianFactorAnalysis(NUM_FEATURES, 3, "isotropic"),
        None,
        alone,
    ),
    "ProbabilisticPCA": (lambda: zoo.ProbabilisticPCA(NUM_FEATURES, 1), None, alone),
    "ProbabilisticPCA missing": (
        lambda: zoo.ProbabilisticPCA(NUM_FEATURES, 1, missing=True),
        zoo.EM(steps=30),
        alone,
    ),
    **{
        f"GaussianMixture {c}": (lambda c=c: zoo.GaussianMixture(2, NUM_FEATURES, c), None, alone)
        for c in ("full", "tied", "diagonal", "spherical")
    },
    "GaussianMixture missing": (
        lambda: zoo.GaussianMixture(2, NUM_FEATURES, missing=True),
        zoo.EM(steps=30),
        alone,
    ),
    **{
        f"BayesianGaussianMixture {c}": (
            lambda c=c: zoo.BayesianGaussianMixture(3, NUM_FEATURES, covariance=c),
            None,
            alone,
        )
        for c in ("full", "tied", "diagonal", "spherical")
    },
    "GaussianScaleMixture": (lambda: zoo.GaussianScaleMixture(2, NUM_FEATURES), None, alone),
    "MultivariateGaussian": (lambda: zoo.MultivariateGaussian(NUM_FEATURES), None, alone),
    "BayesianLinearRegression": (
        lambda: zoo.BayesianLinearRegression(NUM_FEATURES),
        None,
        with_target,
    ),
    "LinearRegression": (lambda: zoo.LinearRegression(NUM_FEATURES), SHORT, with_target),
    "LogisticRegression": (lambda: zoo.LogisticRegression(NUM_FEATURES), None, with_labels),
    "BayesianLogisticRegression": (
        lambda: zoo.BayesianLogisticRegression(NUM_FEATURES),
        None,
        with_labels,
    ),
    "NaiveBayes": (lambda: zoo.NaiveBayes(NUM_FEATURES, kind="gaussian"), None, with_labels),
    "VAE": (lambda: zoo.VAE(NUM_FEATURES, 1, (8,), "gaussian"), SHORT, alone),
    "RNADE": (lambda: zoo.RNADE(NUM_FEATURES, 2, 8), SHORT, alone),
}
NAMED = (zoo.DataError, zoo.ConvergenceError)


def shortened(model):
    """The model's own solver, ended early."""
    return (zoo.CAVI if model.default_solver[0] == "CAVI" else zoo.EM)(steps=8)


def outcome(name, table, dtype, short=False):
    """The fit, whose numbers are finite, or None where the project named an error."""
    make, solver, arrange = MODELS[name]
    model, data = make().to(dtype), arrange(TABLES[table]().to(dtype))
    if short and solver is not SHORT:
        solver = shortened(model)
    try:
        fit = zoo.fit(model, data, solver, progress=False)
    except NAMED as error:
        assert "one bound" not in str(error), "the model is blamed for rounding"
        return None
    rows = data if isinstance(data, tuple) else (data,)
    assert model.queries["log_prob"] != "none"
    assert torch.isfinite(model.log_prob(*rows)).all()
    for key, value in (model.state_dict() | dict(fit.params)).items():
        value = torch.as_tensor(value)
        if "class_rates" in key:  # log 0 of a label that no row has, at maximum likelihood
            value = value.exp()
        assert not value.is_floating_point() or torch.isfinite(value).all(), key
    return fit


@pytest.mark.parametrize("table", TABLES)
def test_the_limit_or_a_named_error(table):
    place = list(TABLES).index(table)
    for name in list(MODELS)[place % 5 :: 5]:  # the long test takes all pairs
        torch.manual_seed(0)
        outcome(name, table, DTYPES[len(name) % 2], short=True)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", MODELS)
def test_the_limit_or_a_named_error_of_whole_fits(name, table):
    for dtype in DTYPES:
        for seed in range(2):
            torch.manual_seed(seed)
            outcome(name, table, dtype)


#: their density follows x to another offset and unit
FOLLOWING = [
    name
    for name in MODELS
    if name.startswith(("Factor", "Bayesian", "Probab", "Gaussian", "Multi"))
    and "Regression" not in name
    and not name.endswith(("random", "missing", "factors", "tied", "diagonal"))
]


@pytest.mark.parametrize("name", FOLLOWING)
def test_offset_and_unit_change_nothing(name):
    x = normal_rows(60)
    make, _, _ = MODELS[name]
    scores = []
    for scale, offset in ((1.0, 0.0), (1.0, 1e8), (1e-12, 0.0)):
        torch.manual_seed(0)
        model = make().double()
        moved = scale * x + offset
        zoo.fit(model, moved, shortened(model), progress=False)
        scores.append(model.log_prob(moved) + NUM_FEATURES * torch.tensor(scale).log())
    # numbers of size 1e8 are known to 1e-8
    assert torch.allclose(scores[1], scores[0], atol=1e-4)
    assert torch.allclose(scores[2], scores[0], atol=1e-4)


def test_a_repeated_column_is_explained_wholly():
    x = TABLES["a column twice"]()
    model = zoo.FactorAnalysis(NUM_FEATURES, 2).double()
    zoo.fit(model, x, zoo.EM(steps=50), progress=False)
    share = model.noise / x.var(0, correction=0)
    assert (share[[0, 3]] < 1e-4).all()
    assert torch.allclose(model.loadings[0], model.loadings[3], atol=1e-3)


def test_naive_bayes_of_one_label_gives_the_others_no_chance():
    x, y = normal_rows(5), torch.ones(5, dtype=torch.int64)
    model = zoo.NaiveBayes(NUM_FEATURES, kind="gaussian").double()
    zoo.fit(model, (x, y), progress=False)
    assert torch.equal(model.predict_proba(x)[:, 1], torch.ones(5, dtype=torch.float64))


# --- rounding of coordinate ascent -------------------------------------------------------------


def fit_two_components(num_rows, num_features, offset=0.0):
    x = normal_rows(num_rows, num_features).float() + offset
    fit = zoo.fit(zoo.GaussianMixture(2, num_features), x, progress=False)
    assert torch.isfinite(fit.model.log_prob(x)).all()


@pytest.mark.parametrize("size", [(100, 90), (200, 90), (400, 75), (1000, 60)])
def test_em_in_float32_climbs_on_plain_rows(size):
    fit_two_components(*size)


@pytest.mark.slow
def test_em_in_float32_climbs_on_plain_rows_of_97_sizes():
    rows = (100, 150, 200, 300, 400, 500, 700, 850, 1000)
    features = (2, 5, 10, 20, 30, 45, 60, 75, 80, 85, 90)
    for num_rows, num_features in [(n, d) for n in rows for d in features][:97]:
        fit_two_components(num_rows, num_features)


def test_rounding_is_named_and_not_the_model():
    with pytest.raises(zoo.ConvergenceError, match="rounding in float32 moves it") as caught:
        fit_two_components(100, 90, offset=1e4)
    assert "one bound" not in str(caught.value)
    assert "model.double()" in str(caught.value)


def test_a_small_fall_by_rounding_ends_the_fit():
    x = TABLES["one row far away"]()
    fit = zoo.fit(zoo.GaussianMixture(2, NUM_FEATURES, "tied").double(), x, progress=False)
    assert fit.solution.stopped == ("converged",)


class Unregularised(zoo.FactorAnalysis):
    """A user's M-step that factorises whatever it gets."""

    def maximize(self, statistics):
        """Fail on a covariance without an inverse."""
        torch.linalg.cholesky(-statistics["second"])


def test_a_singular_matrix_of_a_users_step_is_named():
    model = Unregularised(NUM_FEATURES, 1)
    with pytest.raises(zoo.ConvergenceError, match="EM: iteration 0 met a matrix"):
        zoo.fit(model, normal_rows().float(), progress=False)


def test_a_scale_mixture_of_few_rows_says_so():
    x = normal_rows(NUM_FEATURES)
    with pytest.raises(zoo.DataError, match="expected more than the 4 features"):
        zoo.fit(zoo.GaussianScaleMixture(2, NUM_FEATURES).double(), x, progress=False)
