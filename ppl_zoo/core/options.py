"""Options by keyword: the nearest name of a misspelt one, and old names with a warning."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["did_you_mean", "keywords", "options", "refuse_unknown", "renamed"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
ClassT = TypeVar("ClassT", bound=type)

#: least similarity of a name that is suggested, from 0 to 1 (``difflib.SequenceMatcher.ratio``),
#: and of one of up to three letters
MIN_SIMILARITY, MIN_SIMILARITY_SHORT = 0.6, 0.5


def did_you_mean(name: Any, known: Iterable[Any], num: int = 1) -> str:
    """Suggest the known names nearest to a misspelt one, for a message; empty if none is near.

    Parameters
    ----------
    name
        What was given; what is no string has no nearest name.
    known
        What would have been right.
    num
        Names that are suggested at most.

    Examples
    --------
    >>> did_you_mean("Restart", ["steps", "restarts"])
    " (did you mean 'restarts'?)"
    >>> did_you_mean("k", ["steps", "restarts"])
    ''
    """
    if not isinstance(name, str):
        return ""
    plain = {_plain(k): k for k in known if isinstance(k, str)}
    cutoff = MIN_SIMILARITY if len(name) > 3 else MIN_SIMILARITY_SHORT
    near = difflib.get_close_matches(_plain(name), plain, n=num, cutoff=cutoff)
    return f" (did you mean {' or '.join(repr(plain[n]) for n in near)}?)" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def refuse_unknown(what: str, function: Callable[..., Any], given: Iterable[str]) -> None:
    """Refuse keywords that a function does not take, by the nearest that it does.

    Raises
    ------
    TypeError
        If there is one.
    """
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [n for n, p in parameters.items() if n != "self" and p.kind is not p.VAR_POSITIONAL]
    for name in given:
        if name not in known:
            raise TypeError(
                f"{what} has no option {name!r}{did_you_mean(name, known)}; its options: "
                f"{', '.join(known) or 'none'}"
            )


def options(**old_names: str) -> Callable[[ClassT], ClassT]:
    """Decorate a class whose constructor takes options: misspelt ones are refused by name.

    Parameters
    ----------
    old_names
        Names of earlier versions, ``old="new"``; each goes on with a ``DeprecationWarning``, as
        an argument and as an attribute.
    """

    def decorate(cls: ClassT) -> ClassT:
        cls.__init__ = keywords(cls.__name__, **old_names)(cls.__init__)
        cls.old_names = old_names
        for old, new in old_names.items():
            read = functools.partial(_read_old, old=old, new=new)
            setattr(cls, old, property(read, doc=f"Old name of ``{new}``."))
        return cls

    return decorate


def keywords(what: str, **old_names: str) -> Callable[[FunctionT], FunctionT]:
    """Decorate a function with options; see :func:`options`."""

    def decorate(function: FunctionT) -> FunctionT:
        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for old in [name for name in given if name in old_names]:
                new = old_names[old]
                if new in given:
                    raise TypeError(f"{what}: got {old!r} and {new!r}, expected {new!r} alone")
                given[new] = given.pop(old)
                _warn(what, old, new)
            refuse_unknown(what, function, given)
            return function(*args, **given)

        return checked

    return decorate


def renamed(given: Mapping[str, Any], old_names: Mapping[str, str]) -> dict[str, Any]:
    """Return options with the names of today, of a saved run for example; without a warning."""
    return {old_names.get(name, name): value for name, value in given.items()}


def _read_old(self: Any, old: str, new: str) -> Any:
    _warn(type(self).__name__, old, new)
    return getattr(self, new)


def _warn(what: str, old: str, new: str) -> None:
    warnings.warn(
        f"{what}: the option {old!r} is called {new!r} now",
        DeprecationWarning,
        stacklevel=3,
    )
