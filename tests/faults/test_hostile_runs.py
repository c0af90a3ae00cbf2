"""Runs that others made, damaged or meant to harm: they load, or are refused with a RunError."""

import collections
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mutate_files import TABLE, try_reader
from mutate_runs import mutate_record
from safetensors.torch import load_file, save_file

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.fitting.run_record import parse_record, write_record
from ppl_zoo.fitting.size_limit import SizeLimit

PROGRAM = Path(__file__).parent / "mutate_runs.py"
OLD_RUNS = Path(__file__).parent.parent / "fitting" / "old_runs"
#: what a run that is refused may cost: seconds of a processor, bytes beyond what loading takes
MAX_SECONDS, MAX_BYTES = 10.0, 2**29


@pytest.mark.parametrize("num", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_runs_load_or_are_refused(num):
    done = subprocess.run(
        [sys.executable, PROGRAM, str(num)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["raw"] == []
    assert found["slowest"] < MAX_SECONDS and found["grown"] < MAX_BYTES
    assert sum(kind["tried"] for kind in found["kinds"].values()) == num
    for kind, counts in found["kinds"].items():
        assert counts["refused"] > 0, kind
        if "signed" not in kind:
            assert counts["other"] == 0, kind


# ---- one of each kind that is known -------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A small net of the zoo, as this version saves it."""
    return zoo.load(OLD_RUNS / "svi-net", device="cpu").save(tmp_path / "run")


def signed(path, **changes):
    """Change fields of a record, by path with dots, and sign it as its maker would."""
    record = json.loads((path / "fit.json").read_text())
    for name, value in changes.items():
        *above, last = name.split("__")
        held = record
        for key in above:
            held = held[key]
        held[last] = value
    del record["checksum"]
    body = json.dumps(record, sort_keys=True).encode()
    text = json.dumps({**record, "checksum": hashlib.sha256(body).hexdigest()})
    (path / "fit.json").write_text(text)
    return text


def refused(path, match):
    began = time.process_time()  # of this process: others may be busy
    with pytest.raises(zoo.RunError, match=match) as caught:
        zoo.load(path, device="cpu")
    assert str(path) in str(caught.value) and len(str(caught.value)) < 2000
    assert time.process_time() - began < MAX_SECONDS


FIELDS = {
    "num_features": ({"model__config__num_features": 10**9}, "expected sizes of a model of"),
    "features beyond memory": (
        {"model__config__num_features": 50_000, "model__config__hidden": [50_000]},
        "ask for more memory",
    ),
    "200 layers": ({"model__config__hidden": [2**15] * 200}, "expected sizes|more memory"),
    "200 narrower layers": ({"model__config__hidden": [1300] * 200}, "ask for more memory"),
    "50,000 layers": ({"model__config__hidden": [1] * 50_000}, "ask for more operations"),
    "negative": ({"model__config__num_features": -5}, "makes no fit|do not fit"),
    "another size": ({"model__config__num_latents": 3}, "do not fit"),
    "another class": ({"model__class": "ppl_zoo:GaussianMixture"}, "makes no fit"),
    "an unknown argument": ({"model__config__x": 1}, "makes no fit"),
    "no such tensor": ({"model__config__num_latents": {"tensor": "x"}}, "makes no fit"),
    "a text as objective": ({"objective": ["x"]}, "objective: got .'x'., expected a finite"),
    "NaN as objective": ({"objective": [float("nan")]}, "expected a finite number"),
    "two objectives": ({"objective": [1.0, 2.0]}, "got 2 chains"),
    "no chains": ({"stopped": [], "objective": []}, "stopped: got"),
    "five chains": ({"stopped": ["x"] * 5, "objective": [1.0] * 5}, "of 5 chains"),
    "infinite seconds": ({"seconds": float("inf")}, "seconds: got inf"),
    "seed": ({"seed": True}, "seed: got True"),
    "huge integers": ({"seed": 10**30}, "expected 64 bits"),
    "dtype": ({"dtype": "complex64"}, "expected a floating type"),
    "depth": ({"state": {"0": json.loads("[" * 90 + "]" * 90)}}, "more than 64 levels"),
    "format": ({"format": 3}, "got format 3"),
    "solver": ({"solver__class": "SVIX"}, "not known here"),
    "outside": ({"files": {"../../weights.safetensors": "0" * 64}}, "files: got"),
    "absolute": ({"files": {"/proc/kmsg": "0" * 64}}, "files: got"),
    "two of a kind": (
        {"files": {f"data{i}.safetensors": "0" * 64 for i in ("", "-" + "0" * 16)}},
        "files: got",
    ),
    "digest": ({"files": {"data.safetensors": "x"}}, "files: got"),
    "no files": ({"files": {}}, "has no tensor"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_out_of_their_range_are_refused(run, field):
    changes, match = FIELDS[field]
    signed(run, **changes)
    refused(run, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[" * 100_000, "corrupt or truncated"),
        ('{"a":' * 100_000, "corrupt or truncated"),
        ("1" * 5000, "corrupt|64 bits"),
        ('{"format": 1, "format": 1}', "'format' stands twice"),
        ("\ufeff{}", "corrupt"),
        (b"\xff\xfe\x00", "corrupt"),
        ("", "corrupt or truncated"),
        ("null", "got a NoneType"),
        ('{"format": true}', "got format True"),
        ('{"format": 1e400}', "got format inf"),
    ],
)
def test_json_that_is_none_is_refused(run, content, match):
    content = content.encode() if isinstance(content, str) else content
    (run / "fit.json").write_bytes(content)
    refused(run, match)


def test_a_large_record_is_refused(run):
    with (run / "fit.json").open("ab") as stream:
        stream.truncate(2**27)
    refused(run, "expected at most")


def test_a_record_that_is_changed_by_hand_is_refused(run):
    text = (run / "fit.json").read_text()
    (run / "fit.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    refused(run, "its checksum is not its own")
    (run / "fit.json").write_text(json.dumps(json.loads(text)))  # as if indented anew
    assert zoo.load(run, device="cpu").seed == 0


def test_what_is_written_is_what_is_read(run):
    record = parse_record((run / "fit.json").read_bytes())
    record["state"]["0"]["far"] = [float("inf"), 1e-320, "\u2028é\x00"]
    assert parse_record(write_record(record)) == record


@pytest.mark.parametrize("name", ["fit.json", "weights"])
@pytest.mark.parametrize("what", ["link", "device", "pipe", "folder"])
def test_only_regular_files_are_opened(run, tmp_path, name, what):
    file = next(run.glob(f"{name}*"))
    shutil.move(file, tmp_path / "moved")
    if what == "link":
        file.symlink_to(tmp_path / "moved")
    elif what == "device":
        file.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    refused(run, "is no regular file")


def test_a_folder_that_is_a_link_is_read(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert zoo.load(tmp_path / "link", device="cpu").objective


def resign(path, kind, change):
    """Change the bytes of a file of tensors, and sign it."""
    file = next(path.glob(f"{kind}*"))
    file.write_bytes(change(file.read_bytes()))
    record = json.loads((path / "fit.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    signed(path, files={**record["files"], file.name: digest})


HEADERS = {
    "length beyond the file": lambda b: (2**40).to_bytes(8, "little") + b[8:],
    "length of 2^64 - 1": lambda b: b"\xff" * 8 + b[8:],
    "truncated": lambda b: b[:-8],
    "no header": lambda b: b"",
    "not json": lambda b: b[:8] + b"x" * (len(b) - 8),
    "offsets beyond the file": lambda b: b.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_garbled_tensors_are_refused(run, kind):
    resign(run, "weights", HEADERS[kind])
    refused(run, "weights-.*corrupt")


def rewrite(path, kind, change):
    """Write other tensors in the place of a file's, and sign them."""
    file = next(path.glob(f"{kind}*"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    resign(path, kind, lambda content: content)


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("history", lambda t: t.clear(), "has no tensor 'objective'"),
        ("history", lambda t: t.update(objective=torch.zeros(7, 3)), "of 1 chain$"),
        ("history", lambda t: t.update(objective=torch.zeros(1)), "of 1 chain$"),
        ("history", lambda t: t.update(objective=torch.zeros(1, 2).int()), "torch.int32"),
        ("history", lambda t: t.update(objective=torch.zeros(1, 2).bfloat16()), "makes no fit"),
        ("weights", lambda t: t.clear(), "has no tensor 'example.0'"),
        ("weights", lambda t: t.update({"model.x": torch.zeros(1, 2)}), "do not fit"),
        ("weights", lambda t: t.update({"model.x": torch.zeros(())}), "expected .chain"),
        ("weights", lambda t: t.update({"draws.z": torch.zeros(1)}), "step or draw"),
        ("data", lambda t: t.update({"0": torch.zeros(2**30, 0)}), "holds nothing"),
    ],
)
def test_tensors_that_are_those_of_no_fit_are_refused(run, kind, change, match):
    rewrite(run, kind, change)
    refused(run, match)


def test_a_large_model_is_built_within_its_limit():
    """Of what is needed to load them: the limit is no hindrance to the zoo's largest models."""
    for make in (
        lambda: zoo.GaussianMixture(200, 64),
        lambda: zoo.MADE(784, (500, 500), num_masks=8),
        lambda: zoo.Ising(20, 20),
        lambda: zoo.DeepImagePrior((1, 64, 64)),
    ):
        held = list(make().state_dict().values())
        with SizeLimit(held) as limit:
            make()
        assert limit.bytes < limit.most_bytes / 2 and limit.operations < limit.most_operations / 2


def test_what_a_model_frees_is_not_counted():
    limit = SizeLimit([])
    with limit:
        for _ in range(40):
            torch.zeros(2**22)  # 16 MiB, of 256
        kept = [torch.zeros(2**22) for _ in range(15)]
        with pytest.raises(zoo.RunError, match="more memory"):
            kept += [torch.zeros(2**22) for _ in range(2)]
        with pytest.raises(zoo.RunError, match="more memory"):
            torch.empty(10**15)


@pytest.mark.parametrize(
    ("make", "solver"),
    [
        (lambda: zoo.GaussianMixture(2, 2), lambda num: zoo.EM(steps=num, restarts=2)),
        (lambda: zoo.GaussianMixture(2, 2), lambda num: zoo.SVI(steps=num, compile=False)),
        (lambda: zoo.BayesianGaussianMixture(2, 2), lambda num: zoo.CAVI(steps=num)),
        (lambda: zoo.BayesianGaussianMixture(2, 2), lambda num: zoo.SGLD(steps=num, num_warmup=1)),
    ],
    ids=["EM", "SVI", "CAVI", "SGLD"],
)
def test_a_run_of_someone_who_means_harm_goes_on_or_is_refused(tmp_path, make, solver):
    rng = random.Random(0)
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    zoo.fit(make(), data, solver(3), progress=False).save(tmp_path / "run")
    outcomes = collections.Counter()
    for index in range(40):
        path = tmp_path / f"run{index}"
        shutil.copytree(tmp_path / "run", path)
        mutate_record(path, rng)
        try:
            zoo.fit(make(), data, solver(6), resume=path)
            outcomes["went on"] += 1
        except (zoo.RunError, DataError, zoo.ConvergenceError) as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["RunError"] > 5


# ---- files of data, images and nets ------------------------------------------------------------


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(save=np.savez_compressed, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("reader", ["arrays", "tables", "workbooks", "nets", "images"])
@pytest.mark.parametrize("num", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(tmp_path, reader, num):
    counts, slowest, raw = try_reader(reader, num, tmp_path)
    assert not raw
    assert num / 4 < counts["refused"] < num
    assert slowest < 2.0  # CPU seconds


def bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = npy(np.zeros((1, 1)))[:128].replace(
            b"(1, 1), }" + b" " * 14, b"(99999999999999, 1), }"
        )
        archive.writestr("train.npy", header + bytes(8))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.npy", b""),
        ("empty.npz", b""),
        ("text.npy", b"1,2,3\n"),
        ("objects.npy", npy(np.array([{}], dtype=object))),
        ("words.npz", npz(train=np.array(["a"]))),
        ("nothing.npz", npz()),
        ("several.npz", npz(a=TABLE, b=TABLE)),
        ("bomb.npz", bomb()),
        ("version.npy", npy(TABLE).replace(b"\x01\x00", b"\x09\x09", 1)),
        ("shape.npy", npy(TABLE).replace(b"(8, 3)", b"(8,-3)")),
        ("long.npy", npy(TABLE).replace(b"(8, 3), }  ", b"(8888, 3),}")),
    ],
)
def test_files_that_hold_no_arrays_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        zoo.data.from_path(tmp_path / name)


def test_a_pipe_of_arrays_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match="is no file"):
        zoo.data.from_path(tmp_path / "pipe.npy")
