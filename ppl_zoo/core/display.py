"""Representations of objects: a line in the terminal, a small table in a notebook.

What a notebook shows has no colours of its own: it takes those of the page, light or dark. It
holds all that it needs, every text is escaped, and where no HTML is shown the line is.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

__all__ = [
    "Described",
    "Sized",
    "brief",
    "changed_arguments",
    "changed_fields",
    "call_text",
    "html_table",
    "html_text",
]

#: characters of a value, and of a whole line
MAX_VALUE_LENGTH, MAX_LENGTH = 60, 300
#: values of a sequence that are shown
MAX_VALUES = 6


def brief(value: Any) -> str:
    """Show a value in a few characters: of arrays the shape, of programs the name.

    Examples
    --------
    >>> import torch
    >>> brief(torch.zeros(3, 2)), brief([1, 2]), brief(torch.optim.Adam)
    ('Tensor(3, 2)', '[1, 2]', 'Adam')
    """
    if isinstance(value, Tensor | np.ndarray):
        kind = "Tensor" if isinstance(value, Tensor) else "array"
        shape = ", ".join(map(str, value.shape)) + ("," if value.ndim == 1 else "")
        return f"{value.item():.6g}" if value.ndim == 0 else f"{kind}({shape})"
    if isinstance(value, Mapping):
        pairs = [f"{brief(k)}: {brief(v)}" for k, v in list(value.items())[:MAX_VALUES]]
        text = "{" + ", ".join(pairs) + "}"
        fits = len(value) <= MAX_VALUES and len(text) <= MAX_VALUE_LENGTH
        return text if fits else f"<{len(value)} entries>"
    if isinstance(value, list | tuple):
        text = ", ".join(map(brief, value[:MAX_VALUES]))
        text += "," if isinstance(value, tuple) and len(value) == 1 else ""
        fits = len(value) <= MAX_VALUES and len(text) <= MAX_VALUE_LENGTH
        left, right = "[]" if isinstance(value, list) else "()"
        return f"{left}{text}{right}" if fits else f"<{len(value)} values>"
    if isinstance(value, functools.partial):
        return f"partial({brief(value.func)})"
    if isinstance(value, type) or callable(value) and hasattr(value, "__name__"):
        return value.__name__
    text = repr(value)
    if isinstance(value, nn.Module) and "\n" in text or " object at 0x" in text:
        return f"{type(value).__name__}()"
    text = " ".join(text.split())
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def call_text(name: str, fields: Mapping[str, Any]) -> str:
    """Write an object as the call that makes it, the first arguments of a long one.

    Examples
    --------
    >>> call_text("EM", {"steps": 5, "tol": 1e-6})
    'EM(steps=5, tol=1e-06)'
    """
    text = ""
    for key, value in fields.items():
        part = f"{', ' if text else ''}{key}={brief(value)}"
        if len(text) + len(part) > MAX_LENGTH:
            text += ", ..."
            break
        text += part
    return f"{name}({text})"


def changed_arguments(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a function that have no default or differ from it."""
    parameters = inspect.signature(function).parameters
    return {
        k: v for k, v in given.items() if k in parameters and _differs(v, parameters[k].default)
    }


def changed_fields(record: Any) -> dict[str, Any]:
    """Fields of a dataclass that are shown and differ from their defaults."""
    shown = [f for f in dataclasses.fields(record) if f.repr]
    return {f.name: v for f in shown if _differs(v := getattr(record, f.name), _default(f))}


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def _differs(value: Any, default: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray) or isinstance(default, Tensor | np.ndarray):
        return True
    return value is not default and (type(value) is not type(default) or value != default)


class Described:
    """An object whose line has its fields, of arrays the shapes.

    A dataclass that inherits it is made with ``repr=False``.
    """

    def __repr__(self) -> str:
        """Write the class with its public fields."""
        if dataclasses.is_dataclass(self):
            return call_text(type(self).__name__, changed_fields(self))
        fields = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        fields.pop("training", None)  # of every nn.Module
        return call_text(type(self).__name__, fields)

    def _repr_html_(self) -> str:
        """Show the fields as a table."""
        fields = vars(self) if not dataclasses.is_dataclass(self) else changed_fields(self)
        shown = {k: brief(v) for k, v in fields.items() if not k.startswith("_")}
        return html_table(type(self).__name__, shown)


class Sized:
    """A part of a model, whose line has the shapes of its parameters and buffers.

    It comes before ``nn.Module`` among the bases.
    """

    def __repr__(self) -> str:
        """Write the class with its sizes."""
        return call_text(type(self).__name__, self.state_dict())


def html_table(title: str, rows: Mapping[str, Any], foot: str = "") -> str:
    """Table of names and values for a notebook, escaped and without colours of its own.

    Parameters
    ----------
    title
        What it is of.
    rows
        Names and values.
    foot
        HTML below the table, as of :func:`html_text`.
    """
    cell = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"
    body = "".join(
        f'<tr><th style="{cell};font-weight:normal;opacity:.75">{html.escape(str(name))}</th>'
        f'<td style="{cell}">{html.escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;max-width:60em">'
        f"<strong>{html.escape(title)}</strong>"
        f'<table style="border-collapse:collapse;margin:2px 0"><tbody>{body}</tbody></table>'
        f"{foot}</div>"
    )


def html_text(title: str, text: str) -> str:
    """Text that opens below a title, in letters of one width."""
    return (
        f"<details><summary>{html.escape(title)}</summary>"
        f'<pre style="font-size:12px;overflow-x:auto">{html.escape(text)}</pre></details>'
    )
