"""The record of a run, ``fit.json``: its schema and its checksum.

Whoever made the file, what comes out of here has the fields that reading needs, each of its type
and within its range; the checksum tells damage, not who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ppl_zoo.core.errors import RunError

__all__ = ["FILES", "FORMATS", "TENSOR_FILE", "parse_json", "parse_record", "write_record"]

#: formats that are read, the last of which is written: from the second on the files of tensors
#: are named by their content, and the record has a checksum of its own
FORMATS = (1, 2)
FILES = ("weights", "state", "history", "data")
#: names of the files of tensors, such as ``weights-0f3a....safetensors``; without a digest in
#: runs of the first format
TENSOR_FILE = re.compile(rf"({'|'.join(FILES)})(-[0-9a-f]{{16}})?\.safetensors")
#: levels of lists and mappings in a record
MAX_DEPTH = 64
#: bytes of a record; sizes, names and options take thousands, long lists of words millions
MAX_RECORD_BYTES = 2**26

Test = Callable[[Any], bool]


def write_record(record: Mapping[str, Any]) -> bytes:
    """Write a record as the content of ``fit.json``, with format and checksum.

    Raises
    ------
    RunError
        If it could not be read back.
    """
    own = {k: v for k, v in record.items() if k not in ("format", "checksum")}
    try:
        body = parse_json(json.dumps({"format": FORMATS[-1], **own}).encode())
        content = json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"the record holds what JSON does not: {error}") from error
    parse_record(content)
    return content


def parse_record(content: bytes) -> dict[str, Any]:
    """Read the content of ``fit.json``.

    Raises
    ------
    RunError
        If it is corrupt, of another format, or a field is missing or out of its range.
    """
    try:
        record = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"corrupt or truncated: {error}") from error
    if not isinstance(record, dict):
        raise RunError(f"got a {type(record).__name__}, expected a mapping")
    version = record.get("format")
    if type(version) is bool or version not in FORMATS:
        raise RunError(f"got format {_shown(version)}, expected one of {list(FORMATS)}")
    # runs of the first format had no checksum
    checksum = record.pop("checksum", None)
    if version > 1 and checksum != _checksum(record):
        raise RunError("corrupt or changed by hand (its checksum is not its own)")
    _check_fields("", record, RECORD)
    if len(record["objective"]) != len(record["stopped"]):
        raise RunError(
            f"objective: got {len(record['objective'])} chains, expected those of stopped, "
            f"{len(record['stopped'])}"
        )
    _check_fields("state.", record["state"], STATE)
    for name, value in record["state"].items():
        if isinstance(value, dict):
            _check_fields(f"state.{name}.", value, CHAIN_STATE)
    return record


def parse_json(content: bytes) -> Any:
    """Read JSON whose keys stand once each and whose integers are of 64 bits.

    Raises
    ------
    ValueError
        If it is none, or larger or deeper than a record.
    RecursionError
        If it is deeper than Python's stack.
    """
    if len(content) > MAX_RECORD_BYTES:
        raise ValueError(f"got {len(content)} bytes, expected at most {MAX_RECORD_BYTES}")
    value = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_int=_integer)
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, (dict, list))]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"got more than {MAX_DEPTH} levels of lists and mappings")
        level = [v for held in level for v in (held.values() if isinstance(held, dict) else held)]
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} stands twice")
    return found


def _integer(text: str) -> int:
    # longer ones cost time that grows with the square of their digits
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"got the integer {text[:24]}..., expected 64 bits")
    return value


def _checksum(body: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its checksum, however it is indented."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# ---- the schema: of each field a test, what it expects, and whether it may be missing ----------


def _check_fields(
    prefix: str, record: Mapping[str, Any], fields: Mapping[str, tuple[Test, str, bool]]
) -> None:
    for name, (test, expected, optional) in fields.items():
        if name not in record:
            if not optional:
                raise RunError(f"incomplete, without {prefix}{name}, {expected}")
        elif not test(record[name]):
            raise RunError(f"{prefix}{name}: got {_shown(record[name])}, expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None)))


def _one_of(*types: type) -> Test:
    return lambda value: isinstance(value, types)


def _list_of(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _dict_of(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def _optional(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _mapping(**fields: Test) -> Test:
    """Test of a mapping with these fields and no others."""
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(test(value[name]) for name, test in fields.items())
    )


def _is_argument(value: Any) -> bool:
    """Whether this is an argument of a model, as ``encoding.encode`` writes it."""
    if isinstance(value, list):
        return all(map(_is_argument, value))
    if not isinstance(value, dict):
        return _is_plain(value)
    return _is_noted(value) or _mapping(tensor=_is_text)(value) or _is_arguments(value)


def _is_arguments(value: Any) -> bool:
    return _mapping(dict=_dict_of(_is_argument))(value)


def _is_option(value: Any) -> bool:
    """Whether this is an option of a solver, as ``encoding.encode_solver`` writes it."""
    return (
        _is_plain(value)
        or _is_noted(value)
        or _mapping(type=_is_text)(value)
        or _mapping(local_elbo=_dict_of(_is_plain))(value)
    )


def _is_call(value: Any) -> bool:
    """Whether this is an argument of a function, as ``Arguments.to_record`` writes it."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((kind, held),) = value.items()
    tests = {"tensor": _is_size, "value": _is_plain, "unsaved": _is_text, "dict": _is_calls}
    return tests.get(kind, _list_of(_is_call) if kind in ("list", "tuple") else _never)(held)


def _is_calls(value: Any) -> bool:
    return _dict_of(_is_call)(value)


def _never(value: Any) -> bool:
    return False


def _is_watch(value: Any) -> bool:
    return isinstance(value, dict) and _list_of(_is_number)(value.get("values", []))


def _is_categories(value: Any) -> bool:
    each = _mapping(name=_is_text, states=_list_of(_is_text), kind=_is_text)
    return _dict_of(each)(value) and all(re.fullmatch(r"\d{1,9}", i, re.A) for i in value)


def _is_files(value: Any) -> bool:
    """Whether these are names of ours, inside the folder, one of each kind, and their digests."""
    if not _dict_of(_is_text)(value):
        return False
    kinds = [match[1] for match in map(TENSOR_FILE.fullmatch, value) if match]
    return len(kinds) == len(set(kinds)) == len(value) and all(
        re.fullmatch("[0-9a-f]{64}", digest) for digest in value.values()
    )


_is_text = _one_of(str)
_is_noted = _mapping(unsaved=_is_text)
_is_score = _optional(_is_number)

RECORD: dict[str, tuple[Test, str, bool]] = {
    "model": (
        _mapping(**{"class": _is_text, "config": _dict_of(_is_argument)}),
        "the class and the config of the model",
        False,
    ),
    "solver": (
        _mapping(**{"class": _is_text, "options": _dict_of(_is_option)}),
        "the class and the options of the solver",
        False,
    ),
    "files": (_is_files, "names of files of this folder, and their SHA-256", False),
    "dtype": (
        lambda v: v in ("float16", "bfloat16", "float32", "float64"),
        "a floating type",
        False,
    ),
    "seed": (lambda v: _is_number(v) and isinstance(v, int), "an integer of 64 bits", False),
    "state": (_one_of(dict), "a mapping", False),
    "example": (_list_of(_one_of(bool)), "a truth value for each argument", False),
    "stopped": (
        lambda v: _list_of(_is_text)(v) and bool(v),
        "why each chain stopped, one or more",
        False,
    ),
    "objective": (
        _list_of(_optional(lambda v: _is_number(v) and math.isfinite(v))),
        "a finite number for each chain, or null",
        False,
    ),
    "summed_out": (_list_of(_is_text), "names of sites", False),
    "engine": (_is_text, "what ran the steps", False),
    "rows_plate": (_optional(_is_text), "the name of a plate", False),
    "seconds": (
        lambda v: _is_number(v) and 0 <= v < math.inf,
        "a number, 0 or more",
        False,
    ),
    "names": (
        _dict_of(_mapping(columns=_list_of(_is_text), states=_is_categories)),
        "names of columns and states by argument",
        True,
    ),
    "call": (
        _optional(_mapping(names=_list_of(_is_text), args=_is_call, kwargs=_is_calls)),
        "the arguments of a function",
        True,
    ),
    "validated": (_one_of(bool), "a truth value", True),
    "num_split_off": (_is_size, "a number of rows", True),
    "num_rows": (_optional(_is_size), "a number of rows", True),
    "device": (_is_text, "the name of a device", True),
    "versions": (_dict_of(_is_text), "versions by package", True),
}

#: what a fit reads of the state, and of that of a chain; what else is there is the solver's
STATE: dict[str, tuple[Test, str, bool]] = {
    "reason": (_is_text, "text", True),
    "ladder": (
        _list_of(_mapping(name=_is_text, holds=_one_of(bool), said=_is_text, seconds=_is_number)),
        "rungs",
        True,
    ),
}
CHAIN_STATE: dict[str, tuple[Test, str, bool]] = {
    "scores": (_list_of(_is_number), "numbers", True),
    "watch": (_optional(_is_watch), "validation scores, numbers", True),
    "elbo_error": (_is_score, "a number", True),
    "share": (_is_score, "a number", True),
}
