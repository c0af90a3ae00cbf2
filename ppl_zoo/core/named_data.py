"""Named data: data frames and labels as arrays of numbers and codes, and the names that they had.

A column of numbers is an array; one of words, truth values, categories or dates is one of codes
where the model takes states there, and its names are kept. They come back in what the model
answers, in ArviZ's coordinates and in saved runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.categories import Categories, infer_categories, is_missing, named_columns
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean

__all__ = ["ANY", "ArgumentNames", "Sizes", "arguments_in_frame", "encode", "learn_names"]

#: how many states an argument has: all of its values, or each column (0 for numbers); None for
#: an argument of numbers, -1 for one of a program that may take codes of whatever words there are
Sizes = int | Sequence[int] | None
ANY = -1


@dataclass(frozen=True)
class ArgumentNames:
    """Names in one argument of a model.

    Attributes
    ----------
    columns
        Names of the columns of a data frame; empty for an array.
    categories
        Named states by column; under 0 where all values have the same.
    """

    columns: tuple[str, ...] = ()
    categories: Mapping[int, Categories] = field(default_factory=dict)

    def decode(self, codes: Tensor, column: int = 0) -> Any:
        """Values of codes ``(n,)`` as they were given; the codes where they have no names."""
        known = self.categories.get(column)
        return codes if known is None else known.decode(codes)

    def frame(self, values: Tensor) -> Any:
        """Rows ``(n, columns)`` as a pandas data frame, codes as the values they stand for."""
        import pandas as pd

        names = self.columns or tuple(str(i) for i in range(values.shape[1]))
        table = values.detach().cpu()
        return pd.DataFrame(
            {
                name: np.asarray(
                    self.decode(table[:, i], i) if i in self.categories else table[:, i]
                )
                for i, name in enumerate(names)
            }
        )

    def row(self, argument: str, values: Mapping[str, Any]) -> np.ndarray:
        """One row of columns that are given by name, NaN in the others.

        Raises
        ------
        DataError
            If there is no such column.
        """
        unknown = [name for name in values if name not in self.columns]
        if unknown:
            raise DataError(
                f"{argument}: got {unknown[0]!r}{did_you_mean(unknown[0], self.columns)}, "
                "expected columns of the fit: "
                f"{list(self.columns[:12]) or 'it had no names'}"
            )
        row = np.full(len(self.columns), np.nan)
        for name, value in values.items():
            i = self.columns.index(name)
            known = self.categories.get(i)
            row[i] = value if known is None else known.code(value)
        return row

    def to_record(self) -> dict[str, Any]:
        """Write as JSON holds it."""
        states = {
            str(i): {"name": c.name, "states": list(c.states), "kind": c.kind}
            for i, c in self.categories.items()
        }
        return {"columns": list(self.columns), "states": states}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ArgumentNames:
        """Read what :meth:`to_record` wrote."""
        categories = {
            int(i): Categories(held["name"], held["states"], held["kind"])
            for i, held in record["states"].items()
        }
        return cls(tuple(record["columns"]), categories)


def arguments_in_frame(data: Any, required: Sequence[str], names: Sequence[str]) -> Any:
    """Columns of a data frame that are arguments, by name; the data where it has not all of them.

    Of a program with one argument a frame is that argument, though it may have a column of its
    name (x, y and z of points).

    Parameters
    ----------
    required
        Arguments without a default.
    names
        All arguments.
    """
    columns = None if isinstance(data, Mapping) or not required else named_columns(data)
    if columns is None or not set(required) <= set(columns):
        return data
    if len(required) == 1 and not (len(columns) > 1 and set(columns) <= set(names)):
        return data
    return {name: columns[name] for name in names if name in columns}


def learn_names(name: str, part: Any, sizes: Sizes) -> ArgumentNames | None:
    """Names in an argument of a fit; None where it has none.

    Parameters
    ----------
    name
        Name of the argument.
    part
        Data frame, array, tensor or list.
    sizes
        States that the model takes there.

    Raises
    ------
    DataError
        If a column has more states than the model.
    """
    frame = _frame_columns(part)
    if frame is not None:
        one = isinstance(sizes, int) and sizes != ANY  # words in a matrix are no indices
        each = list(sizes) if isinstance(sizes, Sequence) else [sizes if one else 0] * len(frame)
        each += [0] * (len(frame) - len(each))
        pairs = zip(frame.items(), each, strict=False)
        found = [_learn_column(label, column, size) for (label, column), size in pairs]
        known = {i: c for i, c in enumerate(found) if c is not None}
        if known and one:
            raise DataError(
                f"{name}: got a data frame of {list(frame)[:8]}, expected codes 0 to {sizes - 1}, "
                "or an array of names: df.to_numpy()"
            )
        return ArgumentNames(tuple(frame), known)
    if not sizes or _is_left_alone(part):
        return None
    if isinstance(part, Tensor):
        _refuse_values(name, part, sizes)
        return None
    if isinstance(sizes, int):
        if np.ndim(part) > 1 and as_numbers(part) is not None:
            return None
        found = _learn_column(_label(name, part), _flat(part), sizes)
        return None if found is None else ArgumentNames((), {0: found})
    if as_numbers(part) is not None:
        return None  # codes, in columns without names
    table = np.asarray(part, dtype=object)
    pairs = zip(table.T, sizes, strict=False) if table.ndim == 2 else ()
    found = [_learn_column(f"{name}[:, {i}]", c, size) for i, (c, size) in enumerate(pairs)]
    return ArgumentNames((), {i: c for i, c in enumerate(found) if c is not None})


def encode(name: str, part: Any, sizes: Sizes, names: ArgumentNames | None) -> Any:
    """Return an argument as an array of numbers and codes, NaN where a value is missing.

    Parameters
    ----------
    name
        Name of the argument.
    part
        Data frame, array, tensor or list.
    sizes
        States that the model takes there.
    names
        Names that the fit learnt; columns of a frame are found by them.

    Raises
    ------
    DataError
        Naming the column, its dtype and what to do about it, in pandas' words.
    """
    known = {} if names is None else names.categories
    frame = _frame_columns(part)
    if frame is not None:
        if names is not None and names.columns:
            frame = _in_order(name, frame, names.columns)
        columns = [
            numbers(label, column) if i not in known else known[i].codes_or_nan(column)
            for i, (label, column) in enumerate(frame.items())
        ]
        if not columns or len({len(c) for c in columns}) > 1:
            raise DataError(
                f"{name}: got columns of lengths {[len(c) for c in columns]}, expected one length"
            )
        return np.column_stack(columns)
    if _is_left_alone(part) or isinstance(part, Tensor):
        return part  # a tensor has codes, as the rows of a fit and samples have; others, values
    if isinstance(sizes, int) and known:
        return known[0].codes_or_nan(_flat(part)).reshape(np.shape(part))
    if known:
        table = part if isinstance(part, np.ndarray) else np.asarray(part, dtype=object)
        if table.ndim != 2:
            return part
        return np.column_stack(
            [_encode_column(f"{name}[:, {i}]", c, known.get(i)) for i, c in enumerate(table.T)]
        )
    if hasattr(part, "to_numpy") or as_numbers(part) is None:
        return numbers(_label(name, part), part)
    return part


def numbers(label: str, column: Any) -> np.ndarray:
    """Read a column of numbers as an array; float64 with NaN where a value is missing.

    Raises
    ------
    DataError
        If it has other values; says its dtype and the mend.
    """
    array = as_numbers(column)
    if array is not None:
        return array
    values = np.asarray(column, dtype=object).reshape(-1)
    example = next((v for v in values if not is_missing(v)), None)
    dtype = getattr(column, "dtype", "object")
    if hasattr(example, "total_seconds"):
        mend = f"take seconds, df[{label!r}].dt.total_seconds()"
    elif hasattr(example, "isoformat"):
        mend = (
            f"take seconds since the first, (df[{label!r}] - df[{label!r}].min())"
            ".dt.total_seconds()"
        )
    else:
        mend = (
            f"leave it out, df.drop(columns={label!r}), make columns of 0 and 1, pd.get_dummies"
            f"(df, columns=[{label!r}]), or read text as numbers, pd.to_numeric(df[{label!r}])"
        )
    raise DataError(
        f"column {label!r} of dtype {dtype}: got {example!r}, expected numbers; {mend}"
    )


def as_numbers(values: Any) -> np.ndarray | None:
    """Values as an array of numbers or truth values; None where there are others.

    Missing values beside numbers (None, NA) become NaN, of float64.

    Raises
    ------
    DataError
        If an integer beside missing values is beyond those that float64 holds exactly.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if hasattr(getattr(values, "dtype", None), "categories"):  # categories of numbers are names
        return None
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.dtype.kind in "fiub":
        lossy = array.dtype.kind == "f" and getattr(
            getattr(values, "dtype", None), "kind", "f"
        ) in ("i", "u")
        if lossy and np.nanmax(np.abs(array), initial=0.0) >= 2**53:
            _refuse_large(np.nanmax(np.abs(array)))
        return array
    flat = list(array.reshape(-1)) if array.dtype.kind == "O" else []
    known = [v for v in flat if not is_missing(v)]
    if not known or not all(isinstance(v, Real | np.bool_) for v in known):
        return None
    if len(known) == len(flat):
        for kind, dtype in ((bool | np.bool_, np.bool_), (Integral, np.int64)):
            if all(isinstance(v, kind) for v in known):
                return array.astype(dtype)
    large = [v for v in known if isinstance(v, Integral) and abs(v) > 2**53]
    if large:
        _refuse_large(large[0])
    out = np.array([np.nan if is_missing(v) else float(v) for v in flat])
    return out.reshape(array.shape)


def _refuse_values(name: str, part: Tensor, sizes: Sizes) -> None:
    """Refuse a tensor of labels that are values, such as -1 and 1: a tensor has codes."""
    if part.ndim == 1 and isinstance(sizes, int) and _learn_column(name, as_numbers(part), sizes):
        values = part.unique().tolist()
        if part.dtype != torch.bool:
            raise DataError(
                f"{name}: got a tensor of the labels {values[:8]}, expected codes 0 to "
                f"{sizes - 1} in a tensor, or labels of any kind in an array: {name}.numpy()"
            )


def _refuse_large(value: Any) -> None:
    raise DataError(
        f"got the integer {value:.0f} beside missing values, expected at most 2^53, which float64 "
        "holds exactly; leave identifiers out"
    )


def _learn_column(label: str, column: Any, size: int) -> Categories | None:
    """Named states of one column; None where its values are codes, or it holds numbers."""
    array = as_numbers(column)
    if size == 0 or (array is not None and size == ANY):
        return None
    if array is None:
        found = infer_categories(label, column)
    else:
        values = np.unique(array[~np.isnan(array)] if array.dtype.kind == "f" else array).tolist()
        if -1 in values and len(values) == size + 1:  # an unknown one beside one for each state
            array = np.where(array == -1, np.nan, array)
            values.remove(-1)
        codes = all(v in range(size) for v in values)
        # numbers are names where there is one for each state; else the model says what is wrong
        if array.dtype.kind != "b" and (codes or len(values) != size):
            return None
        if any(not float(v).is_integer() for v in values):
            return None
        found = infer_categories(label, array)
    if size != ANY and len(found.states) > size:
        shown = ", ".join(found.states[:8]) + (", ..." if len(found.states) > 8 else "")
        raise DataError(
            f"column {label!r}: got {len(found.states)} states ({shown}), expected {size} of "
            f"them; make the model with {len(found.states)}"
        )
    return found


def _encode_column(label: str, column: np.ndarray, known: Categories | None) -> np.ndarray:
    """Encode one column of an array without names."""
    array = as_numbers(column)
    if known is None or (array is not None and not known.are_values):
        return numbers(label, column).astype(np.float64)
    return known.codes_or_nan(column)


def _in_order(name: str, frame: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Columns of a frame in the order of the fit's."""
    missing = [c for c in columns if c not in frame]
    other = [c for c in frame if c not in columns]
    if missing or other:
        fault = f"{other[0]!r} was not there" if other else ""
        if missing:
            fault = f"{missing[0]!r} is missing{did_you_mean(missing[0], other)}"
        raise DataError(
            f"{name}: got a data frame of {list(frame)[:12]}, expected the columns of the fit, "
            f"{list(columns)[:12]}: {fault}"
        )
    return {c: frame[c] for c in columns}


def _frame_columns(part: Any) -> dict[str, Any] | None:
    return None if isinstance(part, Mapping) else named_columns(part)


def _label(name: str, part: Any) -> str:
    """Name of a column: its own, or that of the argument."""
    own = getattr(part, "name", None)
    return own if isinstance(own, str) and own else name


def _flat(part: Any) -> Any:
    """All values as one column."""
    if hasattr(part, "to_numpy"):
        return part
    if not isinstance(part, Tensor | np.ndarray):
        part = np.asarray(part, dtype=object)
    return part.reshape(-1)


def _is_left_alone(part: Any) -> bool:
    """Whether these are numbers that are not looked into: sparse, on disk, or single."""
    if isinstance(part, Tensor):
        return part.layout != torch.strided or part.ndim == 0
    return hasattr(part, "tocsr") or isinstance(part, Real | np.memmap)
