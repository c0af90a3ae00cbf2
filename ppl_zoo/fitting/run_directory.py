"""The files of a run directory: tensors as safetensors, the rest as JSON, nothing pickled.

``fit.json`` holds the model's class and arguments, the solver's options, seed, versions, and the
SHA-256 of the files of tensors: ``weights``, ``state``, ``history`` and ``data``, with the
beginning of that SHA-256 in their names (``.safetensors``). New tensors are written beside the
old ones, then ``fit.json`` is replaced, then what no record lists goes: at each moment there is a
complete run, and what else stands in the folder is left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import load_file, save_file
from torch import Tensor

from ppl_zoo.core.errors import RunError
from ppl_zoo.fitting.run_record import (
    FILES,
    FORMATS,
    TENSOR_FILE,
    parse_json,
    parse_record,
    write_record,
)

try:
    import fcntl
except ImportError:  # pragma: no cover - where there is none, saves do not wait for each other
    fcntl = None

__all__ = ["read_run", "try_place", "write_run"]

RECORD = "fit.json"
#: a folder of files that are being written, safetensors' own temporary ones among them
PART = re.compile(r"\.ppl-zoo-[0-9a-f]{16}\.part")
#: how often a run that is saved again meanwhile is read anew
MAX_READS = 20


def try_place(path: Path) -> None:
    """Try whether a run can be written there, before the work of a fit.

    Raises
    ------
    RunError
        If something else than a run stands there, or nothing can be written.
    """
    with _told(path):
        _refuse_others(path)
        new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        try:
            with _part(path) as part:
                (part / RECORD).write_bytes(b"{}")
        finally:
            with suppress(OSError):
                if new:
                    path.rmdir()


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

    Raises
    ------
    RunError
        If something else than a run stands there, or writing fails; the run that stood there
        before is intact then.
    """
    with _told(path):
        _refuse_others(path)
        path.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            former = _listed(path)
            try:
                with _part(path) as part:
                    sums = {}
                    for name in FILES:
                        if tensors[name]:
                            file = part / name
                            save_file(_apart(tensors[name]), file)
                            # who may read a folder may read what is in it
                            file.chmod(path.stat().st_mode & 0o666)
                            _sync(file)
                            digest = _sha256(file)
                            final = f"{name}-{digest[:16]}.safetensors"
                            os.replace(file, path / final)
                            sums[final] = digest
                    (part / RECORD).write_bytes(write_record({**record, "files": sums}))
                    _sync(part / RECORD)
                    os.replace(part / RECORD, path / RECORD)
            finally:
                with suppress(OSError, RunError):  # what is left goes at the next save
                    _sweep(path, former)
            _sweep_former_layout(path)


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a run: what its ``fit.json`` says, and the tensors of each of ``FILES``.

    Raises
    ------
    RunError
        If the run is missing, truncated, corrupt or of another format.
    """
    if not os.path.lexists(path / RECORD):
        for folder in _left_by_former_layout(path):
            with suppress(RunError):
                return _read_whole(folder)
    return _read_whole(path)


def _read_whole(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    record = _read_record(path)
    for _ in range(MAX_READS):
        try:
            return record, _read_tensors(path, record["files"])
        except RunError:
            before, record = record, _read_record(path)
            if record["files"] == before["files"]:
                raise
    raise RunError(f"{path}: is saved again faster than it can be read")


def _read_tensors(path: Path, files: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in FILES}
    for name, digest in files.items():
        file = path / name
        if not os.path.lexists(file):
            raise RunError(f"{file}: missing, expected the files {sorted(files)}")
        if _sha256(file) != digest:
            raise RunError(f"{file}: corrupt or truncated (its checksum is not that of fit.json)")
        try:
            tensors[TENSOR_FILE.fullmatch(name)[1]] = load_file(file)
        except Exception as error:  # of any kind: a header may be anything
            raise RunError(f"{file}: corrupt: {_cause(error)}") from error
    return tensors


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    try:
        if not os.path.lexists(file):
            raise RunError("no run here (no fit.json), expected a folder made by fit.save()")
        with _opened(file) as stream:
            return parse_record(stream.read())
    except (RunError, OSError, ValueError) as error:
        raise RunError(f"{file}: {_cause(error)}") from error


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open a regular file; links are not followed, and pipes and devices, which may hang, not met.

    Raises
    ------
    RunError
        If it is something else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise RunError("is no regular file; links are not followed")
    with os.fdopen(os.open(file, flags | getattr(os, "O_BINARY", 0)), "rb") as stream:
        yield stream


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with _opened(file) as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except (RunError, OSError) as error:
        raise RunError(f"{file}: {_cause(error)}") from error
    return digest.hexdigest()


# ---- writing ------------------------------------------------------------------------------------


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Let every failure to write be one that says the path, the cause and what is intact."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, RunError) and str(error).startswith(str(path))
        text = str(error) if told else f"{path}: cannot be saved: {_cause(error)}"
        with suppress(OSError, RunError, ValueError):
            _read_tensors(path, _read_record(path)["files"])
            text += "; the run that was saved there before is intact"
        raise RunError(text) from error


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, (RunError, OSError)) else f"{error!r}"


def _refuse_others(path: Path) -> None:
    """Refuse a place where something else than a run stands."""
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise RunError(f"{path}: got a file, expected a new folder, or that of an earlier run")
    if os.path.lexists(path / RECORD):
        _listed(path)
        return
    others = sorted(name for name in os.listdir(path) if not _is_left(name))
    if others:
        raise RunError(
            f"{path}: got a folder that is no run (it holds {others[0]!r}), expected a new "
            "folder, or that of an earlier run"
        )


def _listed(path: Path) -> set[str]:
    """Names of the files that the record of a run lists; empty where there is no run.

    Raises
    ------
    RunError
        If its ``fit.json`` is none of ours, which is then not for us to replace.
    """
    file = path / RECORD
    if not os.path.lexists(file):
        return set()
    try:
        with _opened(file) as stream:
            record = parse_json(stream.read())
        if record["format"] not in FORMATS:
            raise RunError(f"got format {record['format']!r:.40}, expected one of {FORMATS}")
        return {RECORD, *filter(TENSOR_FILE.fullmatch, record["files"])}
    except Exception as error:
        raise RunError(
            f"{file}: is no record of a run that can be read ({_cause(error):.200}), and is not "
            "replaced: remove it, or choose another folder"
        ) from error


def _is_left(name: str) -> bool:
    """Whether a file or folder is one that an unfinished save may have left."""
    match = TENSOR_FILE.fullmatch(name)
    return PART.fullmatch(name) is not None or (match is not None and match[2] is not None)


def _sweep(path: Path, former: set[str]) -> None:
    """Remove the files of a former save, and of unfinished ones, that the record does not list."""
    present = _listed(path)
    for name in os.listdir(path):
        if PART.fullmatch(name):
            shutil.rmtree(path / name, ignore_errors=True)
        elif name not in present and (name in former or _is_left(name)):
            with suppress(OSError):
                os.unlink(path / name)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Make a folder for files that are being written, for a while."""
    part = path / f".ppl-zoo-{secrets.token_hex(8)}.part"
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that safetensors takes: on the CPU, contiguous, none in the memory of another."""
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        if one.untyped_storage().data_ptr() in seen:
            one = one.clone()
        seen.add(one.untyped_storage().data_ptr())
        found[name] = one
    return found


def _sync(file: Path) -> None:
    """Wait until a file is on the disk, so that no crash of the system finds it empty."""
    with open(file, "r+b") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let other threads and processes that save to the same folder wait."""
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


# ---- what a kill left when runs were written beside their place and moved there -----------------


def _left_by_former_layout(path: Path) -> list[Path]:
    """Folders that an unfinished save of an earlier version left, new runs before old ones."""
    name = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}(-old)?")
    try:
        with os.scandir(path.parent) as entries:
            found = [
                (
                    not entry.name.endswith("-old"),
                    entry.stat(follow_symlinks=False).st_mtime,
                    entry,
                )
                for entry in entries
                if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
    found.sort(key=lambda one: one[:2], reverse=True)
    return [path.parent / entry.name for _, _, entry in found]


def _sweep_former_layout(path: Path) -> None:
    """Remove such folders, but for those with files of somebody else."""
    ours = {RECORD, "about.json", *(f"{name}.safetensors" for name in FILES)}
    for folder in _left_by_former_layout(path):
        with suppress(OSError):
            names = os.listdir(folder)
            if ours.issuperset(names):
                for name in names:
                    os.unlink(folder / name)
                folder.rmdir()
