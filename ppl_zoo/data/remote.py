"""Data files: below PPL_ZOO_DATA, in the cache, or downloaded, and checked by hash.

A downloaded file is checked by the hash of the file where that is known (`fetch`), and every data
set that comes in several packings by the hash of its rows (`check_row_digests`).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DATA_VARIABLE = "PPL_ZOO_DATA"
CACHE_VARIABLE = "PPL_ZOO_CACHE"


def local_file(*candidates: str) -> Path | None:
    """Return the first of some files that lies below the folder of `PPL_ZOO_DATA`.

    Parameters
    ----------
    *candidates
        Paths relative to that folder, such as `"mnist/t10k-labels-idx1-ubyte.gz"`.

    Returns
    -------
    Path or None
        None where the variable is not set or none of the files is there.

    Raises
    ------
    FileNotFoundError
        If `PPL_ZOO_DATA` is set to something that is not a folder.
    """
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return None
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{DATA_VARIABLE} is {root!r}; expected an existing folder")
    paths = (Path(root) / candidate for candidate in candidates)
    return next((path for path in paths if path.is_file()), None)


def fetch(
    url: str, *, local: str, known_hash: str | None = None, cache: str | Path | None = None
) -> Path:
    """Return a file: below `PPL_ZOO_DATA`, else from the cache, else downloaded.

    Parameters
    ----------
    url
        The public address.
    local
        Its path below `PPL_ZOO_DATA`.
    known_hash
        `"sha256:..."` or `"sha1:..."`; None where the caller checks the rows.
    cache
        Folder for downloads; default `PPL_ZOO_CACHE`, else the cache folder of the system.

    Returns
    -------
    Path

    Raises
    ------
    ConnectionError
        If the file has to be downloaded and cannot be.
    ValueError
        If its hash is not the known one.
    """
    import pooch

    path = local_file(local)
    if path is not None:
        if known_hash is not None:
            algorithm, expected = known_hash.split(":")
            found = pooch.file_hash(str(path), alg=algorithm)
            if found != expected:
                raise ValueError(f"{path} has {algorithm} {found}; expected {expected}")
        return path
    folder = Path(cache or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("ppl_zoo"))
    target = folder / local
    try:
        return Path(pooch.retrieve(url, known_hash, fname=target.name, path=str(target.parent)))
    except OSError as error:  # all errors of requests are OSErrors
        raise ConnectionError(
            f"could not download {url} ({type(error).__name__}). Without a network, put the file"
            f" at {local!r} below a folder and set {DATA_VARIABLE} to that folder."
        ) from error


def check_row_digests(
    name: str, splits: Mapping[str, np.ndarray], digests: Mapping[str, str]
) -> None:
    """Raise unless the rows of every split are the known ones, in whatever order.

    Parameters
    ----------
    name
        The data set, for the message.
    splits
        Arrays `(n, features)` by split.
    digests
        Their `row_digest`s by split.

    Raises
    ------
    ValueError
        If a split is missing or has other rows.
    """
    for split, expected in digests.items():
        found = row_digest(splits[split]) if split in splits else "nothing"
        if found != expected:
            raise ValueError(
                f"the {split} rows of {name!r} are not the published ones:"
                f" found {found}, expected {expected}; the file is damaged or another version"
            )


def row_digest(rows: np.ndarray) -> str:
    """Return the sha256 of the sorted rows of an array `(n, features)`.

    Two files with the same observations have the same digest, however they are packed or ordered.
    """
    rows = np.ascontiguousarray(rows)
    digest = hashlib.sha256(f"{rows.dtype.str}{rows.shape}".encode())
    for row in sorted(row.tobytes() for row in rows):
        digest.update(row)
    return digest.hexdigest()
