"""Data set: tensors or data frames by split, and a card that says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.display import Described, brief, html_table

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SPLITS = ("train", "valid", "test")

#: splits differ in length, so that no dimension has a name here
Table: TypeAlias = "Float[Tensor, '_ ...'] | DataFrame | Series"
Split: TypeAlias = "Table | tuple[Table, ...]"


@dataclass(frozen=True, repr=False)
class DataCard(Described):
    """Data card: what is known about a data set without reading it.

    Attributes
    ----------
    name
        The name that `load` takes.
    title
        One line for a table.
    shape
        The shape of one observation and what its axes are, in words.
    units
        The units of the features, in words.
    licence
        Under which terms the data may be used.
    citation
        Authors, year, title, place.
    url
        Where to read about the data.
    feature_names
        One name a feature, or None.
    image_shape
        `(height, width)` if the features are the pixels of an image in raster order, else None.
    embedded
        Whether the data come with the package, so that no network is needed.
    num_observations
        Number of observations by split.
    notes
        What was assumed in reading a user's own file, a sentence each.
    """

    name: str
    title: str
    shape: str
    units: str
    licence: str
    citation: str
    url: str
    feature_names: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    embedded: bool = False
    num_observations: Mapping[str, int] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Data set: tensors or data frames by split, labels where there are some, and the card.

    Attributes
    ----------
    name
        The name of the data set.
    card
        Where the data come from, their units and licence.
    train, valid, test
        A float32 tensor `(n, features)`, float64 where float32 would round the data; a pandas data
        frame or series where there are words, dates or truth values; a tuple of such of equal
        length n for data with several parts, such as `(x, y)`; None where a split does not exist.
    labels
        An int64 tensor `(n,)` by split, or None. Labels describe the observations; no model is
        fitted to them unless it is asked to.

    Raises
    ------
    ValueError
        If there is no observation at all, a tensor is not floating point, or lengths disagree.
    """

    name: str
    card: DataCard
    train: Split | None = None
    valid: Split | None = None
    test: Split | None = None
    labels: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        sizes = {}
        for split in SPLITS:
            data = getattr(self, split)
            if data is not None:
                sizes[split] = _num_observations(data, f"{self.name}.{split}")
        if not sizes:
            raise ValueError(f"data set {self.name!r} has no split; expected at least train")
        for split, labels in (self.labels or {}).items():
            expected = (sizes.get(split),)
            if labels.dtype != torch.int64 or tuple(labels.shape) != expected:
                raise ValueError(
                    f"{self.name}: labels of {split!r} are {labels.dtype} {tuple(labels.shape)};"
                    f" expected torch.int64 {expected}"
                )

    def _repr_html_(self) -> str:
        """Show the splits and the card."""
        rows = {
            split: brief(data) for split in SPLITS if (data := getattr(self, split)) is not None
        }
        card = self.card
        rows |= {"units": card.units, "licence": card.licence, "source": card.citation}
        rows |= {f"note {i}": note for i, note in enumerate(card.notes, 1)}
        return html_table(f"{card.title} ({self.name})", rows)

    def __repr__(self) -> str:
        parts = []
        for split in SPLITS:
            data = getattr(self, split)
            if isinstance(data, tuple):
                shapes = ", ".join(str(tuple(part.shape)) for part in data)
                parts.append(f"{split}=({shapes})")
            elif data is not None:
                parts.append(f"{split}={tuple(data.shape)}")
        if self.labels is not None:
            parts.append("labels")
        head = f"Dataset({self.name!r}: {', '.join(parts)})"
        return "\n  ".join([head, *self.card.notes])


def _num_observations(data: Split, what: str) -> int:
    """Return the common length of the parts of one split, floating point and not empty."""
    lengths = set()
    for part in data if isinstance(data, tuple) else (data,):
        if isinstance(part, Tensor):
            dtype = f"{part.dtype} "
            wrong = part.dtype not in (torch.float32, torch.float64) or not part.numel()
        else:
            dtype, wrong = f"a {type(part).__name__} ", not hasattr(part, "iloc") or not part.size
        if wrong or part.ndim == 0:
            raise ValueError(
                f"{what} is {dtype}{tuple(getattr(part, 'shape', ()))}; expected a torch.float32"
                " or float64 tensor, or a data frame, with at least one observation"
            )
        lengths.add(len(part))
    if len(lengths) != 1:
        raise ValueError(
            f"the parts of {what} have lengths {sorted(lengths)}; expected one length"
        )
    return lengths.pop()
