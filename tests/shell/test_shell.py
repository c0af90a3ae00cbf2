"""The shell in scikit-learn's company: pipelines, searches, frames, pickles, labels, errors."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_zoo as zoo

SHELL = zoo.sklearn


@pytest.fixture(scope="module")
def faithful():
    return zoo.data.load("old-faithful").train.double().numpy()


@pytest.fixture(scope="module")
def long(faithful):
    """Whether the wait before an eruption was longer than 70 minutes."""
    return np.where(faithful[:, 1] > 70.0, "long", "short")


MIXTURES = {
    "GaussianMixture": {"n_components": 2},
    "BayesianGaussianMixture": {"n_components": 2},
    "BernoulliMixture": {"n_components": 2, "binarize": 0.0, "max_iter": 2000},
}
CLASSIFIERS = {
    "NaiveBayes": {},
    "GaussianNB": {},
    "BernoulliNB": {},
    "LogisticRegression": {},
    "BayesianLogisticRegression": {},
}
FACTORS = {"FactorAnalysis": {}, "ProbabilisticPCA": {}, "BayesianFactorAnalysis": {}}


@pytest.mark.parametrize("name", [*MIXTURES, *CLASSIFIERS])
def test_in_a_pipeline(name, faithful, long):
    options = (MIXTURES | CLASSIFIERS)[name]
    pipeline = make_pipeline(StandardScaler(), getattr(SHELL, name)(**options, random_state=0))
    pipeline.fit(faithful, long)
    groups = pipeline.predict(faithful)
    assert len(set(groups)) == 2
    apart = [groups[long == label] for label in ("long", "short")]
    modes = [max(set(part), key=list(part).count) for part in apart]
    assert modes[0] != modes[1]
    share = sum((part == mode).sum() for part, mode in zip(apart, modes, strict=True)) / len(long)
    assert share > 0.9
    inside = pipeline[-1]
    assert isinstance(inside.fit_, zoo.Fit)
    assert f"{type(inside.fit_.model).__name__}, " in repr(inside.fit_)


def test_a_search_chooses_the_number_of_components(faithful):
    """Numbers of a grid are NumPy's; the fit that was found is saved all the same."""
    search = GridSearchCV(
        SHELL.GaussianMixture(random_state=0, tol=1e-3),
        {"n_components": np.arange(1, 4), "covariance_type": ["full", "tied"]},
        cv=3,
    )
    search.fit(np.random.default_rng(0).permutation(faithful))
    assert search.best_params_["n_components"] > 1
    by_number = search.cv_results_["mean_test_score"].reshape(2, 3)
    assert (by_number[:, 1:] > by_number[:, :1] + 0.3).all()


def test_a_fit_of_numpy_parameters_is_saved(faithful, tmp_path):
    mixture = SHELL.GaussianMixture(np.int64(2), tol=np.float32(1e-6), random_state=np.int64(3))
    mixture.fit(faithful).fit_.save(tmp_path / "run")
    again = zoo.load(tmp_path / "run")
    assert torch.equal(again.model.means, mixture.fit_.model.means)
    assert again.seed == 3


def test_cross_validation_of_the_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2))
    scores = cross_val_score(SHELL.BayesianLinearRegression(), x, x @ [1.0, 2.0] + 3.0, cv=3)
    assert scores.min() > 0.999


def test_clone_and_pickle(faithful, long):
    mixture = SHELL.GaussianMixture(2, random_state=1).fit(faithful)
    again = clone(mixture)
    assert again.get_params() == mixture.get_params()
    with pytest.raises(NotFittedError):
        again.predict(faithful)
    back = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(back.score_samples(faithful), mixture.score_samples(faithful))
    np.testing.assert_array_equal(back.sample(3)[0], mixture.sample(3)[0])
    assert back.fit_.objective == mixture.fit_.objective
    # the same seed, the same fit, as zoo.fit of the model
    model = zoo.GaussianMixture(2, 2)
    zoo.fit(model, faithful, zoo.EM(), seed=1, progress=False)
    np.testing.assert_array_equal(again.fit(faithful).means_, model.means.numpy())


@pytest.mark.parametrize("name", FACTORS)
def test_output_as_frames(name, faithful):
    frame = pd.DataFrame(faithful, columns=["eruption", "wait"])
    estimator = getattr(SHELL, name)(n_components=1).set_output(transform="pandas").fit(frame)
    out = estimator.transform(frame)
    assert isinstance(out, pd.DataFrame)
    assert list(out.columns) == [f"{name.lower()}0"] == list(estimator.get_feature_names_out())
    assert list(estimator.feature_names_in_) == ["eruption", "wait"]
    back = estimator.inverse_transform(out)
    assert np.corrcoef(back[:, 0], faithful[:, 0])[0, 1] > 0.9


@pytest.mark.parametrize("name", [*MIXTURES, *CLASSIFIERS, "FactorAnalysis"])
def test_features_out_of_order_are_refused(name, faithful, long):
    frame = pd.DataFrame(faithful - faithful.mean(0), columns=["eruption", "wait"])
    options = (MIXTURES | CLASSIFIERS | FACTORS)[name]
    estimator = getattr(SHELL, name)(**options, random_state=0).fit(frame, long)
    query = estimator.transform if hasattr(estimator, "transform") else estimator.predict
    query(frame)
    with pytest.raises(ValueError, match="in the same order"):
        query(frame[["wait", "eruption"]])


@pytest.mark.parametrize("labels", [(-1, 1), ("a", "b"), (False, True), (3.0, 5.0)])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_of_any_type(name, labels, faithful, long):
    y = np.where(long == "long", labels[1], labels[0])
    x = faithful - faithful.mean(0)
    classifier = getattr(SHELL, name)(**CLASSIFIERS[name]).fit(x, y)
    assert classifier.classes_.tolist() == list(labels)
    assert classifier.predict(x).dtype == y.dtype
    assert classifier.score(x, y) > 0.9


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_are_those_of_the_density(name, faithful):
    x = StandardScaler().fit_transform(faithful)
    estimator = getattr(SHELL, name)(**MIXTURES[name], random_state=0).fit(x)
    state = torch.get_rng_state()
    drawn, component = estimator.sample(5000)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.shape == (5000, 2)
    np.testing.assert_array_equal(drawn, estimator.sample(5000)[0])  # an integer random_state
    shares = np.bincount(component) / 5000
    np.testing.assert_allclose(shares, estimator.weights_, atol=0.03)
    target = x if name != "BernoulliMixture" else (x > 0).astype(float)
    np.testing.assert_allclose(drawn.mean(0), target.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(target.T), atol=0.06)


def test_random_state_that_moves():
    x = np.random.default_rng(0).normal(size=(50, 2))
    mixture = SHELL.GaussianMixture(random_state=np.random.RandomState(0)).fit(x)
    assert not np.array_equal(mixture.sample(3)[0], mixture.sample(3)[0])


@pytest.mark.parametrize("name", ["GaussianNB", "MultinomialNB", "CategoricalNB"])
def test_samples_of_classes(name):
    rng = np.random.default_rng(0)
    y = np.repeat(["rare", "often"], [200, 600])
    x = rng.poisson(np.where(y == "rare", 1.0, 4.0)[:, None] * [1.0, 0.5])
    options = {} if name == "GaussianNB" else {"alpha": 1e-3}  # next to the shares themselves
    drawn, labels = getattr(SHELL, name)(**options, random_state=0).fit(x, y).sample(4000)
    assert (labels == "often").mean() == pytest.approx(0.75, abs=0.03)
    for label in ("rare", "often"):
        means = drawn[labels == label].mean(0), x[y == label].mean(0)
        if name == "MultinomialNB":  # rows have one mean length, whatever the class
            means = [m / m.sum() for m in means]
        np.testing.assert_allclose(*means, rtol=0.1, atol=0.1)


def test_samples_of_factors(faithful):
    for name in FACTORS:
        estimator = getattr(SHELL, name)(n_components=1, random_state=0).fit(faithful)
        np.testing.assert_allclose(
            np.cov(estimator.sample(20_000).T), estimator.get_covariance(), rtol=0.1, atol=0.05
        )


def test_missing_values_are_integrated_out(faithful):
    x = faithful.copy()
    x[::3, 0] = np.nan
    for estimator in (
        SHELL.GaussianMixture(missing=True, tol=1e-9),
        SHELL.FactorAnalysis(1, missing=True),
        SHELL.BayesianFactorAnalysis(1, missing=True),
    ):
        density = estimator.fit(x)
        missing = np.array([[np.nan, 70.0]])
        grid = np.stack([np.linspace(-5.0, 12.0, 2001), np.full(2001, 70.0)], 1)
        total = np.trapezoid(np.exp(density.score_samples(grid)), grid[:, 0])
        assert np.exp(density.score_samples(missing)[0]) == pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="NaN"):
        SHELL.GaussianMixture().fit(x)


def test_missing_values_of_naive_bayes(faithful, long):
    x = faithful.copy()
    x[::3, 0] = np.nan
    classifier = SHELL.GaussianNB().fit(x, long)
    np.testing.assert_allclose(
        classifier.theta_[0], [np.nanmean(x[long == "long", 0]), x[long == "long", 1].mean()]
    )
    nothing = classifier.predict_proba([[np.nan, np.nan]])
    np.testing.assert_allclose(nothing[0], classifier.class_prior_)


def test_bayesian_naive_bayes_averages_over_its_posterior():
    x = np.array([[1], [1], [0], [0], [0]])
    y = np.array([0, 0, 0, 1, 1])
    own = SHELL.BernoulliNB(bayesian=True, alpha=1.0).fit(x, y)
    ones = np.array([3.0 / 5.0, 1.0 / 4.0]) * [4.0 / 7.0, 3.0 / 7.0]  # classes are Dirichlet(1)
    np.testing.assert_allclose(own.predict_proba([[1]])[0], ones / ones.sum(), rtol=1e-6)
    np.testing.assert_allclose(own.predict_log_proba([[1]])[0], np.log(ones / ones.sum()))


def test_float32_stays_float32(faithful, long):
    x = faithful.astype(np.float32)
    mixture = SHELL.GaussianMixture(2, random_state=0).fit(x)
    assert mixture.means_.dtype == mixture.score_samples(x).dtype == np.float32
    assert SHELL.FactorAnalysis(1).fit_transform(x).dtype == np.float32
    assert SHELL.BernoulliNB().fit(x, long).predict_proba(x).dtype == np.float32
    assert SHELL.BayesianLinearRegression().fit(x, x[:, 0]).predict(x).dtype == np.float32
    assert SHELL.BernoulliNB().fit(faithful, long).predict_proba(faithful).dtype == np.float64


def test_a_fit_that_was_cut_short_says_so(faithful):
    with pytest.warns(ConvergenceWarning, match="did not converge in 3 iterations"):
        mixture = SHELL.GaussianMixture(3, max_iter=3, random_state=0).fit(faithful)
    assert not mixture.converged_
    assert mixture.n_iter_ == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SHELL.GaussianMixture(3, random_state=0).fit(faithful).converged_


def test_ctrl_c_ends_a_search(faithful, monkeypatch):
    """A fit that was interrupted is no result to go on with."""

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo.GaussianMixture, "maximize", interrupted)
    search = GridSearchCV(SHELL.GaussianMixture(), {"n_components": [1, 2]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(faithful)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GaussianMixture", {"n_components": 0}, "n_components: got 0, expected 1 or more"),
        ("GaussianMixture", {"covariance_type": "diagonal"}, "expected one of .*'diag'"),
        ("GaussianMixture", {"init_params": "kmean"}, "init_params: got 'kmean'"),
        ("GaussianMixture", {"n_init": 0}, "n_init=0, expected 1 or more"),
        ("GaussianMixture", {"max_iter": 0}, "max_iter=0, expected 1 or more"),
        ("GaussianMixture", {"n_components": 400}, "272 rows, expected at least n_components=400"),
        ("GaussianMixture", {"means_init": np.zeros((3, 3))}, r"means: got shape \(3, 3\)"),
        ("GaussianMixture", {"random_state": "one"}, "'one' cannot be used to seed"),
        ("BayesianGaussianMixture", {"weight_concentration_prior_type": "dp"}, "got 'dp'"),
        ("BernoulliMixture", {"n_components": 2}, "expected 0 to 1"),
        ("FactorAnalysis", {"n_components": 3}, "n_components: got 3, expected 1 to 2"),
        ("ProbabilisticPCA", {"n_components": 2}, "n_components: got 2, expected 1 to 1"),
        ("BayesianFactorAnalysis", {"noise": "none"}, "noise: got 'none'"),
        ("LogisticRegression", {"C": 0.0}, "C: got 0.0, expected more than 0"),
        ("MultinomialNB", {"alpha": -1.0}, "alpha: got -1.0, expected 0 or more"),
        ("CategoricalNB", {}, "expected 0 to"),
        ("CategoricalNB", {"min_categories": [2, 2, 2]}, r"min_categories: got shape \(3,\)"),
        ("NaiveBayes", {"kind": ["gaussian"]}, "1 kinds"),
        ("NaiveBayes", {"kind": "poisson"}, "kind: got 'poisson'"),
    ],
)
def test_errors_name_the_parameter(name, options, message, faithful, long):
    with pytest.raises(ValueError, match=message):
        getattr(SHELL, name)(**options).fit(faithful, long)


def test_other_errors(faithful, long):
    with pytest.raises(ValueError, match="one class"):
        SHELL.GaussianNB().fit(faithful, np.repeat("all", len(faithful)))
    with pytest.raises(ValueError, match="Only binary"):
        SHELL.BayesianLogisticRegression().fit(faithful, np.arange(len(faithful)) % 3)
    with pytest.raises(ValueError, match="n_samples: got 0"):
        SHELL.GaussianMixture().fit(faithful).sample(0)
    seen = SHELL.CategoricalNB().fit([[0], [1], [1]], [0, 0, 1])
    with pytest.raises(ValueError, match="got 2 in row 0, column 0, expected 0 to 1"):
        seen.predict([[2]])


def test_the_fit_beneath_is_checked_and_exported(faithful):
    mixture = SHELL.BayesianGaussianMixture(2, random_state=0).fit(faithful)
    tree = mixture.fit_.to_arviz()
    assert tree["posterior"]["means"].shape[-2:] == (2, 2)
    assert mixture.fit_.check().inference is not None


def test_without_scikit_learn_the_extra_is_named():
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import ppl_zoo as zoo\n"
        "try: zoo.sklearn\n"
        "except ImportError as error: assert 'ppl_zoo[sklearn]' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
