"""Model cards: summary, references, recipes and published numbers of a model.

A card is plain data. It names the class by its import path, so that reading cards imports no
model, and takes the answers to the queries from the class, so that the two cannot disagree.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
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
        Address at a DOI, arXiv or publisher.
    """

    authors: str
    year: int
    title: str
    link: str

    def part(self, where: str) -> Reference:
        """Return the reference to a part, a chapter or section of a book."""
        return replace(self, title=f"{self.title}, {where}")

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}). {self.title}. {self.link}"


@dataclass(frozen=True)
class Recipe:
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


@dataclass(frozen=True)
class Figure:
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
        Largest difference that counts as reproduced.
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

    def agrees(self, value: float) -> bool:
        """Whether a value reproduces the published one, or is better."""
        gain = value - self.published
        if self.better == "higher":
            return gain >= -self.tolerance
        if self.better == "lower":
            return gain <= self.tolerance
        return abs(gain) <= self.tolerance


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


@dataclass(frozen=True)
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
        known = ", ".join(recipe.name for recipe in self.recipes) or "none"
        raise DataError(f"{self.name}: got recipe {name!r}, expected one of: {known}")
