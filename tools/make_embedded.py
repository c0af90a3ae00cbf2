"""Makes the files in ppl_zoo/data/embedded/: run once, its results are committed.

    PPL_ZOO_DATA=... python tools/make_embedded.py

Old Faithful is copied from `$PPL_ZOO_DATA/oldfaithful/faithful.csv`; digits and photographs are
those that scikit-learn ships. The same versions of scikit-learn and NumPy give the same bytes.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_sample_image

EMBEDDED = Path(__file__).resolve().parent.parent / "ppl_zoo" / "data" / "embedded"
SEED = 20240501
PATCH = 8
STRIP = 64  # the photographs are cut into ten upright strips, so that each sees sky and ground
STRIPS = {"train": (0, 2, 4, 5, 7, 9), "valid": (1, 6), "test": (3, 8)}
COUNTS = {"train": 20_000, "valid": 2_500, "test": 2_500}


def make_digits() -> None:
    """Shuffle the 1,797 digits and divide them into 1,297, 200 and 300."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.data))
    parts = dict(zip(COUNTS, np.split(order, [1297, 1497]), strict=True))
    arrays = {}
    for split, rows in parts.items():
        arrays[split] = digits.data[rows].astype(np.uint8)
        arrays[f"{split}_labels"] = digits.target[rows].astype(np.uint8)
    np.savez_compressed(EMBEDDED / "digits.npz", **arrays)


def grey(name: str) -> np.ndarray:
    """Return a photograph in grey, with the weights that MATLAB's rgb2gray has."""
    rgb = load_sample_image(name).astype(np.float64)
    return np.round(rgb @ np.array([0.2989, 0.5870, 0.1140])).astype(np.uint8)


def make_photo_patches() -> None:
    """Draw patches without repetition; no pixel is in two splits."""
    rng = np.random.default_rng(SEED)
    images = [grey("china.jpg"), grey("flower.jpg")]
    arrays = {}
    for split, strips in STRIPS.items():
        patches = []
        for image in images:
            windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH))
            columns = np.concatenate(
                [np.arange(STRIP * s, STRIP * (s + 1) - PATCH + 1) for s in strips]
            )
            candidates = windows[:, columns].reshape(-1, PATCH * PATCH)
            chosen = rng.choice(len(candidates), COUNTS[split] // len(images), replace=False)
            patches.append(candidates[chosen])
        arrays[split] = rng.permutation(np.concatenate(patches))
    np.savez_compressed(EMBEDDED / "photo_patches.npz", **arrays)


def make_photograph() -> None:
    """Cut a grey piece of 160 x 200 pixels out of a photograph, for the demo of restoration."""
    piece = grey("china.jpg")[190:350, 60:260]
    np.savez_compressed(EMBEDDED / "photograph.npz", image=piece)


if __name__ == "__main__":
    EMBEDDED.mkdir(exist_ok=True)
    source = Path(os.environ["PPL_ZOO_DATA"]) / "oldfaithful" / "faithful.csv"
    shutil.copyfile(source, EMBEDDED / "old_faithful.csv")
    make_digits()
    make_photo_patches()
    make_photograph()
