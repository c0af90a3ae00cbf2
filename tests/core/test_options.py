"""Options by keyword: misspelt ones, and those that had another name in earlier versions."""

import dataclasses
import inspect
import subprocess
import sys
import typing
from importlib.resources import files

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo import solvers
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.solver import Solver
from ppl_zoo.fitting.encoding import decode_solver, encode_solver

X = torch.linspace(-1.0, 1.0, 60)[:, None].expand(60, 2) * torch.tensor([1.0, -0.5])
Y = torch.arange(60) % 3
SOLVERS = [
    cls
    for cls in vars(zoo.surface).values()
    if isinstance(cls, type) and issubclass(cls, Solver) and cls is not Solver
]
#: one word for one thing, in all solvers
WORDS = {
    "max_steps": "steps",
    "iterations": "steps",
    "num_steps": "steps",
    "burn_in": "num_warmup",
    "num_draws": "num_samples",
    "draws": "num_samples",
    "chains": "num_chains",
    "runs": "num_chains",
    "num_restarts": "restarts",
    "lr": "learning_rate",
}
OLD = [(cls, old, new) for cls in SOLVERS for old, new in cls.old_names.items()]


def test_one_word_for_one_thing():
    assert {cls.__name__ for cls in SOLVERS} >= {"EM", "CAVI", "SVI", "NUTS", "SGLD", "Tiling"}
    for cls in SOLVERS:
        names = {field.name for field in dataclasses.fields(cls)}
        assert not names & set(WORDS), cls


@pytest.mark.parametrize(("cls", "old", "new"), OLD)
def test_old_names_go_on_with_a_warning(cls, old, new):
    with pytest.warns(DeprecationWarning, match=f"{cls.__name__}: .*'{old}' is called '{new}'"):
        solver = cls(**{old: 9})
    assert solver == cls(**{new: 9})
    with pytest.warns(DeprecationWarning, match=f"'{old}' is called '{new}' now"):
        assert getattr(solver, old) == 9
    with pytest.raises(TypeError, match=f"got '{old}' and '{new}', expected '{new}' alone"):
        cls(**{old: 9, new: 9})


def test_old_names_are_these():
    assert {(cls.__name__, old, new) for cls, old, new in OLD} == {
        ("EM", "max_steps", "steps"),
        ("CAVI", "max_steps", "steps"),
        ("SGLD", "burn_in", "num_warmup"),
        ("SGLD", "num_draws", "num_samples"),
        ("EarlyStopping", "runs", "num_chains"),
        ("Tiling", "num_draws", "num_samples"),
        ("SplitGibbs", "num_draws", "num_samples"),
    }


@pytest.mark.parametrize(("cls", "old", "new"), OLD)
def test_saved_solvers_with_old_names_are_read_without_a_word(cls, old, new):
    record = encode_solver(cls(**{new: 9}))
    record["options"][old] = record["options"].pop(new)
    assert decode_solver(record) == cls(**{new: 9})


@pytest.mark.parametrize("cls", SOLVERS)
def test_every_solver_names_the_nearest_option(cls):
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(TypeError, match=rf"{cls.__name__} has no option.*did you mean '{name}'"):
        cls(**{f"{name[:-1]}": 1})
    assert list(inspect.signature(cls).parameters) == [f.name for f in dataclasses.fields(cls)]


def mixture():
    return zoo.GaussianMixture(2, 2)


def fitted(model, data, *more, **options):
    return zoo.fit(model, data, *more, progress=False, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.SVI(step=3), "SVI has no option 'step' (did you mean 'steps'?)"),
        (lambda: zoo.GaussianMixture(num_component=3), "did you mean 'num_components'?"),
        (lambda: zoo.GaussianMixture(3), "GaussianMixture: missing a required argument"),
        (lambda: zoo.GausianMixture, "'GausianMixture' (did you mean 'GaussianMixture'?)"),
        (lambda: zoo.data.load("old-faithfull"), "(did you mean 'old-faithful'?)"),
        (lambda: zoo.data.load("digits", binarise=True), "(did you mean 'binarize'?)"),
        (lambda: zoo.GaussianMixture(2, 2, covariance="diag"), "(did you mean 'diagonal'?)"),
        (lambda: zoo.ZOO[0].recipe("scarsity"), "expected one of: "),
        (lambda: zoo.restore(X, sigma=0.1, method="posterier"), "(did you mean 'posterior'?)"),
        (lambda: fitted(mixture(), X, sed=3), "fit has no option 'sed' (did you mean 'seed'?)"),
        (lambda: fitted(X, mixture()), "swapped: zoo.fit(model, data)"),
        (lambda: fitted(zoo.GaussianMixture, X), "make one of it: zoo.fit(GaussianMixture(...)"),
        (lambda: fitted(zoo.LogisticRegression(2, 2), (X, Y)), "num_classes=3 takes them"),
        (lambda: fitted(zoo.NaiveBayes(2, 2, kind="gaussian"), (X, Y)), "num_classes=3 takes"),
        (lambda: fitted(zoo.BayesianLogisticRegression(2), (X, Y)), "take more classes"),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises((TypeError, ValueError, AttributeError)) as error:
        make()
    assert message in str(error.value)
    assert len(str(error.value)) < 700 and "tensor(" not in str(error.value)


def test_what_is_no_solver_is_named_by_its_mend():
    """In a process of its own: here the types of arguments are checked before."""
    program = """
import torch, ppl_zoo as zoo
model, x = zoo.GaussianMixture(2, 2), torch.randn(60, 2)
for order in ((x, zoo.EM), (x, "em"), (x, "ems"), (zoo.EM(), x), (x, x)):
    try:
        zoo.fit(model, *order)
    except zoo.DataError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    expected = "expected zoo.SVI(...), zoo.EM(...), ..."
    assert done.stdout.splitlines() == [
        f"solver: got the class EM, {expected}; make one: zoo.EM()",
        f"solver: got 'em', {expected}; make one: zoo.EM()",
        f"solver: got 'ems', {expected} (did you mean 'EM'?)",
        "data: got EM(), expected data; the order is zoo.fit(model, data, solver)",
        f"solver: got a Tensor (60, 2), {expected}",
    ]


def test_a_misspelt_column_and_site_are_named():
    import pandas as pd

    frame = pd.DataFrame({"height": X[:, 0].numpy(), "weight": X[:, 1].numpy()})
    fit = fitted(mixture(), frame, zoo.EM(steps=3))
    held = fit.model.sample(2, given={"height": 0.5})
    assert held.shape == (2, 2) and (held[:, 0] == 0.5).all()
    with pytest.raises(zoo.DataError, match="'heigth' .did you mean 'height'"):
        fit.model.sample(2, given={"heigth": 0.5})
    fit = fitted(zoo.NormalGamma(), X[:, 0], zoo.CAVI(steps=3))
    with pytest.raises(zoo.DataError, match="given: got 'presision' .did you mean 'precision'"):
        fit.model.sample(2, given={"presision": 0.5})


def test_what_is_far_from_all_names_suggests_none():
    assert did_you_mean("xyzzy", ["steps", "tol"]) == "" == did_you_mean(3, ["steps"])
    assert did_you_mean("NUM-COMPONENT", ["num_components"]) != ""


def test_types_are_there_for_the_user():
    """mypy on a program of the user's was tried by hand; here what it reads."""
    assert files("ppl_zoo").joinpath("py.typed").is_file()
    assert typing.get_type_hints(zoo.fit)["return"] is zoo.Fit
    assert inspect.signature(zoo.fit).parameters["seed"].default == 0
    for cls in SOLVERS:
        assert all(field.type for field in dataclasses.fields(cls))
    assert set(solvers.__all__) - {"LocalELBO", "Solution"} <= {cls.__name__ for cls in SOLVERS}
