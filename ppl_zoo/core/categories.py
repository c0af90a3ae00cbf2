"""Categories: the named states of a discrete variable, and the codes of a column's values.

A value is matched to a state by its name, an integer too: 1 is the state "1", wherever that
stands. Columns come as pandas, polars or Arrow make them (categorical, string, nullable, bool and
date columns), as arrays, tensors or lists; a missing value is None, NaN, NA or NaT.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean

__all__ = [
    "Categories",
    "infer_categories",
    "infer_states",
    "is_missing",
    "named_columns",
    "read_state_names",
]

#: names of states that are numbers, to be matched by value
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.I | re.A)
MISSING_TYPES = ("NoneType", "NAType", "NaTType", "MaskedConstant")
MAX_NAMES_SHOWN = 20


def named_columns(data: Any) -> dict[str, Any] | None:
    """Columns of a data frame or mapping by their names; None if data has no names.

    Raises
    ------
    DataError
        If two columns have one name.
    """
    if hasattr(data, "collect_schema") and hasattr(data, "collect"):  # a lazy frame of polars
        data = data.collect()
    if isinstance(data, Mapping):
        pairs = list(data.items())
    elif hasattr(data, "column_names"):  # an Arrow table, whose .columns have no names
        pairs = [(name, data[name]) for name in data.column_names]
    elif hasattr(data, "columns") and hasattr(data, "__getitem__"):
        names = list(data.columns)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise DataError(
                f"column {twice[0]!r}: got {names.count(twice[0])} of them, expected 1"
            )
        pairs = [(name, data[name]) for name in names]
    else:
        return None
    return {str(name): column for name, column in pairs}


def read_state_names(name: str, states: Any) -> tuple[str, ...]:
    """Names of a variable's states, given in order, or as their number for 0, 1 ...

    Raises
    ------
    DataError
        If there are none, one stands twice, or they have no order.
    """
    states = getattr(states, "categories", states)  # a categorical dtype
    if isinstance(states, numbers.Integral) and not isinstance(states, bool):
        names = [str(i) for i in range(int(states))]
    else:
        if isinstance(states, str | bytes | set | frozenset) or not hasattr(states, "__iter__"):
            raise DataError(
                f"states of {name!r}: got {states!r}, expected a list of names, or their number"
            )
        names = [str(state) for state in states]
    if not names or len(set(names)) < len(names):
        raise DataError(f"states of {name!r}: got {states!r}, expected one or more, each once")
    return tuple(names)


def infer_states(name: str, column: Any) -> tuple[str, ...]:
    """Names of the states of a column: its categories, or the values that occur, in order.

    Raises
    ------
    DataError
        If its values are no labels: fractions, or none at all.
    """
    values = _ColumnValues.read(name, column)
    if values.declared:
        return tuple(_state_name(value) for value in values.distinct)
    if not values.distinct:
        raise DataError(f"column {name!r}{values.dtype}: got missing values only, expected labels")
    if all(_is_bool(value) for value in values.distinct):
        return "False", "True"
    for value in values.distinct:
        if _is_number(value) and not _is_integer(value):
            raise DataError(
                f"column {name!r}{values.dtype}: got {value:g}, expected labels; cut it, "
                f"pd.cut(df[{name!r}], 5), or take its values as names, df[{name!r}].astype(str)"
            )
    kinds = {type(value) for value in values.distinct if not _is_number(value)}
    ordered = [value for value in values.distinct if not _is_number(value)]
    if len(kinds) == 1 and hasattr(ordered[0], "__lt__"):
        ordered = sorted(ordered)
    ordered = sorted(v for v in values.distinct if _is_number(v)) + ordered
    return tuple(dict.fromkeys(_state_name(value) for value in ordered))


def infer_categories(name: str, column: Any) -> Categories:
    """Named states of a column, which it gives back as the integers, truth values or words it has.

    Raises
    ------
    DataError
        As for :func:`infer_states`.
    """
    values = [v for v in _ColumnValues.read(name, column).distinct if not is_missing(v)]
    kind = "word"
    if values and all(map(_is_bool, values)):
        kind = "truth"
    elif values and all(_is_number(v) and _is_integer(v) for v in values):
        kind = "integer"
    return Categories(name, infer_states(name, column), kind)


class Categories:
    """Named states of one variable, in the order of their codes.

    Parameters
    ----------
    name
        Name of the variable, for errors.
    states
        Names of the states.
    kind
        What the names stand for: "word", "integer" or "truth" (values).
    """

    def __init__(self, name: str, states: Sequence[str], kind: str = "word") -> None:
        self.name, self.states, self.kind = name, tuple(states), kind
        self.index = {state: code for code, state in enumerate(self.states)}
        #: whether names and codes agree, so that an integer is both
        self.are_codes = self.states == tuple(str(i) for i in range(len(self.states)))
        self._truths = {s.casefold(): c for s, c in self.index.items()}
        if set(self._truths) != {"true", "false"} or len(self.states) != 2:
            self._truths = {}
        self._numbers: dict[float, int | None] = {}  # None where two names are one number
        for state, code in self.index.items():
            if NUMBER.fullmatch(state):
                number = _as_float(state)
                self._numbers[number] = None if number in self._numbers else code
        #: whether the states are numbers or truth values, other than their own codes
        self.are_values = not self.are_codes and bool(
            self._truths or len(self._numbers) == len(self.states)
        )

    def code(self, value: Any, dtype: str = "") -> int:
        """Code of a state that is given by its name; -1 for a missing value.

        Numbers match by value ("1" and "1.0" are 1), truth values the names true and false, in
        any case, or 0 and 1.

        Raises
        ------
        DataError
            If there is no such state; ``dtype`` is a clause about the column.
        """
        if is_missing(value):
            return -1
        value = _plain(value)
        code: int | None = self.index.get(_state_name(value))
        if code is None and _is_bool(value):
            code = self._truths.get(str(bool(value)).casefold())
            if code is None and set(self._numbers) == {0.0, 1.0}:
                code = self._numbers[float(value)]
        elif code is None and _is_number(value):
            code = self._numbers.get(_as_float(value))
            if code is None and value in (0, 1):
                code = self._truths.get(str(bool(value)).casefold())
            if code is None and value == -1 and self.are_codes:
                return -1
        if code is None:
            raise DataError(
                f"{self.name}: got state {value!r}{dtype}"
                f"{did_you_mean(value, self.states)}, expected one of "
                f"{list(self.states[:MAX_NAMES_SHOWN])}{self._mend(value)}"
            )
        return code

    def codes(self, column: Any) -> Tensor:
        """Codes of a column's values, ``(rows,)`` int64; -1 where missing.

        Raises
        ------
        DataError
            If a value is no state; says the column's dtype.
        """
        values = _ColumnValues.read(self.name, column)
        seen = set(np.unique(values.codes).tolist()) if values.declared else None
        table = [
            self.code(value, values.dtype) if seen is None or i in seen else -1
            for i, value in enumerate(values.distinct)
        ]
        return torch.tensor([*table, -1], dtype=torch.int64)[torch.from_numpy(values.codes)]

    def codes_or_nan(self, column: Any) -> np.ndarray:
        """Codes of a column's values, ``(rows,)``; of float64, with NaN, if one is missing.

        Raises
        ------
        DataError
            If a value is no state.
        """
        codes = self.codes(column).numpy()
        return np.where(codes < 0, np.nan, codes) if (codes < 0).any() else codes

    def __repr__(self) -> str:
        return f"Categories({self.name!r}, {self.states!r})"

    def decode(self, codes: Tensor) -> np.ndarray:
        """Values of codes ``(rows,)``: integers, truth values or words; None where missing."""
        reads = {"word": str, "integer": int, "truth": lambda name: name.casefold() == "true"}
        values = [reads[self.kind](state) for state in self.states]
        index = codes.detach().cpu().nan_to_num(-1.0).long().numpy()
        if (index < 0).any() or self.kind == "word":
            table = np.array([*values, None], dtype=object)
            return table[np.where(index < 0, len(values), index)]
        return np.array(values)[index]

    def _mend(self, value: Any) -> str:
        """Say what to do about a value that is no state."""
        if not (_is_bool(value) or _is_number(value)) or self._numbers:
            return ""
        if value == -1 and not _is_bool(value):
            return "; a missing value is None, NaN or pd.NA"
        pairs = ", ".join(f"{v}: {s!r}" for v, s in zip((0, 1), self.states, strict=False))
        if _is_bool(value):
            pairs = ", ".join(
                f"{v}: {s!r}" for v, s in zip((False, True), self.states, strict=False)
            )
        return (
            f"; states are matched by name: df[{self.name!r}].map({{{pairs}}}), or the other way "
            "round"
        )


@dataclass
class _ColumnValues:
    """Distinct values of a column, and their index in each row, -1 where missing."""

    distinct: list[Any]
    codes: np.ndarray
    declared: bool  # whether the distinct values are categories, which need not occur
    dtype: str  # a clause for errors

    @classmethod
    def read(cls, name: str, column: Any) -> _ColumnValues:
        dtype = f" of dtype {column.dtype}" if hasattr(column, "dtype") else ""
        categorical = getattr(column, "cat", column)  # pandas' accessor
        categories = getattr(categorical, "categories", None)
        if categories is not None and hasattr(categorical, "codes"):
            codes = np.array(categorical.codes, dtype=np.int64)
            return cls(list(categories), codes, True, dtype)
        values = _plain_values(name, column, dtype)
        declared = getattr(getattr(column, "dtype", None), "categories", None)
        if hasattr(declared, "to_list") and isinstance(values, list):  # polars' Enum
            distinct = declared.to_list()
            index = {value: i for i, value in enumerate(distinct)}
            return cls(distinct, np.array([index.get(v, -1) for v in values]), True, dtype)
        if isinstance(values, np.ndarray):
            known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
            distinct, inverse = np.unique(values[known], return_inverse=True)
            codes = np.full(len(values), -1)
            codes[known] = inverse.reshape(-1)
            return cls(distinct.tolist(), codes, False, dtype)
        index: dict[tuple[bool, Any], int] = {}
        codes = np.empty(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            if is_missing(value):
                codes[row] = -1
                continue
            try:
                # True and 1 are equal, and two values
                codes[row] = index.setdefault((_is_bool(value), value), len(index))
            except TypeError as error:
                raise DataError(
                    f"column {name!r}{dtype}: got {value!r} in row {row}, expected labels"
                ) from error
        return cls([_plain(value) for _, value in index], codes, False, dtype)


def _plain_values(name: str, column: Any, dtype: str) -> np.ndarray | list[Any]:
    """Values of a column as an array of numbers, or a list of Python's own values."""
    if isinstance(column, Tensor):
        column = column.detach().cpu().numpy()
    if isinstance(column, np.ma.MaskedArray):
        return [None if value is np.ma.masked else value for value in column.reshape(-1)]
    array_dtype = getattr(column, "dtype", None)
    kind = getattr(array_dtype, "kind", "O")
    if isinstance(kind, str) and kind in "cmV":
        raise DataError(
            f"column {name!r}{dtype}: expected labels; take its values as names, "
            f"df[{name!r}].astype(str)"
        )
    array = column
    if hasattr(column, "to_numpy") and isinstance(array_dtype, np.dtype) and kind in "fiub":
        array = column.to_numpy()
    if isinstance(array, np.ndarray):
        array = array.reshape(-1)
        return array if array.dtype.kind in "fiub" else list(array)
    for method in ("to_pylist", "to_list", "tolist"):  # Arrow, polars and pandas, others
        if hasattr(column, method):
            column = getattr(column, method)()
            break
    return list(column)


def is_missing(value: Any) -> bool:
    """Whether a value stands for a missing one: None, NaN, NA or NaT."""
    if type(value).__name__ in MISSING_TYPES:
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and math.isnan(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not _is_bool(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) or float(value).is_integer()


def _as_float(value: Any) -> float:
    """Convert to floating point, infinite where it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _plain(value: Any) -> Any:
    """Python's own value of a scalar of NumPy or torch, and of a date; text of bytes."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.ndim):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _state_name(value: Any) -> str:
    """Name of a state: the value in words; integers without a point, dates without midnight."""
    if _is_number(value) and _is_integer(value):
        return str(int(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).removesuffix("T00:00:00")
    return str(value)
