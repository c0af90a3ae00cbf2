"""The shell's estimators against scikit-learn's of the same names, on the same data."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn import decomposition, linear_model, mixture, naive_bayes

import ppl_zoo as zoo

SHELL = zoo.sklearn


@pytest.fixture(scope="module")
def blobs():
    """Three clusters in the plane, and their labels."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    centres = np.array([[0.0, 0.0], [4.0, 1.0], [-1.0, 5.0]])
    return centres[y] + rng.normal(size=(300, 2)) @ np.array([[1.0, 0.4], [0.0, 0.8]]), y


@pytest.fixture(scope="module")
def counts(blobs):
    rng = np.random.default_rng(1)
    rates = np.array([[5.0, 1.0, 2.0, 0.5], [1.0, 4.0, 2.0, 0.5], [1.0, 1.0, 3.0, 3.0]])
    return rng.poisson(rates[blobs[1]]), blobs[1]


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_gaussian_mixture_from_one_start(kind, blobs):
    x = blobs[0]
    precisions = {
        "full": np.stack([np.eye(2)] * 3),
        "tied": np.eye(2),
        "diag": np.ones((3, 2)),
        "spherical": np.ones(3),
    }[kind]
    start = {
        "covariance_type": kind,
        "weights_init": np.array([0.4, 0.3, 0.3]),
        "means_init": x[:3],
        "precisions_init": precisions,
        "max_iter": 500,
        "tol": 1e-10,
    }
    ours = SHELL.GaussianMixture(3, **start).fit(x)
    theirs = mixture.GaussianMixture(3, reg_covar=0.0, **start).fit(x)
    assert ours.converged_
    assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-6)
    assert ours.lower_bound_ == pytest.approx(ours.score(x), abs=1e-4)
    order = np.argsort(-theirs.weights_)
    np.testing.assert_allclose(ours.weights_, theirs.weights_[order], atol=1e-3)
    np.testing.assert_allclose(ours.means_, theirs.means_[order], atol=1e-2)
    own = theirs.covariances_ if kind == "tied" else theirs.covariances_[order]
    np.testing.assert_allclose(ours.covariances_, own, atol=1e-2)
    # the criteria count the same parameters
    assert ours.bic(x) == pytest.approx(theirs.bic(x), abs=1e-3)
    assert ours.aic(x) == pytest.approx(theirs.aic(x), abs=1e-3)


def test_a_part_of_a_start_may_be_given(blobs):
    x = blobs[0]
    means = np.array([[-1.0, 5.0], [4.0, 1.0], [0.0, 0.0]])
    chosen = SHELL.GaussianMixture(3, means_init=means, tol=1e-9, random_state=0).fit(x)
    free = SHELL.GaussianMixture(3, tol=1e-9, random_state=0).fit(x)
    np.testing.assert_allclose(chosen.means_, free.means_, atol=1e-3)


def test_weights_count_rows(blobs):
    x = blobs[0]
    weight = np.random.default_rng(0).integers(0, 4, len(x))
    many = np.repeat(x, weight, axis=0)
    start = {"means_init": np.array([[0.0, 0.0], [4.0, 1.0], [-1.0, 5.0]]), "tol": 1e-10}
    start |= {"weights_init": np.ones(3) / 3, "precisions_init": np.stack([np.eye(2)] * 3)}
    weighted = SHELL.GaussianMixture(3, **start).fit(x, sample_weight=weight)
    repeated = SHELL.GaussianMixture(3, **start).fit(many)
    np.testing.assert_allclose(weighted.means_, repeated.means_, atol=1e-4)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, atol=1e-4)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Best performing initialization")
def test_bayesian_gaussian_mixture(blobs):
    """One component, so that neither has a start to choose: the same conjugate posterior."""
    x = blobs[0]
    ours = SHELL.BayesianGaussianMixture().fit(x)
    prior = {"covariance_prior": np.cov(x.T, ddof=0), "mean_precision_prior": 1.0}
    theirs = mixture.BayesianGaussianMixture(reg_covar=0.0, max_iter=50, **prior).fit(x)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-3)


def test_gaussian_scale_mixture(blobs):
    """One scale is a Gaussian; more are the mixture of its parts."""
    x = blobs[0]
    one = SHELL.GaussianScaleMixture(1).fit(x)
    assert one.score(x) == pytest.approx(mixture.GaussianMixture().fit(x).score(x), abs=1e-6)
    np.testing.assert_allclose(one.covariance_, np.cov(x.T, ddof=0), rtol=1e-6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2)) * np.where(rng.random((2000, 1)) < 0.2, 5.0, 1.0) + 3.0
    ours = SHELL.GaussianScaleMixture(2, random_state=0).fit(x)
    assert ours.weights_ @ ours.scales_ == pytest.approx(1.0)
    parts = [
        w * multivariate_normal(ours.mean_, s * ours.covariance_).pdf(x)
        for w, s in zip(ours.weights_, ours.scales_, strict=True)
    ]
    np.testing.assert_allclose(ours.score_samples(x), np.log(sum(parts)), rtol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(x), np.transpose(parts / sum(parts)), atol=1e-6)
    assert sorted(ours.scales_)[1] / sorted(ours.scales_)[0] == pytest.approx(25.0, rel=0.2)
    np.testing.assert_allclose(np.cov(ours.sample(20_000)[0].T), ours.covariance_, atol=0.4)


def same_classifier(ours, theirs, x):
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-7)
    np.testing.assert_allclose(
        ours.predict_log_proba(x), theirs.predict_log_proba(x), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_array_equal(ours.class_count_, theirs.class_count_)


def test_gaussian_nb(blobs):
    x, y = blobs
    ours = SHELL.GaussianNB().fit(x, y)
    theirs = naive_bayes.GaussianNB().fit(x, y)
    same_classifier(ours, theirs, x)
    for name in ("theta_", "var_", "class_prior_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("name", ["BernoulliNB", "MultinomialNB"])
def test_nb_of_counts(name, alpha, layout, counts):
    x, y = layout(counts[0].astype(float)), counts[1]
    ours = getattr(SHELL, name)(alpha=alpha).fit(x, y)
    theirs = getattr(naive_bayes, name)(alpha=alpha).fit(x, y)
    same_classifier(ours, theirs, x)
    np.testing.assert_allclose(ours.feature_log_prob_, theirs.feature_log_prob_, rtol=1e-6)
    np.testing.assert_allclose(ours.class_log_prior_, theirs.class_log_prior_, rtol=1e-6)


@pytest.mark.parametrize("least", [None, 9, [7, 7, 9, 8]])
def test_categorical_nb(least, counts):
    x, y = np.minimum(counts[0], 6), counts[1]
    ours = SHELL.CategoricalNB(min_categories=least).fit(x, y)
    theirs = naive_bayes.CategoricalNB(min_categories=least).fit(x, y)
    same_classifier(ours, theirs, x)
    np.testing.assert_array_equal(ours.n_categories_, theirs.n_categories_)


def test_mixed_columns_multiply(blobs, counts):
    """Columns are independent given the class: log joint densities add up."""
    (x, y), z = blobs, np.minimum(counts[0], 6)[:, :2]
    both = np.concatenate([x, z], axis=1)
    kinds = ["gaussian", "gaussian", "categorical", "categorical"]
    ours = SHELL.NaiveBayes(kind=kinds).fit(both, y)
    parts = naive_bayes.GaussianNB().fit(x, y), naive_bayes.CategoricalNB().fit(z, y)
    joint = parts[0].predict_joint_log_proba(x) + parts[1].predict_joint_log_proba(z)
    joint -= (
        parts[0].class_log_prior_
        if hasattr(parts[0], "class_log_prior_")
        else np.log(parts[0].class_prior_)
    )
    np.testing.assert_allclose(ours.predict_joint_log_proba(both), joint, rtol=1e-6)
    density = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(ours.score_samples(both), density, rtol=1e-6)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("strength", [0.1, 1.0, 50.0])
def test_logistic_regression(strength, num_classes, layout, blobs):
    x, y = blobs
    keep = y < num_classes
    x, y = layout(x[keep]), y[keep]
    ours = SHELL.LogisticRegression(C=strength).fit(x, y)
    theirs = linear_model.LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    if num_classes == 2:  # of several, a constant may be added to all
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    assert ours.decision_function(x).shape == theirs.decision_function(x).shape


def test_bayesian_logistic_regression_finds_the_mode_of_many_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 2))
    y = np.where(rng.random(5000) < 1 / (1 + np.exp(-x @ [1.0, -0.5] - 0.3)), "yes", "no")
    ours = SHELL.BayesianLogisticRegression().fit(x, y)
    theirs = linear_model.LogisticRegression(C=np.inf).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.01)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=0.01)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.005)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)) * [1.0, 10.0, 0.1] + [0.0, 2000.0, 5.0]
    return x, x @ [2.0, -0.3, 0.0] + 7.0 + 0.5 * rng.normal(size=80)


def test_bayesian_linear_regression_is_conjugate(line):
    """With a fixed precision of the weights the posterior is exact: normal inverse gamma."""
    x, y = line
    options = {"relevance_shape": 2.0, "relevance_rate": 200.0, "intercept_scale": 10.0}
    ours = SHELL.BayesianLinearRegression(relevance="fixed", **options).fit(x, y)
    exact = zoo.LinearRegression(3, prior_scale=10.0).closed_form(x, y)
    np.testing.assert_allclose(ours.intercept_, exact.mean[0], rtol=1e-6)
    np.testing.assert_allclose(ours.coef_, exact.mean[1:], rtol=1e-6)
    assert ours.alpha_ == pytest.approx(float(exact.shape / exact.rate), rel=1e-6)
    covariance = float(exact.rate / (exact.shape - 1)) * exact.scale.numpy()
    np.testing.assert_allclose(ours.sigma_, covariance[1:, 1:], rtol=1e-6)
    mean, sd = ours.predict(x, return_std=True)
    design = np.concatenate([np.ones((80, 1)), x], axis=1)
    np.testing.assert_allclose(mean, design @ exact.mean.numpy(), rtol=1e-6)
    noise = float(exact.rate / (exact.shape - 1))
    variance = np.einsum("ni,ij,nj->n", design, covariance, design) + noise
    np.testing.assert_allclose(sd, np.sqrt(variance), rtol=1e-5)


@pytest.mark.parametrize("relevance", ["each", "shared"])
def test_bayesian_linear_regression_is_least_squares_where_data_are_strong(relevance, line):
    x, y = line
    ours = SHELL.BayesianLinearRegression(relevance=relevance).fit(x, y)
    theirs = linear_model.LinearRegression().fit(x, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=0.2)
    np.testing.assert_allclose(ours.coef_[:2], theirs.coef_[:2], atol=0.05)
    assert ours.alpha_**-0.5 == pytest.approx(0.5, abs=0.1)


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, 6))
    noise = rng.normal(size=(400, 6)) * [0.3, 0.5, 0.2, 0.6, 0.4, 0.3]
    return rng.normal(size=(400, 2)) @ loadings + noise + 3.0


def test_factor_analysis(factors):
    ours = SHELL.FactorAnalysis(2, tol=1e-9).fit(factors)
    theirs = decomposition.FactorAnalysis(2, tol=1e-10, max_iter=10_000, svd_method="lapack")
    theirs.fit(factors)
    assert ours.score(factors) == pytest.approx(theirs.score(factors), abs=1e-6)
    np.testing.assert_allclose(
        ours.score_samples(factors), theirs.score_samples(factors), atol=1e-3
    )
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-3)
    np.testing.assert_allclose(ours.get_precision() @ ours.get_covariance(), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, atol=1e-3)
    # factors are known up to rotation: their means of x agree
    theirs_mean = theirs.transform(factors) @ theirs.components_ + theirs.mean_
    ours_mean = ours.inverse_transform(ours.transform(factors))
    np.testing.assert_allclose(ours_mean, theirs_mean, atol=1e-3)


def test_probabilistic_pca(factors):
    num = len(factors)
    ours = SHELL.ProbabilisticPCA(2).fit(factors)
    theirs = decomposition.PCA(2).fit(factors)
    unbiased = num / (num - 1)  # PCA divides by n - 1
    np.testing.assert_allclose(
        ours.get_covariance() * unbiased, theirs.get_covariance(), atol=1e-9
    )
    assert ours.noise_variance_ * unbiased == pytest.approx(theirs.noise_variance_)
    density = multivariate_normal(ours.mean_, ours.get_covariance())
    np.testing.assert_allclose(ours.score_samples(factors), density.logpdf(factors), rtol=1e-9)
    # maximum likelihood is no lower, and by the change of the scale alone
    gap = ours.score(factors) - theirs.score(factors)
    scale = 0.5 * 6 * (np.log(unbiased) + 1 / unbiased - 1)
    assert gap == pytest.approx(scale, abs=1e-9)
    directions = ours.components_ / np.linalg.norm(ours.components_, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(directions @ theirs.components_.T), np.eye(2), atol=1e-8)


def test_bayesian_factor_analysis(factors):
    ours = SHELL.BayesianFactorAnalysis(5).fit(factors)
    assert ours.num_relevant_ == 2
    density = multivariate_normal(ours.mean_, ours.get_covariance())
    np.testing.assert_allclose(ours.score_samples(factors), density.logpdf(factors), rtol=1e-6)
    best = SHELL.FactorAnalysis(2).fit(factors).score(factors)
    assert best - 0.05 < ours.score(factors) <= best
