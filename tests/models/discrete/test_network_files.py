"""Network files as found in the wild: dialects of BIF, XMLBIF, NET, UAI; mutated ones."""

import gzip
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import asia, random_net

import ppl_zoo as zoo
from ppl_zoo.models.discrete.bayes_net import network_file

FOLDER = Path(__file__).parents[2] / "data" / "nets"
FILES = ["javabayes.bif", "tables_first.bif", "garden.bif.gz", "garden.xmlbif", "garden.net"]


def garden_values(net):
    """By hand: P(wet) = .6 (.7 .8) + .3 (.8 .1 + .2 .75) + .1 .95 = .5, and Bayes' rule."""
    weather, sprinkler, wet = net.nodes if "x0" in net.nodes else ("weather", "sprinkler", "wet")
    assert net.marginals()[wet][0].tolist() == pytest.approx([0.5, 0.5], abs=1e-14)
    yes = net.states[wet][1]
    after = net.marginals({wet: yes})
    assert after[weather][0].tolist() == pytest.approx([0.672, 0.138, 0.19], abs=1e-14)
    assert after[sprinkler][0, 1].item() == pytest.approx((0.336 + 0.045) / 0.5, abs=1e-14)


# --- dialects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_one_net_in_many_files(name):
    net = zoo.BayesNet.from_file(FOLDER / name)
    assert {n: net.states[n] for n in sorted(net.nodes)} == {
        "sprinkler": ("off", "on"),
        "weather": ("sunny", "cloudy", "rain"),
        "wet": ("no", "yes"),
    }
    assert net.parents_of("wet") == ("weather", "sprinkler")
    garden_values(net)


def test_uai_has_no_names():
    net = zoo.BayesNet.from_file(FOLDER / "garden.uai")
    assert net.states == {"x0": ("0", "1", "2"), "x1": ("0", "1"), "x2": ("0", "1")}
    garden_values(net)


@pytest.mark.parametrize("name", FILES[:3])
def test_from_bif_reads_its_dialects(name):
    garden_values(zoo.BayesNet.from_bif(FOLDER / name))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le-mark", "latin-1"])
@pytest.mark.parametrize("name", ["javabayes.bif", "garden.net", "garden.uai"])
def test_encodings_and_line_ends(encoding, name, tmp_path):
    text = (FOLDER / name).read_text().replace("sunny", "schön")
    for ends in ("\r\n", "\r"):
        raw = text.replace("\n", ends)
        path = tmp_path / name
        if encoding == "utf-16-le-mark":
            path.write_bytes(b"\xff\xfe" + raw.encode("utf-16-le"))
        else:
            path.write_bytes(raw.encode(encoding))
        net = zoo.BayesNet.from_file(path)
        assert net.states[next(n for n in net.nodes if n in ("weather", "x0"))][0] in (
            "schön",
            "0",
        )
        garden_values(net)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "cp1252"])
def test_encodings_of_xml(encoding, tmp_path):
    text = (FOLDER / "garden.xmlbif").read_text().replace("sunny", "schön & <hell>")
    text = text.replace("& <hell>", "&amp; &lt;hell&gt;")
    text = text.replace("US-ASCII", encoding.removesuffix("-sig"))
    path = tmp_path / "net.xml"
    path.write_bytes(text.encode(encoding))
    net = zoo.BayesNet.from_file(path)
    assert net.states["weather"][0] == "schön & <hell>"
    garden_values(net)


def test_the_format_is_told_by_the_text(tmp_path):
    for name in (*FILES, "garden.uai"):
        path = tmp_path / "net.dat"
        path.write_bytes((FOLDER / name).read_bytes())
        garden_values(zoo.BayesNet.from_file(path))
    garden_values(zoo.BayesNet.from_file((FOLDER / "garden.net").read_text()))
    garden_values(zoo.BayesNet.from_file((FOLDER / "garden.xmlbif").read_text(), format="xmlbif"))
    other = {
        "<smile version='1.0' id='x'>\n</smile>": "GeNIe's XDSL",
        "// ~->[DNET-1]->~\nbnet x {};": "Netica's DNE",
        "MARKOV\n1\n2": "a Markov network",
        "hello\nworld": "got 'hello",
    }
    for text, message in other.items():
        with pytest.raises(zoo.DataError, match=message):
            zoo.BayesNet.from_file(text)


def test_a_class_of_hugin():
    text = (
        (FOLDER / "garden.net").read_text().replace("net\n{", "class Garden\n{\ninputs = ();", 1)
    )
    text = text.replace('    name = "Garden";\n}', '    name = "Garden";') + "}\n"
    garden_values(zoo.BayesNet.from_file(text))


def test_comments_of_genie_in_net():
    garden_values(zoo.BayesNet.from_file("/// by GeNIe\n" + (FOLDER / "garden.net").read_text()))


@pytest.mark.parametrize("format", ["bif", "xmlbif", "net", "uai"])
@pytest.mark.parametrize("seed", range(3))
def test_round_trip(format, seed, tmp_path):
    net = random_net(seed=seed) if seed else asia()
    net = zoo.BayesNet(
        {
            n.replace("/", "_"): [p.replace("/", "_") for p in a]
            for n, a in net.graph.parents.items()
        },
        {n.replace("/", "_"): s for n, s in net.states.items()},
        {n.replace("/", "_"): net.cpt(n) for n in net.nodes},
    )
    path = tmp_path / f"net.{format}"
    net.to_file(path)
    again = zoo.BayesNet.from_file(path)
    if format != "uai":
        assert (again.states, again.graph.parents) == (net.states, net.graph.parents)
    for node, other in zip(net.nodes, again.nodes, strict=True):
        torch.testing.assert_close(again.cpt(other), net.cpt(node), rtol=1e-14, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=2, unique=True))
def test_any_name_survives_xml_and_net(names):
    names = [n.strip() for n in names]
    if len(set(names)) < 2:
        return
    names = list(dict.fromkeys(names))[:4]
    net = zoo.BayesNet({"a": [], "b": ["a"]}, {"a": names, "b": names})
    for format in ("net", "xmlbif"):
        try:
            text = net.to_file(format=format)
        except zoo.DataError as error:
            assert "expected one that XML can hold" in str(error)  # U+FFFE and its kin
        else:
            assert zoo.BayesNet.from_file(text, format=format).states == net.states


def test_names_that_a_format_cannot_hold():
    net = zoo.BayesNet({"a b": []}, {"a b": [" x", "\0"]})
    with pytest.raises(zoo.DataError, match="got the name ' x'"):
        net.to_file(format="xmlbif")
    with pytest.raises(zoo.DataError, match="got 'a b', expected letters"):
        net.to_file(format="net")
    with pytest.raises(zoo.DataError, match="got '.txt', expected one of"):
        net.to_file("net.txt")


# --- rows, noisy-or, limits ----------------------------------------------------------------------


def test_rows_that_sum_to_99():
    with pytest.raises(
        zoo.DataError,
        match=r"sums\.bif:9: 'weather': .*sums to 0\.99, expected 1; "
        "normalize=True divides",
    ):
        zoo.BayesNet.from_file(FOLDER / "sums.bif")
    with pytest.warns(
        UserWarning,
        match=r"normalised 2 rows whose sums were 0\.99 to 0\.99, in the"
        " tables of 2 nodes: weather, wet",
    ):
        net = zoo.BayesNet.from_bif(FOLDER / "sums.bif", normalize=True)
    assert net.cpt("weather").tolist() == pytest.approx([1 / 3] * 3, abs=1e-15)
    assert net.cpt("wet")[1].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.BayesNet.from_bif(FOLDER / "javabayes.bif", normalize=True)
    with pytest.raises(zoo.DataError, match="sums to 0, expected 1 .weather=rain.$"):
        text = (FOLDER / "sums.bif").read_text().replace("0.1, 0.9", "0.0, 0.0")
        zoo.BayesNet.from_bif(text, normalize=True)


def test_counts_are_normalised():
    text = (FOLDER / "garden.net").read_text().replace("( 0.6 0.3 0.1 )", "(60 30 10)")
    with pytest.raises(zoo.DataError, match="got 60, expected a probability .or normalize=True"):
        zoo.BayesNet.from_file(text)
    with pytest.warns(UserWarning, match="sums were 100 to 100"):
        garden_values(zoo.BayesNet.from_file(text, normalize=True))


def test_rows_of_ones_are_uniform_in_hugin():
    """Hugin's default potential; a parents' configuration that cannot be is written so."""
    text = (FOLDER / "garden.net").read_text().replace("( 0.8 0.2 )", "( 1 1 )")
    assert zoo.BayesNet.from_file(text).cpt("sprinkler")[1].tolist() == [0.5, 0.5]
    with pytest.raises(zoo.DataError, match="'sprinkler': got a row that sums to 2"):
        zoo.BayesNet.from_file(
            (FOLDER / "garden.xmlbif").read_text().replace("0.8 0.2 1.0", "1 1 1")
        )


def test_tables_in_another_order_are_refused():
    """The states of the node itself slowest in BIF; the last parent fastest of them in UAI."""
    text = (FOLDER / "javabayes.bif").read_text()
    text = text.replace(
        "0.3 0.8 1.0 // p(off | ...)\n\t\t0.7 0.2 0.0 ;", "0.3 0.7 0.8 0.2 1.0 0.0;"
    )
    with pytest.raises(zoo.DataError, match="'sprinkler': .* change fastest, as old versions of"):
        zoo.BayesNet.from_bif(text, normalize=True)
    text = (FOLDER / "garden.uai").read_text().replace("3 0 1 2", "3 0 1 2 # wet")
    with pytest.raises(zoo.DataError, match="<text>:7: got a scope with a comment, as pyAgrum"):
        zoo.BayesNet.from_file(text)
    garden_values(
        zoo.BayesNet.from_file(text.replace(" # wet", "").replace("2 0 1", "2 0 1 # on"))
    )


NOISY = {
    "bif": "variable a { type discrete [2] {n, y}; }\nvariable b {type discrete [2] {n, y};}"
    "probability (a) { table .5 .5; }\nprobability (b | a) { KIND 0.1, 0.3; }",
    "property": "variable a { type discrete [2] {n, y}; }\nvariable b {type discrete [2] {n, y};}"
    "probability (a) { table .5 .5; }\nprobability (b | a) { property KIND; table .1 .3; }",
    "xmlbif": "<BIF><NETWORK>\n<VARIABLE><NAME>a</NAME><OUTCOME>n</OUTCOME></VARIABLE>"
    "<DEFINITION><FOR>a</FOR><PROPERTY>KIND</PROPERTY></DEFINITION></NETWORK></BIF>",
    "type": '<BIF><NETWORK>\n<DEFINITION TYPE="KIND"><FOR>a</FOR></DEFINITION></NETWORK></BIF>',
}


@pytest.mark.parametrize("name", ["noisy-or", "NoisyMAX", "noisy_and"])
@pytest.mark.parametrize("format", NOISY)
def test_noisy_or_is_named(format, name):
    with pytest.raises(zoo.DataError, match=f"got a '{name}' distribution, expected a table"):
        zoo.BayesNet.from_file(NOISY[format].replace("KIND", name))


def test_noisy_or_of_hugin_is_named():
    with pytest.raises(zoo.DataError, match=r"noisy_or.net:12: 'fever': got a 'NoisyOR'"):
        zoo.BayesNet.from_file(FOLDER / "noisy_or.net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("net", "node sprinkler", "decision sprinkler"), "got 'decision sprinkler', expected"),
        (("net", "node sprinkler", "continuous node sprinkler"), "expected a discrete node"),
        (("net", "( 1.0 0.0 ));", "( 1.0 ));"), "garden.net:37: 'sprinkler': got 5 numbers"),
        (("net", "(wet | ", "(wet weather | "), "garden.net:17: got a joint potential"),
        (("xmlbif", 'E TYPE="nature"', 'E TYPE="decision"'), ":11: got a variable of type"),
        (("xmlbif", "0.6 0.3 0.1", "0.6 0.3"), "garden.xmlbif:36: 'weather': got 2 numbers"),
        (("xmlbif", "<FOR>wet</FOR>", ""), "garden.xmlbif:18: got 0 elements FOR"),
        (("xmlbif", "</NETWORK>", ""), "garden.xmlbif:46: got no well-formed XML"),
        (("uai", "3 0 1 2", "3 0 1 1"), "garden.uai:7: probability of 'x1' is given twice"),
        (("uai", "\n6\n", "\n7\n"), "garden.uai:12: 'x1': got a table of 7"),
        (("uai", "0.99", "0.99 1"), "garden.uai:20: got '1', expected the end"),
        (("uai", "3 2 2", "3 2 999999999"), "garden.uai:3: got 999999999, expected an integer"),
    ],
)
def test_errors_name_the_line(change, message, tmp_path):
    ending, old, new = change
    path = FOLDER / f"garden.{ending}"
    text = path.read_text()
    assert old in text
    broken = tmp_path / path.name
    broken.write_text(text.replace(old, new, 1))
    with pytest.raises(zoo.DataError, match=message):
        zoo.BayesNet.from_file(broken)


def test_a_table_is_refused_before_it_is_built():
    import tracemalloc

    names = [f"n{i}" for i in range(22)]
    text = "".join(f"variable {n} {{ type discrete [2] {{no, yes}}; }}\n" for n in names)
    text += "".join(f"probability ( {n} ) {{ table 0.5, 0.5; }}\n" for n in names[1:])
    text += f"probability ( n0 | {', '.join(names[1:])} ) {{ default 0.1, 0.9; }}\n"
    tracemalloc.start()
    with pytest.raises(zoo.DataError, match=r"'n0': its table has 4,194,304 cells \(21 parents\)"):
        zoo.BayesNet.from_bif(text)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    # many tables by a default row, each within the limit
    tail = ", ".join(names[1:21])
    many = text.split("probability ( n0")[0]
    for i in range(20):
        many = f"variable m{i} {{ type discrete [2] {{no, yes}}; }}\n" + many
        many += f"probability ( m{i} | {tail} ) {{ default 0.1, 0.9; }}\n"
    with pytest.raises(zoo.DataError, match="cells in all tables"):
        zoo.BayesNet.from_bif(many)
    tracemalloc.stop()
    with pytest.raises(zoo.DataError, match="'n0': got 1,220,703,125 cells, for 12 parents"):
        zoo.BayesNet(
            {"n0": names[1:13]} | {n: [] for n in names[1:13]}, dict.fromkeys(names[:13], 5)
        )


def test_files_stay_within_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(network_file, "MAX_FILE_BYTES", 10_000)
    path = tmp_path / "bomb.bif.gz"
    path.write_bytes(gzip.compress(b"#" * 1_000_000))
    with pytest.raises(zoo.DataError, match="bomb.bif.gz: got more than 10000 bytes"):
        zoo.BayesNet.from_file(path)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0")
    with pytest.raises(zoo.DataError):
        zoo.BayesNet.from_bif(path)


ENTITIES = {
    "bomb": '<!DOCTYPE BIF [<!ENTITY a "xxxxxxxx"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    "<BIF><NETWORK><NAME>&b;</NAME></NETWORK></BIF>",
    "outside": '<!DOCTYPE BIF [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n'
    "<BIF><NETWORK><NAME>&a;</NAME></NETWORK></BIF>",
    "parameter": '<!DOCTYPE BIF [<!ENTITY % a SYSTEM "http://localhost/x.dtd"> %a;]>\n<BIF></BIF>',
}


@pytest.mark.parametrize("kind", ENTITIES)
def test_entities_are_not_expanded(kind):
    with pytest.raises(zoo.DataError, match="got a declaration of entity '.', expected none"):
        zoo.BayesNet.from_file(ENTITIES[kind], format="xmlbif")


# --- mutated files -------------------------------------------------------------------------------

PIECES = {
    "bif": [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "|",
        ",",
        ";",
        '"',
        "\\",
        "//",
        "/*",
        "#",
        "table",
        "wet",
    ],
    "net": [
        "{",
        "}",
        "(",
        ")",
        "|",
        "=",
        ";",
        '"',
        "\\",
        "%",
        "node",
        "potential",
        "wet",
        "class",
    ],
    "xmlbif": [
        "<",
        ">",
        "&",
        "&#0;",
        "]]>",
        "<!--",
        "<BIF>",
        "</FOR>",
        "<TABLE>",
        "<![CDATA[",
        "]",
    ],
    "uai": ["BAYES", "\n", "12345678901234567890", "99", "2", "0x1"],
}
COMMON = [" ", "\n", "nan", "0.5", "1e400", "-1", "é", "\0", "\ufeff", "", "999999999999"]


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", ["javabayes.bif", "garden.net", "garden.xmlbif", "garden.uai"])
def test_only_data_errors_escape(name, data):
    text = (FOLDER / name).read_text()
    format = name.rpartition(".")[2]
    piece = st.sampled_from(PIECES[format] + COMMON)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(piece) + text[end:]
    try:
        net = zoo.BayesNet.from_file(text + "\n", format=format)
    except zoo.DataError as error:
        assert str(error).startswith("<text>:")
    else:
        assert all(bool(p.isfinite().all()) for p in net.marginals().values())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["bif", "net", "xmlbif", "uai", None]), st.binary(), st.integers(0, 3000))
@pytest.mark.parametrize("name", [*FILES, "garden.uai"])
def test_noise_is_a_data_error(name, tmp_path_factory, format, noise, at):
    path = tmp_path_factory.getbasetemp() / name
    raw = (FOLDER / name).read_bytes()
    path.write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            zoo.BayesNet.from_file(path, format=format, normalize=True)
        except zoo.DataError as error:
            assert str(error).startswith(str(path))
