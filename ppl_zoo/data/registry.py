"""Registry of data sets: cards and readers by name."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppl_zoo.core.options import did_you_mean
from ppl_zoo.data import berkeley, builtin, mnist, text, uci
from ppl_zoo.data.builtin import Parts
from ppl_zoo.data.cards import CARDS
from ppl_zoo.data.dataset import DataCard, Dataset

#: a data set is a line here, and a card
READERS: dict[str, Callable[..., Parts]] = {
    "old-faithful": builtin.old_faithful,
    "digits": builtin.digits,
    "photo-patches": builtin.photo_patches,
    "eight-schools": builtin.eight_schools,
    "noisy-photograph": builtin.noisy_photograph,
    "short-messages": text.short_messages,
    "mnist": mnist.mnist,
    "mnist-binarized": mnist.mnist_binarized,
    "adult": uci.nade_binary("adult"),
    "dna": uci.nade_binary("dna"),
    "mushrooms": uci.nade_binary("mushrooms"),
    "red-wine": uci.wine("red"),
    "white-wine": uci.wine("white"),
    "sms-spam": text.sms_spam,
    "spambase": uci.spambase,
    "bsds300-patches": berkeley.bsds300_patches,
}


def available() -> tuple[DataCard, ...]:
    """Return the cards of all data sets, those that need no network first.

    Returns
    -------
    tuple of DataCard

    Examples
    --------
    >>> from ppl_zoo import data
    >>> [card.name for card in data.available() if card.embedded][:3]
    ['old-faithful', 'digits', 'photo-patches']
    """
    return CARDS


def load(name: str, *, cache: str | Path | None = None, **options: Any) -> Dataset:
    """Return a data set by name.

    Embedded sets need no network. The others are looked for below the folder that the environment
    variable `PPL_ZOO_DATA` names, then in the cache, then downloaded with a checksum.

    Parameters
    ----------
    name
        One of the names in `available()`.
    cache
        Folder for downloads; default `PPL_ZOO_CACHE`, else the cache folder of the system.
    **options
        Options of this data set: `supervised` (old-faithful); `binarize` (digits); `dequantize`,
        `remove_mean`, `seed` (photo-patches); `size`, `sigma`, `seed` (noisy-photograph);
        `binarization="fixed"` or `"dynamic"`, `seed`
        (mnist-binarized); `fold`, `folds`, `standardize` (red-wine, white-wine); `seed`
        (bsds300-patches); `binary`, `supervised` (sms-spam, short-messages); `fold`, `binary`,
        `log1p`, `supervised` (spambase).

    Returns
    -------
    Dataset
        float32 tensors by split.

    Raises
    ------
    ValueError
        If there is no such data set, or a file is not the published one.
    TypeError
        If the data set has no such option.
    ConnectionError
        If a file has to be downloaded and cannot be.

    Examples
    --------
    >>> from ppl_zoo import data
    >>> data.load("old-faithful")
    Dataset('old-faithful': train=(272, 2))
    >>> data.load("digits", binarize=True)
    Dataset('digits': train=(1297, 64), valid=(200, 64), test=(300, 64), labels)
    """
    if name not in READERS:
        hint = did_you_mean(name, READERS)
        raise ValueError(f"no data set {name!r}{hint}; known: {', '.join(READERS)}")
    reader = READERS[name]
    known = [option for option in inspect.signature(reader).parameters if option != "cache"]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise TypeError(
                f"data set {name!r} has no option {option!r}{did_you_mean(option, known)}; "
                f"its options: {listed}"
            )
    parts = reader(cache=cache, **options)
    card = next(card for card in CARDS if card.name == name)
    feature_names = parts.pop("feature_names", card.feature_names)
    return Dataset(name=name, card=replace(card, feature_names=feature_names), **parts)
