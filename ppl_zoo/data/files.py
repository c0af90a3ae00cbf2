"""Readers of a user's own files: CSV tables, NumPy arrays, folders of images."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.data.dataset import SPLITS, DataCard, Dataset

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def from_path(path: str | Path) -> Dataset:
    r"""Return a user's own data as a data set.

    Parameters
    ----------
    path
        * `.csv`: numbers separated by commas; the first line may name the columns; an empty cell
          becomes NaN, a missing value.
        * `.npy`: an array `(n, ...)`. A float32 or float64 file is mapped, not read: it may be
          larger than memory. Other types are converted.
        * `.npz`: arrays `train`, `valid`, `test`, or a single array of any name, which is train.
        * a folder of png or jpg images of one size: grey values in [0, 1], `(n, height * width)`,
          in the order of the file names.

    Returns
    -------
    Dataset
        Train only, unless an npz has more. Numbers of a CSV are float64, so that a date such as
        20240131 stays that date; arrays keep float32 and float64, integers of up to 16 bits become
        float32 and wider ones float64. A one-dimensional array becomes `(n, 1)`.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If the content is none of these; the message names the cell, array or image.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from ppl_zoo import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "heights.csv")
    ...     _ = path.write_text("height,weight\n1.8,75\n1.6,\n")
    ...     dataset = data.from_path(path)
    >>> dataset
    Dataset('heights': train=(2, 2))
    >>> dataset.card.feature_names
    ('height', 'weight')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {str(path)!r}")
    suffix = path.suffix.lower()
    if path.is_dir():
        splits, extra = _image_folder(path)
    elif suffix == ".csv":
        splits, extra = _csv(path)
    elif suffix in (".npy", ".npz"):
        splits, extra = _arrays(path), {}
    else:
        raise ValueError(
            f"{path.name!r} has the suffix {suffix!r}; expected .csv, .npy, .npz or a folder of"
            f" images ({', '.join(IMAGE_SUFFIXES)})"
        )
    shape = tuple(next(iter(splits.values())).shape[1:])
    card = DataCard(
        name=path.stem,
        title=path.name,
        shape=str(shape),
        units="grey value, 0 (black) to 1 (white)" if "image_shape" in extra else "as in the file",
        licence="the user's own",
        citation="",
        url="",
        num_observations={split: len(data) for split, data in splits.items()},
        **extra,
    )
    return Dataset(name=path.stem, card=card, **splits)


def _csv(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        # Line numbers are kept for messages; blank lines are not observations.
        lines = [(number, row) for number, row in enumerate(csv.reader(stream), 1) if row]
    if not lines:
        raise ValueError(f"{path.name!r} is empty; expected lines of numbers")
    names = None
    if all(_is_column_name(cell) for cell in lines[0][1]):
        names = tuple(cell.strip() for cell in lines.pop(0)[1])
    if not lines:
        raise ValueError(f"{path.name!r} has a header and no numbers; expected lines of numbers")
    width = len(names or lines[0][1])
    table = np.empty((len(lines), width))
    for row, (number, cells) in zip(table, lines, strict=True):
        if len(cells) != width:
            raise ValueError(f"{path.name!r}, line {number}: {len(cells)} cells; expected {width}")
        row[:] = [_number(cell, path, number, i, names) for i, cell in enumerate(cells)]
    return {"train": torch.from_numpy(table)}, {"feature_names": names}


def _is_column_name(cell: str) -> bool:
    """Whether a cell names a column: neither a number nor empty."""
    try:
        float(cell)
    except ValueError:
        return bool(cell.strip())
    return False


def _number(cell: str, path: Path, line: int, index: int, names: Sequence[str] | None) -> float:
    if not cell.strip():
        return float("nan")
    column = repr(names[index]) if names else index + 1
    place = f"{path.name!r}, line {line}, column {column}: {cell!r}"
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(
            f"{place}; expected a number, or an empty cell for a missing value"
        ) from None
    digits = cell.strip().lstrip("+-")
    if len(digits) > 15 and digits.isdecimal() and int(digits) != abs(number):
        raise ValueError(
            f"{place}; expected an integer that float64 holds, at most 2^53 = {2**53}: the numbers"
            " of longer identifiers mean nothing, leave the column out"
        )
    return number


def _arrays(path: Path) -> dict[str, Tensor]:
    if not path.is_file():  # reading from a pipe would wait
        raise DataError(f"{path.name!r} is no file; expected a .npy or .npz file")
    try:
        with path.open("rb") as stream:
            if stream.read(2) == b"PK":
                stream.seek(0)
                return _archive(np.load(stream, allow_pickle=False), path)
        # "c" maps the file and lets torch believe that it may write: nothing reaches the disk.
        return {"train": _tensor(np.load(path, allow_pickle=False, mmap_mode="c"), path.name)}
    except DataError:
        raise
    except Exception as error:  # of zipfile, zlib, tokenize, struct: whatever the damage does
        raise DataError(f"{path.name!r} cannot be read as numbers: {error!r}") from error


def _archive(archive: Any, path: Path) -> dict[str, Tensor]:
    keys = [split for split in SPLITS if split in archive.files]
    if "train" in keys:
        return {key: _tensor(archive[key], f"{path.name}: {key}") for key in keys}
    if len(archive.files) == 1:
        return {"train": _tensor(archive[archive.files[0]], path.name)}
    raise DataError(
        f"{path.name!r} holds {archive.files}; expected 'train' (and 'valid', 'test'),"
        " or a single array"
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
    from PIL import Image, UnidentifiedImageError

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"no images in {str(folder)!r}; expected {', '.join(IMAGE_SUFFIXES)}")
    images: list[np.ndarray] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels = _grey(image)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path.name!r} cannot be read as an image: {error}") from error
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"{path.name!r} has {pixels.shape} pixels and {paths[0].name!r} has"
                f" {images[0].shape}; expected images of one size (height, width)"
            )
        images.append(pixels)
    stack = torch.from_numpy(np.stack(images))
    return {"train": stack.flatten(1)}, {"image_shape": images[0].shape}


def _grey(image: Any) -> np.ndarray:
    """Return a Pillow image as float32 `(height, width)` in [0, 1]; 16 bits stay 16 bits."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32) / 65535.0
    return np.asarray(image.convert("L")).astype(np.float32) / 255.0
