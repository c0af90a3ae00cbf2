"""Rows: the data of a fit, read a chunk at a time.

A data set enters a fit as tensors, NumPy arrays (memory-mapped ones too), a data frame, or a
tuple or mapping of these. ``Rows`` keeps them as they are and converts a chunk to tensors of the
model's dtype and device when it is asked for, so that memory stays flat as data grow.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.categories import named_columns
from ppl_zoo.core.random import chain_seed

__all__ = ["Rows", "evenly_spaced", "needs_double", "split_indices", "split_parts"]

#: integers up to here are exact in float32
MAX_SINGLE_INTEGER = 2**24


class Rows:
    """Arrays that share their first dimension, and constants that do not.

    Parameters
    ----------
    data
        A tensor, array, nested list ``(num_rows, ...)``, data frame or sparse matrix (SciPy's or
        torch's; chunks are CSR tensors), or a tuple of them. The first one counts the rows;
        others of another length are constants, whole in every chunk.
    device, dtype
        Where chunks go; floating arrays take ``dtype``, integers and booleans keep theirs. None
        for arrays that keep theirs, too.
    counted
        Which of the arrays counts the rows.
    integers
        Whether integers and booleans stay what they are; else they become ``dtype``, a chunk at a
        time.

    Raises
    ------
    ValueError
        If there are no rows, or a number would be another one here: beyond the range of ``dtype``
        or of int64.
    TypeError
        If something is no array of numbers.
    """

    def __init__(
        self,
        data: Any,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = torch.float32,
        counted: int = 0,
        integers: bool = True,
    ) -> None:
        parts = split_parts(data)
        if not parts:
            raise ValueError("data: got an empty tuple, expected at least one array")
        self.device, self.dtype, self.counted = torch.device(device), dtype, counted
        self.integers = integers
        self.arrays = tuple(self._array(i, part) for i, part in enumerate(parts))
        first = self.arrays[counted]
        if first.ndim == 0:
            raise ValueError("data: got a single number, expected an array (num_rows, ...)")
        self.num_rows = int(first.shape[0])
        if self.num_rows == 0:
            raise ValueError(
                f"data: got no rows (shape {tuple(first.shape)}), expected one or more"
            )
        self.per_row = tuple(a.ndim > 0 and a.shape[0] == self.num_rows for a in self.arrays)

    def _array(self, index: int, part: Any) -> Any:
        if _is_sparse(part):
            return _compressed(part)
        if not isinstance(part, (Tensor, np.ndarray)):
            try:
                part = _numpy(part)
            except ValueError as error:
                raise TypeError(f"data[{index}]: got rows of unequal length: {error}") from error
        if isinstance(part, np.ma.MaskedArray):
            part = _unmasked(part)
        if isinstance(part, np.ndarray) and part.dtype.kind not in "fiub":
            raise TypeError(
                f"data[{index}]: got an array of dtype {part.dtype}, expected numbers "
                "(floating point, integers or booleans)"
            )
        if isinstance(part, np.memmap):
            return part  # stays on disk; chunks are converted when they are read
        return self._tensor(part)

    def _tensor(self, part: Any) -> Tensor:
        if _is_sparse(part):
            parts = (torch.from_numpy(a) for a in (part.indptr, part.indices, part.data))
            with warnings.catch_warnings():
                # torch says once a process that its sparse tensors may still change
                warnings.simplefilter("ignore", UserWarning)
                part = torch.sparse_csr_tensor(*parts, size=part.shape)
            return part.to(self.device, self.dtype or part.dtype)
        if isinstance(part, np.ndarray):
            if part.dtype.kind == "u" and part.dtype.itemsize > 1:
                part = _signed(part)
            elif part.dtype.kind == "f" and part.dtype.itemsize > 8:  # torch has no long double
                part = part.astype(np.float64)
            # as_tensor would warn about read-only memory and strides it cannot take
            part = torch.from_numpy(np.require(part, requirements=["C", "W"]))
        if not part.is_floating_point():
            return part.detach().to(self.device)
        taken = part.detach().to(self.device, self.dtype or part.dtype)
        if taken.dtype != part.dtype and bool(taken.isinf().any()):
            _refuse_overflow(part, taken)
        return taken

    def __repr__(self) -> str:
        """Write the shapes of the arrays."""
        shapes = ", ".join(str(tuple(array.shape)) for array in self.arrays)
        return f"Rows({len(self)} rows: {shapes})"

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def __getitem__(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        """Return the chosen rows of every array, constants whole."""
        return tuple(map(self._ready, self._chosen(index)))

    def _ready(self, tensor: Tensor) -> Tensor:
        """Widen integers: as an index torch takes uint8 as a mask, and int8 not at all."""
        if tensor.is_floating_point() or tensor.layout != torch.strided:
            return tensor
        if not self.integers and self.dtype is not None:
            return tensor.to(self.dtype)
        small = tensor.dtype in (torch.uint8, torch.int8, torch.int16)
        return tensor.long() if small else tensor

    def _chosen(self, index: slice | Tensor) -> list[Tensor]:
        chosen = []
        for array, per_row in zip(self.arrays, self.per_row, strict=True):
            if not per_row:
                chosen.append(self._tensor(array))
            elif isinstance(array, Tensor):
                chosen.append(
                    array[index.to(array.device) if isinstance(index, Tensor) else index]
                )
            else:
                rows = index.cpu().numpy() if isinstance(index, Tensor) else index
                if _is_sparse(array):
                    every = isinstance(rows, slice) and rows == slice(0, len(self))
                    chosen.append(self._tensor(array if every else array[rows]))
                else:
                    chosen.append(self._tensor(np.array(array[rows])))
        return chosen

    @property
    def is_double(self) -> bool:
        """Whether an array is of double precision."""
        return any(str(a.dtype).removeprefix("torch.") == "float64" for a in self.arrays)

    @property
    def is_sparse(self) -> bool:
        """Whether the first array is a sparse matrix."""
        return _is_sparse(self.arrays[0])

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(a.data.nbytes if _is_sparse(a) else a.nbytes for a in self.arrays)

    def all(self) -> tuple[Tensor, ...]:
        """Every row."""
        return self[:]

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Consecutive chunks of at most ``size`` rows."""
        for start in range(0, self.num_rows, size):
            yield self[start : min(start + size, self.num_rows)]

    def head(self, count: int) -> tuple[Tensor, ...]:
        """Return the first ``count`` rows."""
        return self[:count]

    def spread(self, count: int) -> tuple[Tensor, ...]:
        """At most ``count`` evenly spaced rows."""
        if count >= self.num_rows:
            return self.all()
        return self[evenly_spaced(self.num_rows, count)]

    def split(self, num: int, seed: int) -> tuple[Rows, Rows]:
        """Split off ``num`` rows drawn at random, and return the others and them.

        Of memory-mapped arrays the last rows are taken, so that both parts stay on disk.
        """
        return tuple(map(self._take, split_indices(len(self), num, seed, self.is_on_disk)))

    @property
    def is_on_disk(self) -> bool:
        """Whether an array is memory-mapped."""
        return any(isinstance(array, np.memmap) for array in self.arrays)

    def _take(self, index: Tensor) -> Rows:
        part = copy.copy(self)
        contiguous = len(index) == int(index[-1] - index[0]) + 1
        chosen = slice(int(index[0]), int(index[-1]) + 1) if contiguous else index
        arrays = []
        for array, per_row in zip(self.arrays, self.per_row, strict=True):
            own = chosen
            if isinstance(chosen, Tensor):
                own = chosen.to(array.device) if isinstance(array, Tensor) else chosen.numpy()
            arrays.append(array[own] if per_row else array)
        part.arrays, part.num_rows = tuple(arrays), len(index)
        return part

    def sizes(self) -> Sequence[tuple[int, ...]]:
        """Shapes of all arrays."""
        return [tuple(a.shape) for a in self.arrays]

    @staticmethod
    def bind(data: Any, names: Sequence[str]) -> Any:
        """Order a mapping ``{argument: array}`` as the model's arguments are.

        Raises
        ------
        TypeError
            If a name is not an argument of the model.
        """
        if not isinstance(data, Mapping):
            return data
        unknown = [name for name in data if name not in names]
        if unknown:
            raise TypeError(f"data: got {unknown[0]!r}, expected the names {tuple(names)}")
        given = [name for name in names if name in data]
        if given != list(names[: len(given)]):
            missing = next(n for n in names if n not in data)
            raise TypeError(f"data: argument {missing!r} is missing before {given[-1]!r}")
        return tuple(data[name] for name in given)


def split_indices(total: int, num: int, seed: int, on_disk: bool) -> tuple[Tensor, Tensor]:
    """Row numbers that stay, and ``num`` that are split off, in rising order."""
    generator = torch.Generator().manual_seed(chain_seed(seed, 0, -2))
    order = torch.arange(total) if on_disk else torch.randperm(total, generator=generator)
    return order[: total - num].sort().values, order[total - num :].sort().values


def evenly_spaced(size: int, count: int) -> Tensor:
    """At most ``count`` evenly spaced indices of ``size``, the first and the last among them."""
    # in float32 the indices of many millions of rows are not exact
    return torch.linspace(0, size - 1, min(size, count), dtype=torch.float64).round().long()


def needs_double(data: Any) -> bool:
    """Whether numbers of the data are in double precision, or are integers beyond float32.

    Parameters
    ----------
    data
        As for :class:`Rows`.
    """
    return any(_is_double(part) for part in split_parts(data))


def _is_double(part: Any) -> bool:
    if isinstance(part, Tensor):
        if part.dtype in (torch.int32, torch.int64) and part.layout == torch.strided:
            limit = MAX_SINGLE_INTEGER
            return part.numel() > 0 and bool((part.amax() > limit) | (part.amin() < -limit))
        return part.dtype == torch.float64
    if _is_sparse(part):
        part = part.data
    columns = None if isinstance(part, np.ndarray) else named_columns(part)
    if columns is not None:
        return any(map(_is_double, columns.values()))
    if not isinstance(part, np.ndarray):
        try:
            part = _numpy(part)
        except ValueError:  # Rows says what is wrong
            return False
    if part.dtype.kind in "iu" and part.dtype.itemsize > 2 and part.size:
        return bool(part.max() > MAX_SINGLE_INTEGER or part.min() < -MAX_SINGLE_INTEGER)
    return part.dtype.kind == "f" and part.dtype.itemsize > 4


def split_parts(data: Any) -> tuple[Any, ...]:
    """Arrays of a tuple, or the one that was given."""
    several = isinstance(data, tuple) or (
        isinstance(data, list)
        and any(isinstance(p, (Tensor, np.ndarray)) or hasattr(p, "to_numpy") for p in data)
    )
    return tuple(data) if several else (data,)


def _numpy(part: Any) -> np.ndarray:
    """Return a data frame, series or nested list as an array."""
    return part.to_numpy() if hasattr(part, "to_numpy") else np.asarray(part)


def _unmasked(part: np.ma.MaskedArray) -> np.ndarray:
    """Return a masked array with NaN, a missing value, where it is masked."""
    if not np.ma.is_masked(part):
        return np.asarray(part.data)
    return part.astype(part.dtype if part.dtype.kind == "f" else np.float64).filled(np.nan)


def _signed(part: np.ndarray) -> np.ndarray:
    """Return unsigned integers as int64, which torch computes with.

    Raises
    ------
    ValueError
        If one is too large.
    """
    most = np.iinfo(np.int64).max
    if part.dtype.itemsize == 8 and part.size and part.max() > most:
        raise ValueError(f"data: got the integer {part.max()}, expected at most {most} (int64)")
    return part.astype(np.int64)


def _refuse_overflow(part: Tensor, taken: Tensor) -> None:
    """Refuse finite numbers that are infinite in another dtype.

    Raises
    ------
    ValueError
        Naming the first one.
    """
    lost = taken.isinf().to(part.device) & part.isfinite()
    if lost.any():
        name = str(taken.dtype).removeprefix("torch.")
        raise ValueError(
            f"data: got {part[lost][0].item():g}, expected at most "
            f"{torch.finfo(taken.dtype).max:.3g} in size, since the model computes in {name}; "
            "scale the data, or compute in float64: model.double()"
        )


def _is_sparse(part: Any) -> bool:
    """Tell SciPy's sparse matrices, and torch's."""
    if isinstance(part, Tensor):
        return part.layout != torch.strided
    return hasattr(part, "tocsr")


def _compressed(part: Any) -> Any:
    """Return a sparse matrix as SciPy's CSR, whose rows can be sliced."""
    if isinstance(part, Tensor):
        from scipy.sparse import csr_array

        own = part.detach().cpu().to_sparse_csr()
        arrays = (own.values(), own.col_indices(), own.crow_indices())
        return csr_array(tuple(a.numpy() for a in arrays), shape=tuple(own.shape))
    return part.tocsr()
