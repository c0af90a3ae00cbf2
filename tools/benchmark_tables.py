"""Tables of the benchmarks: benchmarks/README.md from its template and the recorded results.

The template, benchmarks/README.template.md, has a placeholder where a number stands:

    {{svi > rows > eight schools > ours_us | .1f}}     a value of benchmarks/results/svi.json
    {{uci > rows > red-wine RNADE > test | -.2f}}      the same, negated
    {{naive_bayes > ... > accuracy | 100* .2f}}        the same, times 100
    {{figures}}                                        a whole table, one of ``TABLES``

    python tools/benchmark_tables.py            # writes benchmarks/README.md
    python tools/benchmark_tables.py --check    # exits with 1 where it is not what it would be
"""

import argparse
import json
import re
import statistics
import sys
from functools import cache
from pathlib import Path

from ppl_zoo.models.catalogue import ZOO

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TEMPLATE, PAGE = BENCHMARKS / "README.template.md", BENCHMARKS / "README.md"
PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
FORMAT = re.compile(r"(?:(?P<factor>[\d.e]+)\* ?)?(?P<minus>-?)(?P<spec>[.,\d]*[a-z%]?)")


@cache
def record(name: str) -> dict:
    """Record of a benchmark, with the counts that its page tells."""
    found = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    if name == "posteriordb":
        for which in ("posteriors", "bugs"):
            rows = found[which].values()
            found[f"{which} in all"] = len(rows)
            found[f"{which} right"] = sum(row["right"] for row in rows)
            found[f"{which} wrong and passed"] = sum(
                not row["right"] and row["passed"] for row in rows
            )
            found[f"{which} right and refused"] = sum(
                row["right"] and not row["passed"] for row in rows
            )
    if name == "programs":
        compiled = [row for row in found["programs"].values() if row["step_us"] is not None]
        found["in all"], found["compiled"] = len(found["programs"]), len(compiled)
        ratios = [row["pyro_us"] / row["step_us"] for row in compiled]
        found["median ratio"], found["least ratio"] = statistics.median(ratios), min(ratios)
    if name == "held_out":
        found["rows"] = {row["model"]: row for row in found["rows"]}
    if name == "deep_image_prior":
        stops = [row["default less best"] for row in found["stopping"].values()]
        found["worst stop"], found["images stopped"] = min(stops), len(stops)
    return found


def value(text: str) -> str:
    """Text of a placeholder: its number, formatted."""
    if text in TABLES:
        return TABLES[text]()
    path, _, form = text.partition("|")
    name, *keys = (part.strip() for part in path.split(" > "))
    number = record(name)
    for key in keys:
        if key not in number:
            raise KeyError(f"{{{{{text}}}}}: got {key!r}, expected one of {list(number)}")
        number = number[key]
    if not isinstance(number, int | float):
        raise TypeError(f"{{{{{text}}}}}: got {type(number).__name__}, expected a number")
    asked = FORMAT.fullmatch(form.strip())
    if asked is None:
        raise ValueError(f"{{{{{text}}}}}: expected a format such as .2f, -.2f or 100* .1f")
    number *= float(asked["factor"] or 1.0) * (-1.0 if asked["minus"] else 1.0)
    if asked["spec"].endswith("d"):
        number = round(number)
    return format(number, asked["spec"])


def figures() -> str:
    """Table of the published numbers of all cards, beside those obtained."""
    lines = ["| model | number | published | obtained | command |", "|---|---|--:|--:|---|"]
    lines += [
        f"| {card.title} | {figure.what} | {figure.published:g} | {figure.reproduced:g} | "
        f"`{figure.command}` |"
        for card in ZOO
        for figure in card.figures
        if figure.reproduced is not None
    ]
    return "\n".join(lines)


def posteriors() -> str:
    """Rows of the table of mean-field and full-rank fits beside Pyro's."""
    lines = []
    for name, row in record("posteriors")["rows"].items():
        here, pyro = row["ppl_zoo"], row["pyro"]
        cells = (
            f"{row['optimum']:.2f}",
            *(
                f"{fit['elbo']:.2f} | {fit['cpu_seconds']:.1f} | {fit['mean_error']:.2f}"
                for fit in (here, pyro)
            ),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


#: tables that are made whole
TABLES = {"figures": figures, "posteriors": posteriors}


def page() -> str:
    """Text of benchmarks/README.md."""
    template = TEMPLATE.read_text(encoding="utf-8")
    return PLACEHOLDER.sub(lambda match: value(match[1]), template)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
