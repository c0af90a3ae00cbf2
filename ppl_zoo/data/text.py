"""Text messages as bags of words: SMS spam, and a few embedded ones."""

import hashlib
import re
from pathlib import Path

import numpy as np
import torch

from ppl_zoo.data.builtin import Parts, embedded_file
from ppl_zoo.data.remote import fetch

_URL = (
    "https://raw.githubusercontent.com/EvilPort2/Spam-Detection/"
    "d12b3145850a1731c5be62bb03d5e2f416a81cf7/SMSSpamCollection"
)
# Of the text without its last newline: the public copies differ in that one character.
_SHA256 = "edc1f2ca36319ca36c6f80fede2f6ae5f81335289352485f3924df077ec20266"
NUM_TRAIN = 1_674  # the first 30 %, as in the paper
NUM_TRAIN_SHORT = 70
_WORD = re.compile(r"\b\w\w+\b")


def sms_spam(
    *, cache: str | Path | None = None, binary: bool = False, supervised: bool = False
) -> Parts:
    """Read the SMS spam collection: counts of the words that occur in train.

    A word is two or more letters, digits or underscores, in lower case; words are in alphabetical
    order. The dense tensors take about 100 MB.

    Parameters
    ----------
    cache
        Folder for downloads.
    binary
        Whether a word occurs (0 or 1), instead of how often.
    supervised
        Splits are `(x, y)` with y 1 for spam, instead of x alone.

    Returns
    -------
    dict
        With `feature_names`, the words.

    Raises
    ------
    ValueError
        If the text is not the published one.
    """
    return _bag_of_words(_content(cache), NUM_TRAIN, binary, supervised)


def short_messages(
    *, cache: str | Path | None = None, binary: bool = False, supervised: bool = False
) -> Parts:
    """Read the short messages, written for this package: counts of the words that occur in train.

    Parameters
    ----------
    cache
        Not used; every reader takes it.
    binary, supervised
        As for :func:`sms_spam`.

    Returns
    -------
    dict
        With `feature_names`, the words.
    """
    with embedded_file("messages.tsv") as path:
        content = path.read_text(encoding="utf-8").rstrip("\n")
    return _bag_of_words(content, NUM_TRAIN_SHORT, binary, supervised)


def _bag_of_words(content: str, num_train: int, binary: bool, supervised: bool) -> Parts:
    """Count the words of lines `LABEL<tab>MESSAGE`, the first of them train."""
    labels, messages = [], []
    for line in content.split("\n"):
        label, text = line.split("\t", 1)
        labels.append(int(label == "spam"))
        messages.append(_WORD.findall(text.lower()))
    words = sorted({word for message in messages[:num_train] for word in message})
    column = {word: index for index, word in enumerate(words)}
    counts = np.zeros((len(messages), len(words)), np.float32)
    for row, message in zip(counts, messages, strict=True):
        for word in message:
            if word in column:
                row[column[word]] += 1
    data, target = torch.from_numpy(counts), torch.tensor(labels)
    if binary:
        data = data.clamp_max(1.0)
    parts = {"train": slice(None, num_train), "test": slice(num_train, None)}
    rows = {s: (data[p], target[p].float()) if supervised else data[p] for s, p in parts.items()}
    return {
        **rows,
        "labels": {split: target[part] for split, part in parts.items()},
        "feature_names": tuple(words),
    }


def _content(cache: str | Path | None) -> str:
    path = fetch(_URL, local="spam/SMSSpamCollection.tsv", cache=cache)
    content = path.read_bytes().rstrip(b"\n")
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:
        raise ValueError(
            f"{path.name} has sha256 {found} (without its last newline); expected {_SHA256}"
        )
    return content.decode("utf-8")
