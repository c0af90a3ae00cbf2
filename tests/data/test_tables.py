"""Tables as people bring them: each kind of file, with the right values, or refused by name."""

import bz2
import gzip
import json
import lzma
import random
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_zoo.core.errors import DataError
from ppl_zoo.data import from_path

NAN = float("nan")


@pytest.fixture
def table(tmp_path):
    """Write a file and read it back as a data set."""

    def read(content, name="table.csv", **options):
        path = tmp_path / name
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return from_path(path, **options)

    return read


def check(dataset, values, names=None):
    """Compare a table of numbers, cell by cell."""
    assert isinstance(dataset.train, torch.Tensor) and dataset.train.dtype == torch.float64
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(dataset.train, expected, rtol=0, atol=0, equal_nan=True)
    assert dataset.card.feature_names == names


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "names"),
    [
        ("a,b\n1,2\n3,4.5\n", [[1, 2], [3, 4.5]], ("a", "b")),
        ("a;b\n1;2\n3;4.5\n", [[1, 2], [3, 4.5]], ("a", "b")),
        ("a\tb\n1\t2\n3\t4.5\n", [[1, 2], [3, 4.5]], ("a", "b")),
        ("a|b\n1|2\n3|4.5\n", [[1, 2], [3, 4.5]], ("a", "b")),
        ("  a    b\n  1    2\n 30  4.5 \n", [[1, 2], [30, 4.5]], ("a", "b")),
        ("1 2\n3\t4.5\n", [[1, 2], [3, 4.5]], None),
        ("sep=;\r\na;b\r\n1;2\r\n", [[1, 2]], ("a", "b")),
        ("a,b\r1,2\r3,4\r", [[1, 2], [3, 4]], ("a", "b")),
        # decimal commas
        ("Länge;Breite\n1,5;-2\n,25;1e3\n", [[1.5, -2], [0.25, 1000]], ("Länge", "Breite")),
        ("1,5\t2,25\n3\t4,0\n", [[1.5, 2.25], [3, 4]], None),
        ("1,5;2,5\n3,5;4,5\n", [[1.5, 2.5], [3.5, 4.5]], None),
        ('a,b\n"1,5",2\n"2,25",3\n', [[1.5, 2], [2.25, 3]], ("a", "b")),
        # thousands
        ("a;b\n1.234,5;2\n1.000.000;3,5\n", [[1234.5, 2], [1e6, 3.5]], ("a", "b")),
        ("a;b\n1.234;2,5\n", [[1234, 2.5]], ("a", "b")),
        ('a,b\n"1,234",1.5\n"12,345,678",2\n', [[1234, 1.5], [12345678, 2]], ("a", "b")),
        ('a,b\n"1,234",1\n', [[1234, 1]], ("a", "b")),
        ("a;b\n1'234.5;2\n", [[1234.5, 2]], ("a", "b")),
        ("a;b\n1\u00a0234,5;2\n3\u202f000;1\n", None, None),
        ("a;b\n1\u202f234,5;2\n3\u202f000;1\n", [[1234.5, 2], [3000, 1]], ("a", "b")),
        # missing values
        ("a,b\nNA,?\nnull,N/A\n1,nan\n,2\n", [[NAN, NAN], [NAN, NAN], [1, NAN], [NAN, 2]],
         ("a", "b")),
        ("a,b\n1,\n,\n,4\n", [[1, NAN], [NAN, NAN], [NAN, 4]], ("a", "b")),
        # numbers to the last digit
        ("day,x\n20240131,0.1\n20240229,1e-300\n", [[20240131, 0.1], [20240229, 1e-300]],
         ("day", "x")),
        ("x\n9007199254740992\n0.30000000000000004\n", [[2.0**53], [0.30000000000000004]], ("x",)),
        ("x,y\ninf,1\n-inf,2\n", [[np.inf, 1], [-np.inf, 2]], ("x", "y")),
        # quotes, blanks around cells, a line break in a name
        ('"the ""a"", of old","b\nc"\n"1", 2\n 3 ,"4"\n', [[1, 2], [3, 4]],
         ('the "a", of old', "b\nc")),
        # indices and empty columns
        (",a,b\n0,1.5,2\n1,3.5,4\n", [[1.5, 2], [3.5, 4]], ("a", "b")),
        (",0,1\n0,1.5,2\n1,3.5,4\n", [[1.5, 2], [3.5, 4]], ("0", "1")),
        ("Unnamed: 0,a,b\n0,1.5,2\n1,3.5,4\n", [[1.5, 2], [3.5, 4]], ("a", "b")),
        ('"","a","b"\n"Mazda",1.5,2\n"Fiat",3.5,4\n', [[1.5, 2], [3.5, 4]], ("a", "b")),
        ('"a" "b"\n"1" 1.5 2\n"2" 3.5 4\n', [[1.5, 2], [3.5, 4]], ("a", "b")),
        ('a,b\nx,1.5,2\ny,3.5,4\n', [[1.5, 2], [3.5, 4]], ("a", "b")),
        ("a,,c\n1,2,3\n", [[1, 2, 3]], ("a", "column 2", "c")),
        ("a,b,\n1,2,\n3,4,\n", [[1, 2], [3, 4]], ("a", "b")),
        ("1,2,\n3,4,\n", [[1, 2], [3, 4]], None),
        ("a,b\n1,2\n,\n,\n", [[1, 2]], ("a", "b")),
        ("a,a,a.1\n1,2,3\n", [[1, 2, 3]], ("a", "a.2", "a.1")),
    ],
)  # fmt: skip
def test_numbers(table, text, values, names):
    if values is None:  # two marks between thousands in one file
        with pytest.raises(DataError, match="numbers of one format"):
            table(text)
        return
    check(table(text), values, names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2019,2020\n1,2\n3,4\n", ("2019", "2020")),
        ("2019;2020\n1,5;2\n", ("2019", "2020")),
        ("land,2019,2020\n1,5,6\n2,7,8\n", ("land", "2019", "2020")),
        ("7,9\n1.5,2.5\n3.5,4.5\n5.5,6.5\n", ("7", "9")),
        ("0,1,2,3\n5,3,4,1\n", ("0", "1", "2", "3")),
        # data, as far as one can know
        ("1,2\n3,4\n", None),
        ("7,3\n1,2\n", None),
        ("2019,2020\n2021,2022\n", None),
        ("0,1\n1,0\n0,0\n", None),
        ("5,3\n1.5,2\n4,4.5\n1.5,2.5\n", None),
    ],
)
def test_header_of_numbers(table, text, names):
    dataset = table(text)
    assert dataset.card.feature_names == names
    assert len(dataset.train) == text.count("\n") - (names is not None)
    if names is not None and names[0].isdigit():
        assert any("header=None" in note for note in dataset.card.notes)
        undone = table(text, header=None)
        assert len(undone.train) == len(dataset.train) + 1 and not undone.card.feature_names
    check(table("1,2\n3,4\n", header=0), [[3, 4]], ("1", "2"))


def test_what_was_assumed_is_said(table):
    assert table("a,b\n1,2\n").card.notes == ()
    notes = {
        "a;b\n1,5;2\n": "decimal mark ','",
        ",a\n0,1\n": "first column has no name",
        "1,2\n3,4\n5,6\n": "1 ... 2 in the first line are taken as data",
        "a\n?\n1\n2\n": "'?' is taken as missing, 1 times",
        "a;b\n1.234;2\n": "'1.234' is read as a fraction",
        "land,2019\nDE,5\n": "2019 in the first line are taken as data",
        "a,b\n12%,1\n": "numbers with a unit, as '12%'",
        "a,b\nx,1\ny,2\n7,3\n": "column 'a' is read as words, '7' too",
        "a b\n1 2\n": "parted by blanks",
        "plz;x\n01067;1\n": "without the leading zeros of '01067'",
        "a,a\n1,2\n": "called 'a.1'",
        "when,x\n01/02/2024,1\n": "may have the day or the month first",
        "ja,nein\nnein,ja\nja,nein\n": "first line is taken as data",
    }
    for text, note in notes.items():
        dataset = table(text)
        assert any(note in n for n in dataset.card.notes), (text, dataset.card.notes)
        assert note in repr(dataset)


def test_marks_that_mean_two_things_are_refused(table):
    text = "a;b\n1,234;2\n12,345;3\n"
    with pytest.raises(DataError, match="line 2, column 'a': '1,234' is 1234 or 1.234"):
        table(text)
    check(table(text, thousands=","), [[1234, 2], [12345, 3]], ("a", "b"))
    check(table(text, decimal=","), [[1.234, 2], [12.345, 3]], ("a", "b"))
    with pytest.raises(DataError, match="line 2, column 'a': '89,657' is 89657 or 89.657"):
        table("a;b\n89,657;531.315\n")
    with pytest.raises(DataError, match="line 3, column 'b': '2,5'.*one format"):
        table("a;b\n1.5;\n2.5;2,5\n3.25;3,5\n")
    with pytest.raises(DataError, match="thousands=' '"):
        table("a;b\n1 000;2\n2 000;3\n")
    check(table("a;b\n1 000;2\n", thousands=" "), [[1000, 2]], ("a", "b"))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8-sig", b""),
        ("utf-16", b""),
        ("utf-16-le", b""),
        ("utf-16-be", b"\xfe\xff"),
        ("cp1252", b""),
        ("latin-1", b""),
    ],
)
def test_encodings(table, encoding, mark):
    text = "größe\tπ€\n1\t2\n" if encoding.startswith("utf") else "größe\tcafé\n1\t2\n"
    names = tuple(text.split("\n")[0].split("\t"))
    check(table(mark + text.encode(encoding)), [[1, 2]], names)
    if not encoding.startswith("utf"):
        assert "cp1252" in table(text.encode(encoding)).card.notes[0]
    check(table(text.encode("cp1250", "replace"), encoding="cp1250"), [[1, 2]],
          tuple(n.replace("π", "?") for n in names))  # fmt: skip


@pytest.mark.parametrize("pack", ["gz", "bz2", "xz", "zip"])
def test_compressed(tmp_path, pack):
    path = tmp_path / f"data.csv.{pack}"
    if pack == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.csv", "a;b\n1,5;2\n")
    else:
        module = {"gz": gzip, "bz2": bz2, "xz": lzma}[pack]
        path.write_bytes(module.compress(b"a;b\n1,5;2\n"))
    dataset = from_path(path)
    check(dataset, [[1.5, 2]], ("a", "b"))
    assert dataset.name == "data"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=f"'data.csv.{pack}' cannot be decompressed"):
        from_path(path)


def test_a_zip_of_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.csv.zip", "w") as archive:
        archive.writestr("a.csv", "1")
        archive.writestr("b.csv", "1")
    with pytest.raises(DataError, match="got 2 files"):
        from_path(tmp_path / "two.csv.zip")


# --- words, dates, truth values ----------------------------------------------------------------

MIXED = (
    "id,name,when,ok,n,x\n"
    "9007199254740993,Ann,2024-01-31,True,1,0.5\n"
    '9007199254740995,"O\'Neil, Bob",2024-02-29,False,,1\n'
    "9007199254740997,,,True,3,\n"
)


def check_mixed(frame):
    assert frame["id"].tolist() == [9007199254740993, 9007199254740995, 9007199254740997]
    assert frame["name"].tolist()[:2] == ["Ann", "O'Neil, Bob"] and frame["name"].isna()[2]
    assert frame["when"].dt.strftime("%d.%m.%Y").tolist()[:2] == ["31.01.2024", "29.02.2024"]
    assert frame["when"].isna()[2]
    assert frame["ok"].tolist() == [True, False, True] and frame["ok"].dtype == bool
    assert frame["n"].isna().tolist() == [False, True, False] and frame["n"][2] == 3
    assert frame["x"].tolist()[:2] == [0.5, 1.0] and frame["x"].dtype == np.float64


def test_words_dates_and_truth_values_are_a_frame(table):
    dataset = table(MIXED)
    assert isinstance(dataset.train, pd.DataFrame)
    check_mixed(dataset.train)
    assert dataset.card.feature_names == tuple(dataset.train.columns)
    assert dataset.card.num_observations == {"train": 3}
    assert repr(dataset) == "Dataset('table': train=(3, 6))"
    x, y = table(MIXED, target="name").train
    assert list(x.columns) == ["id", "when", "ok", "n", "x"]
    assert y.name == "name" and y[0] == "Ann"


def test_columns_and_target(table):
    check(table(MIXED, columns=["x", "n"]), [[0.5, 1], [1, NAN], [NAN, 3]], ("x", "n"))
    check(table(MIXED, columns=[4]), [[1], [NAN], [3]], ("n",))
    dataset = table("a,b,c\n1,2,3\n4,5,6\n", target="b")
    assert [t.tolist() for t in dataset.train] == [[[1, 3], [4, 6]], [2, 5]]
    assert dataset.card.feature_names == ("a", "c")
    assert table("1,2\n3,4\n", target=-1).train[1].tolist() == [2, 4]
    with pytest.raises(DataError, match="no column 'y'; its columns: 'a', 'b'"):
        table("a,b\n1,2\n", columns=["a", "y"])
    with pytest.raises(DataError, match="no column 'y'; its columns: 0 to 1"):
        table("1,2\n3,5\n", target="y")
    with pytest.raises(DataError, match="each once"):
        table("a,b\n1,2\n", columns=["a", "a"])


@pytest.mark.parametrize(
    ("cells", "day"),
    [
        (["2024-02-29", "2024-03-01"], "2024-02-29"),
        (["2024/2/29", "2024/03/01"], "2024-02-29"),
        (["29.2.2024", "01.03.2024"], "2024-02-29"),
        (["01.02.2024", "02.03.2024"], "2024-02-01"),
        (["1/2/2024", "13/2/2024"], "2024-02-01"),
        (["1/2/2024", "1/13/2024"], "2024-01-02"),
        (["2024-02-29 13:30", "2024-03-01 00:00"], "2024-02-29 13:30"),
        (["2024-02-29T13:30:00.5Z", "2024-03-01T00:00:00Z"], "2024-02-29 13:30:00.5+00:00"),
        (["2024-02-29T13:30:00+02:00", "2024-07-01T00:00:00+01:00"], "2024-02-29 11:30+00:00"),
    ],
)
def test_dates(table, cells, day):
    frame = table("when;x\n" + "".join(f"{cell};1\n" for cell in cells)).train
    assert frame["when"][0] == pd.Timestamp(day)


def test_dates_by_day_or_month_first(table):
    text = "when,x\n01/02/2024,1\n"
    assert table(text).train["when"][0] == "01/02/2024"
    assert table(text, dayfirst=True).train["when"][0] == pd.Timestamp("2024-02-01")
    assert table(text, dayfirst=False).train["when"][0] == pd.Timestamp("2024-01-02")
    with pytest.raises(DataError, match="line 3, column 'when': '2023-02-29'; expected a date"):
        table("when,x\n2024-02-29,1\n2023-02-29,2\n")
    with pytest.raises(DataError, match="line 3, column 'when': '13/13/2024'; expected a date"):
        table("when,x\n1/12/2024,1\n13/13/2024,2\n")


def test_words_by_dtype_and_missing_values_by_name(table):
    frame = table("plz,x\n01067,1\n10115,2\n", dtype={"plz": str}).train
    assert frame["plz"].tolist() == ["01067", "10115"]
    assert table("a,b\n1,2\n", dtype=str).train["b"].tolist() == ["2"]
    check(table("a,b\n1,-999\n-,-999.0\n", na_values=[-999, "-"]), [[1, NAN], [NAN, NAN]],
          ("a", "b"))  # fmt: skip
    frame = table("land,x\nNA,1\nDE,2\n", keep_default_na=False).train
    assert frame["land"].tolist() == ["NA", "DE"]
    with pytest.raises(DataError, match="dtype: got {'c': <class 'str'>}"):
        table("a,b\n1,2\n", dtype={"c": str})


def test_blanks_in_words_and_between_numbers(table):
    frame = table("New York\nLos Angeles\nSan Jose\n", header=None).train
    assert frame[0].tolist() == ["New York", "Los Angeles", "San Jose"]
    text = '18.0   8   307.\t"ford pinto"\n15.0   4   ?\t"fiat 128"\n'
    frame = table(text).train
    assert frame.iloc[0].tolist() == [18.0, 8, 307.0, "ford pinto"] and frame[2].isna()[1]


def test_header_above_words(table):
    frame = table("who,where\nAnn,Bonn\nBob,Rome\n").train
    assert list(frame.columns) == ["who", "where"] and len(frame) == 2
    frame = table("yes,no\nno,yes\nyes,no\n").train
    assert len(frame) == 3 and frame[0].tolist() == ["yes", "no", "yes"]
    assert table("Ann,1,2\nBob,3,4\n").train.shape == (2, 3)


# --- other kinds of files ----------------------------------------------------------------------


def test_parquet(tmp_path, table):
    frame = table(MIXED).train
    frame.to_parquet(tmp_path / "a.parquet")
    check_mixed(from_path(tmp_path / "a.parquet").train)
    numbers = pd.DataFrame({"a": np.float32([0.1, 2]), "b": pd.array([1, None], "Int64")})
    numbers.to_parquet(tmp_path / "b.parquet")
    check(from_path(tmp_path / "b.parquet"), [[float(np.float32(0.1)), 1], [2, NAN]], ("a", "b"))
    check(from_path(tmp_path / "b.parquet", columns=["b"]), [[1], [NAN]], ("b",))
    pd.DataFrame({"a": [2**53 + 1]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="column 'a': 9007199254740993; .*leave the column out"):
        from_path(tmp_path / "c.parquet")
    pd.DataFrame({"a": [[1], [2]]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="column 'a': got a ndarray"):
        from_path(tmp_path / "d.parquet")
    with pytest.raises(DataError, match="'e.parquet' cannot be read as a Parquet file"):
        table(b"PAR1 no", "e.parquet")
    indexed = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index([5, 7], name="day"))
    indexed.to_parquet(tmp_path / "f.parquet")
    check(from_path(tmp_path / "f.parquet"), [[5, 1], [7, 2]], ("day", "a"))


def test_excel(tmp_path, table):
    frame = table(MIXED.replace("90071992547409", "900719925474")).train
    path = tmp_path / "a.xlsx"
    with pd.ExcelWriter(path) as book:
        frame.to_excel(book, sheet_name="first", index=False)
        pd.DataFrame({"a": [0.1, None], "b": [20240131, 2]}).to_excel(book, sheet_name="second")
    dataset = from_path(path)
    assert "the sheet is 'first' of ['first', 'second']" in dataset.card.notes[0]
    check_mixed(dataset.train.assign(id=table(MIXED).train["id"]))
    for sheet in ("second", 1):
        check(from_path(path, sheet_name=sheet), [[0.1, 20240131], [NAN, 2]], ("a", "b"))
    with pytest.raises(DataError, match="sheet_name: got 'third'"):
        from_path(path, sheet_name="third")
    with pytest.raises(DataError, match="'b.xlsx' cannot be read as an Excel file"):
        table(path.read_bytes()[:-300], "b.xlsx")
    pd.DataFrame({"a": [1, "x", 3]}).to_excel(tmp_path / "c.xlsx", index=False)
    with pytest.raises(DataError, match="'c.xlsx', row 3, column 'a': 'x'"):
        from_path(tmp_path / "c.xlsx")
    with pytest.raises(DataError, match="save it as .xlsx"):
        table(b"", "a.xls")


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.xlsx", "openpyxl")])
def test_a_reader_that_is_not_installed_is_named(table, monkeypatch, name, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"'{name}'.*{package}.*pip install 'ppl_zoo\[tables\]'"):
        table(b"PAR1", name)


def test_json(table):
    records = [{"a": 1, "b": 0.1}, {"a": None, "b": 20240131}, {"b": 1e-300}]
    values = [[1, 0.1], [NAN, 20240131], [NAN, 1e-300]]
    lines = "\n".join(map(json.dumps, records)) + "\n\n"
    check(table(lines, "a.jsonl"), values, ("a", "b"))
    check(table(gzip.compress(lines.encode()), "a.ndjson.gz"), values, ("a", "b"))
    check(table(json.dumps(records), "a.json"), values, ("a", "b"))
    check(table('{"a": [1, 2], "b": [NaN, 4]}', "b.json"), [[1, NAN], [2, 4]], ("a", "b"))
    frame = table('{"id": 9007199254740993, "ok": true, "s": "x"}', "b.jsonl").train
    assert frame.iloc[0].tolist() == [9007199254740993, True, "x"]
    for content, name, message in [
        ('{"a": 1}\n{"a": 1\n', "c.jsonl", "'c.jsonl', line 2 is no JSON"),
        ('{"a": 1}\n[1]\n', "c.jsonl", "'c.jsonl', line 2: got no object"),
        ('{"a": 1}\n{"a": [1]}\n', "c.jsonl", "line 2, column 'a': got a list"),
        ('{"a": 9007199254740993}', "c.jsonl", "line 1, column 'a'.*leave the column out"),
        ("[]", "c.json", "is empty"),
        ("", "c.jsonl", "is empty"),
        ('{"a": 1}', "c.json", "expected a list of objects"),
        ('{"a": [1], "b": []}', "c.json", "different lengths"),
    ]:
        with pytest.raises(DataError, match=message):
            table(content, name)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 cells; expected 2"),
        ('a,b\n"1\n",2\n3\n', "line 4: 1 cells; expected 2"),
        ("a,b\n5,1,2\n6,3,4\n", "line 2: 3 cells; expected 2"),
        ("name    age\nAnn      23\nBob Smith  31\n", "the cells cannot be told apart"),
        ("My data\na,b\n1,2\n", "line 2: 2 cells; expected 1"),
        ("1 2 3\n4 5\n", "line 2: 2 cells; expected 3"),
        ("a,b\n1,2\n1,x\n1,3\n", r"line 3, column 'b': 'x'; .*na_values=\['x'\]"),
        ('a,b\n"1,2\n', "line 2: the cells cannot be told apart"),
        ("a,b\n1,1e999\n", "line 2, column 'b': '1e999'; expected at most"),
        ("a,b\n1,9007199254740993\n", "line 2, column 'b': '9007199254740993'"),
        ("a,b\n1,9007199254740993.\n0,9007199254740993\n", "'9007199254740993'"),
        ("a,b\nx,9223372036854775809\n", "'9223372036854775809'; .*leave the column out"),
        ("1" * 5000 + ",1\n1,2\n", "line 1, column 1: '1111"),
        ("a,b\n" + "1" * 5000 + ",x\n", "leave the column out"),
        ("\n \n", "'table.csv' is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "'table.csv' is no text"),
        (b"\xff\xfe\x00\xd8\x00\xd8a", "'table.csv'"),
        ("x" * 200_000 + ",1\n", "field limit"),
        ("0,2\n1,2\n1_000,3\n3,4\n", "line 3, column 1: '1_000'"),
    ],
)
def test_bad_tables_are_explained(table, text, message):
    with pytest.raises(DataError, match=message):
        table(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-9"}, "encoding: got 'utf-9'"),
        ({"encoding": "ascii"}, "'table.csv' is not ascii"),
        ({"sep": "::"}, "sep: got '::'"),
        ({"decimal": "x"}, "decimal: got 'x'"),
        ({"decimal": ",", "thousands": ","}, "decimal: got ','"),
        ({"header": 3}, "header: got 3"),
        ({"skiprows": -1}, "skiprows: got -1"),
        ({"sheet_name": "a"}, "no option of .csv files"),
    ],
)
def test_bad_options_are_explained(table, options, message):
    with pytest.raises(DataError, match=message):
        table("ä;b\n1;2\n", **options)


def test_options_of_tables_are_for_tables(tmp_path, table):
    np.save(tmp_path / "a.npy", np.eye(2))
    with pytest.raises(DataError, match="sep=';', an option of tables"):
        from_path(tmp_path / "a.npy", sep=";")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="no images in"):
        from_path(tmp_path / "folder.csv")
    with pytest.raises(TypeError, match="no option 'separator'; its options: sep, decimal"):
        table("a,b\n1,2\n", separator=";")


def test_options_replace_what_is_found(table):
    check(table("# made by hand\na b\n1 2\n", skiprows=1), [[1, 2]], ("a", "b"))
    check(table("1:2\n3:4\n", "a.txt", sep=":", header=None), [[1, 2], [3, 4]])
    check(table("a\tb\n1\t2\n", "a.tsv", sep="tab"), [[1, 2]], ("a", "b"))
    assert table('a\tb\n"1\t2\n', sep="tab", quotechar=None).train["a"][0] == '"1'
    with pytest.raises(DataError, match="line 3, column 'b'.*1.x"):
        table("skipped\na,b\n1,1.x\n2,3\n", skiprows=1)


def test_wide_and_long_tables(table):
    values = np.random.default_rng(0).normal(size=(3, 5000))
    text = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    check(table(text), values.tolist())
    long = np.random.default_rng(1).normal(size=(4_000, 3))
    text = "a;b;c\n" + "\n".join(";".join(map(repr, row)) for row in long.tolist())
    check(table(text.replace(".", ",")), long.tolist(), ("a", "b", "c"))


def test_pandas_reads_the_same(tmp_path):
    """What pandas writes, by each of its options, is read as pandas reads it."""
    frame = pd.DataFrame(
        {"x": [1.5, None, -2e10], "word": ["a", "b;c", 'd "e"\nf'], "n": [1, 2, 3]}
    )
    path = tmp_path / "a.csv"
    for sep in (",", ";", "\t", "|"):
        for decimal in (".", ","):
            for index in (True, False):
                for encoding in ("utf-8", "utf-16", "utf-8-sig"):
                    frame.to_csv(path, sep=sep, decimal=decimal, index=index, encoding=encoding)
                    pd.testing.assert_frame_equal(from_path(path).train, frame)


def test_damaged_files_are_refused_by_name(tmp_path):
    """Mutations of real files: read, or refused by an error of the zoo that names the file."""
    chance = random.Random(0)
    sources = {"t.csv": MIXED.encode(), "u.csv": "a;b\n1,5;ä\n2,5;ö\n".encode("utf-16")}
    sources["t.jsonl"] = b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": null}\n'
    sources["t.csv.gz"] = gzip.compress(MIXED.encode())
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.0], "b": ["x", "y", "z"]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_excel(tmp_path / "t.xlsx")
    sources |= {name: (tmp_path / name).read_bytes() for name in ("t.parquet", "t.xlsx")}
    refused = 0
    for case in range(300):
        name = list(sources)[case % len(sources)]
        content = bytearray(sources[name])
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(content))
            how = chance.randrange(4)
            if how == 0:
                content[at] = chance.randrange(256)
            elif how == 1:
                del content[at : at + chance.randint(1, 20)]
            elif how == 2:
                content[at:at] = chance.choice([b",", b'"', b"\n", b"\x00", b";", b"\xff", b"1,5"])
            else:
                content[at:at] = content[: chance.randrange(40)]
            content = content or bytearray(b" ")
        path = tmp_path / f"case-{name}"
        path.write_bytes(content)
        try:
            from_path(path)
        except DataError as error:
            refused += 1
            assert f"case-{name}" in str(error), (case, error)
    assert 100 < refused < 300
