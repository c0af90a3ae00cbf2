"""Pages of the API: the public names, grouped as a reader thinks; the command's own help."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from model_pages import FAMILIES, write

from ppl_zoo import data, evaluation, imaging, models, testing
from ppl_zoo import sklearn as estimators
from ppl_zoo.cli import main
from ppl_zoo.cli.commands import COMMANDS

if TYPE_CHECKING:  # the text of the pages is made without Sphinx
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment


@dataclass(frozen=True)
class Group:
    """Page of the API: its file, title, a sentence, and headings with the names below each.

    ``values`` are names of plain values, which have no docstring, and what is said of each.
    """

    stem: str
    title: str
    about: str
    sections: dict[str, tuple[str, ...]]
    values: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sections, below ``ppl_zoo``."""
        return (*(name for section in self.sections.values() for name in section), *self.values)


def _of(module: Any, *without: str) -> tuple[str, ...]:
    """Public names of a module of ppl_zoo, below ``ppl_zoo``."""
    short = module.__name__.partition(".")[2]
    return tuple(f"{short}.{name}" for name in module.__all__ if name not in without)


def _clauses() -> str:
    """List the clauses of the contract, each with the first line of its function."""
    lines = (
        f"* **{name}**: {(clause.__doc__ or '').splitlines()[0]}"
        for name, clause in testing.CLAUSES.items()
    )
    return "\n".join(lines)


GROUPS = (
    Group(
        "fit",
        "Fit and queries",
        "A model is fitted to data by ``zoo.fit``; the fit answers, is saved, and goes to ArviZ.",
        {
            "Fit": ("fit", "Fit", "load"),
            "Write a model": ("Model", "scan"),
            "See a program, cite a fit": ("render", "GraphicalModel", "cite", "Citation"),
            "Hand the density over": ("log_density",),
        },
    ),
    Group(
        "solvers",
        "Solvers",
        "All but the samplers maximise the evidence lower bound; they differ in what they hold "
        "fixed.",
        {
            "Choose by themselves": ("Auto",),
            "Maximise the bound": ("EM", "CAVI", "SVI", "LocalELBO"),
            "Sample the posterior": ("NUTS", "SGLD"),
            "Stop in time": ("EarlyStopping",),
        },
    ),
    Group(
        "checks",
        "Checks and evaluation",
        "Is this the model's posterior, does the model describe the data, and will it predict?",
        {
            "A fit checked": (
                "diagnostics.check.Check",
                "diagnostics.row_check.RowCheck",
            ),
            "A solver checked": ("calibrate", "fitting.calibration.Calibration"),
            "Models compared": ("loo", "compare", "evidence", "kl"),
            "The density of single rows": _of(evaluation),
        },
    ),
    Group(
        "models",
        "Models by family",
        "Each class has a page of its own among the models, made from its card in ``zoo.ZOO``.",
        {heading: getattr(models, family).__all__ for family, heading in FAMILIES.items()}
        | {
            "The catalogue": (
                "models.card.Card",
                "models.card.Recipe",
                "models.card.Figure",
                "models.card.Reference",
            )
        },
        {"ZOO": "The card of each model, family by family."},
    ),
    Group(
        "data",
        "Data",
        "Data sets with a card each, embedded or downloaded; tables of one's own.",
        {"Data sets": _of(data)},
    ),
    Group(
        "imaging",
        "Images",
        "Photographs restored, and images as plain tensors: patches, operators, quality, files.",
        {
            "Restore": ("restore", "Restoration", "Tiling", "SplitGibbs"),
            "Operators and patches": _of(imaging),
        },
    ),
    Group(
        "testing",
        "Testing a model",
        "The contract that each model of the zoo keeps, for models of one's own too.",
        {"The contract": _of(testing, "CLAUSES")},
        {
            "testing.CLAUSES": "Name of each clause, and the function that checks it:\n\n"
            + _clauses()
        },
    ),
    Group(
        "sklearn",
        "scikit-learn estimators",
        "Models under scikit-learn's names, for its pipelines and searches; needs the extra "
        "``ppl_zoo[sklearn]``.",
        {"Estimators": _of(estimators)},
    ),
    Group(
        "errors",
        "Errors",
        "What is raised, and when.",
        {"Errors": ("ConvergenceError", "DataError", "QueryError", "RunError")},
    ),
    Group(
        "parts",
        "Parts that signatures name",
        "What a fit is made of; for those who write a solver, or look into a fit.",
        {
            "A fit's parts": (
                "core.posterior.FittedModel",
                "core.posterior.PosteriorDraws",
                "core.solution.Solution",
                "core.rows.Rows",
            ),
            "A solver's parts": ("core.solver.Solver", "core.solver.FitContext"),
        },
    ),
)
#: names of ``ppl_zoo.__all__`` that are modules, and the page where their own names are
MODULES = {
    "data": "data",
    "evaluation": "checks",
    "imaging": "imaging",
    "models": "models",
    "testing": "testing",
}


def page(group: Group) -> str:
    """Page of a group, in reStructuredText."""
    parts = [_heading(group.title, "="), group.about]
    for heading, names in group.sections.items():
        table = "\n".join(f"   ppl_zoo.{name}" for name in names)
        parts += [
            _heading(heading, "-") if len(group.sections) > 1 else "",
            f".. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n{table}",
        ]
    for name, text in group.values.items():
        parts.append(f".. py:data:: ppl_zoo.{name}\n\n{textwrap.indent(text, '   ')}")
    return "\n\n".join(part for part in parts if part) + "\n"


def index() -> str:
    """Page that lists the groups."""
    lines = "\n".join(f"* :doc:`{g.stem}`: {g.about}" for g in GROUPS)
    stems = "\n".join(f"   {stem}" for stem in [*(g.stem for g in GROUPS), "command"])
    return (
        f"{_heading('API', '=')}\n\nAll that is public, by ``import ppl_zoo as zoo``.\n\n{lines}\n"
        "* :doc:`command`: The command ``ppl-zoo``.\n\n"
        f".. toctree::\n   :hidden:\n\n{stems}\n"
    )


def command_page() -> str:
    """Page of the command: the help of each subcommand, obtained by running it."""
    parts = ["# Command line", "What `ppl-zoo --help` and its subcommands print."]
    for name, arguments in [("ppl-zoo", []), *((c.name, [c.name]) for c in COMMANDS)]:
        title = name if name == "ppl-zoo" else f"ppl-zoo {name}"
        parts += [f"## {title}", f"```text\n{help_text(arguments)}\n```"]
    return "\n\n".join(parts) + "\n"


@cache
def _help_text(arguments: tuple[str, ...]) -> str:
    printed = io.StringIO()
    plain = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(printed):
        main([*arguments, "--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def help_text(arguments: list[str]) -> str:
    """Return what the command prints for ``--help``, in plain text of 80 columns."""
    return _help_text(tuple(arguments))


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def documented() -> Iterator[str]:
    """Names that have an entry in the API, each below ``ppl_zoo``."""
    for group in GROUPS:
        yield from group.names


def _find(dotted: str) -> Any:
    """Return the object of a dotted name of ppl_zoo, or None."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name, None)
        return found
    return None


@cache
def _entries() -> dict[int, str]:
    """Entry of each documented object, by the identity of the object."""
    return {id(_find(f"ppl_zoo.{name}")): f"ppl_zoo.{name}" for name in documented()}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Lead a reference to where an object is documented, by whichever path it is named.

    ``ppl_zoo.fitting.result.Fit`` is documented as ``ppl_zoo.Fit``; methods follow their class.
    What the package has but does not show (a base class) stays plain text; a name that the
    package does not have is a warning.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("ppl_zoo"):
        return None
    found = _find(target)
    if found is None:
        return None
    owner, _, member = target.rpartition(".")
    names = [_entries().get(id(found)), _entries().get(id(_find(owner)))]
    names = [names[0], names[1] and f"{names[1]}.{member}"]
    domain = env.get_domain("py")
    for name in names:
        if name and name in domain.objects:
            entry = domain.objects[name]
            return _link(app, node, content, entry.docname, entry.node_id, name)
    return content


def _link(
    app: Sphinx,
    node: pending_xref,
    content: nodes.Element,
    docname: str,
    anchor: str,
    title: str,
) -> nodes.reference:
    from docutils import nodes

    link = nodes.reference("", "", internal=True, reftitle=title)
    link["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], docname)}#{anchor}"
    link += content
    return link


def split_attributes(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Give each of ``mean, scale`` below "Attributes" an entry of its own."""
    heads = [i for i, line in enumerate(lines) if re.fullmatch(r"-{3,}", line)]
    for head in reversed(heads):
        if lines[head - 1] != "Attributes":
            continue
        end = next((h - 1 for h in heads if h > head), len(lines))
        made: list[str] = []
        names: list[str] = []
        text: list[str] = []
        for line in [*lines[head + 1 : end], "end"]:
            if line[:1] in ("", " "):
                text.append(line)
                continue
            made += [part for own in names for part in (own, *text)]
            several, colon, kind = line.partition(" : ")
            names = [f"{own}{colon}{kind}" for own in several.split(", ")]
            text = []
        lines[head + 1 : end] = made


def skip(
    app: Sphinx, what: str, name: str, found: object, skipped: bool, options: object
) -> bool | None:
    """Leave out the methods that scikit-learn makes for its routing of metadata."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def write_pages(app: Sphinx, config: Config) -> None:
    """Write the pages below ``docs/api/``."""
    folder = Path(app.srcdir) / "api"
    write(folder / "index.rst", index())
    write(folder / "command.md", command_page())
    for group in GROUPS:
        write(folder / f"{group.stem}.rst", page(group))
    tables = {f"ppl_zoo.{n}" for g in GROUPS for names in g.sections.values() for n in names}
    for stale in (folder / "generated").glob("*.rst"):
        if stale.stem not in tables:
            stale.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for files; resolve names by the objects they name."""
    from sphinx.domains.python import PyObject

    app.connect("config-inited", write_pages)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", split_attributes, priority=400)  # before napoleon
    # an attribute's name is no link: another class may have one of that name
    for kind in PyObject.doc_field_types:
        if kind.name == "variable":
            kind.rolename = ""
    return {"parallel_read_safe": True, "parallel_write_safe": True}
