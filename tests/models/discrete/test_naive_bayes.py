"""Naive Bayes and logistic regression: scikit-learn, closed forms and enumeration as oracles."""

import os

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn import linear_model, naive_bayes

import ppl_zoo as zoo
from ppl_zoo.testing import check_model

KINDS = ["bernoulli"] * 2 + ["categorical"] * 3 + ["gaussian"] * 2


def mixed(bayesian=False):
    return zoo.NaiveBayes(7, 3, KINDS, num_states=[3, 3, 4], bayesian=bayesian)


def mixed_rows(rows=40):
    """Columns of all kinds, a tenth of the values missing, a quarter of the labels."""
    x = torch.stack([torch.randint(k, (rows,)).float() for k in (2, 2, 3, 3, 4)], -1)
    x = torch.cat([x, 3.0 * torch.randn(rows, 2) + 10.0], 1)
    x[torch.rand(x.shape) < 0.1] = torch.nan
    x[0, 0] = 1.0
    y = torch.randint(3, (rows,)).float()
    y[::4] = torch.nan
    return x, y


def counts(rows=40):
    return torch.poisson(3.0 * torch.rand(rows, 4)), torch.randint(2, (rows,))


def points(classes, rows=40):
    return torch.randn(rows, 3), torch.randint(classes, (rows,))


CASES = {
    "mixed": (lambda b: mixed(b), mixed_rows),
    "unlabelled": (lambda b: mixed(b), lambda: mixed_rows()[0]),
    "counts": (lambda b: zoo.NaiveBayes(4, 2, "multinomial", bayesian=b), counts),
    "logistic": (lambda b: zoo.LogisticRegression(3, bayesian=b), lambda: points(2)),
    "softmax": (lambda b: zoo.LogisticRegression(3, 4, bayesian=b), lambda: points(4)),
}


#: whose contract takes three seconds where it is Bayesian
LONG = {"logistic", "softmax"}


@pytest.mark.parametrize(
    ("name", "bayesian"),
    [
        pytest.param(n, b, marks=[pytest.mark.slow] if b and n in LONG else [])
        for n in CASES
        for b in (False, True)
    ],
)
def test_contract(name, bayesian):
    make, data = CASES[name]
    check_model(lambda: make(bayesian), data)


def fitted(model, data, solver=None):
    return zoo.fit(model.double(), data, solver, device="cpu", progress=False)


# --- scikit-learn ------------------------------------------------------------------------------


def classes_of(kind, rows=300, columns=6, classes=3):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows)
    rates = rng.random((classes, columns))[y]
    x = {
        "bernoulli": lambda: rng.random(rates.shape) < rates,
        "multinomial": lambda: rng.poisson(4 * rates),
        "gaussian": lambda: 1000 + rates * rng.normal(size=rates.shape) + y[:, None],
        "categorical": lambda: rng.binomial(3, rates),
    }[kind]()
    return x.astype(np.float64), y


PEERS = {
    "bernoulli": naive_bayes.BernoulliNB,
    "multinomial": naive_bayes.MultinomialNB,
    "gaussian": naive_bayes.GaussianNB,
    "categorical": naive_bayes.CategoricalNB,
}


@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize("kind", PEERS)
def test_naive_bayes_is_that_of_scikit_learn(kind, alpha):
    x, y = classes_of(kind)
    # the smoothing of scikit-learn is that of the largest column, ours by column: none of both
    options = {"var_smoothing": 0.0} if kind == "gaussian" else {"alpha": alpha}
    if kind == "categorical":
        options["min_categories"] = 4
    states = 4 if kind == "categorical" else None
    model = zoo.NaiveBayes(
        6, 3, kind, num_states=states, concentration=1 + alpha, variance_smoothing=0.0
    )
    fitted(model, (x, y))
    peer = PEERS[kind](**options).fit(x, y)
    # priors are kept in float32, so that 0.1 is 0.1 to seven digits
    tol = 1e-9 if alpha == 1.0 else 1e-6
    np.testing.assert_allclose(model.predict_proba(x), peer.predict_proba(x), rtol=tol, atol=tol)
    assert model.predict(x).tolist() == peer.predict(x).tolist()
    if kind in ("bernoulli", "multinomial"):
        sparse = zoo.NaiveBayes(6, 3, kind, concentration=1 + alpha).double()
        sparse.learn(sp.csr_matrix(x), y)
        given = torch.from_numpy(x).to_sparse_csr() if alpha == 1.0 else sp.coo_matrix(x)
        found = sparse.predict_proba(given)
        np.testing.assert_allclose(found, peer.predict_proba(x), rtol=tol, atol=tol)
        np.testing.assert_allclose(sparse.log_prob(given), model.log_prob(x), atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_that_of_scikit_learn(classes):
    x, y = classes_of("gaussian", classes=classes)
    x = (x - x.mean(0)) / x.std(0)
    model = zoo.LogisticRegression(6, classes, prior_scale=2.0)
    fit = fitted(model, (x, y))
    peer = linear_model.LogisticRegression(C=4.0, solver="newton-cg", tol=1e-12, max_iter=1000)
    np.testing.assert_allclose(model.predict_proba(x), peer.fit(x, y).predict_proba(x), atol=1e-6)
    assert fit.stopped == "converged"


def test_the_bound_of_logistic_regression_climbs_to_the_same_optimum():
    x, y = points(3, rows=100)
    best = fitted(zoo.LogisticRegression(3, 3), (x, y)).objective
    slow = fitted(zoo.LogisticRegression(3, 3), (x, y), zoo.EM(initialize=False, tol=1e-13))
    assert slow.objective == pytest.approx(best, abs=1e-6)
    assert bool((np.diff(slow.history["objective"][0]) > -1e-9).all())


# --- Bayes' rule, missing values, labels -------------------------------------------------------


def test_missing_values_are_summed_out():
    """A missing state is the sum over its states; a missing label the sum over classes."""
    x, y = mixed_rows()
    model = mixed()
    fitted(model, (x, y))
    row = torch.tensor([[1.0, 0.0, 2.0, torch.nan, 3.0, 9.0, 10.0]]).double()
    whole = row.repeat(3, 1)
    whole[:, 3] = torch.arange(3)
    assert float(model.log_prob(whole).exp().sum()) == pytest.approx(
        float(model.log_prob(row).exp()), rel=1e-10
    )
    by_class = model.log_prob(row.repeat(3, 1), torch.arange(3)).exp()
    assert float(by_class.sum()) == pytest.approx(float(model.log_prob(row).exp()), rel=1e-10)
    np.testing.assert_allclose(model.predict_proba(row)[0], by_class / by_class.sum(), rtol=1e-9)


def test_labels_that_are_unknown_help():
    """Two clear groups, one label each: EM on all rows finds the groups."""
    y = torch.randint(2, (400,))
    x = torch.bernoulli(torch.where(y[:, None] == 1, 0.7, 0.3).expand(400, 12))
    told = torch.full((400,), -1)
    few = torch.cat([(y == c).nonzero()[:1, 0] for c in (0, 1)])
    told[few] = y[few]
    alone = zoo.NaiveBayes(12)
    fitted(alone, (x[few], y[few]))
    semi = zoo.NaiveBayes(12)
    fitted(semi, (x, told))
    right = [float((m.predict(x) == y).double().mean()) for m in (alone, semi)]
    assert right[1] > 0.9 and right[1] > right[0] + 0.05


def test_samples_of_a_class_and_of_the_rest_of_a_row():
    x, y = mixed_rows(400)
    model = mixed()
    fitted(model, (x, y))
    row = torch.tensor([1.0] + [torch.nan] * 6)
    drawn = model.sample(20_000, given={"x": row})["x"]
    assert bool((drawn[:, 0] == 1).all())
    proba, rates = model.predict_proba(row[None])[0], model.table("rates").detach()
    expected = (proba * rates[:, 1, 1]).sum()
    assert float(drawn[:, 1].mean()) == pytest.approx(float(expected), abs=0.02)
    of_two = model.sample(20_000, given={"y": 2})["x"][:, 1].mean()
    assert float(of_two) == pytest.approx(float(rates[2, 1, 1]), abs=0.02)


# --- posteriors --------------------------------------------------------------------------------


def test_predictions_with_uncertain_parameters_are_evidence_ratios():
    """p(x, y | data) is the evidence with the new row over the evidence without it."""
    x, y = mixed_rows()
    x, y = x.double(), y.nan_to_num(1.0)
    new = torch.tensor([[1.0, 0.0, 2.0, 1.0, 3.0, 9.0, 10.0]]).double()
    model = mixed(True)
    fitted(model, (x, y))
    joint = []
    for label in range(3):
        more = mixed(True).double()
        more.initialize(more.as_rows((x, y)))  # the same units of the numbers
        data = (torch.cat([x, new]), torch.cat([y, y.new_tensor([label])]))
        more.maximize(more.expected_statistics(*data))
        bound = more.expected_statistics(*data)["log_likelihood"] + more.log_prior()
        joint.append(float(bound.detach()))
    expected = torch.tensor(joint, dtype=torch.float64).softmax(0)
    np.testing.assert_allclose(model.predict_proba(new, uncertainty=True)[0], expected, rtol=1e-10)
    with pytest.raises(zoo.QueryError, match="bayesian=True"):
        mixed().double().predict_proba(new, uncertainty=True)


def test_counts_with_uncertain_rates_are_dirichlet_multinomial():
    x, y = counts()
    model = zoo.NaiveBayes(4, 2, "multinomial", bayesian=True)
    fitted(model, (x, y))
    new = torch.tensor([[3.0, 0.0, 1.0, 2.0]]).double()
    alpha = model.posterior_concentration("word_rates").detach()
    total = alpha.sum(-1)
    score = (alpha + new).lgamma().sum(-1) - alpha.lgamma().sum(-1)
    score = score + total.lgamma() - (total + new.sum()).lgamma()
    expected = (score + model.table("class_rates").detach().log()).softmax(0)
    for row in (new, sp.csr_matrix(new.numpy())):
        found = model.predict_proba(row, uncertainty=True)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-10)


# --- impossible data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "x", "y", "message"),
    [
        ("bernoulli", [[0.0, 2.0]], [0], "x: got 2 in row 0, column 1"),
        ("multinomial", [[0.0, -2.0]], [0], "x: got -2 in row 0, column 1, expected counts"),
        ("multinomial", [[0.0, np.nan]], [0], "none missing"),
        ("gaussian", [[0.0, np.inf]], [0], "expected finite numbers"),
        ("bernoulli", [[0.0, 1.0]], [2], "y: got 2 in row 0, expected 0 to 1"),
        ("bernoulli", [[0.0, 1.0]], [0.5], "y: got 0.5"),
        ("bernoulli", [[0.0]], [0], r"x: got shape \(1, 1\)"),
    ],
)
def test_impossible_data_are_refused(kind, x, y, message):
    data = (torch.tensor(x), torch.tensor(y))
    with pytest.raises(zoo.DataError, match=message):
        fitted(zoo.NaiveBayes(2, kind=kind), data)


def test_unknown_labels_and_sparse_numbers_are_refused():
    x, y = points(2)
    with pytest.raises(zoo.DataError, match="expected 0 to 2"):
        fitted(zoo.LogisticRegression(3, 3), (x, y - 1))
    with pytest.raises(zoo.DataError, match="sparse"):
        fitted(zoo.NaiveBayes(3, kind="gaussian"), (sp.csr_matrix(x.numpy()), y))
    with pytest.raises(zoo.DataError, match="kind: got 'poisson'"):
        zoo.NaiveBayes(3, kind="poisson")


# --- spam --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PPL_ZOO_DATA"), reason="needs PPL_ZOO_DATA")
@pytest.mark.parametrize(
    ("model", "options", "accuracy", "loss"),
    [
        (zoo.NaiveBayes(4514), {"binary": True}, 0.9649, 0.4110),
        (zoo.NaiveBayes(4514, kind="multinomial"), {}, 0.9821, 0.1235),
        (zoo.LogisticRegression(4514), {}, 0.9744, 0.0773),
    ],
)
def test_sms_spam(model, options, accuracy, loss):
    data = zoo.data.load("sms-spam", supervised=True, **options)
    fitted(model, data)
    x, y = data.test
    p = model.predict_proba(x)
    assert float((p.argmax(-1) == y).double().mean()) == pytest.approx(accuracy, abs=1e-4)
    found = -p.gather(1, y.long()[:, None]).log().mean()
    assert float(found) == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PPL_ZOO_DATA"), reason="needs PPL_ZOO_DATA")
def test_fifty_labels_and_the_rest_without_beat_fifty_alone():
    data = zoo.data.load("sms-spam", supervised=True)
    (x, y), (x_test, y_test) = data.train, data.test
    gains = []
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(len(y), 50, replace=False)
        told = torch.full_like(y, -1.0)
        told[chosen] = y[chosen]
        right = []
        for rows in ((x[chosen], y[chosen]), (x, told)):
            model = zoo.NaiveBayes(4514, kind="multinomial")
            fitted(model, rows)
            right.append(float((model.predict(x_test) == y_test).double().mean()))
        gains.append(right[1] - right[0])
    assert min(gains) > 0 and np.mean(gains) > 0.03
