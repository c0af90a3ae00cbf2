"""Saved runs that were changed at random: each loads, or is refused with a RunError.

`python tests/faults/mutate_runs.py NUM` changes the runs of `tests/fitting/old_runs`, and the same
runs saved anew, NUM times, and prints a table by kind of change: values, keys and structure of
`fit.json`, bytes of it, bytes of the tensors, and the files of the folder. "Signed" ones have the
right checksums, as one who means harm would write them.
"""

import copy
import hashlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "fitting"))

from own_model import Shifted

import ppl_zoo as zoo

OLD_RUNS = Path(__file__).parent.parent / "fitting" / "old_runs"
#: runs of each kind of solver; those of samplers are like that of split-gibbs
NAMES = (
    "em",
    "cavi",
    "svi-net",
    "svi-fixed-draws",
    "own-model",
    "split-gibbs",
    "early-stopping",
    "auto",
)
VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 100, 2**20, 2**31, 10**9, 2**53, 2**63, 2**64, 10**40),
    *(-(10**9), 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "auto", "../../etc/passwd", "/proc/kmsg", "float64", "os:system", "\x00"),
    *("ppl_zoo:GaussianMixture", "ppl_zoo:VAE", "a" * 10_000),
    *([], {}, [1], [[]], [None], ["x"], [10**9], [2**20] * 200, [0.5] * 1000, {"a": 1}),
    *({"tensor": "model.x"}, {"tensor": 1}, {"dict": {}}, {"dict": 1}, {"unsaved": "x"}),
    *({"type": "torch.optim.sgd:SGD"}, {"local_elbo": {}}, {"value": 1}),
)


def places(value, path=()):
    """Paths to all values within a record."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def change_record(record, rng):
    """Change one value, key or list of a record."""
    *path, last = rng.choice([p for p in places(record) if p and p[0] != "checksum"])
    parent = record
    for key in path:
        parent = parent[key]
    old = parent[last]
    how = rng.choice(("value", "value", "value", "number", "wrap", "delete", "list", "swap"))
    if how == "number" and type(old) in (int, float):
        parent[last] = rng.choice((old + 1, old - 1, -old, old * 1000, old * 10**9, str(old)))
    elif how == "wrap":
        deep = old
        for _ in range(rng.choice((1, 2, 50, 70))):
            deep = [deep] if rng.random() < 0.5 else {"dict": deep}
        parent[last] = deep
    elif how == "delete":
        del parent[last]
    elif how == "list" and isinstance(old, list):
        parent[last] = rng.choice((old * 2, old * 1000, old[:-1], old[::-1], [old]))
    elif how == "swap":
        *other_path, other = rng.choice([p for p in places(record) if p])
        held = record
        for key in other_path:
            held = held[key]
        parent[last] = json.loads(json.dumps(held[other]))
    else:
        parent[last] = copy.deepcopy(rng.choice(VALUES))


def change_bytes(content, rng):
    """Change, cut, repeat or insert bytes."""
    content = bytearray(content)
    how = rng.choice(("byte", "byte", "head", "cut", "insert", "repeat"))
    if how == "cut":
        return bytes(content[: rng.randrange(len(content))])
    if how == "insert":
        place = rng.randrange(len(content))
        content[place:place] = rng.randbytes(rng.randrange(1, 20))
    elif how == "repeat":
        start = rng.randrange(len(content))
        content += content[start : start + 100] * rng.choice((1, 100))
    else:
        end = min(200, len(content)) if how == "head" else len(content)
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(end)] = rng.randrange(256)
    return bytes(content)


def sign(run, record):
    """Give a record the right checksums."""
    for name in record["files"] if isinstance(record.get("files"), dict) else ():
        file = run / name
        if isinstance(name, str) and "\x00" not in name and file.is_file() and len(name) < 99:
            record["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    if record.get("format") == 2:
        record.pop("checksum", None)
        body = json.dumps(record, sort_keys=True).encode()
        record["checksum"] = hashlib.sha256(body).hexdigest()
    (run / "fit.json").write_text(json.dumps(record))


def mutate_record(run, rng):
    record = json.loads((run / "fit.json").read_text())
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        change_record(record, rng)
    try:
        sign(run, record)
    except (ValueError, OSError):
        (run / "fit.json").write_text(json.dumps(record))


def mutate_json(run, rng):
    file = run / "fit.json"
    file.write_bytes(change_bytes(file.read_bytes(), rng))


def mutate_tensors(run, rng, signed=False):
    file = rng.choice(sorted(run.glob("*.safetensors")))
    file.write_bytes(change_bytes(file.read_bytes(), rng))
    if signed:
        sign(run, json.loads((run / "fit.json").read_text()))


def mutate_signed_tensors(run, rng):
    mutate_tensors(run, rng, signed=True)


def mutate_files(run, rng):
    files = sorted(run.iterdir())
    file, other = rng.choice(files), rng.choice(files)
    away = run.parent / "away"
    how = rng.choice(("remove", "link", "pipe", "folder", "copy", "empty", "device"))
    content = file.read_bytes()
    file.unlink()
    if how == "link":
        away.write_bytes(content)
        file.symlink_to(away)
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "copy" and other != file:
        shutil.copy(other, file)
    elif how == "empty":
        file.touch()
    elif how == "device":
        file.symlink_to("/dev/zero")


KINDS = {
    "fit.json, signed: values, keys, structure": (mutate_record, 0.5),
    "fit.json: bytes": (mutate_json, 0.15),
    "tensors: bytes": (mutate_tensors, 0.1),
    "tensors, signed: bytes": (mutate_signed_tensors, 0.15),
    "folder: files missing, links, pipes, devices": (mutate_files, 0.1),
}


def answer(path):
    """What a run says once it is loaded."""
    fit = zoo.load(path, model=Shifted if "own" in path.name else None, device="cpu")
    parts = [repr(fit), repr(fit.solver), fit.stopped, repr(fit.ladder), repr(fit.solution.reason)]
    parts += [f"{k}{v.tolist()}" for k, v in sorted(fit.solution.parameters.items())]
    return "".join(parts)


def main(num, seed=0):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    kinds = {kind: dict.fromkeys(("tried", "same", "other", "refused"), 0) for kind in KINDS}
    raw, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = {}
        for run in NAMES:
            shutil.copytree(OLD_RUNS / run, folder / f"{run}-old")
            zoo.load(OLD_RUNS / run, device="cpu").save(folder / f"{run}-new")
            for age in ("old", "new"):
                answers[f"{run}-{age}"] = answer(folder / f"{run}-{age}")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for index in range(num):
            run = rng.choice(list(answers))
            kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
            path = folder / "mutated" / run
            shutil.copytree(folder / run, path)
            KINDS[kind][0](path, rng)
            began = time.process_time()
            try:
                how = "same" if answer(path) == answers[run] else "other"
            except zoo.RunError:
                how = "refused"
            except Exception as error:
                how = "raw"
                raw.append(f"{index} {run} {kind}: {type(error).__name__}: {error}"[:300])
            slowest = max(slowest, time.process_time() - began)
            counts = kinds[kind]
            counts["tried"] += 1
            counts[how] = counts.get(how, 0) + 1
            shutil.rmtree(folder / "mutated")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"kinds": kinds, "raw": raw, "slowest": slowest, "grown": grown}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1])), indent=1))
