"""Values of frames, columns and evidence are matched to states by their names."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import asia

import ppl_zoo as zoo
from ppl_zoo.core.categories import Categories, infer_states
from ppl_zoo.models.discrete.bayes_net import learning

PAIR = {"a": [], "b": ["a"]}


def pair(a, b):
    return zoo.BayesNet(PAIR, {"a": a, "b": b})


class PolarsSeries:
    """What a column of polars shows: values by to_list, no NumPy dtype; Enum has categories."""

    class Enum:
        def __init__(self, categories):
            self.categories = categories

        def __str__(self):
            return "Enum"

    def __init__(self, values, categories=None):
        self.values = values
        self.dtype = "String" if categories is None else self.Enum(PolarsSeries(categories))

    def to_list(self):
        return list(self.values)

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


class PolarsFrame:
    def __init__(self, **columns):
        self.data, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return self.data[name]


# --- the faults that were seen -------------------------------------------------------------------


def test_states_1_and_2_with_evidence_1():
    text = (
        "variable a { type discrete [2] {1, 2}; } variable b { type discrete [2] {1, 2}; }\n"
        "probability (a) { table .7 .3; }\nprobability (b | a) { (1) .9 .1; (2) .2 .8; }"
    )
    net = zoo.BayesNet.from_bif(text)
    for one in (1, "1", 1.0, np.int8(1), np.float32(1), torch.tensor(1)):
        assert net.marginals({"a": one})["b"][0].tolist() == pytest.approx([0.9, 0.1])
        assert net.marginals({"a": [one, 2]})["b"][:, 0].tolist() == pytest.approx([0.9, 0.2])
    for rows in (
        pd.DataFrame({"a": [1]}),
        pd.Series({"a": 1}),
        np.array([[1, -1]]),
        [[1, np.nan]],
    ):
        assert net.marginals(rows)["b"][0].tolist() == pytest.approx([0.9, 0.1])
    # a tensor has codes, as samples have
    assert net.marginals(torch.tensor([[1, -1]]))["b"][0].tolist() == pytest.approx([0.2, 0.8])
    with pytest.raises(zoo.DataError, match=r"a: got state 0, expected one of \['1', '2'\]"):
        net.marginals({"a": 0})


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False, False, False]),
        pd.Series([True, False, False, None], dtype="boolean"),
        pd.Series([True, False, False, None], dtype=object),
        np.array([True, False, False, False]),
        torch.tensor([True, False, False, False]),
        PolarsSeries([True, False, False, None]),
        pd.Series([1, 0, 0, 0]),
    ],
    ids=["bool", "boolean", "object", "numpy", "tensor", "polars", "0/1"],
)
@pytest.mark.parametrize("states", [(True, False), (False, True), ("TRUE", "FALSE"), (1, 0), 2])
def test_truth_values_keep_their_rates(column, states):
    missing = sum(v is None or v is pd.NA for v in column)
    net = zoo.BayesNet({"a": []}, {"a": states}, missing=True)
    zoo.fit(net, {"a": column}, zoo.EM(tol=1e-9), progress=False)
    yes = [s.casefold() in ("true", "1") for s in net.states["a"]].index(True)
    assert net.cpt("a")[yes].item() == pytest.approx(1 / (4 - missing), abs=1e-4)


def test_states_1_0_and_a_frame_of_integers():
    frame = pd.DataFrame({"a": [1, 1, 1, 0], "b": [0, 0, 1, 1]})
    for data in (frame, frame.to_numpy(), frame.astype("Int64"), frame.astype(float)):
        net = pair((1, 0), (0, 1)).learn(data)
        assert net.cpt("a").tolist() == pytest.approx([0.75, 0.25])
        assert net.cpt("b").tolist() == [pytest.approx([2 / 3, 1 / 3]), pytest.approx([0, 1])]
        assert net.log_prob(data)[0].item() == pytest.approx(np.log(0.5))


def test_ratings_have_no_phantom_state():
    frame = pd.DataFrame(
        {"rating": [1, 5, 3, 2, 4] * 20, "liked": [False, True, True, False, True] * 20}
    )
    for learn in (zoo.BayesNet.search, zoo.BayesNet.chow_liu):
        net = learn(frame)
        assert net.states == {"rating": ("1", "2", "3", "4", "5"), "liked": ("False", "True")}
        assert net.marginals({"rating": 5})["liked"][0].tolist() == [0.0, 1.0]
    array = zoo.BayesNet.search(frame.to_numpy(dtype=int))
    assert array.states == {"x0": ("1", "2", "3", "4", "5"), "x1": ("0", "1")}
    assert array.marginals({"x0": 5})["x1"][0].tolist() == [0.0, 1.0]


def test_years_keep_their_arrow():
    years = np.repeat(np.arange(1990, 2024), 60)
    late = (years > 2006) ^ (np.arange(len(years)) % 10 == 0)
    net = zoo.BayesNet.search(pd.DataFrame({"year": years, "late": late}))
    assert len(net.states["year"]) == 34
    assert {*net.graph.parents["year"], *net.graph.parents["late"]} in ({"year"}, {"late"})
    assert net.marginals({"year": 2020})["late"][0, 1].item() == pytest.approx(0.9)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("dtype", [object, "str", "category"])
def test_missing_among_strings(missing, dtype):
    frame = pd.DataFrame(
        {"a": pd.Series(["x", missing, "y", "x"], dtype=dtype), "b": list("uvuv")}
    )
    for learn in (zoo.BayesNet.search, zoo.BayesNet.chow_liu):
        with pytest.raises(zoo.DataError, match=r"1 missing values in column 'a'.*df.dropna"):
            learn(frame)
    net = zoo.BayesNet(PAIR, {"a": ["x", "y"], "b": ["u", "v"]}, missing=True)
    assert net.log_prob(frame)[1].item() == pytest.approx(np.log(0.5))
    assert net.names(net.state_space.rows(frame))[1] == {"b": "v"}


# --- columns of all kinds ------------------------------------------------------------------------

VALUES = ["red", "green", None, "red"]
COLUMNS = {
    "object": pd.Series(VALUES, dtype=object),
    "str": pd.Series(VALUES, dtype="str"),
    "string": pd.Series(VALUES, dtype="string"),
    "category": pd.Series(VALUES, dtype="category"),
    "Categorical": pd.Categorical(VALUES, categories=["blue", "red", "green"]),
    "list": VALUES,
    "array": np.array(VALUES, dtype=object),
    "masked": np.ma.masked_array(["red", "green", "?", "red"], [0, 0, 1, 0]),
    "polars": PolarsSeries(VALUES),
    "polars Enum": PolarsSeries(VALUES, categories=["blue", "red", "green"]),
    "bytes": np.array([b"red", b"green", None, b"red"], dtype=object),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_words(kind):
    categories = Categories("colour", ["green", "blue", "red"])
    assert categories.codes(COLUMNS[kind]).tolist() == [2, 0, -1, 2]
    order = (
        ("blue", "red", "green") if kind in ("Categorical", "polars Enum") else ("green", "red")
    )
    assert infer_states("colour", COLUMNS[kind]) == order
    with pytest.raises(zoo.DataError, match="colour: got state 'green'.*expected one of .'red'"):
        Categories("colour", ["red", "blue"]).codes(COLUMNS[kind])


NUMBERS = {
    "Int64": pd.Series([3, 1, None, 3], dtype="Int64"),
    "UInt8": pd.Series([3, 1, None, 3], dtype="UInt8"),
    "Float64": pd.Series([3, 1, None, 3], dtype="Float64"),
    "float": pd.Series([3, 1, None, 3]),
    "float32": np.array([3, 1, np.nan, 3], dtype=np.float32),
    "object": pd.Series([3, 1, None, 3], dtype=object),
    "category": pd.Series([3, 1, None, 3], dtype="category"),
    "words": ["3", "1", None, "3"],
    "tensor": torch.tensor([3, 1, torch.nan, 3]),
    "polars": PolarsSeries([3, 1, None, 3]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_of_numbers(kind):
    assert infer_states("n", NUMBERS[kind]) == ("1", "3")
    for states in (["3", "2", "1"], ["3.0", "x", "1.0"]):
        if kind != "words" or "2" in states:
            assert Categories("n", states).codes(NUMBERS[kind]).tolist() == [0, 2, -1, 0]
    with pytest.raises(zoo.DataError, match="n: got state"):
        Categories("n", ["one", "three"]).codes(NUMBERS[kind])


def test_dates_and_intervals_are_names():
    days = pd.to_datetime(["2024-02-01", "2024-01-31", None, "2024-02-01"])
    names = ("2024-01-31", "2024-02-01")
    for column in (
        pd.Series(days),
        days.to_numpy(),
        [datetime.date(2024, 2, 1), datetime.date(2024, 1, 31), None, datetime.date(2024, 2, 1)],
    ):
        assert infer_states("day", column) == names
        assert Categories("day", names).codes(column).tolist() == [1, 0, -1, 1]
    cut = pd.cut(pd.Series([0.1, 0.9, 0.2]), [0, 0.5, 1])
    assert infer_states("x", cut) == ("(0.0, 0.5]", "(0.5, 1.0]")
    net = zoo.BayesNet.search(pd.DataFrame({"x": cut, "y": [True, False, True]}))
    assert net.state_space.rows(pd.DataFrame({"x": cut, "y": [1, 0, 1]})).tolist() == [
        [0, 1],
        [1, 0],
        [0, 1],
    ]


def test_a_frame_of_polars():
    frame = PolarsFrame(a=PolarsSeries(["x", "y"] * 20), b=PolarsSeries([True, False] * 20))
    net = zoo.BayesNet.search(frame)
    assert net.states == {"a": ("x", "y"), "b": ("False", "True")}
    assert net.marginals({"b": True})["a"][0].tolist() == [1.0, 0.0]
    zoo.fit(net, frame, progress=False)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series([0.25, 0.5]), r"column 'a' of dtype float64: got 0.25.*pd.cut\(df\['a'\], 5\)"),
        (pd.Series([0.25, pd.NA], dtype="Float64"), "of dtype Float64: got 0.25"),
        (pd.Series([1.0, np.inf]), "got inf, expected labels"),
        (pd.Series([None, None]), "column 'a' of dtype object: got missing values only"),
        (pd.to_timedelta(["1s", "2s"]).to_series(), r"of dtype timedelta64.*df\['a'\].astype"),
        (pd.Series([1j, 2j]), "of dtype complex128"),
        (pd.Series([[1], [2]]), r"column 'a' of dtype object: got \[1\] in row 0"),
    ],
)
def test_columns_that_are_no_labels(column, message):
    frame = pd.DataFrame({"a": column.to_numpy() if column.dtype.kind == "m" else column})
    frame["b"] = ["u", "v"]
    with pytest.raises(zoo.DataError, match=message):
        zoo.BayesNet.search(frame)


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({"smoke": 1}, r"smoke: got state 1, expected one of \['yes', 'no'\]; .*map\(\{0: 'yes'"),
        ({"smoke": True}, r"got state True.*df\['smoke'\].map\(\{False: 'yes', True: 'no'\}"),
        ({"smoke": [0, 1]}, "smoke: got state 0"),
        ({"smoke": -1}, "a missing value is None, NaN or pd.NA"),
        (pd.DataFrame({"smoke": [0]}), "smoke: got state 0 of dtype int64"),
        (
            pd.DataFrame([["no", "no"]], columns=["smoke", "smoke"]),
            "column 'smoke': got 2 of them",
        ),
    ],
)
def test_numbers_are_no_words(evidence, message):
    with pytest.raises(zoo.DataError, match=message):
        asia().marginals(evidence)


def test_rows_without_names():
    net = pair(["x", "y"], (True, False))
    words = [["x", True], ["y", None]]
    for rows in (words, np.array(words, dtype=object)):
        assert net.state_space.rows(rows).tolist() == [[0, 0], [1, -1]]
    for ask in (net.log_prob, zoo.BayesNet.search, net.marginals):
        with pytest.raises(zoo.DataError, match="unequal length"):
            ask([["x", True], ["y"]])
    assert zoo.BayesNet.search(np.array([["x", "u"], ["y", "v"]] * 9)).states == {
        "x0": ("x", "y"),
        "x1": ("u", "v"),
    }


@pytest.mark.parametrize("states", [{"b", "c"}, "yes", 3.5, None, [], 0])
def test_states_without_an_order(states):
    with pytest.raises(zoo.DataError, match="states of 'a'"):
        zoo.BayesNet({"a": []}, {"a": states})


def test_states_of_a_dtype():
    dtype = pd.CategoricalDtype(["low", "high"], ordered=True)
    assert zoo.BayesNet({"a": []}, {"a": dtype}).states == {"a": ("low", "high")}
    assert zoo.BayesNet({"a": []}, {"a": np.int64(2)}).states == {"a": ("0", "1")}


@pytest.mark.parametrize(
    "states",
    [pd.CategoricalDtype([2019, 2020]), pd.Index([2019, 2020]), np.array(["2019", "2020"])],
    ids=["dtype", "Index", "array"],
)
def test_a_saved_fit_keeps_the_names(states, tmp_path):
    net = zoo.BayesNet(PAIR, {"a": states, "b": (True, False)})
    frame = pd.DataFrame({"a": [2020, 2019, 2020], "b": [True, False, True]})
    zoo.fit(net, frame, progress=False).save(tmp_path / "run")
    again = zoo.load(tmp_path / "run").model
    assert again.states == {"a": ("2019", "2020"), "b": ("True", "False")}
    assert again.marginals({"a": 2020})["b"][0].tolist() == pytest.approx([1.0, 0.0])


def test_tables_that_are_too_large_are_no_candidates(monkeypatch):
    frame = pd.DataFrame({"a": list("xyzw") * 25, "b": list("uvst") * 25})
    assert any(zoo.BayesNet.search(frame).graph.parents.values())
    monkeypatch.setattr(learning, "MAX_CELLS_PER_FAMILY", 15)
    assert not any(zoo.BayesNet.search(frame).graph.parents.values())


# --- property ------------------------------------------------------------------------------------

LABELS = st.one_of(st.text(max_size=3), st.integers(-3, 9), st.booleans(), st.dates())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(LABELS | st.none(), min_size=2, max_size=2), min_size=1, max_size=12))
def test_what_goes_in_comes_out_by_name(rows):
    """Names inferred from any column, encoded and decoded, are the values in words."""
    columns = {"a": [r[0] for r in rows], "b": [r[1] for r in rows]}
    if any(all(v is None for v in column) for column in columns.values()):
        return
    states = {name: infer_states(name, column) for name, column in columns.items()}
    net = zoo.BayesNet(PAIR, states)
    decoded = net.names(net.state_space.rows(pd.DataFrame(columns, dtype=object)))
    for row, found in zip(rows, decoded, strict=True):
        expected = {n: v for n, v in zip("ab", row, strict=True) if v is not None}
        assert found == {n: str(v) for n, v in expected.items()}
