"""Model cards: summary, references, recipes and published numbers of a model.

A card is plain data. It names the class by its import path, so that reading cards imports no
model, and takes the answers to the queries from the class, so that the two cannot disagree.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ppl_zoo.core.display import Described, html_table
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.data import Dataset

__all__ = ["Card", "Figure", "Recipe", "Reference", "Size"]


@dataclass(frozen=True)
class Reference:
    """Bibliographic reference.

    Attributes
    ----------
    authors, year, title
        As they are cited.
    link
        Address at a DOI, arXiv or publisher; empty where there is none.
    venue
        Journal, proceedings or publisher; empty where it is on arXiv or the web alone.
    kind
        "article", "inproceedings", "book" or "software".

    Examples
    --------
    >>> print(Reference("Ada & Bo", 1999, "On dice", "https://doi.org/10.1/2", "Chance").bibtex())
    @article{ada1999dice,
      author = {Ada and Bo},
      title = {{On dice}},
      journal = {Chance},
      year = {1999},
      doi = {10.1/2},
      url = {https://doi.org/10.1/2}
    }
    """

    authors: str
    year: int
    title: str
    link: str
    venue: str = ""
    kind: str = "article"

    @property
    def key(self) -> str:
        """Key in BibTeX: the first author, the year and the first long word of the title."""
        author = _plain(re.split(r",| & | et al", self.authors)[0])
        words = [w for w in map(_plain, self.title.split()) if len(w) > 3 or w.isdigit()]
        return f"{author}{self.year}{words[0] if words else _plain(self.title)}"

    def bibtex(self) -> str:
        """Write a BibTeX entry; ``misc`` where there is no venue."""
        authors = re.split(r",\s+|\s+&\s+", self.authors.removesuffix(" et al."))
        names = [f"{{{_escaped(a)}}}" if " " in a else _escaped(a) for a in authors]
        if self.authors.endswith(" et al."):
            names.append("others")
        fields = {"author": " and ".join(names), "title": f"{{{_escaped(self.title)}}}"}
        place = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}
        entry = self.kind if self.venue and self.kind in place else "misc"
        if entry != "misc":
            fields[place[entry]] = _escaped(self.venue)
        fields["year"] = str(self.year)
        doi, arxiv = "https://doi.org/", "https://arxiv.org/abs/"
        if self.link.startswith(doi):
            fields["doi"] = self.link.removeprefix(doi)
        elif self.link.startswith(arxiv):
            fields |= {"eprint": self.link.removeprefix(arxiv), "archiveprefix": "arXiv"}
        if self.link:
            fields["url"] = self.link
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{entry}{{{self.key},\n{lines}\n}}"

    def part(self, where: str) -> Reference:
        """Return the reference to a part, a chapter or section of a book."""
        return replace(self, title=f"{self.title}, {where}")

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}). {self.title}. {self.link}".rstrip()


def _plain(text: str) -> str:
    """Letters and digits of ASCII, in lower case."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", ascii_only.lower())


def _escaped(text: str) -> str:
    """Escape what is a command in TeX."""
    return re.sub(r"([&%$#_])", r"\\\1", text)


@dataclass(frozen=True, repr=False)
class Recipe(Described):
    """Recipe of a fit that is known to work: the model's arguments, data, solver and seed.

    Attributes
    ----------
    name
        Unique on its card; ``ppl-zoo fit CARD --recipe NAME``.
    title
        One line on what the fit shows.
    data
        A name that ``zoo.data.load`` takes.
    model
        Arguments of the model; ``num_features`` is read off the data where it is left out.
    data_options
        Options of the data set.
    solver
        Name of a solver ("EM", "SVI"); None for the model's own default.
    options
        Options of the solver, added to those of the model's default if ``solver`` is None.
    seed
        Seed of the fit.
    dtype
        Floating type that the model is fitted in; None for that of the data.
    demo
        Whether ``ppl-zoo demo`` runs it: on embedded data, in seconds.
    """

    name: str
    title: str
    data: str
    model: Mapping[str, Any] = field(default_factory=dict, hash=False)
    data_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    solver: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int = 0
    dtype: str | None = None
    demo: bool = False


@dataclass(frozen=True, repr=False)
class Figure(Described):
    """Published number, beside the one that this project obtains.

    Attributes
    ----------
    what
        What was measured, with units.
    published
        The number in the literature, or of an independent program.
    source
        Who published it.
    reproduced
        The number that this project obtained when it was recorded; None if not yet.
    command
        Command that obtains it again.
    recipe
        Name of the recipe that ``ppl-zoo reproduce`` runs; None where ``command`` is a program
        of its own (a benchmark, a training run of hours).
    measure
        Called with the fit and the data set, returns the number.
    tolerance
        Largest difference that counts as none, from the published and from the recorded number.
    better
        "higher" or "lower" where a better value counts too; None where it has to be the same.
    """

    what: str
    published: float
    source: str
    reproduced: float | None
    command: str
    recipe: str | None = None
    measure: Callable[[FittedModel, Dataset], float] | None = field(default=None, hash=False)
    tolerance: float = 0.0
    better: str | None = None

    def missed(self, value: float) -> str:
        """Why a value does not reproduce the figure; empty where it does.

        It has to be as good as the published number, to the tolerance, and to be the one that
        was recorded: a value that is better than ever is not the one that is quoted either.
        """
        if self._gain(value) < -self.tolerance:
            how = "from the published one" if self.better is None else "worse than published"
            return f"{-self._gain(value):.3g} {how}"
        if self.reproduced is not None and not abs(value - self.reproduced) <= self.tolerance:
            return f"{abs(value - self.reproduced):.3g} from the recorded one"
        return "" if math.isfinite(value) else f"{value}"

    def agrees(self, value: float) -> bool:
        """Whether a value reproduces the published number, or betters it as it was recorded."""
        return not self.missed(value)

    def verdict(self, value: float) -> str:
        """Verdict in words: "yes", "better by 4.77" or "NO: ..."."""
        if missed := self.missed(value):
            return f"NO: {missed}"
        gain = self._gain(value)
        return f"better by {gain:.3g}" if gain > self.tolerance else "yes"

    def _gain(self, value: float) -> float:
        """How much better than the published number; its distance, negated, if it is to be met."""
        gain = value - self.published
        return {"higher": gain, "lower": -gain}.get(self.better, -abs(gain))


@dataclass(frozen=True)
class Size:
    """Number of free parameters of a model of n features, for comparison in tables.

    Attributes
    ----------
    formula
        In words or symbols, "2^n - 1".
    example
        Arguments of the model for n = 10 binary features.
    """

    formula: str
    example: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, repr=False)
class Card:
    """Model card.

    Attributes
    ----------
    name
        Name on the command line.
    title
        A few words for a table.
    family
        regression, discrete, mixtures, autoregressive, latent or images.
    factory
        Import path of the class, ``"package.module:Class"``.
    summary
        One sentence.
    solvers
        Names of the solvers that fit it, its own default first.
    references, recipes, figures
        Its sources, known fits, and published numbers.
    size
        Its number of free parameters, where a family compares them.
    formula
        Its density in LaTeX, or what takes its place; on its page.
    failure_modes
        Sentences on how it fails, one to three: what to look out for, and what helps.
    """

    name: str
    title: str
    family: str
    factory: str
    summary: str
    solvers: tuple[str, ...]
    references: tuple[Reference, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    figures: tuple[Figure, ...] = ()
    size: Size | None = None
    formula: str = ""
    failure_modes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Write its name, its class and how many recipes it has."""
        return (
            f"Card({self.name!r}, {self.factory.partition(':')[2]}, solvers="
            f"{', '.join(self.solvers)}; {len(self.recipes)} recipes)"
        )

    def _repr_html_(self) -> str:
        """Show what it is, how its queries are answered, and its sources."""
        rows = {"what it is": self.summary, "solvers": ", ".join(self.solvers)}
        rows |= {name: self.queries[name] for name in ("log_prob", "sample", "encode")}
        rows |= {f"recipe {recipe.name}": recipe.title for recipe in self.recipes}
        rows |= {f"source {i}": source for i, source in enumerate(self.references, 1)}
        return html_table(f"{self.title} ({self.name})", rows)

    @property
    def model_class(self) -> type[Model]:
        """Class of the model, imported on demand."""
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def queries(self) -> Mapping[str, str]:
        """How log_prob, sample and encode are answered: ``Model.queries`` of the class."""
        return self.model_class.queries

    def recipe(self, name: str) -> Recipe:
        """Return one of the recipes.

        Raises
        ------
        DataError
            If the card has no recipe of that name.
        """
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        names = [recipe.name for recipe in self.recipes]
        hint, known = did_you_mean(name, names), ", ".join(names) or "none"
        raise DataError(f"{self.name}: got recipe {name!r}{hint}, expected one of: {known}")
