"""The documentation site: pages of the cards, names of the API, the gallery, and the build."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_zoo as zoo

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
#: folders of pages that are made when the site is built
MADE = ("api", "gallery")


@pytest.fixture
def extension(monkeypatch):
    """Import an extension of the site, which is no package."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module


@pytest.mark.parametrize("card", zoo.ZOO, ids=lambda card: card.name)
def test_each_card_has_a_page(card, extension):
    text = extension("model_pages").page(card)
    assert text.startswith(f"# {card.title}\n")
    assert "generative model" in text.lower()
    assert card.formula in text
    assert f"pictures/{card.name}.png" in text
    for mode in card.failure_modes:
        assert mode in text
    for figure in card.figures:
        assert figure.command in text
    for recipe in card.recipes:
        assert f"--recipe {recipe.name}" in text
    assert all(reference.link in text for reference in card.references)
    # written anew by `python docs/_ext/model_pages.py`
    assert (DOCS / "models" / f"{card.name}.md").read_text() == text


def test_a_card_says_how_it_fails_and_the_command_shows_it(capsys):
    from ppl_zoo.cli import main

    for card in zoo.ZOO:
        assert 1 <= len(card.failure_modes) <= 3, card.name
        assert all(mode.endswith(".") for mode in card.failure_modes), card.name
        assert card.formula, card.name
    assert main(["show", "gaussian-mixture"]) == 0
    assert "Components collapse onto single rows" in " ".join(capsys.readouterr().out.split())


def test_pictures_are_of_cards_and_modest():
    pictures = {path.stem: path.stat().st_size for path in (DOCS / "pictures").glob("*.png")}
    assert {card.name for card in zoo.ZOO} <= set(pictures)
    assert max(pictures.values()) <= 60_000
    assert sum(pictures.values()) <= 3_000_000


def test_costs_are_those_of_the_record(extension):
    """The page of a model shows the seconds that were recorded, in milliseconds."""
    record = json.loads((ROOT / "benchmarks" / "results" / "model_costs.json").read_text())
    # one iteration of mini dead leaves takes minutes, which is not waited for
    assert {card.name for card in zoo.ZOO} - set(record["models"]) <= {"mini-dead-leaves"}
    page = extension("model_pages").page(next(c for c in zoo.ZOO if c.name == "gaussian-mixture"))
    for seconds in record["models"]["gaussian-mixture"]["rows"]["log_prob_seconds"]:
        assert f"{1000 * seconds:.3g}" in page


def test_each_public_name_is_in_the_api_once(extension):
    pages = extension("api_pages")
    names = list(pages.documented())
    assert len(names) == len(set(names)), [n for n in set(names) if names.count(n) > 1]
    public = set(zoo.__all__)
    assert public - set(names) == set(pages.MODULES)
    assert set(pages.MODULES.values()) <= {group.stem for group in pages.GROUPS}
    for module in ("data", "evaluation", "imaging", "testing"):
        shown = {name for name in getattr(zoo, module).__all__}
        assert {f"{module}.{name}" for name in shown} <= set(names)


def test_each_name_of_the_api_is_found(extension):
    pages = extension("api_pages")
    missing = [name for name in pages.documented() if pages._find(f"ppl_zoo.{name}") is None]
    assert missing == []


def test_the_commands_help_is_what_it_prints(extension):
    text = extension("api_pages").command_page()
    for subcommand in ("list", "show", "fit", "inspect", "demo", "restore", "reproduce"):
        assert f"## ppl-zoo {subcommand}" in text
    assert "usage: ppl-zoo fit" in text
    assert "\x1b" not in text


def test_pages_that_a_toctree_names_are_there():
    for path in DOCS.rglob("*.md"):
        if path.relative_to(DOCS).parts[0] in (*MADE, "_build"):
            continue
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            for line in lines:
                name = re.sub(r".*<(.*)>", r"\1", line)
                if name.split("/")[0] not in MADE:
                    assert (path.parent / f"{name}.md").is_file(), f"{path.name}: {name}"


def test_examples_are_percent_scripts_with_a_place_in_the_gallery(extension):
    order = extension("gallery").ORDER
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert {path.stem for path in paths} == set(order)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        title, line, *_ = text.removeprefix('"""\n').splitlines()
        assert line == "=" * len(title), path.name
        assert len(re.findall(r"^# %%$", text, re.M)) >= 2, path.name
        assert "plt.show()" in text, path.name
        told = "not run when the documentation is built" in text
        assert told == (not order[path.stem]), path.name


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    check = importlib.import_module("check_links")
    (tmp_path / "llms.txt").write_text("- [whole](a.html)\n- [gone](c.html)\n")
    (tmp_path / "a.html").write_text('<a href="b.html#here">1</a><a href="b.html#gone">2</a>')
    (tmp_path / "b.html").write_text(
        '<p id="here"><a href="https://x.org/">3</a><img src="x.png">'
    )
    assert check.broken_links(tmp_path) == [
        "a.html: b.html#gone",
        "b.html: x.png",
        "llms.txt: c.html",
    ]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_without_a_broken_link(tmp_path):
    out = tmp_path / "html"
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    build += ["-d", str(tmp_path / "doctrees"), str(DOCS), str(out)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check = [sys.executable, str(DOCS / "check_links.py"), str(out)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (out / "llms.txt").read_text().startswith("# ppl_zoo\n\n> ")
    assert len((out / "llms-full.txt").read_text()) > 10_000
