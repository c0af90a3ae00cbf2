"""The examples run, with small arguments; so does the program on the README's first screen."""

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ARGUMENTS = {
    "fixed_draws": {"num_rows": 60, "steps": 50},
    "autoregressive_samples": {"steps": 5, "draws": 2},
    "mnist_nets": {"draws": 3, "halves": 1},
    "inpainting": {"steps": 5, "draws": 2, "digits": 1},
    "bayesian_mixture": {"components": 4, "passes": 5},
    "mean_field": {"simulations": 5},
    "deep_image_prior": {
        "size": 32,
        "steps": 24,
        "net": {"num_inputs": 4, "down": (8, 8), "up": (8, 8), "skip": (0, 4)},
        "out": tempfile.gettempdir(),
    },
    "diagnosis": {"evidence": ["smoke=yes", "dysp=yes"], "do": ["asia=yes"]},
    "eight_schools": {"steps": 30, "draws": 20},
    "gaussian_mixture": {"largest": 2, "restarts": 1},
    "markov_text": {"orders": (0, 1), "length": 20},
    "factor_analysis": {"largest": 2, "rows": 300},
    "gradient_estimators": {"repeats": 200, "out": tempfile.gettempdir()},
    "ising": {"size": 12, "sweeps": 20},
    "patch_priors": {
        "rows": 300,
        "components": (1, 3),
        "steps": 2,
        "out": tempfile.gettempdir(),
    },
    "restore_photo": {"size": 48, "draws": 8, "out": tempfile.gettempdir()},
    "model_comparison": {"rows": 20, "draws": 500},
    "own_model": {"steps": 30, "draws": 20},
    "sklearn_shell": {"largest": 2, "folds": 2, "starts": 1},
    "vae": {"steps": 30, "samples": 100, "nuts": 150, "out": tempfile.gettempdir()},
    "blackjax_referee": {"draws": 2000, "warmup": 2000},
    "spam_filter": {
        "data": "digits",
        "sizes": (50, 100),
        "seeds": 1,
        "out": tempfile.gettempdir(),
    },
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


#: examples that take five seconds and more
LONG = {
    *("mnist_nets", "vae", "bayesian_mixture", "deep_image_prior", "fixed_draws", "patch_priors"),
    *("model_comparison", "blackjax_referee"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in ARGUMENTS]
)
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
