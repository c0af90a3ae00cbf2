"""The files of a run directory: tensors as safetensors, the rest as JSON, nothing pickled.

``fit.json`` holds the model's class and arguments, the solver's options, seed, versions and the
SHA-256 of the other files; ``weights``, ``state``, ``history`` and ``data`` (all
``.safetensors``) hold tensors. A run is written beside its place and moved there when it is
complete, so that a run directory is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppl_zoo.core.errors import RunError

__all__ = ["FILES", "read_run", "write_run"]

FORMAT = 1
FILES = ("weights", "state", "history", "data")


def write_run(
    path: Path, record: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]
) -> None:
    """Write a run, replacing the one that stands there.

    Parameters
    ----------
    path
        The run directory.
    record
        What goes into ``fit.json``; format and checksums are added.
    tensors
        For each of ``FILES`` its tensors by name; a file without any is not written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        sums = {}
        for name in FILES:
            if not tensors[name]:
                continue
            file = place / f"{name}.safetensors"
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors[name].items()}, file)
            sums[file.name] = _sha256(file)
        whole = {"format": FORMAT, **record, "files": sums}
        (place / "fit.json").write_text(json.dumps(whole, indent=1) + "\n")
        os.chmod(place, 0o755)
        _replace(place, path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a run: what its ``fit.json`` says, and the tensors of each of ``FILES``.

    Raises
    ------
    RunError
        If the run is missing, truncated, corrupt or of another format.
    """
    record = _read_record(path)
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in FILES}
    for name, digest in record["files"].items():
        file = path / name
        if not file.is_file():
            raise RunError(f"{file}: missing, expected the files {sorted(record['files'])}")
        if _sha256(file) != digest:
            raise RunError(f"{file}: corrupt or truncated (its checksum is not that of fit.json)")
        try:
            tensors[file.stem] = load_file(file)
        except SafetensorError as error:
            raise RunError(f"{file}: corrupt: {error}") from error
    return record, tensors


def _read_record(path: Path) -> dict:
    file = path / "fit.json"
    if not file.is_file():
        raise RunError(f"{path}: no run here (no fit.json), expected a folder made by fit.save()")
    try:
        record = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: corrupt or truncated: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise RunError(f"{file}: got format {found}, expected {FORMAT}")
    missing = {"model", "solver", "files", "dtype", "seed", "state"} - record.keys()
    if missing:
        raise RunError(f"{file}: incomplete, without {sorted(missing)}")
    return record


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _replace(new: Path, path: Path) -> None:
    """Put a complete folder in the place of another."""
    if not path.exists():
        os.replace(new, path)
        return
    old = new.with_name(new.name + "-old")
    os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old, ignore_errors=True)
