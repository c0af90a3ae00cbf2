"""Column types of a text table: numbers, truth values, dates or words, told from the cells.

A column is of a type if each of its cells is. One that is so for the most part is refused at the
first cell that is not: a guess would turn numbers into words, or words into missing values.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ppl_zoo.core.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.api.extensions import ExtensionArray

    Column: TypeAlias = ExtensionArray | np.ndarray

__all__ = [
    "TOO_LONG",
    "NumberFormat",
    "TextTable",
    "are_numbers",
    "is_word",
    "looks_numeric",
    "read_columns",
]

#: cells that stand for a missing value: pandas' list, and R's, SQL's and UCI's usage
MISSING = frozenset(
    (
        *("", "?", "NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "<NA>", "NaN", "nan", "-nan"),
        *("-NaN", "NULL", "null", "None", "NaT", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    )
)
#: of these, those that might be words, and are named in a note
UNUSUAL_MISSING = MISSING - {"", "NaN", "nan", "-nan", "-NaN", "NaT", "<NA>"}
#: marks between thousands: of English, German, Swiss and French texts; a plain blank last, which
#: is taken only where it is named
THOUSANDS = (",", ".", "'", "\u2019", "\u00a0", "\u202f", " ")
INFINITY = r"[+-]?inf(?:inity)?"
INTEGER = re.compile(r"^[+-]?\d+$", re.A | re.M)
LEADING_ZERO = re.compile(r"^[+-]?0\d+$", re.A | re.M)
DAY_PARTS = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})", re.A)
NUMBER_WITH_UNIT = re.compile(
    r"(?=.*[^\d.,'\u2019+-])(?:[$€£¥]\s?)?[+-]?\d[\d.,'\u2019]*(?:\s?[%A-Za-zµ°€$£¥/²³]{1,5})?",
    re.A,
)
ISO_DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.A
)
SLASH_DATE = re.compile(r"\d{4}/\d{1,2}/\d{1,2}", re.A)


class NumberFormat(NamedTuple):
    """Number format: the decimal mark, and the mark between thousands if there is one."""

    decimal: str = "."
    thousands: str | None = None

    def matches(self, text: str) -> bool:
        """Whether a cell is a number of this format."""
        return _number_pattern(self).fullmatch(text) is not None

    def count(self, texts: Sequence[str]) -> int:
        """Count the cells that are numbers of this format."""
        return _count(_number_pattern(self), texts)

    def plain(self, text: str) -> str:
        """Cell as Python writes the number."""
        if self.thousands is not None:
            text = text.replace(self.thousands, "")
        return text.replace(self.decimal, ".")


PLAIN = NumberFormat()
#: in the order of preference, where several fit the cells of a file
FORMATS = (
    PLAIN,
    NumberFormat(","),
    *(
        NumberFormat(decimal, thousands)
        for thousands, decimal in itertools.product(THOUSANDS, ".,")
        if decimal != thousands
    ),
)


@functools.cache
def _number_pattern(number_format: NumberFormat) -> re.Pattern[str]:
    decimal, integer = re.escape(number_format.decimal), r"\d+"
    if number_format.thousands is not None:
        integer = rf"(?:[1-9]\d{{0,2}}(?:{re.escape(number_format.thousands)}\d{{3}})+|\d+)"
    mantissa = rf"(?:{integer}(?:{decimal}\d*)?|{decimal}\d+)"
    number = rf"(?:[+-]?{mantissa}(?:[eE][+-]?\d+)?|{INFINITY})"
    return re.compile(rf"^{number}$", re.A | re.I | re.M)


def _count(lines: re.Pattern[str], texts: Sequence[str]) -> int:
    """Count the cells that a pattern matches; in one call, since a column may be long."""
    joined = "\n".join(texts)
    if joined.count("\n") >= len(texts) > 0:  # a cell with a line break is of no type
        joined = "\n".join(text for text in texts if "\n" not in text)
    return len(lines.findall(joined))


def looks_numeric(text: str) -> bool:
    """Whether a cell is a number in one format or another."""
    if PLAIN.matches(text):
        return True
    return text[-1:].isdecimal() and any(f.matches(text) for f in FORMATS)


def is_word(text: str) -> bool:
    """Whether a cell is neither missing, a number, a truth value nor a date."""
    return not (
        text in MISSING
        or looks_numeric(text)
        or text.casefold() in ("true", "false")
        or _is_date(text)
    )


def _is_odd_number(text: str) -> bool:
    """Whether a cell is a number in a format other than the plain one."""
    return " " not in text and not PLAIN.matches(text) and looks_numeric(text)


def _is_date(text: str) -> bool:
    patterns = (ISO_DATE, SLASH_DATE, DAY_PARTS)
    return text[:1].isdecimal() and any(p.fullmatch(text) for p in patterns)


@dataclass
class TextTable:
    """Table of text: its cells by column, and where each row stands in the file.

    Attributes
    ----------
    file
        Name of the file, for errors.
    names
        Names of the columns, or None.
    columns
        Cells of each column, without blanks around them.
    rows
        Number of each row in the file.
    unit
        What `rows` counts: "line", "row" or "record".
    notes
        What was assumed in reading the file.
    """

    file: str
    names: tuple[str, ...] | None
    columns: list[Sequence[str]]
    rows: Sequence[int]
    unit: str = "line"
    notes: list[str] = field(default_factory=list)

    def label(self, index: int) -> str:
        """Name of a column in quotes, or its number from 1."""
        return repr(self.names[index]) if self.names else str(index + 1)

    def place(self, index: int, cell: str) -> str:
        """Where a cell stands in the file, and its text."""
        row = self.rows[list(self.columns[index]).index(cell)]
        return f"{self.file!r}, {self.unit} {row}, column {self.label(index)}: {cell!r}"


class _Cells:
    """Distinct cells of a column that are not missing, and their index in each row, else -1."""

    def __init__(self, column: Sequence[str], is_missing: Callable[[str], bool]) -> None:
        from pandas import factorize

        codes, distinct = factorize(np.array(column, dtype=object))
        known = [not is_missing(text) for text in distinct]
        position = np.append(np.where(known, np.cumsum(known) - 1, -1), -1)
        self.codes = position[codes]
        self.texts = list(itertools.compress(distinct, known))
        unusual = {t: i for i, t in enumerate(distinct) if t in UNUSUAL_MISSING}
        #: words that were taken as missing, and how often
        self.unusual = {t: int((codes == i).sum()) for t, i in unusual.items() if not known[i]}


def read_columns(
    table: TextTable,
    *,
    number_format: NumberFormat | None = None,
    comma_separated: bool = False,
    na_values: Collection[Any] = (),
    keep_default_na: bool = True,
    dtype: Any = None,
    dayfirst: bool | None = None,
) -> DataFrame:
    """Read the columns of a text table as numbers, truth values, dates or words.

    Parameters
    ----------
    table
        The table; what is assumed is added to its notes.
    number_format
        How numbers are written; None to tell it from the cells of the whole table.
    comma_separated
        Whether commas part the cells, so that one inside of a cell parts thousands.
    na_values, keep_default_na
        As in `pandas.read_csv`: more cells that stand for a missing value, and whether the usual
        ones do.
    dtype
        `str` to read all columns as words, or a mapping of names to `str`.
    dayfirst
        Whether 01/02/2024 is the first of February; None to tell it from the column.

    Returns
    -------
    DataFrame
        Columns of float64 or, for integers, int64 (Int64 with missing ones), of bool (boolean),
        datetime64, or words.

    Raises
    ------
    DataError
        At a cell that is not of its column's type, or that float64 does not hold.
    """
    from pandas import DataFrame

    is_missing = _missing_test(na_values, keep_default_na)
    as_words = _word_columns(table, dtype)
    cells = [_Cells(column, is_missing) for column in table.columns]
    counted: dict[str, int] = {}
    for column in cells:
        for text, count in column.unusual.items():
            counted[text] = counted.get(text, 0) + count
    for text, count in counted.items():
        table.notes.append(f"{text!r} is taken as missing, {count} times")
    typed = [c for i, c in enumerate(cells) if i not in as_words]
    if number_format is None:
        number_format = _find_format(table, typed, comma_separated)
    frame = DataFrame(
        {
            i: _words(column)
            if i in as_words
            else _typed_column(table, i, column, number_format, dayfirst)
            for i, column in enumerate(cells)
        }
    )
    if are_numbers(frame):  # will be one tensor of float64
        for i, column in frame.items():
            if column.dtype.kind != "f":
                large = column.notna() & (column.abs() > 2**53)
                if large.any():
                    cell = table.columns[i][int(large.idxmax())]
                    raise DataError(f"{table.place(i, cell)}; {TOO_LONG}")
    frame.columns = list(table.names or frame.columns)
    return frame


def are_numbers(frame: DataFrame) -> bool:
    """Whether all columns of a data frame are numbers, truth values not among them."""
    return all(getattr(dtype, "kind", "O") in "iuf" for dtype in frame.dtypes)


def _missing_test(na_values: Collection[Any], keep_default_na: bool) -> Callable[[str], bool]:
    given = [na_values] if isinstance(na_values, str | int | float) else list(na_values)
    texts = {str(v).strip() for v in given} | (set(MISSING) if keep_default_na else set())
    numbers = {float(t) for t in map(str, given) if PLAIN.matches(t)}
    if not numbers:
        return texts.__contains__
    return lambda text: text in texts or (PLAIN.matches(text) and float(text) in numbers)


def _word_columns(table: TextTable, dtype: Any) -> set[int]:
    """Columns that are to be read as words."""
    words = (str, "str", "string", "category", object, "object")
    if dtype is None:
        return set()
    if not isinstance(dtype, Mapping):
        if dtype not in words:
            raise DataError(f"dtype: got {dtype!r}, expected str, or a mapping of columns to str")
        return set(range(len(table.columns)))
    names = list(table.names or range(len(table.columns)))
    for name, kind in dtype.items():
        if name not in names or kind not in words:
            raise DataError(
                f"dtype: got {{{name!r}: {kind!r}}}, expected a mapping to str of the columns"
                f" {', '.join(map(repr, names[:20]))}; numbers and dates are found"
            )
    return {names.index(name) for name in dtype}


def _find_format(
    table: TextTable, columns: Sequence[_Cells], comma_separated: bool
) -> NumberFormat:
    """Tell the format of numbers from all cells that look like one."""
    odd: dict[str, None] = {}
    for column in columns:
        if PLAIN.count(column.texts) < len(column.texts):
            odd |= dict.fromkeys(t for t in column.texts if _is_odd_number(t))
    if not odd:
        _note_thousands(table, columns, comma_separated)
        return PLAIN
    cells = [*odd, *(t for c in columns for t in c.texts if "." in t and t not in odd)]
    scores = {f: f.count(cells) for f in FORMATS if f.thousands != " "}
    tied = [f for f, score in scores.items() if score == max(scores.values())]
    best, english = tied[0], NumberFormat(".", ",")
    if best != PLAIN:
        for cell in odd:
            values = {float(f.plain(cell)) for f in tied if f.matches(cell)}
            if len(values) > 1 and comma_separated and english in tied:
                best = english
            elif len(values) > 1:
                index = next(i for i, column in enumerate(table.columns) if cell in column)
                ways = " or ".join(f"{value:.15g}" for value in sorted(values, reverse=True))
                raise DataError(
                    f"{table.place(index, cell)} is {ways}; say which: thousands=',' or"
                    " decimal=','"
                )
    if best != PLAIN:
        marks = f"the decimal mark {best.decimal!r}"
        if best.thousands is not None:
            marks += f" and {best.thousands!r} between thousands"
        table.notes.append(f"numbers are read with {marks}, as in {next(iter(odd))!r}")
    return best


def _note_thousands(table: TextTable, columns: Sequence[_Cells], comma_separated: bool) -> None:
    """Say so where all fractions have three digits, which may be thousands in other countries."""
    german, first = NumberFormat(",", "."), None
    for text in (t for c in columns for t in c.texts if "." in t and PLAIN.matches(t)):
        if not german.matches(text):
            return
        first = first or text
    if first and not comma_separated:
        table.notes.append(f"{first!r} is read as a fraction; thousands='.' makes it whole")


def _typed_column(
    table: TextTable,
    index: int,
    cells: _Cells,
    number_format: NumberFormat,
    dayfirst: bool | None,
) -> Column:
    """Column of the type that its cells show."""
    import pandas as pd

    texts = cells.texts
    if number_format.count(texts) == len(texts):
        return _numbers(table, index, cells, number_format)
    if {text.casefold() for text in texts} <= {"true", "false"}:
        truths = np.array([text.casefold() == "true" for text in texts])
        missing = cells.codes < 0
        values = truths[cells.codes]
        return pd.arrays.BooleanArray(values, missing) if missing.any() else values
    dates = [_is_date(text) for text in texts]
    if all(dates):
        return _dates(table, index, cells, dayfirst)
    fits = [number_format.matches(text) for text in texts]
    numeric = [fit or looks_numeric(text) for fit, text in zip(fits, texts, strict=True)]
    for found, kind in ((numeric, "number"), (dates, "date")):
        if 2 * sum(found) >= len(texts):
            matched = fits if kind == "number" else found
            cell = texts[matched.index(False)]
            raise DataError(f"{table.place(index, cell)}; {_mend(table, index, cell, kind)}")
    if all(map(NUMBER_WITH_UNIT.fullmatch, texts)):
        table.notes.append(
            f"column {table.label(index)} is read as words: numbers with a unit, as {texts[0]!r}"
        )
    elif any(fits):
        table.notes.append(
            f"column {table.label(index)} is read as words, {texts[fits.index(True)]!r} too"
        )
    return _words(cells)


def _mend(table: TextTable, index: int, cell: str, kind: str) -> str:
    """Say what to do about a cell that is not of its column's type."""
    if kind == "number" and looks_numeric(cell):
        others = [f for f in FORMATS if f.matches(cell)]
        ways = ", or ".join(
            f"decimal={f.decimal!r}"
            + ("" if f.thousands is None else f", thousands={f.thousands!r}")
            for f in others[:2]
        )
        return f"expected numbers of one format in the whole file: name it by {ways}"
    name = table.names[index] if table.names else index
    return (
        f"expected a {kind}, or an empty cell for a missing value: na_values=[{cell!r}] takes it"
        f" as missing, dtype={{{name!r}: str}} reads the column as words"
    )


def _words(cells: _Cells) -> Column:
    from pandas import Series

    return Series(np.array([*cells.texts, None], dtype=object)[cells.codes].tolist()).array


def _numbers(table: TextTable, index: int, cells: _Cells, number_format: NumberFormat) -> Column:
    """Numbers: int64 if all are integers, else float64, never rounded to another integer."""
    from pandas import arrays

    texts = cells.texts
    if number_format != PLAIN:
        texts = [number_format.plain(text) for text in texts]
    values = np.array([*map(float, texts), math.nan])
    integer = bool(texts) and _count(INTEGER, texts) == len(texts)
    if integer and _count(LEADING_ZERO, texts):
        zeros = next(filter(LEADING_ZERO.match, texts))
        name = table.names[index] if table.names else index
        table.notes.append(
            f"column {table.label(index)} is read as numbers, without the leading zeros of"
            f" {zeros!r}; dtype={{{name!r}: str}} keeps them"
        )
    for i in np.flatnonzero(np.isinf(values) | (np.abs(values) >= 2.0**53)):
        whole, text = INTEGER.match(texts[i]), cells.texts[i]
        if whole and abs(values[i]) >= 2.0 ** (63 if integer else 53):
            if math.isinf(values[i]) or int(texts[i]) != int(values[i]):
                raise DataError(f"{table.place(index, text)}; {TOO_LONG}")
        elif math.isinf(values[i]) and "i" not in text.casefold():
            raise DataError(
                f"{table.place(index, text)}; expected at most 1.8e308, which float64 holds"
            )
    if integer:
        exact = np.array([*map(int, texts), 0])
        if exact.dtype == np.int64:
            exact, missing = exact[cells.codes], cells.codes < 0
            return arrays.IntegerArray(exact, missing) if missing.any() else exact
    return values[cells.codes]


TOO_LONG = (
    f"expected an integer that float64 holds, at most 2^53 = {2**53}: the numbers of longer"
    " identifiers mean nothing, leave the column out, or read it as words by dtype"
)


def _dates(table: TextTable, index: int, cells: _Cells, dayfirst: bool | None) -> Column:
    """Dates as datetime64; words where day and month cannot be told apart."""
    import pandas as pd

    texts = cells.texts
    parts = [DAY_PARTS.fullmatch(text) for text in texts]
    if all(parts):
        first = [int(part[1]) for part in parts if part]
        second = [int(part[3]) for part in parts if part]
        mark = parts[0][2] if parts[0] else ""
        if dayfirst is None and (mark == "." or max(first) > 12):
            dayfirst = True
        elif dayfirst is None and max(second) > 12:
            dayfirst = False
        elif dayfirst is None:
            table.notes.append(
                f"column {table.label(index)} is read as words: {texts[0]!r} may have the day or"
                " the month first; dayfirst=True or False makes it a date"
            )
            return _words(cells)
        texts = [f"{p[4]}-{p[1 + 2 * dayfirst]:0>2}-{p[3 - 2 * dayfirst]:0>2}" for p in parts if p]
    elif all(map(SLASH_DATE.fullmatch, texts)):
        texts = ["-".join(f"{part:0>2}" for part in text.split("/")) for text in texts]
    zones = any(re.search(r"(?:Z|[+-]\d\d:?\d\d)$", text[10:]) for text in texts)
    texts = [text.replace(",", ".") for text in texts]
    try:
        values = pd.to_datetime([*texts, None], format="ISO8601", utc=zones)
    except ValueError as error:
        wrong = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce").isna()
        cell = cells.texts[int(wrong.argmax())]
        raise DataError(f"{table.place(index, cell)}; expected a date: {error}") from error
    return values[cells.codes].array
