"""What became of one fit of the demo, as a line of its table and as a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_zoo.card import Card, Recipe
from ppl_zoo.diagnostics.report import Section, number

__all__ = ["COLUMNS", "WORDS", "Outcome"]

COLUMNS = ("model", "solver", "data", "objective", "held out", "R-hat", "k-hat", "seconds")
#: columns of words, which stand on the left
WORDS = (0, 1, 2)


@dataclass
class Outcome:
    """What became of one recipe; plain values, so that no fit is kept alive."""

    card: Card
    recipe: Recipe
    name: str
    solver: str = ""
    objective: float | None = None
    stopped: str = ""
    steps: int = 0
    held_out: tuple[float, str] | None = None
    rhat: float | None = None
    khat: float | None = None
    seconds: float | None = None
    error: str | None = None
    section: Section | None = None

    def row(self) -> tuple[str, ...]:
        """Return the line of the table."""
        held = "-" if self.held_out is None else f"{number(self.held_out[0])} ({self.held_out[1]})"
        data = self.recipe.data
        if self.error is not None:
            return (self.card.name, "failed", data, "-", "-", "-", "-", "-")
        return (
            self.card.name,
            self.solver,
            data,
            number(self.objective),
            held,
            number(self.rhat, 3),
            number(self.khat),
            number(self.seconds, 1),
        )

    def record(self) -> dict[str, Any]:
        """Return what a program would read."""
        held = self.held_out
        return {
            "name": self.name,
            "model": self.card.name,
            "recipe": self.recipe.name,
            "data": self.recipe.data,
            "solver": self.solver or None,
            "objective": self.objective,
            "stopped": self.stopped or None,
            "steps": self.steps,
            "held_out": None if held is None else {"log_density": held[0], "split": held[1]},
            "rhat": self.rhat,
            "khat": self.khat,
            "seconds": self.seconds,
            "error": self.error,
        }
