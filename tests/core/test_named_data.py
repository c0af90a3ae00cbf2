"""Frames, words and labels of any kind enter a fit, and come back under their own names."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

import ppl_zoo as zoo

SHORT = zoo.EM(steps=5)
RNG = np.random.default_rng(0)
SIGN = np.where(RNG.random(400) < 0.4, -1, 1)
X = RNG.normal(size=(400, 3)) + 0.8 * SIGN[:, None]


def fitted(model, data, solver=None):
    return zoo.fit(model, data, solver, device="cpu", progress=False)


def frame():
    rng = np.random.default_rng(1)
    colour = pd.Series(np.where(SIGN < 0, "red", "blue")).where(rng.random(400) < 0.9)
    return pd.DataFrame(
        {
            "colour": colour,
            "size": pd.Categorical(rng.choice(["s", "m", "l"], 400), ["s", "m", "l"]),
            "rating": rng.integers(1, 4, 400),
            "sold": rng.random(400) < 0.3,
            "weight": rng.normal(size=400) + SIGN,
        }
    )


def mixed(**options):
    kinds = ["bernoulli", "categorical", "categorical", "bernoulli", "gaussian"]
    return zoo.NaiveBayes(5, 2, kind=kinds, num_states=3, **options)


class PolarsFrame:
    """What a frame of polars shows: names by columns, columns by name, no index."""

    def __init__(self, table):
        self.table, self.columns = table, list(table.columns)

    def __getitem__(self, name):
        return self.table[name].to_numpy()


# ---- labels -------------------------------------------------------------------------------------

LABELS = {
    "minus one and one": SIGN,
    "a series of them": pd.Series(SIGN),
    "floats": SIGN.astype(float),
    "words": np.where(SIGN < 0, "no", "yes"),
    "a list of words": np.where(SIGN < 0, "no", "yes").tolist(),
    "categories": pd.Series(np.where(SIGN < 0, "no", "yes")).astype("category"),
    "pandas' own strings": pd.Series(np.where(SIGN < 0, "no", "yes"), dtype="string"),
    "truth values": SIGN > 0,
    "nullable truth values": pd.Series(SIGN > 0, dtype="boolean"),
    "one and two": (SIGN + 3) // 2,
    "nullable integers": pd.Series((SIGN + 3) // 2, dtype="Int64"),
    "years": np.where(SIGN < 0, 1999, 2025),
    "dates": pd.Series(np.where(SIGN < 0, "2024-01-31", "2025-01-31")).astype("datetime64[ns]"),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind_are_those_of_naive_bayes_in_scikit_learn(labels):
    fit = fitted(zoo.NaiveBayes(3, 2, kind="gaussian", class_concentration=1.0), (X, labels))
    oracle = GaussianNB().fit(X, SIGN)
    right = oracle.predict(X) == SIGN
    predicted = np.asarray(fit.model.predict(X)).astype(str)
    given = [str(v).removesuffix(".0").removesuffix(" 00:00:00") for v in np.asarray(labels)]
    given = [v.removesuffix("T00:00:00.000000000").removesuffix("T00:00:00.000000") for v in given]
    assert np.mean(predicted == given) == pytest.approx(right.mean(), abs=0.005)


@pytest.mark.parametrize("labels", [SIGN, LABELS["words"]], ids=["numbers", "words"])
@pytest.mark.parametrize(
    "model", [zoo.LogisticRegression(3, 2), zoo.BayesianLogisticRegression(3)], ids=str
)
def test_labels_of_a_logistic_regression(model, labels):
    fit = fitted(model, (X, labels))
    predicted = np.asarray(fit.model.predict(X))
    expected = LogisticRegression(C=1e6).fit(X, labels).predict(X)
    assert np.mean(predicted == expected) > 0.99
    assert fit.model.log_prob(X, labels).isfinite().all()


def test_minus_one_is_unknown_beside_classes_and_a_class_among_as_many_values():
    y = np.where(SIGN < 0, 0, 1)
    y[::2] = -1
    half = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, y), SHORT)
    assert set(half.model.predict(X).tolist()) == {0, 1}
    three = fitted(zoo.NaiveBayes(3, 3, kind="gaussian"), (X, y), SHORT)
    assert set(three.model.predict(X).tolist()) <= {-1, 0, 1}
    assert three.model.answer("y", torch.arange(3)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_words_are_unknown_labels(missing):
    words = np.where(SIGN < 0, "no", "yes").astype(object)
    words[::2] = missing
    coded = np.where(SIGN < 0, 0.0, 1.0)
    coded[::2] = np.nan
    ours = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, words), SHORT)
    codes = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, coded), SHORT)
    assert ours.objective == pytest.approx(codes.objective, rel=1e-12)
    expected = np.array(["no", "yes"])[codes.model.predict(X).numpy()]
    assert (ours.model.predict(X) == expected).all()


@pytest.mark.parametrize(
    ("labels", "missing"),
    [(np.where(SIGN < 0, "no", "?"), "?"), (np.where(SIGN < 0, 1, 9), 9), (SIGN, -1)],
    ids=["a word", "a number", "minus one"],
)
def test_what_stands_for_an_unknown_label_can_be_said(labels, missing):
    known = np.arange(400) % 4 == 0
    labels = np.where(known, labels, missing)
    model = zoo.NaiveBayes(3, 2, kind="gaussian", missing=missing)
    fit = fitted(model, (X, labels), SHORT)
    assert int((fit.rows.all()[1] >= 0).sum()) == int((labels != missing).sum())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", "b", "c"] * 10, "got 3 states (a, b, c), expected 2"),
        ([1, 2, 3] * 10, "got 2 in row 1, expected 0 to 1"),
        ([0.5, 1.0, 0.0] * 10, "got 0.5 in row 0"),
    ],
)
def test_labels_that_are_too_many_or_none_are_refused(labels, words):
    with pytest.raises(zoo.DataError, match=".*") as error:
        fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X[:30], labels))
    assert words in str(error.value)


def test_a_label_that_the_fit_had_not_is_refused():
    fit = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, SIGN))
    with pytest.raises(zoo.DataError, match=r"got state 0.*expected one of \['-1', '1'\]"):
        fit.model.log_prob(X, np.where(SIGN < 0, 0, 1))


@pytest.mark.parametrize("labels", [SIGN, (SIGN + 3) // 2, np.where(SIGN < 0, "no", "yes")])
def test_a_fit_of_named_labels_is_exported_and_checked_as_one_of_codes(labels):
    coded = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, np.where(SIGN < 0, 0, 1)))
    named = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, labels))
    ours, theirs = (f.to_arviz(num_samples=5).log_likelihood for f in (named, coded))
    for name in theirs.data_vars:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert str(named.check(num_samples=50)) == str(coded.check(num_samples=50))
    torch.testing.assert_close(
        named.model.log_prob(*named.data()), coded.model.log_prob(X, SIGN > 0)
    )


def test_a_tensor_has_codes():
    with pytest.raises(zoo.DataError, match=r"a tensor of the labels \[-1, 1\].*y.numpy\(\)"):
        fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, torch.tensor(SIGN)))
    truths = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, torch.tensor(SIGN > 0)))
    assert set(truths.model.predict(X).tolist()) == {0, 1}


@pytest.mark.parametrize("labels", [np.zeros(400, int), pd.Series(np.zeros(400, int)), [0] * 400])
def test_integers_are_no_index_into_words(labels):
    fit = fitted(zoo.NaiveBayes(3, 2, kind="gaussian"), (X, LABELS["words"]))
    with pytest.raises(zoo.DataError, match=r"got state 0.*expected one of \['no', 'yes'\]"):
        fit.model.log_prob(X, labels)
    codes = torch.tensor(SIGN > 0).long()
    expected = fit.model.log_prob(X, LABELS["words"])
    torch.testing.assert_close(fit.model.log_prob(X, codes), expected)


# ---- data frames --------------------------------------------------------------------------------


def arrow(table):
    """Make an Arrow table; its sizes are in the order in which they come."""
    words = {k: [None if pd.isna(v) else v for v in table[k]] for k in ("colour", "size")}
    rest = {k: pa.array(table[k].to_numpy()) for k in ("rating", "sold", "weight")}
    colour, size = (pa.array(words[k]) for k in words)
    return pa.table({"colour": colour, "size": size.dictionary_encode(), **rest})


def codes_of(table):
    return np.column_stack(
        [
            np.where(table.colour.isna(), np.nan, table.colour == "red"),
            table["size"].cat.codes,
            table.rating - 1,
            table.sold,
            table.weight,
        ]
    ).astype(float)


FRAMES = {
    "pandas": lambda table: table,
    "polars": PolarsFrame,
    "Arrow": arrow,
    "pandas on Arrow": lambda table: table.convert_dtypes(dtype_backend="pyarrow"),
}


@pytest.mark.parametrize("wrap", FRAMES.values(), ids=FRAMES)
def test_a_frame_of_words_is_the_array_of_its_codes(wrap):
    table, y = frame(), np.where(SIGN < 0, 0, 1)
    ours, codes = fitted(mixed(), (wrap(table), y)), fitted(mixed(), (codes_of(table), y))
    assert ours.objective == pytest.approx(codes.objective, rel=1e-12)
    torch.testing.assert_close(
        ours.model.predict_proba(wrap(table)), codes.model.predict_proba(codes_of(table))
    )


def test_columns_are_found_by_name_and_others_are_refused():
    fit = fitted(mixed(), (frame(), SIGN))
    turned = frame()[["weight", "sold", "rating", "size", "colour"]]
    torch.testing.assert_close(
        fit.model.predict_proba(turned), fit.model.predict_proba(frame()), rtol=0, atol=0
    )
    with pytest.raises(zoo.DataError, match="expected the columns of the fit.*'sold' is missing"):
        fit.model.predict(frame().drop(columns="sold"))
    with pytest.raises(zoo.DataError, match="'price' was not there"):
        fit.model.predict(frame().assign(price=1.0))


def test_samples_are_shown_and_given_by_name():
    pyro.set_rng_seed(0)
    fit = fitted(mixed(), (frame(), np.where(SIGN < 0, "no", "yes")))
    given = {"x": {"colour": "red", "sold": True}, "y": "yes"}
    drawn = fit.model.sample(200, given=given)
    table = fit.model.frame(drawn["x"])
    assert list(table.columns) == ["colour", "size", "rating", "sold", "weight"]
    assert set(table.colour) == {"red"} and set(table.sold) == {True}
    assert set(table["size"]) == {"s", "m", "l"} and set(table.rating) == {1, 2, 3}
    assert set(drawn["y"]) == {"yes"}
    log_prob = fit.model.log_prob(table, drawn["y"])
    torch.testing.assert_close(log_prob, fit.model.log_prob(drawn["x"], drawn["y"]))
    with pytest.raises(
        zoo.DataError, match="'colours' .did you mean 'colour'.., expected columns"
    ):
        fit.model.sample(2, given={"x": {"colours": "red"}})


def test_names_are_saved_with_a_fit(tmp_path):
    fit = fitted(mixed(), (frame(), np.where(SIGN < 0, "no", "yes")))
    fit.save(tmp_path / "run")
    again = zoo.load(tmp_path / "run")
    assert (again.model.predict(frame()) == fit.model.predict(frame())).all()
    assert again.model.frame(codes_of_tensor()).equals(fit.model.frame(codes_of_tensor()))


def codes_of_tensor():
    return torch.tensor(codes_of(frame())[:7])


def test_names_are_coordinates_in_arviz():
    fit = fitted(mixed(bayesian=True), (frame(), np.where(SIGN < 0, "no", "yes")))
    data = fit.to_arviz(num_samples=20)
    assert data.posterior["class_rates"].coords["class"].values.tolist() == ["no", "yes"]
    table = pd.DataFrame(X, columns=["height", "weight", "age"])
    fit = fitted(zoo.BayesianLinearRegression(3), (table, X[:, 0] + RNG.normal(size=400)))
    weights = fit.to_arviz(num_samples=20).posterior["weights"]
    assert weights.coords["feature"].values.tolist() == ["height", "weight", "age"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series(["a", "b"] * 20), "pd.get_dummies(df, columns=['odd'])"),
        (pd.Series(["a", "b"] * 20).astype("category"), "of dtype category: got 'a'"),
        (pd.Series(pd.date_range("2024-01-01", periods=40)), "dt.total_seconds()"),
        (pd.Series(pd.to_timedelta(range(40), "D")), "df['odd'].dt.total_seconds()"),
        (pd.Series([2**60 + 1, None] * 20, dtype="Int64"), "beside missing values"),
        (pd.Series([datetime.date(2024, 1, 31)] * 40), "dt.total_seconds()"),
    ],
    ids=["words", "categories", "dates", "durations", "large", "python's dates"],
)
def test_columns_that_are_no_numbers_are_refused_by_name_with_the_mend(column, words):
    table = pd.DataFrame({"fine": np.arange(40.0), "odd": column})
    with pytest.raises(zoo.DataError) as error:
        fitted(zoo.GaussianMixture(2, 2), table)
    assert words in str(error.value)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "Int64", "boolean", "bool"])
def test_nullable_and_small_columns_are_numbers(dtype):
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    table["b"] = (X[:, 1] > 0).astype(int)
    same = table.astype({"b": dtype})
    model = zoo.MultivariateGaussian
    ours, plain = fitted(model(3), same), fitted(model(3), table.astype(float))
    torch.testing.assert_close(ours.params["loc"], plain.params["loc"])
    torch.testing.assert_close(ours.params["factor"], plain.params["factor"])


def test_missing_numbers_of_nullable_columns_are_missing():
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    holes = table.round(3).mask(RNG.random(table.shape) < 0.1)
    ours = fitted(zoo.GaussianMixture(2, 3, missing=True), holes.convert_dtypes(), SHORT)
    plain = fitted(zoo.GaussianMixture(2, 3, missing=True), holes.to_numpy(), SHORT)
    assert ours.objective == pytest.approx(plain.objective, rel=1e-12)
    with pytest.raises(zoo.DataError, match="got nan"):
        fitted(zoo.GaussianMixture(2, 3), holes.convert_dtypes(), SHORT)


def test_a_frame_of_the_arguments_fits():
    table = pd.DataFrame({"sigma": [15.0, 10, 16], "note": ["a", "b", "c"], "y": [28.0, 8, -3]})
    fit = fitted(zoo.EightSchools(), table, zoo.SVI(steps=20))
    assert fit.rows.all()[0].tolist() == [28.0, 8.0, -3.0]
    assert fit.rows.all()[1].tolist() == [15.0, 10.0, 16.0]


def test_points_whose_columns_are_x_y_and_z_are_one_argument():
    table = pd.DataFrame(X, columns=["x", "y", "z"])
    fit = fitted(zoo.MultivariateGaussian(3), table)
    assert fit.params["loc"].numpy() == pytest.approx(X.mean(0))
    assert fit.to_arviz(num_samples=5).observed_data["x"].coords["feature"].values.tolist() == [
        "x",
        "y",
        "z",
    ]
    one = fitted(zoo.MultivariateGaussian(1), table[["x"]])
    assert one.params["loc"].numpy() == pytest.approx(X[:, :1].mean(0))


# ---- binary data and indices --------------------------------------------------------------------

BINARY = RNG.random((60, 4)) < 0.4


@pytest.mark.parametrize(
    "make",
    [
        lambda: zoo.NADE(4, 3),
        lambda: zoo.FVSBN(4),
        lambda: zoo.MADE(4, (8,)),
        lambda: zoo.VAE(4, 2, hidden=(8,)),
        lambda: zoo.BernoulliMixture(2, 4),
        lambda: zoo.IndependentBernoulli(4),
        lambda: zoo.ChainRule(4),
        lambda: zoo.NaiveBayes(4, 2),
    ],
    ids=["NADE", "FVSBN", "MADE", "VAE", "mixture", "independent", "chain rule", "naive Bayes"],
)
def test_binary_data_of_any_dtype_are_the_same_data(make):
    model = make()
    solver = zoo.SVI(steps=3, compile=False) if model.default_solver[0] == "SVI" else SHORT
    fitted(model, BINARY, solver)
    pyro.set_rng_seed(0)
    few = BINARY[:6]
    expected = model.log_prob(few.astype(np.float32))
    for dtype in (bool, np.uint8, np.int8, np.int64, np.float64):
        pyro.set_rng_seed(0)
        torch.testing.assert_close(model.log_prob(few.astype(dtype)), expected)


def test_binary_words_of_a_net_come_back_as_words():
    table = pd.DataFrame(np.where(BINARY, "yes", "no"), columns=list("abcd"))
    fit = fitted(zoo.FVSBN(4), table, zoo.SVI(steps=3, compile=False))
    shown = fit.model.frame(fit.model.sample(20))
    assert set(shown.to_numpy().ravel()) == {"yes", "no"}
    torch.testing.assert_close(fit.model.log_prob(table), fit.model.log_prob(BINARY))


class Groups(zoo.Model):
    def model(self, y, group):
        with pyro.plate("groups", 3):
            mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with self.observations("rows", y):
            pyro.sample("y", dist.Normal(mean[group], 1.0), obs=y)


def pooled(y, county):
    with pyro.plate("counties", 3):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean[county], 1.0), obs=y)


INDEX = np.arange(60) % 3
OUTCOME = (4.0 * INDEX + np.random.default_rng(2).normal(size=60)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16])
@pytest.mark.parametrize("program", [Groups, lambda: pooled], ids=["model", "function"])
def test_indices_of_any_integer_dtype_are_indices(program, dtype):
    fit = fitted(program(), (OUTCOME, INDEX.astype(dtype)))
    expected = [OUTCOME[INDEX == i].sum() / (20 + 0.01) for i in range(3)]
    found = fit.posterior(4000)["mean"].mean((0, 1))
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("kind", ["category", "str", "object"])
def test_words_are_the_indices_of_a_users_program(kind):
    county = pd.Series(np.array(["Aitkin", "Brown", "Clay"])[INDEX]).astype(kind)
    table = pd.DataFrame({"county": county, "y": OUTCOME, "other": 1})
    data = fitted(pooled, table).to_arviz(num_samples=1000)
    mean = data.posterior["mean"]
    assert mean.coords["counties"].values.tolist() == ["Aitkin", "Brown", "Clay"]
    found = float(mean.sel(counties="Clay").mean())
    assert found == pytest.approx(OUTCOME[INDEX == 2].mean(), abs=0.1)


def test_a_missing_group_is_refused_and_no_last_one():
    county = pd.Series(np.array(["Aitkin", "Brown", "Clay"])[INDEX]).astype("category")
    county[7] = None
    with pytest.raises(zoo.DataError, match="county: got a missing value in row 7.*dropna"):
        fitted(pooled, (OUTCOME, county))


def log_odds(y):
    return np.log(y.mean() / (1 - y.mean()))


OBSERVED = {
    "Bernoulli": (lambda t: dist.Bernoulli(logits=t), log_odds),
    "Normal": (lambda t: dist.Normal(t, 1.0), lambda y: y.mean()),
    "StudentT": (lambda t: dist.StudentT(1e4, t, 1.0), lambda y: y.mean()),
    "Poisson": (lambda t: dist.Poisson(t.exp()), lambda y: np.log(y.mean())),
    "Geometric": (lambda t: dist.Geometric(logits=t), lambda y: -np.log(y.mean())),
    "Binomial": (
        lambda t: dist.Binomial(1, logits=t),
        lambda y: np.log(y.mean() / (1 - y.mean())),
    ),
}


@pytest.mark.parametrize("dtype", [bool, np.uint8])
@pytest.mark.parametrize(("make", "mode"), OBSERVED.values(), ids=OBSERVED)
def test_integers_and_truth_values_are_observed_by_any_distribution(make, mode, dtype):
    y = np.arange(300) % 3 == 0

    def program(y):
        t = pyro.sample("t", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", make(t), obs=y)

    fit = fitted(program, y.astype(dtype))
    assert float(fit.posterior(4000)["t"].mean()) == pytest.approx(mode(y), abs=0.03)
