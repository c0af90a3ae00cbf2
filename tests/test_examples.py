"""The examples run, with small numbers; so does the program on the README's first screen."""

import ast
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parent.parent

#: assignments at the top of an example, and what they are in a test
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
    },
    "diagnosis": {"evidence": {"smoke": "yes", "dysp": "yes", "asia": "yes"}},
    "eight_schools": {"steps": 30, "draws": 20},
    "gaussian_mixture": {"largest": 2, "restarts": 1},
    "markov_text": {"orders": (0, 1), "length": 20, "most": 5000},
    "factor_analysis": {"largest": 2, "rows": 300},
    "gradient_estimators": {"repeats": 200},
    "ising": {"size": 12, "sweeps": 20},
    "patch_priors": {"rows": 300, "components": (1, 3), "steps": 2},
    "restore_photo": {"size": 48, "draws": 8},
    "model_comparison": {"rows": 20, "draws": 500},
    "own_model": {"steps": 30, "draws": 20},
    "sklearn_shell": {"largest": 2, "folds": 2, "starts": 1},
    "vae": {"steps": 30, "samples": 100, "nuts": 150},
    "blackjax_referee": {"draws": 2000, "warmup": 2000},
    "spam_filter": {"sizes": (50, 100), "seeds": 1},
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


#: examples that take five seconds and more
LONG = {
    *("mnist_nets", "vae", "bayesian_mixture", "deep_image_prior", "fixed_draws", "patch_priors"),
    *("model_comparison", "blackjax_referee"),
}


def with_settings(source, settings):
    """Parse a script and set values that it assigns at its top; each has to be assigned once."""
    tree, left = ast.parse(source), dict(settings)
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        (target,) = node.targets
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for place, (name, value) in enumerate(pairs):
            if isinstance(name, ast.Name) and name.id in left:
                new = ast.copy_location(ast.parse(repr(left.pop(name.id))).body[0].value, value)
                if value is node.value:
                    node.value = new
                else:
                    node.value.elts[place] = new
    assert not left, f"the script assigns no {', '.join(left)}"
    return ast.fix_missing_locations(tree)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in ARGUMENTS]
)
def test_example(name, capsys, monkeypatch):
    path = ROOT / "examples" / f"{name}.py"
    tree = with_settings(path.read_text(encoding="utf-8"), ARGUMENTS[name])
    module = types.ModuleType(name)
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, name, module)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.get_fignums())))
    try:
        exec(compile(tree, path, "exec"), vars(module))
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()  # a wrong figure is found when it is drawn
    finally:
        plt.close("all")
    assert capsys.readouterr().out
    assert shown
    assert min(shown) > 0
