"""Header of a table: whether its first line names the columns, and the names.

A word above numbers is a name. Where the types do not tell, pandas' rule holds (words are names,
numbers are data), but for numbers that look like names; what was assumed is said.
"""

from __future__ import annotations

import itertools
import re

from ppl_zoo.data.column_types import is_word

__all__ = ["NUM_LINES_SAMPLED", "distinct_names", "has_header"]

#: lines that tell the separator and whether there is a header
NUM_LINES_SAMPLED = 500
SHORT_INTEGER = re.compile(r"\d{1,9}", re.A)
#: integers that may be years
YEARS = (1500, 2200)
#: fewest rows of fractions under integers that make these the names of columns
MIN_ROWS_OF_FRACTIONS = 3
#: fewest columns 0, 1, 2 ... that are names, as pandas writes those of an array
MIN_COLUMNS_COUNTED = 4


def has_header(first: list[str], body: list[list[str]], notes: list[str]) -> bool:
    """Tell whether the first line names the columns, by what stands below it."""
    columns = list(zip(*body, strict=True)) if body else [()] * len(first)
    filled = [[cell for cell in column if cell] for column in columns]
    words = [is_word(cell) for cell in first]
    if not body:
        return all(words)
    values = [bool(cells) and not any(map(is_word, cells)) for cells in filled]
    if any(w and v for w, v in zip(words, values, strict=True)):
        return True  # a word above numbers
    if not first[0] and len(body) > 1 and columns[0] == tuple(map(str, range(len(body)))):
        return True  # nothing above an index
    if all(w or not cell for w, cell in zip(words, first, strict=True)) and any(words):
        repeats = [cell in column for cell, column in zip(first, columns, strict=True) if cell]
        if any(repeats) or len(set(first)) < len(first):
            notes.append(
                "the first line is taken as data, since its words occur again; header=0"
                " makes it names"
            )
            return False
        if not any(values) and any(filled):
            notes.append(
                "the first line is taken as the names of the columns, though nothing but"
                " words stands below it; header=None makes it data"
            )
        return True
    return _numeric_header(first, filled, words, notes)


def _numeric_header(
    first: list[str], filled: list[list[str]], words: list[bool], notes: list[str]
) -> bool:
    """Tell whether integers in the first line are names, such as years."""
    places = [i for i, cell in enumerate(first) if cell and not words[i]]
    integers = [int(first[i]) for i in places if SHORT_INTEGER.fullmatch(first[i])]
    below = [filled[i] for i in places]
    if not places or len(integers) < len(places) or len(set(integers)) < len(integers):
        return False
    if not any(below):
        return False
    steps = {b - a for a, b in itertools.pairwise(integers)}
    fractions = all(
        len(cells) >= MIN_ROWS_OF_FRACTIONS and not any(cell.isdigit() for cell in cells)
        for cells in below
    )
    in_steps = len(steps) == 1 and steps != {0}
    first_year, last_year = YEARS
    years_below = any(
        SHORT_INTEGER.fullmatch(cell) and first_year <= int(cell) <= last_year
        for cells in below
        for cell in cells
    )
    years = all(first_year <= i <= last_year for i in integers) and not years_below
    counted = integers == list(range(len(first))) and len(first) >= MIN_COLUMNS_COUNTED
    other_words = all(is_word(cell) for cells in below for cell in cells)
    found = fractions or (years and in_steps) or counted or other_words
    meaning, mend = (
        ("names of columns", "header=None makes them data")
        if found
        else ("data", "header=0 makes them names of columns")
    )
    if found or years or (in_steps and (len(integers) > 2 or steps == {1})):
        span = " ... ".join(dict.fromkeys((first[places[0]], first[places[-1]])))
        notes.append(f"the numbers {span} in the first line are taken as {meaning}; {mend}")
    return found


def distinct_names(first: list[str], notes: list[str]) -> tuple[str, ...]:
    """Names of the columns, each once, numbered as pandas does it."""
    taken = set(first)
    seen: set[str] = set()
    names = []
    for name in first:
        if name and name in seen:
            new = next(n for i in itertools.count(1) if (n := f"{name}.{i}") not in taken)
            notes.append(f"the second column {name!r} is called {new!r}")
            taken.add(new)
            name = new
        seen.add(name)
        names.append(name)
    return tuple(names)
