"""Tables: CSV and other text, JSON, Excel and Parquet, compressed or not, read to a data frame.

The cells of text come from Python's `csv`, which keeps the number of each line and refuses what
pandas fills or drops (a short line, a quote without an end); pandas makes the columns of them and
reads Excel and Parquet.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.data.column_types import (
    TOO_LONG,
    NumberFormat,
    TextTable,
    are_numbers,
    is_word,
    looks_numeric,
    read_columns,
)
from ppl_zoo.data.header import NUM_LINES_SAMPLED, distinct_names, has_header

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["COMPRESSIONS", "TABLE_SUFFIXES", "pick_columns", "read_table"]

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
EXCEL_SUFFIXES = (".xlsx", ".xlsm")
PARQUET_SUFFIXES = (".parquet", ".pq")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zip": lambda content: _unzip(content),
}
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *EXCEL_SUFFIXES, *PARQUET_SUFFIXES)

#: marks at the start of a file that name its encoding; UTF-32's begins with UTF-16's
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CONTROL_CHARACTER = re.compile("[\x00-\x08\x0e-\x19\x1b-\x1f]")
#: candidates for the separator in the order of preference; a blank is any run of white space
SEPARATORS = {"\t": "tab", ";": "';'", "|": "'|'", ",": "','", " ": "blanks"}
#: other names of separators: pandas' pattern for blanks, and words for a command line
SEPARATOR_NAMES = {r"\s+": " ", "blank": " ", "tab": "\t", r"\t": "\t"}


def read_table(
    path: Path,
    *,
    columns: Sequence[str | int] | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    quotechar: str | None = '"',
    header: Any = "infer",
    skiprows: int = 0,
    na_values: Collection[Any] = (),
    keep_default_na: bool = True,
    dtype: Any = None,
    dayfirst: bool | None = None,
    sheet_name: str | int | None = None,
) -> tuple[DataFrame, tuple[str, ...], bool]:
    """Read a table of a file.

    Parameters
    ----------
    path
        The file; its suffix says of which kind it is.
    columns
        The columns to keep, by name or position from 0.
    sep, decimal, thousands, encoding, quotechar, header, skiprows, na_values, keep_default_na, \
dtype, dayfirst, sheet_name
        As :func:`ppl_zoo.data.from_path` has them.

    Returns
    -------
    DataFrame, notes, named
        The table; what was assumed in reading it; whether the file names the columns.

    Raises
    ------
    DataError
        If it is no table; the message names the file, and the line and cell where there is one.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1] if suffixes[-1] in COMPRESSIONS else None
    kind = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1]
    of_text = {"sep": sep, "decimal": decimal, "thousands": thousands, "encoding": encoding}
    of_text |= {"skiprows": skiprows or None}
    of_excel = {"sheet_name": sheet_name}
    given = {} if kind in TEXT_SUFFIXES else of_text
    given = given | ({} if kind in EXCEL_SUFFIXES else of_excel)
    for name, value in given.items():
        if value is not None and not (name == "encoding" and kind in JSON_SUFFIXES):
            raise DataError(f"{path.name!r}: got {name}={value!r}, no option of {kind} files")
    content = path.read_bytes()
    if packed:
        content = _decompress(path.name, content, COMPRESSIONS[packed])
    if kind in PARQUET_SUFFIXES:
        if dtype is not None or header != "infer" or na_values or not keep_default_na:
            raise DataError(f"{path.name!r}: the types of a Parquet file are its own")
        return _read_parquet(path.name, content, columns)
    comma_separated, number_format = False, None
    if kind in JSON_SUFFIXES:
        table = _read_json(path.name, *_decode(path.name, content, encoding), kind != ".json")
        number_format = NumberFormat()
    elif kind in EXCEL_SUFFIXES:
        rows, numbers, notes = _excel_rows(path.name, content, sheet_name)
        table = _with_header(path.name, rows, numbers, header, "row", notes)
        number_format = NumberFormat()
    else:
        text, notes = _decode(path.name, content, encoding)
        sep, lines, skipped = _find_separator(path.name, text, sep, quotechar, skiprows, notes)
        rows, numbers = _text_rows(path.name, lines, sep, quotechar, skipped)
        comma_separated = sep == ","
        table = _with_header(path.name, rows, numbers, header, "line", notes)
        if decimal is not None or thousands is not None:
            number_format = _named_format(decimal, thousands)
    _drop_unnamed(table)
    if columns is not None:
        picks = pick_columns(table.file, table.names, len(table.columns), columns)
        table.columns = [table.columns[i] for i in picks]
        table.names = tuple(table.names[i] for i in picks) if table.names else None
    frame = read_columns(
        table,
        number_format=number_format,
        comma_separated=comma_separated,
        na_values=na_values,
        keep_default_na=keep_default_na,
        dtype=dtype,
        dayfirst=dayfirst,
    )
    return frame, tuple(table.notes), table.names is not None


# ---- bytes to text ---------------------------------------------------------------------------


def _decompress(file: str, content: bytes, unpack: Callable[[bytes], bytes]) -> bytes:
    try:
        return unpack(content)
    except (
        OSError,
        EOFError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise DataError(f"{file!r} cannot be decompressed: {error}") from error


def _unzip(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = [i for i in archive.infolist() if not i.is_dir()]
        members = [i for i in found if not i.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            names = ", ".join(repr(i.filename) for i in members[:5])
            raise ValueError(f"got {len(members)} files ({names}), expected one table")
        return archive.read(members[0])


def _decode(file: str, content: bytes, encoding: str | None) -> tuple[str, list[str]]:
    """Text of a file, and a note if its encoding was guessed."""
    notes: list[str] = []
    tried = [encoding] if encoding else [*_likely_encodings(content), "utf-8", "cp1252", "latin-1"]
    text = None
    for name in tried:
        try:
            text = content.decode(name)
        except LookupError as error:
            raise DataError(f"encoding: got {name!r}, expected one that Python knows") from error
        except UnicodeDecodeError as error:
            if encoding:
                raise DataError(f"{file!r} is not {encoding}: {error}") from error
            continue
        if name in ("cp1252", "latin-1"):
            notes.append(f"the encoding is taken as {name} (it is not UTF-8); encoding= names it")
        break
    assert text is not None  # latin-1 reads any bytes
    control = CONTROL_CHARACTER.search(text)
    if control:
        raise DataError(
            f"{file!r} is no text: got the control character {control[0]!r}, expected a table"
        )
    return text.removeprefix("\ufeff").removesuffix("\x1a"), notes


def _likely_encodings(content: bytes) -> Iterator[str]:
    """Guess encodings: what a mark at the start names, or zeros in every second byte."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            yield name
            return
    sample = content[:4096]
    half = len(sample) // 2
    if half and len(content) % 2 == 0:
        for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            if sample[start::2].count(0) > 0.4 * half and not sample[1 - start :: 2].count(0):
                yield name


# ---- text to cells ---------------------------------------------------------------------------


def _find_separator(
    file: str, text: str, sep: str | None, quotechar: str | None, skiprows: int, notes: list[str]
) -> tuple[str, list[str], int]:
    """Separator, the lines of the table, and how many stand before it."""
    lines = list(io.StringIO(text, newline=""))
    if not isinstance(skiprows, int) or skiprows < 0:
        raise DataError(f"skiprows: got {skiprows!r}, expected the number of lines to skip")
    lines = lines[skiprows:]
    hint = re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\r\n")) if lines else None
    if hint:  # Excel's own line
        lines, skiprows, sep = lines[1:], skiprows + 1, sep or hint[1]
    if not any(line.strip() for line in lines):
        raise DataError(f"{file!r} is empty; expected lines of a table")
    if sep is not None:
        sep = SEPARATOR_NAMES.get(sep, sep)
        if len(sep) != 1 or sep in "\r\n" or sep == quotechar:
            raise DataError(f"sep: got {sep!r}, expected one character, 'tab' or 'blank'")
        return sep, lines, skiprows
    fits: dict[str, float] = {}
    nearly: dict[str, int] = {}
    for candidate in SEPARATORS:
        rows = _sample(lines, candidate, quotechar)
        widths = [len(row) for row in rows]
        if not rows or max(widths) < 2:
            continue
        cells = [cell.strip() for row in rows for cell in row]
        share = sum(looks_numeric(cell) for cell in cells) / len(cells)
        if min(widths) == max(widths) and (candidate != " " or _has_numbers(rows)):
            fits[candidate] = share
        if candidate != " " or share >= 0.5:
            nearly[candidate] = sum(width > 1 for width in widths)
    if not nearly and _has_gaps(lines):
        raise DataError(
            f"{file!r}: the cells cannot be told apart, by none of"
            f" {', '.join(SEPARATORS.values())}; sep= names the character between them"
        )
    if not fits:
        return max(nearly, key=nearly.__getitem__, default=","), lines, skiprows
    if len(fits) > 1 and " " not in nearly:
        fits.pop(" ", None)  # blanks inside of cells
    best = max(fits, key=fits.__getitem__)
    others = [SEPARATORS[c] for c, share in fits.items() if c != best and share > 0]
    if others or best == " ":
        fit = f" ({' and '.join(others)} would fit too)" if others else ""
        notes.append(f"the cells are parted by {SEPARATORS[best]}{fit}; sep= names another")
    return best, lines, skiprows


def _has_gaps(lines: list[str]) -> bool:
    """Whether most lines have gaps inside, as columns of a fixed width do."""
    gaps = [re.search(r"\S(?: {2,}|\t)\s*\S", line) is not None for line in lines]
    return 2 * sum(gaps) > len(gaps)


def _sample(lines: list[str], sep: str, quotechar: str | None) -> list[list[str]]:
    """Cells of the first lines; none where the quotes do not fit the separator."""
    reader = _csv_reader(lines[:NUM_LINES_SAMPLED], sep, quotechar)
    rows = []
    try:
        rows.extend(row for row in reader if not _is_blank(row))
    except csv.Error:
        if len(lines) <= NUM_LINES_SAMPLED or reader.line_num < NUM_LINES_SAMPLED:
            return []  # else the sample ends inside of quotes
    return rows


def _has_numbers(rows: list[list[str]]) -> bool:
    """Whether a column holds numbers only, below what may be its name."""
    return any(
        all(looks_numeric(cell) for cell in column[1 if len(rows) > 1 else 0 :])
        for column in zip(*rows, strict=True)
    )


def _csv_reader(lines: Iterable[str], sep: str, quotechar: str | None) -> Any:
    if sep == " ":
        lines = (line.replace("\t", " ").rstrip() for line in lines)
    quoting = {"quoting": csv.QUOTE_NONE} if not quotechar else {"quotechar": quotechar}
    return csv.reader(lines, delimiter=sep, skipinitialspace=True, strict=True, **quoting)


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and row[0].isspace())


def _text_rows(
    file: str, lines: list[str], sep: str, quotechar: str | None, skipped: int
) -> tuple[list[list[str]], list[int]]:
    """Cells of each line that is not blank, and its number."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    reader = _csv_reader(lines, sep, quotechar)
    while True:
        number = skipped + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{file!r}, line {number}: the cells cannot be told apart ({error}); quotechar="
                " names the quotes, None that there are none"
            ) from error
        if row is None:
            return rows, numbers
        if _is_blank(row):
            continue
        rows.append(row)
        numbers.append(number)
        if len(rows) == 2 and len(row) == len(rows[0]) + 1 and _is_r_index(rows[0], row[0]):
            rows[0] = ["", *rows[0]]
        if len(row) != len(rows[0]):
            raise DataError(
                f"{file!r}, line {number}: {len(row)} cells; expected {len(rows[0])}, as in line"
                f" {numbers[0]}, parted by {SEPARATORS.get(sep, repr(sep))}; sep= names another"
                " separator, skiprows= lines before the table"
            )


def _is_r_index(names: list[str], cell: str) -> bool:
    """Whether lines begin with an index above which R writes nothing: 1, or a word."""
    if len(names) < 2 or not all(is_word(name.strip()) for name in names):
        return False
    return cell == "1" or is_word(cell)


# ---- names of columns ------------------------------------------------------------------------


def _with_header(
    file: str,
    rows: list[list[str]],
    numbers: list[int],
    header: Any,
    unit: str,
    notes: list[str],
) -> TextTable:
    """Table of rows, the first of which may name the columns."""
    if header not in ("infer", None) and (header != 0 or isinstance(header, bool)):
        raise DataError(f"header: got {header!r}, expected 'infer', 0 (the first line) or None")
    while len(rows) > 1 and not any(cell.strip() for cell in rows[-1]):
        if len(rows[-1]) == 1:
            break  # a missing value
        rows.pop()
        notes.append(f"{unit} {numbers.pop()} at the end is empty and left out")
    if not rows:
        raise DataError(f"{file!r} is empty; expected {unit}s of a table")
    first = [cell.strip() for cell in rows[0]]
    sample = [[cell.strip() for cell in row] for row in rows[1 : 1 + NUM_LINES_SAMPLED]]
    named = header == 0 if header != "infer" else has_header(first, sample, notes)
    if named and len(rows) == 1:
        raise DataError(f"{file!r} has a header and no numbers; expected {unit}s below it")
    columns = [
        list(map(str.strip, column)) for column in zip(*(rows[1:] if named else rows), strict=True)
    ]
    names = distinct_names(first, notes) if named else None
    return TextTable(file, names, columns, numbers[1:] if named else numbers, unit, notes)


def _drop_unnamed(table: TextTable) -> None:
    """Leave out an index without a name, and empty columns at the end of lines."""
    drop: dict[int, str] = {}
    last = len(table.columns) - 1
    for i, column in enumerate(table.columns):
        name = table.names[i] if table.names else None
        if not name and last and (name == "" or i == last) and not any(column):
            drop[i] = f"column {i + 1} is empty and left out"
        elif i == 0 and last and name is not None and _is_index(name, column):
            drop[i] = "the first column has no name, so it is an index, and left out"
    if len(drop) == len(table.columns):
        return
    table.notes += drop.values()
    kept = [i for i in range(len(table.columns)) if i not in drop]
    table.columns = [table.columns[i] for i in kept]
    if table.names:
        table.names = tuple(table.names[i] or f"column {i + 1}" for i in kept)


def _is_index(name: str, column: Sequence[str]) -> bool:
    """Whether a column is the index that pandas or R wrote: no name, or pandas' for one."""
    if name == "Unnamed: 0":
        return list(column) == [str(i) for i in range(len(column))]
    return name == ""


def pick_columns(
    file: str, names: Sequence[str] | None, width: int, chosen: Sequence[str | int]
) -> list[int]:
    """Positions of columns that are given by name or position.

    Raises
    ------
    DataError
        If there is no such column, or one stands twice.
    """
    if isinstance(chosen, str | int):
        chosen = [chosen]
    known = list(names or ())
    picks = []
    for column in chosen:
        if column in known:
            picks.append(known.index(str(column)))
        elif _is_position(column, width) and (isinstance(column, int) or not known):
            picks.append(int(column) % width)
        else:
            listed = ", ".join(map(repr, known[:20])) if known else f"0 to {width - 1}"
            more = f" and {len(known) - 20} more" if len(known) > 20 else ""
            raise DataError(
                f"{file!r} has no column {column!r}{did_you_mean(column, known)}; "
                f"its columns: {listed}{more}"
            )
    if not picks or len(set(picks)) < len(picks):
        raise DataError(f"columns: got {list(chosen)!r}, expected one or more, each once")
    return picks


def _is_position(column: str | int, width: int) -> bool:
    return str(column).removeprefix("-").isdecimal() and -width <= int(column) < width


def _named_format(decimal: str | None, thousands: str | None) -> NumberFormat:
    if decimal is None:
        decimal = "," if thousands == "." else "."
    if len(decimal) != 1 or decimal.isalnum() or decimal == thousands:
        raise DataError(
            f"decimal: got {decimal!r} with thousands={thousands!r}, expected '.' or ','"
        )
    if thousands is not None and (len(thousands) != 1 or thousands.isalnum()):
        raise DataError(f"thousands: got {thousands!r}, expected one character, such as ','")
    return NumberFormat(decimal, thousands)


# ---- JSON, Excel, Parquet --------------------------------------------------------------------


def _read_json(file: str, text: str, notes: list[str], by_line: bool) -> TextTable:
    """Table of JSON records: an object a line, or a list of objects, or an object of lists."""

    def parse(part: str, place: str) -> Any:
        try:
            # numbers as they are written: no integer is rounded
            return json.loads(part, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is no JSON: {error}") from error

    if by_line:
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        rows = [i for i, _ in lines]
        records = [parse(line, f"{file!r}, line {i}") for i, line in lines]
    else:
        records = parse(text, repr(file)) if text.strip() else []
        if isinstance(records, dict) and all(isinstance(v, list) for v in records.values()):
            if len({len(v) for v in records.values()}) > 1:
                raise DataError(f"{file!r} has columns of different lengths; expected one length")
            records = [
                dict(zip(records, cells, strict=True))
                for cells in zip(*records.values(), strict=True)
            ]
        if not isinstance(records, list):
            raise DataError(f"{file!r} holds one object; expected a list of objects, the rows")
        rows = list(range(1, len(records) + 1))
    unit = "line" if by_line else "record"
    names: dict[str, None] = {}
    for row, record in zip(rows, records, strict=True):
        if not isinstance(record, dict):
            raise DataError(f"{file!r}, {unit} {row}: got no object, expected names and values")
        names.update(dict.fromkeys(record))
    if not names:
        raise DataError(f"{file!r} is empty; expected {unit}s with names and values")
    columns: list[list[str]] = []
    for name in names:
        cells = [record.get(name) for record in records]
        nested = next((i for i, cell in enumerate(cells) if isinstance(cell, list | dict)), None)
        if nested is not None:
            raise DataError(
                f"{file!r}, {unit} {rows[nested]}, column {name!r}: got a"
                f" {type(cells[nested]).__name__}, expected a number or a word"
            )
        columns.append(["" if cell is None else str(cell).strip() for cell in cells])
    partly = [name for name in names if any(name not in record for record in records)]
    if partly:
        listed = ", ".join(map(repr, partly[:5]))
        notes.append(f"missing where a {unit} does not name it: {listed}")
    return TextTable(file, tuple(names), columns, rows, unit, notes)


def _excel_rows(
    file: str, content: bytes, sheet_name: str | int | None
) -> tuple[list[list[str]], list[int], list[str]]:
    """Cells of a sheet as text, without empty rows; numbers of the rows; notes."""
    import pandas as pd

    _require("openpyxl", file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which are not read
            with pd.ExcelFile(io.BytesIO(content), engine="openpyxl") as book:
                sheets = list(map(str, book.sheet_names))
                which = 0 if sheet_name is None else sheet_name
                if which not in sheets and not (isinstance(which, int) and which < len(sheets)):
                    raise DataError(
                        f"sheet_name: got {which!r}{did_you_mean(which, sheets)}, "
                        f"expected one of {sheets}"
                    )
                frame = book.parse(which, header=None, dtype=object, na_filter=False)
    except DataError:
        raise
    except Exception as error:  # a damaged file shows anywhere in openpyxl
        raise DataError(f"{file!r} cannot be read as an Excel file: {error!r}") from error
    notes = []
    if sheet_name is None and len(sheets) > 1:
        notes.append(f"the sheet is {sheets[0]!r} of {sheets}; sheet_name= names another")
    rows = [["" if cell is None else str(cell) for cell in row] for row in frame.to_numpy()]
    kept = [i for i, row in enumerate(rows) if any(cell.strip() for cell in row)]
    return [rows[i] for i in kept], [i + 1 for i in kept], notes


def _read_parquet(
    file: str, content: bytes, columns: Sequence[str | int] | None
) -> tuple[DataFrame, tuple[str, ...], bool]:
    import pandas as pd

    _require("pyarrow", file)
    try:
        frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except Exception as error:  # pyarrow's errors are of many classes
        raise DataError(f"{file!r} cannot be read as a Parquet file: {error}") from error
    notes = []
    if not isinstance(frame.index, pd.RangeIndex):
        if None in frame.index.names:
            notes.append("the index has no name, and is left out")
        else:
            frame = frame.reset_index()
    frame = frame.reset_index(drop=True)
    frame.columns = list(map(str, frame.columns))
    if frame.empty:
        raise DataError(f"{file!r} is empty; expected rows of a table")
    if columns is not None:
        frame = frame.iloc[:, pick_columns(file, list(frame.columns), frame.shape[1], columns)]
    for index, name in enumerate(frame.columns):
        known = frame.iloc[:, index].dropna()
        value = known.iloc[0] if len(known) else None
        if known.dtype == object and isinstance(value, Decimal):
            frame.isetitem(index, frame.iloc[:, index].astype(float))
        elif known.dtype == object and isinstance(value, date):
            frame.isetitem(index, pd.to_datetime(frame.iloc[:, index]))
        elif known.dtype == object and not isinstance(value, str | bool | None):
            raise DataError(
                f"{file!r}, column {name!r}: got a {type(value).__name__}, expected numbers, words"
                " or dates"
            )
    if are_numbers(frame):
        for name, column in frame.items():
            large = column[column.notna() & (column.abs() > 2**53)]
            if column.dtype.kind in "iu" and len(large):
                raise DataError(f"{file!r}, column {name!r}: {large.iloc[0]}; {TOO_LONG}")
    return frame, tuple(notes), True


def _require(package: str, file: str) -> None:
    """Refuse a file whose reader is not installed."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise DataError(
            f"{file!r}: reading it takes {package}, which is not installed: pip install"
            " 'ppl_zoo[tables]'"
        )
