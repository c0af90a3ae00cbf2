"""The BIF reader and writer: round trips, nets in the wild, errors with file and line."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import asia, random_net

import ppl_zoo as zoo
from ppl_zoo.models.discrete.bayes_net.bif import read_bif

TEXT = """network "two nodes" { property "made by hand"; }
// a comment
variable Weather { type discrete [ 3 ] { Asy/Patch, >=7.5, no rain }; }
variable wet { /* another */
  type discrete[2] {yes no, "a, b"};
  property position = (1, 2);
}
probability ( Weather ) { table 0.3333333, 0.3333333 0.3333333; }
probability ( wet | Weather ) {
  (Asy/Patch) 1.0, 0.0;
  default 0.25, 0.75;
}
"""


def nets():
    folder = Path(os.environ.get("PPL_ZOO_DATA", "")) / "bif"
    found = sorted(folder.glob("*.bif")) if os.environ.get("PPL_ZOO_DATA") else []
    return found


def test_names_rounding_and_defaults():
    net = zoo.BayesNet.from_bif(TEXT)
    assert net.states == {
        "Weather": ("Asy/Patch", ">=7.5", "no rain"),
        "wet": ("yes no", "a, b"),
    }
    assert net.cpt("Weather").tolist() == pytest.approx([1 / 3] * 3, rel=1e-15)
    wet = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(net.cpt("wet"), wet, rtol=1e-14, atol=0)
    assert net.marginals({"wet": "a, b"})["Weather"][0, 0] == 0.0


def test_a_table_of_a_family_counts_the_node_slowest():
    net = read_bif(
        "variable a { type discrete [2] {x, y}; } variable b { type discrete [2] {x, y}; }"
        "probability (a) { table .5 .5; } probability (b | a) { table .1 .2 .9 .8; }"
    )
    torch.testing.assert_close(
        net.tables["b"], torch.tensor([[0.1, 0.9], [0.2, 0.8]], dtype=torch.float64)
    )


@pytest.mark.parametrize("make", [asia, random_net, lambda: zoo.BayesNet.from_bif(TEXT)])
def test_round_trip(make, tmp_path):
    net = make()
    net.to_bif(tmp_path / "net.bif")
    again = zoo.BayesNet.from_bif(tmp_path / "net.bif")
    assert (again.states, again.graph.parents) == (net.states, net.graph.parents)
    for node in net.nodes:
        torch.testing.assert_close(again.cpt(node), net.cpt(node), rtol=1e-14, atol=0)
        assert ((again.cpt(node) == 0) == (net.cpt(node) == 0)).all()


@pytest.mark.parametrize("path", nets(), ids=lambda p: p.stem)
def test_nets_of_the_repository(path):
    net = zoo.BayesNet.from_bif(path)
    again = zoo.BayesNet.from_bif(net.to_bif())
    assert again.states == net.states
    assert net.kl_divergence(again) == pytest.approx(0.0, abs=1e-12)
    for node in net.nodes:
        torch.testing.assert_close(again.cpt(node), net.cpt(node), rtol=1e-14, atol=0)


ERRORS = {
    "a row that sums to 1.1, expected 1": ("0.3333333 0.3333333;", "0.3333333 0.4333334;", 8),
    "got state 'sun', expected one of": ("(Asy/Patch)", "(sun)", 10),
    "got 'Wether', expected a variable": ("( wet | Weather )", "( wet | Wether )", 9),
    "expected a number": ("1.0, 0.0", "1.0, x", 10),
    "expected a probability": ("1.0, 0.0", "1.5, -0.5", 10),
    "got 3 numbers, expected 2": ("1.0, 0.0", "1.0, 0.0, 0.0", 10),
    "got 3 states, expected [ 4 ]": ("[ 3 ]", "[ 4 ]", 3),
    "got 1 rows, expected 3": ("  default 0.25, 0.75;\n", "", 11),
    "got '}', expected a name": ("default 0.25, 0.75;", "default 0.25, 0.75", 12),
    "got the cycle": ("( Weather ) { table", "( Weather | wet ) { default", 8),
    "a state stands twice": ("no rain", ">=7.5", 3),
    "got 'network' ": ("network", "} network", 1),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_line(message, tmp_path):
    old, new, line = ERRORS[message]
    assert old in TEXT
    path = tmp_path / "broken.bif"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(zoo.DataError) as caught:
        zoo.BayesNet.from_bif(path)
    assert message.replace("got 'network' ", "got '}'") in str(caught.value)
    assert str(caught.value).startswith(f"{path}:"), caught.value
    assert int(str(caught.value)[len(str(path)) + 1 :].split(":")[0]) in (line, line + 1)


def test_a_missing_file_is_a_data_error(tmp_path):
    for path in (tmp_path / "none.bif", tmp_path, "a\0b", 3):
        with pytest.raises(zoo.DataError):
            zoo.BayesNet.from_bif(path)


PIECES = st.sampled_from(
    ["{", "}", "(", ")", "[", "]", "|", ",", ";", '"', "\\", "//", "/*", "*/", " ", "\n", "nan"]
    + ["0.5", "1e400", "-1", "variable", "probability", "table", "default", "wet", "Weather", "é"]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_only_data_errors_escape(data):
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(PIECES) + text[end:]
    try:
        net = zoo.BayesNet.from_bif("\n" + text)
    except zoo.DataError as error:
        assert str(error).startswith("<text>:")
    else:
        assert all(bool(p.isfinite().all()) for p in net.marginals().values())


@settings(max_examples=100, deadline=None)
@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_noise_is_a_data_error(text):
    with pytest.raises(zoo.DataError):
        zoo.BayesNet.from_bif("{" + text)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])), min_size=2, unique=True, max_size=4
    )
)
def test_any_name_survives(names):
    net = zoo.BayesNet({names[0]: [], names[1]: [names[0]]}, {names[0]: names, names[1]: names})
    again = zoo.BayesNet.from_bif(net.to_bif())
    assert (again.states, again.graph.parents) == (net.states, net.graph.parents)
