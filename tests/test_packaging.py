"""What is packaged: one version everywhere, and nothing that belongs to the repository alone."""

import re
import tomllib
from pathlib import Path

import ppl_zoo as zoo

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_one():
    newest = re.search(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", text("CHANGELOG.md"), re.M)[1]
    cited = re.search(r'^version: "?([\d.]+)"?$', text("CITATION.cff"), re.M)[1]
    assert PROJECT["version"] == zoo.__version__ == newest == cited


def test_the_package_is_typed():
    assert (ROOT / "ppl_zoo" / "py.typed").exists()


def test_each_pin_lies_within_the_bounds():
    from packaging.requirements import Requirement
    from packaging.version import Version

    pins = {}
    for line in text("constraints.txt").splitlines():
        if "==" in line and not line.startswith("#"):
            pin = Requirement(line)
            version = Version(next(iter(pin.specifier)).version)
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(version)
    extras = PROJECT["optional-dependencies"].values()
    for line in (*PROJECT["dependencies"], *(one for extra in extras for one in extra)):
        asked = Requirement(line)
        assert all(asked.specifier.contains(v) for v in pins[asked.name.lower()]), line


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")
