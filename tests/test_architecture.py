"""The architecture that imports show: arrows between the folders go down, none in a circle.

`ARROWS` is the whole of it. A folder may import itself and the folders named beside it.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ppl_zoo"

# From the ground up; each folder may import those named, and itself.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "compiler": {"core"},
    "imaging": {"core"},
    "data": {"core", "imaging"},
    "diagnostics": {"core"},
    "solvers": {"core", "compiler"},
    "models": {"core", "data", "imaging"},
    "evaluation": {"core", "solvers", "diagnostics"},
    "fitting": {"core", "models", "solvers", "diagnostics", "evaluation"},
    "restoration": {"core", "models", "solvers", "imaging", "fitting"},
    "testing": {"core", "solvers", "fitting"},
    "sklearn": {"core", "models", "solvers", "fitting"},
    "cli": {
        *("core", "data", "imaging", "solvers", "diagnostics", "models", "fitting"),
        "restoration",
    },
}
# The public surface imports every folder, the command the public surface.
SURFACE = ("__init__", "__main__", "surface")

# Packages that only some files may import (prefixes of paths below ppl_zoo/).
CONFINED: dict[str, tuple[str, ...]] = {
    "jax": ("compiler/xla/", "solvers/nuts/numpyro_engine"),  # slow to import, takes GPU memory
    "jaxlib": ("compiler/xla/", "solvers/nuts/numpyro_engine"),
    "numpyro": ("compiler/xla/", "solvers/nuts/numpyro_engine"),
    "optax": ("compiler/xla/", "solvers/nuts/numpyro_engine"),
    "arviz": ("diagnostics/",),  # two generations: nobody else should meet them
    "arviz_base": ("diagnostics/",),
    "arviz_stats": ("diagnostics/",),
    "arviz_plots": ("diagnostics/",),
    "sklearn": ("sklearn/",),  # an extra: the shell of its name, and an oracle of the tests
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
    "pyro.infer.SVI": "zoo.SVI takes torch optimizers and no parameter store",
    "pyro.infer.JitTrace_ELBO": "it rests on torch.jit; the compiler captures programs",
}

# The library is silent; only the command talks.
MAY_PRINT = ("cli",)

# Comes in when it is used, not with the public names.
NOT_AT_IMPORT = (
    *("jax", "numpyro", "arviz", "matplotlib", "sklearn", "pooch", "PIL", "h5netcdf", "pandas"),
    *("xarray", "zuko", "torch._dynamo", "torch._inductor"),
)
# Packages that may come in: with `import ppl_zoo`, and with the help of the command, which waits
# for tyro and nothing else.
WITH_THE_PACKAGE = {"ppl_zoo"}
WITH_THE_HELP = {"ppl_zoo", "tyro", "docstring_parser", "typing_extensions", "typeguard"}


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
    """Return the file of a module of ppl_zoo, such as `core/rows`, or None."""
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
    # what runs or is checked when the file is imported: `if TYPE_CHECKING` counts
    top = {id(node) for block in tree.body for node in [block, *getattr(block, "body", [])]}
    inner = {
        id(node)
        for block in tree.body
        if isinstance(block, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(block)
    }
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
        at_top = id(node) in top and id(node) not in inner
        found += [Import(target, node.lineno, at_top) for target in targets]
    return tuple(found)


def folder_of(file: str) -> str:
    return file.split("/")[0]


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return base and f"{base}.{node.attr}"
    return None


def check_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# --- the arrows --------------------------------------------------------------------------------


def test_the_table_has_no_circle():
    check_no_circle(ARROWS)
    assert {target for targets in ARROWS.values() for target in targets} <= set(ARROWS)


def test_every_file_lies_in_a_folder():
    folders = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert folders == {*ARROWS, *(f"{name}.py" for name in SURFACE), "py.typed"}


def test_arrows_point_down():
    wrong = []
    for file in sources():
        folder = folder_of(file)
        for imported in imports(file):
            if folder in SURFACE or imported.target.split(".")[0] != "ppl_zoo":
                continue
            target = module_file(imported.target) or "/".join(imported.target.split(".")[1:])
            if folder_of(target) not in {folder, *ARROWS[folder]}:
                wrong.append(f"ppl_zoo/{file}.py:{imported.line} imports {imported.target}")
    assert not wrong, "\n".join(["arrows that ARROWS does not have:", *wrong])


def test_no_file_imports_itself_in_a_circle():
    graph = {}
    for file in sources():
        targets = {module_file(i.target) for i in imports(file) if i.at_top}
        graph[file] = {t for t in targets if t is not None and t != file}
    check_no_circle(graph)


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


def test_public_classes_have_names_of_their_own():
    """A grep for a class finds one class; scikit-learn's shell has the names that it has there."""
    places: dict[str, list[str]] = {}
    for file, tree in sources().items():
        if folder_of(file) == "sklearn":
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


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
        if folder_of(file) not in MAY_PRINT
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted_name(node.func) == "print"
    ]
    assert not wrong, wrong


# --- the weight of an import -------------------------------------------------------------------


def modules_of(program):
    """Modules that a program has imported at its end, in a process of its own."""
    program = f"import sys; before = set(sys.modules)\n{program}\n"
    program += "print(*set(sys.modules) - before, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


@pytest.mark.parametrize("module", ["ppl_zoo.surface", "ppl_zoo.data"])
def test_import_is_light(module):
    found = modules_of(f"import {module}") & set(NOT_AT_IMPORT)
    assert not found, f"import {module} brings in {found}"


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("import ppl_zoo", WITH_THE_PACKAGE),
        ("from ppl_zoo.cli import main; main(['--help'])", WITH_THE_HELP),
        ("from ppl_zoo.cli import main; main(['completion', '--help'])", WITH_THE_HELP),
    ],
)
def test_what_waits_for_nothing(program, allowed):
    """Neither the package itself nor the command's help imports torch, Pyro or NumPy."""
    packages = {name.split(".")[0] for name in modules_of(program)}
    brought = packages - set(sys.stdlib_module_names) - {"__editable___ppl_zoo_0_1_0_finder"}
    assert brought <= allowed, f"{program!r} brings in {brought - allowed}"
