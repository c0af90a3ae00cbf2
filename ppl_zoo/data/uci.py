"""UCI data sets: NADE's binary ones, wine quality, Spambase."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ppl_zoo.data.builtin import Parts
from ppl_zoo.data.dataset import SPLITS
from ppl_zoo.data.remote import check_row_digests, fetch, local_file

_NADE_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/{name}/{name}_{split}.libsvm"
_NADE_FEATURES = {"adult": 123, "dna": 180, "mushrooms": 112}
_NADE_ROW_DIGESTS = {
    "adult": {
        "train": "9e5cf99304d4d4fe6cdf238ac41c14e0d34028d6992243d0060f98bc1b0afba3",
        "valid": "2075b51f16e61363e416da51d86d25a706f81c7037394458601cf81a7794beaa",
        "test": "6229e2e9c0cfb23de14270190d709b6a79c555da8c0df1a4264cb6b09ca47280",
    },
    "dna": {
        "train": "452eb7ea8808fa7a19687085eb384a73bed020c0477082b42f9cdb35b6e2f513",
        "valid": "7eec5b0df46045d735606bf908e527dab3097727afffde2c47551b9e04e27c6a",
        "test": "9db66a3fb98b75351a7a4245b708026995599c5ff9ede087bc212472c0bddad5",
    },
    "mushrooms": {
        "train": "864eb22382b21641b3df9ee87134d052b44ea1c9d18bb3b9b99b00fc08ecfd8a",
        "valid": "64343704f79057806964f3a44917656d5ba5b090dc31714f514e4456f1ee4438",
        "test": "4699ddd8e6363451072744b74cf9b55f8fb255c18833d28852f5392f4f5ce4be",
    },
}

_WINE_URL = (
    "https://raw.githubusercontent.com/jbrownlee/Datasets/"
    "d20fcb6402ae34e653d4513b00f39257bb37ed7f/winequality-{colour}.csv"
)
_WINE_ROW_DIGESTS = {
    "red": "05bd5ee6c4786f5a2df181f9ef59aabcc1d536941bdd6c57b32248a10d3acc3e",
    "white": "77f44108c5d48735a2f264a101c924afa4c4fef1229927142e01e07df0a8ea86",
}
_SPAMBASE_URL = (
    "https://raw.githubusercontent.com/jenniferdo2211/Spam-Filtering-Neural-Network/"
    "ec9ad3540aa57be7ced637febfaba95988dd2ea0/spambase.data"
)
_SPAMBASE_ROW_DIGEST = "3cb36858105849d969f7516ec2e93ff195398f4bb42f3480b22ff250ebc40377"
NUM_FOLDS = 10
_FOLD_SEED = 20240501


def nade_binary(name: str) -> Callable[..., Parts]:
    """Return the reader of one of NADE's binary sets: `adult`, `dna` or `mushrooms`.

    Parameters
    ----------
    name
        Its name.

    Returns
    -------
    callable
        Takes `cache` and returns float32 tensors `(n, features)` of zeros and ones by split.
    """
    return partial(_nade_binary, name)


def wine(colour: Literal["red", "white"]) -> Callable[..., Parts]:
    """Return the reader of the red or the white wine-quality set.

    Parameters
    ----------
    colour
        `"red"` or `"white"`.

    Returns
    -------
    callable
        Takes `cache`, `fold`, `standardize` and `folds`; see `_wine`.
    """
    return partial(_wine, colour)


def spambase(
    *,
    cache: str | Path | None = None,
    fold: int | None = None,
    binary: bool = False,
    log1p: bool = False,
    supervised: bool = False,
) -> Parts:
    """Read Spambase: 57 measurements of an e-mail, and whether it is spam.

    Parameters
    ----------
    cache
        Folder for downloads.
    fold
        The test fold, one of ten stratified ones; the others are train. None for all rows in
        train. The folds have a fixed seed.
    binary
        Whether a measurement is above 0, instead of its value.
    log1p
        Take log(1 + x), then mean 0 and standard deviation 1 over train.
    supervised
        Splits are `(x, y)` with y 1 for spam, instead of x alone.

    Returns
    -------
    dict
        float32 tensors by split, and labels.

    Raises
    ------
    ValueError
        If `fold` is not an integer from 0 to 9, both `binary` and `log1p` are true, or the file is
        not the published one.
    """
    if fold is not None and fold not in range(NUM_FOLDS):
        raise ValueError(f"fold is {fold!r}; expected an integer from 0 to {NUM_FOLDS - 1}")
    if binary and log1p:
        raise ValueError("binary and log1p are both true; expected one of them at most")
    path = fetch(_SPAMBASE_URL, local="spam/spambase.data", cache=cache)
    lines = path.read_text(encoding="ascii").split()
    table = np.loadtxt([line for line in lines if line[0].isdigit()], delimiter=",")
    check_row_digests("spambase", {"whole": table}, {"whole": _SPAMBASE_ROW_DIGEST})
    features, target = table[:, :-1], table[:, -1].astype(np.int64)
    test = np.zeros(len(table), bool)
    if fold is not None:
        order = np.random.default_rng(_FOLD_SEED).permutation(len(table))
        order = order[np.argsort(target[order], kind="stable")]
        test[order[fold::NUM_FOLDS]] = True
    if binary:
        features = features > 0
    elif log1p:
        features = np.log1p(features)
        features = (features - features[~test].mean(0)) / features[~test].std(0)
    x, y = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(target)
    splits = {"train": torch.from_numpy(~test), "test": torch.from_numpy(test)}
    splits = {name: rows for name, rows in splits.items() if bool(rows.any())}
    parts: Parts = {s: (x[r], y[r].float()) if supervised else x[r] for s, r in splits.items()}
    parts["labels"] = {split: y[rows] for split, rows in splits.items()}
    return parts


def _nade_binary(name: str, *, cache: str | Path | None = None) -> Parts:
    num_features = _NADE_FEATURES[name]
    path = local_file(f"uci/nade_{name}.npz")
    if path is not None:
        with np.load(path, allow_pickle=False) as archive:
            splits = {s: np.unpackbits(archive[s], axis=1, count=num_features) for s in SPLITS}
    else:
        splits = {}
        for split in SPLITS:
            url = _NADE_URL.format(name=name, split=split)
            text = fetch(url, local=f"uci/{name}_{split}.libsvm", cache=cache)
            splits[split] = _libsvm(text.read_text(encoding="ascii"), num_features)
    check_row_digests(name, splits, _NADE_ROW_DIGESTS[name])
    return {split: torch.from_numpy(rows.astype(np.float32)) for split, rows in splits.items()}


def _libsvm(text: str, num_features: int) -> np.ndarray:
    """Read lines such as `1 3:1 7:1`: a label, which is dropped, and the features that are 1."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    rows = np.zeros((len(lines), num_features), np.uint8)
    for row, (_, *entries) in zip(rows, lines, strict=True):
        for entry in entries:
            index, value = entry.split(":")
            row[int(index) - 1] = float(value) != 0
    return rows


def _wine(
    colour: Literal["red", "white"],
    *,
    cache: str | Path | None = None,
    fold: int = 0,
    folds: str = "seeded",
    standardize: bool = False,
) -> Parts:
    """Read a wine-quality set: one of ten folds is test, the next one valid, the others train.

    `folds="nade"` are the folds of the NADE authors (red wine only, below `PPL_ZOO_DATA` only,
    without labels), on which the papers report; `"seeded"` are folds with a fixed seed. With
    `standardize=True` every feature has mean 0 and standard deviation 1 over train.
    """
    if fold not in range(NUM_FOLDS):
        raise ValueError(f"fold is {fold!r}; expected an integer from 0 to {NUM_FOLDS - 1}")
    if folds == "nade":
        features, quality, fold_of = _nade_folds(colour)
    elif folds == "seeded":
        table = _wine_table(colour, cache)
        check_row_digests(f"{colour}-wine", {"whole": table}, {"whole": _WINE_ROW_DIGESTS[colour]})
        table = table[np.lexsort(table.T)]  # so that the folds do not depend on a file's order
        order = np.random.default_rng(_FOLD_SEED).permutation(len(table))
        features = table[order, :-1].astype(np.float32)
        quality = table[order, -1].astype(np.int64)
        fold_of = np.arange(len(table)) % NUM_FOLDS
    else:
        raise ValueError(f"folds is {folds!r}; expected 'seeded' or 'nade'")
    test, valid = fold_of == fold, fold_of == (fold + 1) % NUM_FOLDS
    rows = {"train": ~(test | valid), "valid": valid, "test": test}
    if standardize:
        train = features[rows["train"]].astype(np.float64)
        features = ((features - train.mean(0)) / train.std(0)).astype(np.float32)
    parts: Parts = {split: torch.from_numpy(features[rows[split]]) for split in SPLITS}
    if quality is not None:
        parts["labels"] = {split: torch.from_numpy(quality[rows[split]]) for split in SPLITS}
    return parts


def _wine_table(colour: str, cache: str | Path | None) -> np.ndarray:
    """Return features and quality, `(n, 12)`, in the order of the file."""
    archive_path = _wine_archive()
    if archive_path is not None:
        with np.load(archive_path, allow_pickle=False) as archive:
            return archive[f"{colour}_wine"]
    url, local = _WINE_URL.format(colour=colour), f"uci/winequality-{colour}.csv"
    lines = fetch(url, local=local, cache=cache).read_text(encoding="ascii").splitlines()
    # UCI's own file has a header and semicolons, its copies have neither.
    lines = [line.replace(";", ",") for line in lines if line and line[0].isdigit()]
    return np.loadtxt(lines, delimiter=",", dtype=np.float64)


def _nade_folds(colour: str) -> tuple[np.ndarray, None, np.ndarray]:
    archive_path = _wine_archive()
    if colour != "red" or archive_path is None:
        raise ValueError(
            f"folds='nade' for {colour} wine; the folds of the NADE authors exist for red wine"
            " only, in 'uci/wine.npz' below PPL_ZOO_DATA; expected folds='seeded'"
        )
    with np.load(archive_path, allow_pickle=False) as archive:
        return archive["red_wine_nade_rows"], None, archive["red_wine_nade_fold"]


def _wine_archive() -> Path | None:
    return local_file("uci/wine.npz", "uci/real_valued.npz")
