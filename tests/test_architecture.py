"""The house rules that imports show: arrows between the parts point one way.

To add a part, an arrow or an exception, change the tables; a reason stands beside each line.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ppl_zoo"

# A part is a file or folder right below ppl_zoo/ ("data/rows" is a part of its own: see there).
# It may import the parts named here, and whatever these may import in turn.
ARROWS: dict[str, set[str]] = {
    # The ground: imports nothing, or its neighbours on the ground.
    "errors": set(),
    "card": {"errors"},
    "tracing": {"errors"},
    "imaging": {"errors"},
    "annealing": set(),  # integrals of densities, plain tensors
    "data/rows": {"errors"},  # how a fit reads its data, not a data set: models need it
    "data": set(),
    "queries": {"tracing", "data/rows"},  # the three queries, a base class of Model
    "model": {"card", "errors", "queries"},
    # The house, from the ground up.
    "functions": {"model"},  # plain Pyro functions as models
    "compiler": {"model"},
    "solvers": {"compiler", "functions", "flows"},
    "diagnostics": {"compiler"},
    "flows": {"errors"},  # densities made of nets: priors and guides
    "models": {"model", "flows"},
    "fitting": {"solvers", "diagnostics", "data", "evaluation"},  # evaluation: what latents carry
    "pretrained": {"models"},
    "restoration": {"fitting", "models", "imaging", "pretrained"},
    "testing": {"fitting"},
    "calibration": {"fitting"},
    "evidence": {"fitting", "annealing"},  # log p(x) of a fit
    "local_density": {"model"},
    "evaluation": {"local_density", "annealing"},  # log p(x) of single rows
    "divergences": {"model"},  # any two models, fitted or not
    "catalogue": {"fitting", "models", "data"},
    "__init__": {  # the public surface
        "calibration",
        "catalogue",
        "divergences",
        "evaluation",
        "evidence",
        "restoration",
        "testing",
    },
    "cli": {"__init__"},  # it only calls the public surface
    "__main__": {"cli"},  # python -m ppl_zoo
}

# Files that are a piece of another part, split off for their length.
PIECE_OF: dict[str, str] = {
    "fitted": "fitting",  # the class Fit
    "fit_checks": "fitting",  # Fit.check
    "saving": "fitting",  # Fit.save and zoo.load, which the design counts to fitting.py
    "run_folder": "fitting",  # the files of a saved fit
    "encoding": "fitting",
    "latent_use": "evaluation",
    "recipes": "catalogue",
    "restoration_dip": "restoration",
    "restoration_draws": "restoration",
    "restoration_mode": "restoration",
}

# Arrows that only some files of a part have.
EXTRA_ARROWS: dict[str, set[str]] = {
    "models/images": {"imaging"},  # patches and operators
    "saving": {
        "models",
        "pretrained",
    },  # a saved run names the class of its model; models never import fitting
    "encoding": {"models"},
    "recipes": {"pretrained"},  # the prior of a model that is made of one
}

# Packages that only some files may import (prefixes of paths below ppl_zoo/).
CONFINED: dict[str, tuple[str, ...]] = {
    "jax": ("compiler/xla", "solvers/nuts"),  # slow to import, takes a GPU's memory
    "jaxlib": ("compiler/xla", "solvers/nuts"),
    "numpyro": ("compiler/xla", "solvers/nuts"),
    "optax": ("compiler/xla", "solvers/nuts"),
    "arviz": ("diagnostics/",),  # two generations: nobody else should meet them
    "arviz_base": ("diagnostics/",),
    "arviz_stats": ("diagnostics/",),
    "arviz_plots": ("diagnostics/",),
    "sklearn": (),  # an oracle of the tests, no dependency
    "skimage": (),
    "pickle": (),  # loading runs no code
    "cPickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
    "shelve": (),
    "marshal": (),
}

# Packages that at most one file may import, whichever it is.
ONE_FILE = ("lightning_fabric", "lightning", "zuko")

# Names that no file may use.
BANNED: dict[str, str] = {
    "torch.load": "it unpickles: weights are safetensors",
    "torch.save": "it pickles: weights are safetensors",
    "pyro.infer.SVI": "zoo.SVI climbs with torch optimizers and no parameter store",
    "pyro.infer.JitTrace_ELBO": "it rests on torch.jit; the compiler captures programs",
}

# The library is silent; only the command talks.
MAY_PRINT = ("cli",)

# Comes in when it is used, not with `import ppl_zoo`.
NOT_AT_IMPORT = ("jax", "numpyro", "arviz", "matplotlib", "sklearn", "pooch", "PIL", "h5netcdf")


@dataclass(frozen=True)
class Import:
    """One imported name: the module of ppl_zoo or another package, and where it stands."""

    target: str
    line: int
    at_top: bool


@cache
def sources() -> dict[str, ast.Module]:
    """Return the syntax tree of every file, by its path below ppl_zoo/ without the suffix."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(
            path.read_text(encoding="utf-8"), filename=str(path)
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def module_file(dotted: str) -> str | None:
    """Return the file of a module of ppl_zoo, such as `data/rows`, or None."""
    package, *below = dotted.split(".")
    if package != PACKAGE.name:
        return None
    for candidate in ("/".join(below), "/".join([*below, "__init__"])):
        if candidate in sources():
            return candidate
    return None


@cache
def imports(file: str) -> tuple[Import, ...]:
    """Return all imports of a file, those in functions too."""
    tree = sources()[file]
    package = ["ppl_zoo", *file.split("/")[:-1]]
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from a import b` means the module a.b where there is one.
            names = [f"{module}.{alias.name}" for alias in node.names]
            ours = module.split(".")[0] == "ppl_zoo"
            targets = [name if ours and module_file(name) else module for name in names]
            if not ours:
                targets = names
        else:
            continue
        found += [Import(target, node.lineno, id(node) in top) for target in targets]
    return tuple(found)


def part_of(file: str) -> str:
    """Return the part that a file belongs to: the longest name in ARROWS that begins its path."""
    pieces = file.split("/")
    for length in range(len(pieces), 0, -1):
        name = "/".join(pieces[:length])
        name = PIECE_OF.get(name, name)
        if name in ARROWS:
            return name
    return pieces[0]


def reachable(part: str) -> set[str]:
    """Return the parts that a part may import: its arrows, followed to the end."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        for target in ARROWS[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


def allowed_parts(file: str) -> set[str]:
    part = part_of(file)
    starts = [part]
    for prefix, targets in EXTRA_ARROWS.items():
        if file.startswith(prefix):
            starts += targets
    return {part, *starts, *(target for start in starts for target in reachable(start))}


def offences(file: str) -> Iterator[str]:
    """Yield the arrows of a file that point the wrong way."""
    allowed = allowed_parts(file)
    for imported in imports(file):
        if imported.target.split(".")[0] != "ppl_zoo":
            continue
        target_file = module_file(imported.target)
        if target_file is None:  # something that is not there yet, or not a module
            target_file = "/".join(imported.target.split(".")[1:]) or "__init__"
        target = part_of(target_file)
        if target not in allowed:
            yield f"ppl_zoo/{file}.py:{imported.line} imports {imported.target} ({target})"


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return base and f"{base}.{node.attr}"
    return None


# --- the tables themselves ---------------------------------------------------------------------


def test_the_table_has_no_circle():
    TopologicalSorter(ARROWS).prepare()
    named = {target for targets in ARROWS.values() for target in targets}
    assert named <= set(ARROWS)


def test_the_rules_of_the_design_follow_from_the_table():
    assert {"fitting", "solvers", "diagnostics", "compiler", "model"} <= reachable("catalogue")
    assert "solvers" not in reachable("models") | reachable("diagnostics")
    assert "diagnostics" not in reachable("solvers")
    assert "imaging" not in reachable("models")
    assert "imaging" in allowed_parts("models/images/patch_prior")
    assert [part for part, targets in ARROWS.items() if "cli" in targets] == ["__main__"]
    ground = {"errors", "card", "tracing", "data/rows", "queries"}
    assert reachable("imaging") | reachable("data") | reachable("model") <= ground


# --- the arrows --------------------------------------------------------------------------------


def test_every_file_belongs_to_a_part():
    unknown = {f"ppl_zoo/{file}.py" for file in sources() if part_of(file) not in ARROWS}
    assert not unknown, "add a line to ARROWS that says what this part may import"


def test_arrows_point_one_way():
    files = [file for file in sources() if part_of(file) in ARROWS]
    wrong = [offence for file in files for offence in offences(file)]
    assert not wrong, "\n".join(["arrows that ARROWS does not have:", *wrong])


def test_no_file_imports_itself_in_a_circle():
    graph = {}
    for file in sources():
        targets = {module_file(i.target) for i in imports(file) if i.at_top}
        graph[file] = {t for t in targets if t is not None and t != file}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# --- packages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", CONFINED)
def test_packages_stay_where_they_belong(package):
    places = CONFINED[package]
    wrong = [
        f"ppl_zoo/{file}.py:{imported.line} imports {imported.target}"
        for file in sources()
        for imported in imports(file)
        if imported.target.split(".")[0] == package and not file.startswith(places)
    ]
    assert not wrong, f"{package} belongs in {places or 'no file'}: " + "; ".join(wrong)


@pytest.mark.parametrize("package", ONE_FILE)
def test_packages_of_one_file(package):
    files = {f for f in sources() for i in imports(f) if i.target.split(".")[0] == package}
    assert len(files) <= 1, sorted(files)


def test_the_branch_between_arviz_generations_is_one_file():
    """A file branches if it asks for the version of ArviZ or imports a part of 1.x by name."""
    files = set()
    for file, tree in sources().items():
        for node in ast.walk(tree):
            version = dotted_name(node) in ("az.__version__", "arviz.__version__")
            if isinstance(node, ast.Call) and node.args:
                function = (dotted_name(node.func) or "").split(".")[-1]
                first = node.args[0]
                version = (
                    function == "version"
                    and isinstance(first, ast.Constant)
                    and first.value == "arviz"
                )
            if version:
                files.add(file)
        if any(i.target.startswith("arviz_") for i in imports(file)):
            files.add(file)
    assert len(files) <= 1, sorted(files)


# --- names -------------------------------------------------------------------------------------


def test_banned_names():
    wrong = []
    for file, tree in sources().items():
        used = [(i.target, i.line) for i in imports(file)]
        used += [(dotted_name(node), node.lineno) for node in ast.walk(tree) if name_like(node)]
        wrong += [
            f"ppl_zoo/{file}.py:{line} uses {name}: {BANNED[name]}"
            for name, line in used
            if name in BANNED
        ]
    assert not wrong, "\n".join(wrong)


def name_like(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute | ast.Name)


def test_arrays_are_never_unpickled():
    wrong = [
        f"ppl_zoo/{file}.py:{node.value.lineno}"
        for file, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not wrong, wrong


def test_the_library_does_not_print():
    wrong = [
        f"ppl_zoo/{file}.py:{node.lineno}"
        for file, tree in sources().items()
        if part_of(file) not in MAY_PRINT
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted_name(node.func) == "print"
    ]
    assert not wrong, wrong


# --- the weight of an import -------------------------------------------------------------------


@pytest.mark.parametrize("module", ["ppl_zoo", "ppl_zoo.data"])
def test_import_is_light(module):
    program = f"import sys, {module}; print(*[m for m in {NOT_AT_IMPORT} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stdout.split(), f"import {module} brings in {result.stdout.split()}"
