"""Readers of a user's own files: tables, NumPy arrays, folders of images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.data.column_types import are_numbers
from ppl_zoo.data.dataset import SPLITS, DataCard, Dataset
from ppl_zoo.data.tables import COMPRESSIONS, TABLE_SUFFIXES, pick_columns, read_table
from ppl_zoo.imaging.files import read_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def from_path(
    path: str | Path,
    *,
    columns: Sequence[str | int] | None = None,
    target: str | int | None = None,
    **options: Any,
) -> Dataset:
    r"""Return a user's own data as a data set.

    Options have the names of `pandas.read_csv`. What they leave open is found from the content;
    where another reading was possible, `card.notes` says which was taken.

    Parameters
    ----------
    path
        * `.csv`, `.tsv`, `.txt`, `.data`: a table of numbers, words, dates and truth values, whose
          first line may name the columns; also as `.csv.gz`, `.bz2`, `.xz` or `.zip`.
        * `.jsonl`, `.ndjson`: an object a line; `.json`: a list of objects, or an object of lists.
        * `.xlsx`: a sheet of Excel; `.parquet` (both need `pip install 'ppl_zoo[tables]'`).
        * `.npy`: an array `(n, ...)`. A float32 or float64 file is mapped, not read: it may be
          larger than memory. Other types are converted.
        * `.npz`: arrays `train`, `valid`, `test`, or a single array of any name, which is train.
        * a folder of png or jpg images of one size: grey values in [0, 1], `(n, height * width)`,
          in the order of the file names.
    columns
        The columns of a table to keep, by name or position from 0.
    target
        The column that is y: train is then `(x, y)`.
    **options
        Options of tables:

        * `sep`: the character between cells; "tab", or "blank" for any run of blanks.
        * `decimal`, `thousands`: the decimal mark, and the mark between thousands.
        * `encoding`: such as "utf-8", "latin-1".
        * `quotechar`: the mark around a cell that holds a separator or line break; None for none.
        * `header`: 0 if the first line names the columns, None if it does not.
        * `skiprows`: the number of lines before the table.
        * `na_values`, `keep_default_na`: more cells that stand for a missing value, and whether an
          empty cell, `NA`, `N/A`, `NULL`, `?`, `nan` and pandas' other ones do.
        * `dtype`: `str`, or a mapping of columns to `str`: columns to be read as words, such as
          codes with leading zeros.
        * `dayfirst`: whether 01/02/2024 is the first of February.
        * `sheet_name`: name or position of the sheet of an Excel file; default the first.

    Returns
    -------
    Dataset
        Train only, unless an npz has more. Numbers of a table are a float64 tensor, so that a date
        such as 20240131 stays that date. A table with words, dates or truth values is a data
        frame, whose integers are int64. Arrays keep float32 and float64, integers of up to 16 bits
        become float32 and wider ones float64. A one-dimensional array becomes `(n, 1)`.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    TypeError
        If there is no such option.
    DataError
        If the content is none of these; the message names the file, and the cell, array or image.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from ppl_zoo import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "heights.csv")
    ...     _ = path.write_text("height;weight\n1,8;75\n1,6;\n")
    ...     dataset = data.from_path(path)
    >>> dataset
    Dataset('heights': train=(2, 2))
      numbers are read with the decimal mark ',', as in '1,8'
    >>> dataset.card.feature_names
    ('height', 'weight')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {str(path)!r}")
    suffix = path.suffix.lower()
    unpacked = path.with_suffix("") if suffix in COMPRESSIONS else path
    known = [n for n in inspect.signature(read_table).parameters if n not in ("path", "columns")]
    for option in options:
        if option not in known:
            raise TypeError(f"from_path has no option {option!r}; its options: {', '.join(known)}")
    if not path.is_dir() and unpacked.suffix.lower() in TABLE_SUFFIXES:
        splits, extra = _table(path, columns, target, options)
    elif path.is_dir() or suffix in (".npy", ".npz"):
        given = {"columns": columns, "target": target} | options
        for name, value in given.items():
            if value is not None:
                raise DataError(f"{path.name!r}: got {name}={value!r}, an option of tables")
        splits, extra = _image_folder(path) if path.is_dir() else (_arrays(path), {})
    else:
        mend = "; save it as .xlsx or .csv" if suffix in (".xls", ".ods", ".xlsb") else ""
        raise DataError(
            f"{path.name!r} has the suffix {suffix!r}; expected a table"
            f" ({', '.join(TABLE_SUFFIXES)}; text also {', '.join(COMPRESSIONS)}), .npy, .npz or"
            f" a folder of images ({', '.join(IMAGE_SUFFIXES)}){mend}"
        )
    sizes = {s: d[0] if isinstance(d, tuple) else d for s, d in splits.items()}
    name = unpacked.stem or path.name
    card = DataCard(
        name=name,
        title=path.name,
        shape=str(tuple(next(iter(sizes.values())).shape[1:])),
        units="grey value, 0 (black) to 1 (white)" if "image_shape" in extra else "as in the file",
        licence="the user's own",
        citation="",
        url="",
        num_observations={split: len(data) for split, data in sizes.items()},
        **extra,
    )
    return Dataset(name=name, card=card, **splits)


def _table(
    path: Path,
    columns: Sequence[str | int] | None,
    target: str | int | None,
    options: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train split of a table: a tensor if all columns are numbers, else a data frame."""
    columns = [columns] if isinstance(columns, str | int) else columns
    if target is not None and columns is not None and target not in columns:
        columns = [*columns, target]
    frame, notes, named = read_table(path, columns=columns, **options)
    names = tuple(frame.columns) if named else None
    rest = list(range(frame.shape[1]))
    index = None
    if target is not None:
        index = pick_columns(path.name, names, len(rest), [target])[0]
        rest.remove(index)
        if not rest:
            raise DataError(f"{path.name!r}: got no column but the target {target!r}")
    train: Any = frame if index is None else (frame.iloc[:, rest], frame.iloc[:, index])
    if are_numbers(frame):
        table = torch.from_numpy(frame.to_numpy(np.float64, na_value=np.nan, copy=True))
        train = table if index is None else (table[:, rest], table[:, index])
    extra = {"feature_names": names and tuple(names[i] for i in rest), "notes": notes}
    return {"train": train}, extra


def _arrays(path: Path) -> dict[str, Tensor]:
    if not path.is_file():  # reading from a pipe would wait
        raise DataError(f"{path.name!r} is no file; expected a .npy or .npz file")
    try:
        with path.open("rb") as stream:  # numpy leaves a damaged archive open
            if stream.read(2) == b"PK":
                stream.seek(0)
                archive = np.load(stream, allow_pickle=False)
                content = {name: archive[name] for name in _members(path, archive.files)}
            else:
                # "c" maps the file and lets torch believe that it may write: nothing reaches the
                # disk.
                content = np.load(path, allow_pickle=False, mmap_mode="c")
    except DataError:
        raise
    except Exception as error:  # a damaged file shows anywhere in numpy and zipfile
        raise DataError(f"{path.name!r} cannot be read as numbers: {error}") from error
    if isinstance(content, np.ndarray):
        return {"train": _tensor(content, path.name)}
    if len(content) == 1:
        return {"train": _tensor(next(iter(content.values())), path.name)}
    return {name: _tensor(array, f"{path.name}: {name}") for name, array in content.items()}


def _members(path: Path, names: Sequence[str]) -> list[str]:
    """Arrays of an archive to read: the splits, or the only one."""
    splits = [split for split in SPLITS if split in names]
    if "train" in splits:
        return splits
    if len(names) == 1:
        return list(names)
    raise DataError(
        f"{path.name!r} holds {list(names)}; expected 'train' (and 'valid', 'test'), or a single"
        " array"
    )


def _tensor(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "fiub" or array.ndim == 0 or array.size == 0:
        raise DataError(
            f"{what!r} is {array.dtype} {array.shape};"
            " expected real numbers with at least one observation"
        )
    dtype = np.result_type(array.dtype, np.float32)  # float64 for integers of 32 bits and more
    if dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        large = (array > 2**53) | (array < -(2**53))
        if large.any():
            raise DataError(
                f"{what!r} holds the integer {array[large][0]}; expected at most 2^53 = {2**53},"
                " which float64 holds exactly: leave identifiers out"
            )
    if array.dtype != dtype or not array.flags.c_contiguous:
        array = np.ascontiguousarray(array, dtype)
    tensor = torch.from_numpy(array)
    return tensor[:, None] if tensor.ndim == 1 else tensor


def _image_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"no images in {str(folder)!r}; expected {', '.join(IMAGE_SUFFIXES)}")
    images: list[Tensor] = []
    for path in paths:
        pixels = read_image(path, grey=True)
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{path.name!r} has {tuple(pixels.shape)} pixels and {paths[0].name!r} has"
                f" {tuple(images[0].shape)}; expected images of one size (height, width)"
            )
        images.append(pixels)
    stack = torch.stack(images).flatten(1)
    return {"train": stack}, {"image_shape": tuple(images[0].shape)}
