"""Embedded data sets, which come with the package and need no network."""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.data.dataset import SPLITS
from ppl_zoo.data.pixels import from_bytes

#: what every reader in this folder returns: the arguments of Dataset besides name and card
Parts = dict[str, Any]


def old_faithful(
    *,
    cache: str | Path | None = None,
    supervised: bool = False,
    longer_than: float | None = None,
    column: int | None = None,
) -> Parts:
    """Read the eruptions of Old Faithful.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    supervised
        If true, train is `(x, y)`: eruptions `(272, 1)` and waiting `(272,)`. Otherwise it is one
        tensor `(272, 2)`.
    longer_than
        Minutes; y is then 1 where the wait was longer, else 0 (with supervised).
    column
        0 for the eruptions alone, 1 for the waits alone, `(272,)`.

    Returns
    -------
    dict
    """
    with embedded_file("old_faithful.csv") as path:
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32))
    names = ("eruptions", "waiting")
    if column is not None:
        return {"train": table[:, column].clone(), "feature_names": names[column : column + 1]}
    if not supervised:
        return {"train": table}
    if longer_than is None:
        return {"train": (table[:, :1], table[:, 1])}
    y = (table[:, 1] > longer_than).float()
    return {
        "train": (table[:, :1], y),
        "feature_names": (names[0], f"waiting over {longer_than:g} minutes"),
    }


def digits(
    *, cache: str | Path | None = None, binarize: bool = False, images: bool = False
) -> Parts:
    """Read the 8x8 digits.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    binarize
        If true, a pixel is 1 where it has half of the ink or more, else 0.
    images
        If true, observations have the shape (8, 8) of the image.

    Returns
    -------
    dict
    """
    arrays = _arrays("digits.npz")
    parts: Parts = {split: from_bytes(arrays[split], 16.0) for split in SPLITS}
    if binarize:
        parts = {split: (data >= 0.5).float() for split, data in parts.items()}
    if images:
        parts = {split: data.reshape(-1, 8, 8) for split, data in parts.items()}
    parts["labels"] = {
        split: torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)) for split in SPLITS
    }
    return parts


def photo_patches(
    *,
    cache: str | Path | None = None,
    dequantize: bool = True,
    remove_mean: bool = False,
    seed: int = 0,
) -> Parts:
    """Read the patches of photographs; train, valid and test come from disjoint regions.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    dequantize
        If true, `(value + U[0, 1)) / 256`, so that a density makes sense; otherwise `value / 255`.
    remove_mean
        If true, the mean of each patch is subtracted from it.
    seed
        Seed of the noise.

    Returns
    -------
    dict
    """
    arrays = _arrays("photo_patches.npz")
    parts: Parts = {}
    for offset, split in enumerate(SPLITS):
        noise_seed = seed * len(SPLITS) + offset if dequantize else None
        patches = from_bytes(arrays[split], 255.0, noise_seed=noise_seed)
        parts[split] = _centred(patches) if remove_mean else patches
    return parts


def eight_schools(*, cache: str | Path | None = None) -> Parts:
    """Return `(y, sigma)`: estimated effect of coaching, and its standard error, in eight schools.

    Parameters
    ----------
    cache
        Not used; every reader takes it.

    Returns
    -------
    dict
    """
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return {"train": (y, sigma)}


def noisy_photograph(
    *,
    cache: str | Path | None = None,
    size: int = 32,
    sigma: float = 25 / 255,
    seed: int = 0,
) -> Parts:
    """Read a corner of the embedded photograph and add white noise.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    size
        Height and width, in pixels.
    sigma
        Standard deviation of the noise, where white is 1.
    seed
        Of the noise.

    Returns
    -------
    dict
    """
    image = from_bytes(_arrays("photograph.npz")["image"], 255.0)[-size:, :size]
    random = torch.Generator().manual_seed(seed)
    y = image + sigma * torch.randn(image.shape, generator=random)
    return {"train": (y[None], torch.full((1,), sigma))}


def _centred(patches: Tensor) -> Tensor:
    return patches - patches.mean(-1, keepdim=True)


def embedded_file(name: str) -> AbstractContextManager[Path]:
    """Path of a file that comes with the package, for a while."""
    return as_file(files("ppl_zoo.data").joinpath("embedded", name))


def _arrays(name: str) -> dict[str, np.ndarray]:
    with embedded_file(name) as path, np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}
