"""Every block of code of the documentation runs, and prints what its page says."""

import shlex
import warnings

import matplotlib
import numpy as np
import pyro
import pytest
import torch
from pages import PAGES, ROOT, Page, blocks_of, differs

from ppl_zoo.cli.parser import read_request

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
SLOW = [n for n in NAMES if any(b.slow for b in blocks_of((ROOT / n).read_text()))]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, and all settings that a page may change put back."""
    monkeypatch.chdir(tmp_path)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    dtype, backend = torch.get_default_dtype(), matplotlib.get_backend()
    matplotlib.use("Agg")
    with pyro.get_param_store().scope(), matplotlib.rc_context():
        yield
    matplotlib.pyplot.close("all")
    matplotlib.use(backend)
    torch.set_default_dtype(dtype)
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)


def check(name, with_slow):
    page = Page(ROOT / name)
    with page.imported():
        for block in page.blocks:
            if block.slow and not with_slow:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # a reader sees warnings, not errors
                printed = page.run(block)
            if block.prints is not None:
                assert not differs(block.prints, printed), f"{name}:{block.line}"


#: pages whose blocks run each time; those of the others are run by `make slow`
QUICK = ("README.md", "docs/start.md", "docs/write_your_own_model.md", "docs/which_solver.md")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_the_blocks_of_a_page_run(name, desk):
    check(name, with_slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_slow_blocks_of_a_page_run(name, desk):
    check(name, with_slow=True)


def commands(name):
    for block in blocks_of((ROOT / name).read_text()):
        if block.language not in ("bash", "sh", "console"):
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["ppl-zoo"]:
                yield words[1 : words.index("|")] if "|" in words else words[1:]


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_exist(name):
    for words in commands(name):
        read_request(words)  # exits where an option is not known


@pytest.mark.parametrize(
    ("promised", "printed", "same"),
    [
        ("k-hat 0.52", "k-hat 0.53", True),
        ("k-hat 0.52", "k-hat 0.82", False),
        ("-1130.26 nats in 3.1 s", "-1130.31 nats in 9 s", True),
        ("converged after 34 steps", "converged after 51 steps", True),
        ("3 chains", "4 chains", False),
        ("mean 1.0", "mean 1.0 and more", False),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc\ne", False),
        ("a\nb", "a", False),
        ("a", "a\nb", False),
    ],
)
def test_what_is_printed_is_compared_to_two_digits(promised, printed, same):
    assert bool(differs(promised, printed)) != same


def test_slow_blocks_and_what_blocks_print_are_found():
    page = "```python\n1\n```\n\n```text\none\n```\n\n<!-- slow -->\n```python\n2\n```\n words\n"
    first, _, second = blocks_of(page)
    assert (first.prints, first.slow, first.line) == ("one\n", False, 2)
    assert (second.prints, second.slow) == (None, True)
