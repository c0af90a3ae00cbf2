"""Pages of the documentation and the README say what the recorded results say."""

import importlib.util
import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ):  # threads of a benchmark
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["programs", "posteriordb"])
def test_a_page_is_made_from_its_record(name):
    module = benchmark(name)
    record = json.loads(module.RESULTS.read_text())
    assert module.PAGE.read_text() == module.shown(record)


def test_the_readme_counts_programs_as_the_record_does():
    record = json.loads((ROOT / "benchmarks" / "results" / "programs.json").read_text())
    compiled = sum(row["step_us"] is not None for row in record["programs"].values())
    said = re.search(
        r"Of (\d+) published Pyro programs (\d+) compile", (ROOT / "README.md").read_text()
    )
    assert said.groups() == (str(len(record["programs"])), str(compiled))
