"""The examples run, with small arguments; so does the program on the README's first screen."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ARGUMENTS = {
    "eight_schools": {"steps": 30, "draws": 20},
    "gaussian_mixture": {"largest": 2, "restarts": 1},
    "own_model": {"steps": 30, "draws": 20},
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example(name, capsys):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(**ARGUMENTS[name])
    assert capsys.readouterr().out


def test_the_first_program_of_the_readme_runs(tmp_path):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    shorter = program.replace("zoo.SVI(", "zoo.SVI(steps=50, ")
    assert shorter != program
    path = tmp_path / "readme.py"
    path.write_text(shorter)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "k-hat" in done.stdout
