"""Names of variables and dimensions in ArviZ: plates become dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppl_zoo.core.tracing import Site

__all__ = ["Names", "Variable", "has_plate", "plate_axis"]

#: dimensions of ArviZ itself
RESERVED = ("chain", "draw", "step")

#: dimensions, values and attributes of a variable
Variable = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]


def has_plate(site: Site, plate: str | None) -> bool:
    """Whether the value of a site has the plate as a full dimension."""
    return plate is not None and plate in _dimension_plates(site)


def plate_axis(site: Site, plate: str) -> int:
    """Position of a plate's dimension in the value of a site."""
    return _dimension_plates(site).index(plate)


def _dimension_plates(site: Site) -> list[str | None]:
    """Plate of each dimension of a site's value.

    "" for a batch dimension outside of all plates, None for an event dimension.
    """
    for event_dim in dict.fromkeys((site.event_dim, *range(len(site.shape) + 1))):
        found: list[str | None] = [None] * len(site.shape)
        batch = len(site.shape) - event_dim
        for index in range(max(batch, 0)):
            found[index] = ""
        fits = True
        for plate, dim, size in site.plates:
            index = batch + dim
            if index < 0 or site.shape[index] != size:
                fits = False
            else:
                found[index] = plate
        # a deterministic site does not say where its event begins: the plates' sizes do
        if fits or site.kind != "deterministic":
            return found
    return [None] * len(site.shape)


class Names:
    """Names of variables and dimensions, the same in all groups.

    No dimension is named like a variable.

    Parameters
    ----------
    variables
        Names of everything that may become a variable.
    event_dims
        As :attr:`ppl_zoo.Model.event_dims`.
    coords
        Labels by dimension, such as ``{"feature": ("height", "weight")}``.
    """

    def __init__(
        self,
        variables: Iterable[str],
        event_dims: Mapping[str, Sequence[str]],
        coords: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.taken = {self.variable(name) for name in variables}
        self.event_dims, self.coords = event_dims, dict(coords or {})

    @staticmethod
    def variable(name: str) -> str:
        """Return the name as a variable: never that of a dimension of ArviZ, no path."""
        name = name.replace("/", ".")
        return f"{name}_value" if name in RESERVED else name

    def dim(self, name: str) -> str:
        """Return the name as a dimension: never that of a variable."""
        name = name.replace("/", ".")
        return f"{name}_dim" if name in self.taken or name in RESERVED else name

    def of_site(self, site: Site) -> tuple[str, ...]:
        """Dimensions of the value of a site, without chain and draw."""
        batch = _dimension_plates(site)
        names = list(self.event_dims.get(site.name, ()))
        events = [i for i, name in enumerate(batch) if name is None]
        if len(names) != len(events):
            names = []
        out = []
        for index, plate in enumerate(batch):
            if plate:
                out.append(self.dim(plate))
            elif plate is None and names:
                out.append(self.dim(names[events.index(index)]))
            else:
                taken = sum(1 for p in batch[:index] if not p)
                out.append(f"{self.variable(site.name)}_dim_{taken}")
        return tuple(out)

    def of_array(self, name: str, ndim: int, first: str | None = None) -> tuple[str, ...]:
        """Dimensions of a parameter or argument; ``first`` is the plate of its rows."""
        lead = () if first is None else (self.dim(first),)
        names = list(self.event_dims.get(name, ()))
        left = ndim - len(lead)
        if len(names) != left:
            names = [f"{self.variable(name)}_dim_{i}" for i in range(left)]
        return (*lead, *(self.dim(n) for n in names))

    def dataset(
        self,
        variables: Mapping[str, Variable],
        labels: Mapping[str, np.ndarray] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Build a dataset; every dimension has a coordinate.

        Parameters
        ----------
        variables
            ``{name: (dims, array, attributes)}``.
        labels
            Coordinates of single dimensions, such as which rows were chosen.
        attrs
            Attributes of the group.
        """
        sizes: dict[str, int] = {}
        arrays = {}
        for name, (dims, array, about) in variables.items():
            own = []
            for dim, size in zip(dims, array.shape, strict=True):
                if sizes.get(dim, size) != size or dim in own:
                    dim = f"{self.variable(name)}_{dim}"  # same word, another length
                sizes[dim] = size
                own.append(dim)
            arrays[self.variable(name)] = (tuple(own), array, about)
        coords: dict[str, Any] = {dim: np.arange(size) for dim, size in sizes.items()}
        given = {self.dim(k): np.asarray(v) for k, v in self.coords.items()}
        for source in (given, labels or {}):
            for dim, values in source.items():
                if len(values) == sizes.get(dim):
                    coords[dim] = values
        return xr.Dataset(arrays, coords=coords, attrs=dict(attrs or {}))
