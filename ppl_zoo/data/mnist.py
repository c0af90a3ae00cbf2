"""MNIST, in grey levels and binarised."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.data.builtin import Parts
from ppl_zoo.data.dataset import SPLITS
from ppl_zoo.data.pixels import from_bytes
from ppl_zoo.data.remote import check_row_digests, fetch, local_file

NUM_PIXELS = 784
NUM_TRAIN = 50_000  # the other 10,000 of the 60,000 training images are for validation

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_SHA256 = {
    "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

_FIXED_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_FIXED_SHA1 = {
    "train": "cf70514ec5f481e54ad3eb0e6c03c83326ff96f8",
    "valid": "13418487742e6ea6d48db7b5187353a20b1b1f8c",
    "test": "ca70bd7775e182596dec148d4dc1bc6bd6c4c5f4",
}
# of the rows, packed eight pixels to a byte
_FIXED_ROW_DIGESTS = {
    "train": "f95cda044e756025df3e7a5a581faf709ba9fc4040384132f842f2cebe5bc491",
    "valid": "4abde08478a9a4bff783e3d03c482a08873691b188cc6328d1ddacdd2b7faf32",
    "test": "5acfc30cd020ffb4d2a337072b5beeed329fe8f88d7b9d98729af4a3dd745550",
}


def mnist(*, cache: str | Path | None = None) -> Parts:
    """Read MNIST in grey levels; valid is the last 10,000 training images.

    Parameters
    ----------
    cache
        Folder for downloads.

    Returns
    -------
    dict
    """
    images = {s: _idx(f"{s}-images", 3, cache) for s in ("train", "t10k")}
    labels = {s: _idx(f"{s}-labels", 1, cache) for s in ("train", "t10k")}
    parts: Parts = {"labels": {}}
    rows = {"train": slice(0, NUM_TRAIN), "valid": slice(NUM_TRAIN, None), "test": slice(None)}
    for split in SPLITS:
        source = "t10k" if split == "test" else "train"
        pixels = images[source][rows[split]].reshape(-1, NUM_PIXELS)
        parts[split] = from_bytes(pixels, 255.0)
        digits = labels[source][rows[split]].astype(np.int64)
        parts["labels"][split] = torch.from_numpy(digits)
    return parts


def mnist_binarized(
    *,
    cache: str | Path | None = None,
    binarization: str = "fixed",
    seed: int = 0,
) -> Parts:
    """Read binarised MNIST.

    Parameters
    ----------
    cache
        Folder for downloads.
    binarization
        `"fixed"`: the draw that papers report on (its test rows are sorted by digit: never take
        the first n). `"dynamic"`: a draw of one Bernoulli variable a pixel, with the grey value
        as its probability.
    seed
        Seed of the dynamic draw; call again with another seed for another epoch.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If `binarization` is neither.
    """
    if binarization == "fixed":
        return {split: _unpack(rows) for split, rows in _fixed(cache).items()}
    if binarization != "dynamic":
        raise ValueError(f"binarization is {binarization!r}; expected 'fixed' or 'dynamic'")
    parts = mnist(cache=cache)
    generator = torch.Generator().manual_seed(seed)
    for split in SPLITS:
        parts[split] = torch.bernoulli(parts[split], generator=generator)
    return parts


def _idx(name: str, ndim: int, cache: str | Path | None) -> np.ndarray:
    """Read a file of LeCun's idx format: four magic bytes, the sizes, the bytes."""
    file, sha256 = f"{name}-idx{ndim}-ubyte.gz", f"sha256:{_MNIST_SHA256[name]}"
    path = fetch(_MNIST_URL + file, local=f"mnist/{file}", known_hash=sha256, cache=cache)
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _fixed(cache: str | Path | None) -> dict[str, np.ndarray]:
    """Return packed rows `(n, 98)`, from the packed file or from Larochelle's three texts."""
    path = local_file("mnist/binarized_mnist_fixed_packed.npz")
    if path is not None:
        with np.load(path, allow_pickle=False) as archive:
            splits = {split: archive[split] for split in SPLITS}
    else:
        splits = {}
        for split in SPLITS:
            name = f"binarized_mnist_{split}.amat"
            sha1 = f"sha1:{_FIXED_SHA1[split]}"
            text = fetch(_FIXED_URL + name, local=f"mnist/{name}", known_hash=sha1, cache=cache)
            splits[split] = np.packbits(_amat(text.read_bytes()), axis=1)
    check_row_digests("mnist-binarized", splits, _FIXED_ROW_DIGESTS)
    return splits


def _amat(text: bytes) -> np.ndarray:
    """Read lines of 784 zeros and ones; everything else is white space."""
    characters = np.frombuffer(text, np.uint8)
    digits = characters[(characters == ord("0")) | (characters == ord("1"))]
    return (digits - ord("0")).reshape(-1, NUM_PIXELS)


def _unpack(rows: np.ndarray) -> Tensor:
    """Return packed rows as zeros and ones, `(n, 784)`."""
    return torch.from_numpy(np.unpackbits(rows, axis=1).astype(np.float32))
