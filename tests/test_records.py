"""Pages of the documentation and the README say what the recorded results say."""

import importlib.util
import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest

import ppl_zoo as zoo

ROOT = Path(__file__).parent.parent


def program(name, folder="benchmarks"):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ):  # threads of a benchmark
        spec.loader.exec_module(module)
    return module


tables = program("benchmark_tables", "tools")


@pytest.mark.parametrize("name", ["programs", "posteriordb"])
def test_a_page_is_made_from_its_record(name):
    module = program(name)
    record = json.loads(module.RESULTS.read_text())
    assert module.PAGE.read_text() == module.shown(record)


def test_the_page_of_numbers_is_made_from_the_records():
    assert tables.PAGE.read_text() == tables.page()


@pytest.mark.parametrize(
    "text", ["svi > rows > schools > ours_us", "svi > rows | .1f", "svi > versions > torch | .1f"]
)
def test_a_placeholder_without_a_number_is_refused(text):
    with pytest.raises((KeyError, TypeError)):
        tables.value(text)


SPAMBASE = "naive_bayes > spambase_ten_folds"
#: where the number of a card is recorded, for what its command does not name
RECORDED = {
    "alarm: all posterior marginals": "bayes_net > nets > alarm > batch_ms_per_row",
    "accuracy in ten folds of Spambase, Bern": f"{SPAMBASE} > bernoulli > accuracy",
    "accuracy in ten folds of Spambase, Gauss": f"{SPAMBASE} > gaussian > accuracy",
    "accuracy in ten folds of Spambase, log": f"{SPAMBASE} > logistic > accuracy",
    "PSNR on Set12, noise of 15": "epll > denoising > set12 15 > best",
    "PSNR on Set12, noise of 25": "epll > denoising > set12 25 > best",
    "PSNR on Set12, noise of 50": "epll > denoising > set12 50 > best",
    "gmm200-patches": "epll > patches > rnade coordinates, test",
    "PSNR on a crop of F16": "deep_image_prior > f16 > mean psnr",
    "log likelihood of BSDS300 test": "patch_priors > priors > gaussian > test",
}


PYAGRUM = "pyagrum_ShaferShenoyInference_ms_per_row"


def recorded(figure):
    if only := re.search(r"benchmarks/(uci|mnist)\.py --only '?([^']+)'?", figure.command):
        return f"{only[1]} > rows > {only[2]} > test"
    return next(path for what, path in RECORDED.items() if figure.what.startswith(what))


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(figure, id=f"{card.name}-{index}")
        for card in zoo.ZOO
        for index, figure in enumerate(card.figures)
        if figure.reproduced is not None and "benchmarks/" in figure.command
    ],
)
def test_a_card_quotes_the_record(figure):
    digits = len(str(figure.reproduced).partition(".")[2])
    assert tables.value(f"{recorded(figure)} | .{digits}f") == f"{figure.reproduced:.{digits}f}"


def test_the_readme_is_short_and_its_figures_are_the_records():
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") <= 110
    for sentence in (
        "of {{programs > in all | d}} published programs {{programs > compiled | d}} compile",
        "{{programs > median ratio | .0f}} times as fast in the median",
        "over its actual error is {{epll > posterior > 25 > sd over error | .2f}}",
        "intervals cover {{epll > posterior > 25 > 90 % intervals cover | .2f}}",
        "in {{bayes_net > nets > alarm > batch_ms_per_row | .3f}} ms an evidence row",
        "pyAgrum takes {{bayes_net > nets > alarm > " + PYAGRUM + " | .2f}}",
    ):
        told = tables.PLACEHOLDER.sub(lambda match: tables.value(match[1]), sentence)
        assert told in readme
    record = tables.record("posteriordb")
    num = record["posteriors in all"] + record["bugs in all"]
    wrong = record["posteriors wrong and passed"] + record["bugs wrong and passed"]
    assert f"of {num} posteriors with references {({0: 'no', 1: 'one'})[wrong]} wrong" in readme


def test_every_picture_of_a_page_is_there_and_every_link_to_a_file():
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)[)#]", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), target
