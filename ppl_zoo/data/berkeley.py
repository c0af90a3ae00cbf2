"""BSDS300: patches of the Berkeley images, preprocessed as in the RNADE paper."""

from pathlib import Path

import numpy as np

from ppl_zoo.data.builtin import Parts
from ppl_zoo.data.dataset import SPLITS
from ppl_zoo.data.pixels import from_bytes
from ppl_zoo.data.remote import DATA_VARIABLE, check_row_digests, local_file

_FILE = "bsds300/bsds300_patches8x8_u8.npz"
_ROW_DIGESTS = {
    "train": "b9be9a19cc83832beaf93ac820ecdd686273d1ae639c225cb9e13cee09ae19bf",
    "valid": "c85215484bc2bf72c879761ed0d58694121ade661167cbd10f6ee5a6057fc18f",
    "test": "2eccc241848efe73fc373707d3de20ae63f8bb4f43681c0d18b488d31fce52c2",
}


def bsds300_patches(*, cache: str | Path | None = None, seed: int = 0) -> Parts:
    """Read 8x8 grey patches, add U[0, 1), divide by 256, subtract the mean, drop the last pixel.

    These are not the authors' own patches: densities agree to about a nat. No public copy exists,
    and the licence of the images does not let this project publish one.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    seed
        Seed of the noise.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If the patches do not lie below `PPL_ZOO_DATA`.
    """
    path = local_file(_FILE)
    if path is None:
        raise FileNotFoundError(
            f"'bsds300-patches' cannot be downloaded. Expected {_FILE!r} below the folder that"
            f" {DATA_VARIABLE} names: uint8 arrays (n, 64) under the keys {', '.join(SPLITS)}."
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = {split: archive[split] for split in SPLITS}
    check_row_digests("bsds300-patches", arrays, _ROW_DIGESTS)
    parts: Parts = {}
    for offset, split in enumerate(SPLITS):
        patches = from_bytes(arrays[split], 255.0, noise_seed=seed * len(SPLITS) + offset)
        parts[split] = (patches - patches.mean(-1, keepdim=True))[:, :-1].contiguous()
    return parts
