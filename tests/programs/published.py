"""Programs after Pyro's published examples and tutorials, written anew, as users bring them.

Each file of this folder holds those of one kind, and registers them by :func:`published`. None
knows of the zoo: plain Pyro functions, guides and data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.infer

__all__ = ["PUBLISHED", "Published", "published"]


@dataclass(frozen=True)
class Published:
    """A program with what Pyro's own SVI would be given.

    Attributes
    ----------
    name, source
        Name, and the page it is written after.
    make
        ``make()`` returns model, guide and data anew. The guide is a program, an autoguide class
        or, as ``zoo.SVI`` takes it, None for a mean-field normal; the data are a tuple of
        arguments, or a mapping of them by name.
    elbo
        Makes Pyro's bound, as the page does.
    falls_back
        Part of the message that says why it is not compiled; empty where it is.
    exports
        False for a program whose latents have no draws to export (maximum likelihood).
    """

    name: str
    source: str
    make: Callable[[], tuple[Callable[..., Any], Any, Any]]
    elbo: Callable[[], Any] = pyro.infer.Trace_ELBO
    falls_back: str = ""
    exports: bool = True


PUBLISHED: dict[str, Published] = {}


def published(name: str, source: str, **options: Any) -> Callable[[Callable], Callable]:
    """Register what makes a program, its guide and its data."""

    def register(make: Callable) -> Callable:
        assert name not in PUBLISHED, name
        PUBLISHED[name] = Published(name, source, make, **options)
        return make

    return register
