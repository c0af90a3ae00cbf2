"""Pages of the models, made from their cards.

They are written when the documentation is built, or by `python docs/_ext/model_pages.py`, and kept
in the repository, so that they can be read there; a test holds them to the cards.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ppl_zoo as zoo
from ppl_zoo.models.card import Card

if TYPE_CHECKING:  # the text of the pages is made without Sphinx
    from sphinx.application import Sphinx
    from sphinx.config import Config

ROOT = Path(__file__).resolve().parent.parent.parent
COSTS = ROOT / "benchmarks" / "results" / "model_costs.json"
PICTURES = ROOT / "docs" / "pictures"

FAMILIES = {
    "regression": "Regressions",
    "discrete": "Discrete data",
    "mixtures": "Mixtures",
    "latent": "Continuous latents, and spins",
    "autoregressive": "Autoregressive nets",
    "images": "Patches and images",
}
QUERIES = {
    "log_prob": "How probable is a row? (density)",
    "sample": "What would a new row be? (generation)",
    "encode": "What is behind a row? (representation)",
}
ANSWERS = {
    "exact": "exact",
    "bound": "a bound, or an estimate of one",
    "estimate": "an estimate, by draws of the posterior",
    "none": "not answered",
}


def page(card: Card) -> str:
    """Page of a model, in Markdown."""
    parts = [
        f"# {card.title}",
        card.summary,
        _picture(card),
        "## The model",
        _story(card),
    ]
    if card.formula:
        parts += ["Its density, or what takes its place:", f"$$\n{card.formula}\n$$"]
    parts += [_program_picture(card), "## Three questions", _queries(card)]
    parts += ["## How to fit it", _recipes(card)]
    if costs := _costs(card):
        parts += ["## What it costs", costs]
    if card.figures:
        parts += ["## Published and obtained", _figures(card)]
    parts += ["## How it fails", "\n".join(f"- {mode}" for mode in card.failure_modes)]
    links = [f"- {r.authors} ({r.year}). [{r.title}]({r.link})." for r in card.references]
    parts += ["## References", "\n".join(links)]
    return "\n\n".join(part for part in parts if part) + "\n"


def index() -> str:
    """Page that lists the models, family by family."""
    parts = [
        "# Models",
        f"{len(zoo.ZOO)} models, each with what it assumes, which questions it answers and how "
        "well, what it costs, the numbers that others published beside those obtained here, and "
        "how it fails. In a terminal, `ppl-zoo show NAME` says the same.",
    ]
    for family, heading in FAMILIES.items():
        cards = [card for card in zoo.ZOO if card.family == family]
        rows = [
            f"| [{c.title}]({c.name}) | "
            + " | ".join(c.queries[q].replace("none", "-") for q in QUERIES)
            + f" | {', '.join(c.solvers)} |"
            for c in cards
        ]
        head = "| model | density | new rows | behind a row | solvers |\n|---|---|---|---|---|"
        names = "\n".join(card.name for card in cards)
        parts += [f"## {heading}", "\n".join([head, *rows])]
        parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"


def _picture(card: Card) -> str:
    path = PICTURES / f"{card.name}.png"
    if not path.exists():
        return ""
    return (
        f"![{card.title}, fitted](../pictures/{card.name}.png)\n\n"
        f"Made by `python docs/make_pictures.py --only {card.name}`."
    )


def _story(card: Card) -> str:
    """Docstring of the class up to its first section, as reStructuredText."""
    text = inspect.cleandoc(card.model_class.__doc__ or "")
    text = re.split(r"\n(?:Parameters|Attributes|References|Raises|Examples)\n-+\n", text)[0]
    text = text.partition("\n")[2].strip()  # the first line repeats the summary
    own = f":meth:`~ppl_zoo.{_class_name(card)}."
    text = re.sub(r":meth:`(?=\w+`)", own, text)
    return f"```{{eval-rst}}\n{text}\n```"


def _class_name(card: Card) -> str:
    return card.factory.partition(":")[2]


def _program_picture(card: Card) -> str:
    """Graphical model of the program, drawn by `zoo.render`."""
    path = PICTURES / f"{card.name}-program.svg"
    if not path.exists():
        return ""
    return f"Drawn by `zoo.render`:\n\n![graphical model](../pictures/{path.name})"


def _queries(card: Card) -> str:
    rows = [
        f"| {question} | `model.{name}` | {ANSWERS[card.queries[name]]} |"
        for name, question in QUERIES.items()
    ]
    return "\n".join(["| question | call | answer |", "|---|---|---|", *rows])


def _recipes(card: Card) -> str:
    solvers = ", ".join(
        f"[`zoo.{name}`](#ppl_zoo.{name})" + (" (its default)" if place == 0 else "")
        for place, name in enumerate(card.solvers)
    )
    lines = [f"ppl-zoo fit {card.name} --recipe {r.name}  # {r.title}" for r in card.recipes]
    name = _class_name(card)
    text = f"By {solvers}. All arguments: [`zoo.{name}`](#ppl_zoo.{name})."
    if not lines:
        return f"{text}\n\n```bash\nppl-zoo show {card.name}\n```"
    return (
        f"{text} Fits that are known to work, from the command line:\n\n"
        "```bash\n" + "\n".join(lines) + "\n```"
    )


def _costs(card: Card) -> str:
    record = json.loads(COSTS.read_text(encoding="utf-8"))["models"].get(card.name)
    if record is None:
        return ""
    lines = []
    for what, word, other in (("rows", "rows", "features"), ("features", "features", "rows")):
        found = record[what]
        if len(found["sizes"]) < 2:
            continue
        for key, label in (("log_prob", "density"), ("step", "step of the fit")):
            seconds, exponent = found[f"{key}_seconds"], found[f"{key}_exponent"]
            if seconds is None:
                continue
            times = ", ".join(f"{1000 * s:.3g}" for s in seconds)
            sizes = ", ".join(f"{s:,}" for s in found["sizes"])
            grows = "-" if exponent is None else f"{exponent:.2f}"
            lines.append(
                f"| {label} | {sizes} {word} | {found['at']:,} {other} | {times} | {grows} |"
            )
    step = {
        "EM": "A step is an iteration over all rows.",
        "CAVI": "A step is an iteration over all rows.",
        "EarlyStopping": "A step is one of the optimiser, interpreted.",
    }.get(
        record["solver"],
        "A step is a stochastic one over all rows, interpreted; compiled, small ones are some "
        "hundred times cheaper ([measured](../programs.md)).",
    )
    head = (
        "| of what | at | with | CPU milliseconds | grows with the power |\n|---|---|---|--:|--:|"
    )
    return (
        "\n".join([head, *lines]) + f"\n\n{step} One thread, float32, synthetic data; where calls "
        "take less than some milliseconds, the overhead of Python hides the growth. Measured by "
        f"`python benchmarks/model_costs.py --only {card.name}`."
    )


def _figures(card: Card) -> str:
    rows = [
        f"| {_cell(f.what)} | {_number(f.published)} | {_number(f.reproduced)} "
        f"| {_cell(f.source)} |"
        for f in card.figures
    ]
    head = "| what | published | obtained here | published by |\n|---|--:|--:|---|"
    commands = "\n".join(dict.fromkeys(f.command for f in card.figures))
    table = "\n".join([head, *rows])
    return f"{table}\n\nObtain them again:\n\n```bash\n{commands}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.7g}"


def write(path: Path, text: str) -> None:
    """Write a page where it has changed, so that Sphinx reads no other anew."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_pages(app: Sphinx | None = None, config: Config | None = None) -> None:
    """Write the pages of all models below ``docs/models/``."""
    folder = ROOT / "docs" / "models"
    pages = {"index": index()} | {card.name: page(card) for card in zoo.ZOO}
    for name, text in pages.items():
        write(folder / f"{name}.md", text)
    for stale in folder.glob("*.md"):
        if stale.stem not in pages:
            stale.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for files."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    write_pages()
