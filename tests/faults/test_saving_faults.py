"""Saving under faults: kills, full disks, places that cannot be written, files of others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import Mean, line

import ppl_zoo as zoo
from ppl_zoo.cli import main
from ppl_zoo.fitting import run_directory

PROGRAM = Path(__file__).parent / "kill_saves.py"
SHORT = zoo.SVI(steps=5, compile=False)


@pytest.fixture
def fit():
    return zoo.fit(Mean(), line(5), SHORT, progress=False)


@pytest.fixture
def longer():
    return zoo.fit(Mean(), line(5), zoo.SVI(steps=9, compile=False), progress=False)


def names(path):
    return sorted(p.name for p in path.iterdir())


@pytest.mark.parametrize("num", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_save_may_be_killed_at_any_moment(num):
    done = subprocess.run(
        [sys.executable, PROGRAM, str(num)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed at a random moment of a save"] == [num, num]
    for what, (tried, whole) in found.items():
        assert tried == whole and tried > 0, what


# ---- every failure says the path, the cause and what is intact ----------------------------------


class Broken:
    """Fail at the ``at``-th of all operations that write."""

    def __init__(self, monkeypatch, at):
        self.seen, self.at = 0, at
        for owner, name in (
            (run_directory, "save_file"),
            (run_directory, "_sync"),
            (run_directory.os, "replace"),
            (Path, "write_bytes"),
            (Path, "mkdir"),
        ):
            monkeypatch.setattr(owner, name, self.breaking(getattr(owner, name)))

    def breaking(self, work):
        def wrapped(*args, **kwargs):
            self.seen += 1
            if self.seen == self.at:
                raise OSError(28, "No space left on device")
            return work(*args, **kwargs)

        return wrapped


def test_a_full_disk_at_each_write_in_turn(fit, longer, tmp_path, monkeypatch):
    path = fit.save(tmp_path / "run")
    before, tried = names(path), 0
    while True:
        with monkeypatch.context() as patch:
            Broken(patch, tried + 1)
            try:
                longer.save(path)
                break
            except zoo.RunError as error:
                text = str(error)
        tried += 1
        assert text.startswith(f"{path}: cannot be saved: [Errno 28] No space left on device")
        assert text.endswith("the run that was saved there before is intact")
        assert names(path) == before
        assert zoo.load(path).solution.steps == (5,)
    assert tried == 2 + 5 * 3  # two mkdir; four files and fit.json: written, synchronised, moved
    assert zoo.load(path).solution.steps == (9,)


def test_a_failed_first_save_says_of_no_run(fit, tmp_path, monkeypatch):
    Broken(monkeypatch, 4)
    with pytest.raises(zoo.RunError, match="No space left") as caught:
        fit.save(tmp_path / "run")
    assert "intact" not in str(caught.value)
    monkeypatch.undo()
    fit.save(tmp_path / "run")


def test_what_json_does_not_hold_is_refused_before_it_replaces_a_run(fit, longer, tmp_path):
    path = fit.save(tmp_path / "run")
    longer.solution.state_values = {"0": {1: "int", "1": "str"}}  # one key, in JSON
    with pytest.raises(zoo.RunError, match="'1' stands twice.*intact"):
        longer.save(path)
    longer.solution.state_values = {"0": object()}
    with pytest.raises(zoo.RunError, match="not JSON serializable.*intact"):
        longer.save(path)
    assert zoo.load(path).solution.steps == (5,)


def test_tensors_that_share_memory_are_saved(fit, tmp_path):
    one = torch.arange(6.0)
    fit.solution.state_tensors = {"a": one, "b": one, "c": one[2:], "d": one.expand(3, 6)}
    again = zoo.load(fit.save(tmp_path / "run")).solution.state_tensors
    for name, tensor in fit.solution.state_tensors.items():
        assert torch.equal(again[name], tensor)


# ---- files of others ----------------------------------------------------------------------------


def test_a_save_removes_nothing_that_it_did_not_write(fit, longer, tmp_path):
    path = fit.save(tmp_path / "run")
    (path / "figures").mkdir()
    others = ["thesis.tex", "figures/one.png", "weights.safetensors", "fit.json.bak", ".hidden"]
    for name in others:
        (path / name).write_text(name)
    (path / "link").symlink_to(tmp_path / "nowhere")
    longer.save(path)
    zoo.fit(Mean(), line(5), SHORT, progress=False, checkpoint=path, checkpoint_seconds=0.0)
    assert [(path / name).read_text() for name in others] == others
    assert (path / "link").is_symlink()
    listed = json.loads((path / "fit.json").read_text())["files"]
    tops = {name.partition("/")[0] for name in others}
    assert set(names(path)) == {"fit.json", "link", *listed, *tops}


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", "not json", "", '{"format": 99}'])
def test_a_fit_json_of_somebody_else_is_not_replaced(fit, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fit.json").write_text(content)
    with pytest.raises(zoo.RunError, match="fit.json: is no record of a run.*remove it"):
        fit.save(tmp_path / "run")
    assert (tmp_path / "run" / "fit.json").read_text() == content


def test_leftovers_go_at_the_next_save(fit, longer, tmp_path):
    path = fit.save(tmp_path / "run")
    left = [".ppl-zoo-0123456789abcdef.part", "weights-0123456789abcdef.safetensors"]

    def leave(folder):
        (folder / left[0]).mkdir()
        (folder / left[0] / "weights").write_bytes(b"half a file")
        (folder / left[1]).write_bytes(b"half a file")

    leave(path)
    assert zoo.load(path).solution.steps == (5,)
    longer.save(path)
    assert not set(left) & set(names(path))
    first = tmp_path / "first"  # a first save that was killed
    first.mkdir()
    leave(first)
    fit.save(first)
    assert not set(left) & set(names(first))


def test_what_earlier_versions_left_is_found_and_goes(fit, longer, tmp_path):
    """They wrote to `.run-XXXXXXXX`, moved the run to `.run-XXXXXXXX-old`, and the new one in."""
    path = tmp_path / "run"
    fit.save(tmp_path / ".run-abcd_123-old")
    (tmp_path / ".run-zzzzzzzz").mkdir()  # killed at the beginning of another save
    assert zoo.load(path).solution.steps == (5,)
    longer.save(tmp_path / ".run-abcd_123")
    assert zoo.load(path).solution.steps == (9,)  # the new one was complete
    for name in (".run-abcd_123", ".run-abcd_123-old"):
        file = next((tmp_path / name).glob("weights*"))
        record = (tmp_path / name / "fit.json").read_bytes()
        os.rename(file, file.with_name("weights.safetensors"))
        (tmp_path / name / "fit.json").write_bytes(record)
        for other in list((tmp_path / name).glob("*-*")):
            other.unlink()
    (tmp_path / ".run-mine").mkdir()
    (tmp_path / ".run-settings").mkdir()
    (tmp_path / ".run-settings" / "thesis.tex").write_text("x")
    fit.save(path)
    assert names(tmp_path) == [".run-mine", ".run-settings", "run"]
    with pytest.raises(zoo.RunError, match="no run here"):
        zoo.load(tmp_path / "other")


# ---- the path is tried before the fit -----------------------------------------------------------


class Counts(Mean):
    """Counts the runs of its program."""

    runs = 0

    def model(self, x):
        Counts.runs += 1
        return super().model(x)


def refused(path, match):
    Counts.runs = 0
    with pytest.raises(zoo.RunError, match=match):
        zoo.fit(Counts(), line(5), SHORT, progress=False, checkpoint=path)
    assert Counts.runs == 0


def test_a_place_for_checkpoints_is_tried_before_the_fit(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    refused(file, "got a file, expected a new folder")
    refused(file / "run", "cannot be saved: .*Not a directory")
    refused(tmp_path, "folder that is no run .*'file'")
    refused(tmp_path / ("a" * 300), "File name too long")
    refused(f"{tmp_path}/\0", "null byte")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "dangling", "got a file")
    with monkeypatch.context() as patch:
        Broken(patch, 4)  # after three mkdir, of the folder and the one above it
        refused(tmp_path / "new" / "run", "cannot be saved: .*No space left")
    assert file.read_text() == "x" and names(tmp_path) == ["dangling", "file", "new"]
    assert names(tmp_path / "new") == []


def test_the_command_tries_the_path_before_it_reads_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ppl_zoo.cli.fit.load_data", None)  # would be a TypeError
    (tmp_path / "file").write_text("x")
    assert main(["fit", "gaussian-mixture", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert main(["fit", "gaussian-mixture", "--out", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("name", "unknown file extension"),
        ("name.xyz", "unknown file extension"),
        ("nowhere/name.png", "No such file"),
        ("folder.png", "is a folder"),
    ],
)
def test_an_image_is_not_restored_for_a_file_that_cannot_be_written(
    tmp_path, monkeypatch, capsys, out, said
):
    monkeypatch.setattr("ppl_zoo.cli.restore.restore", None)  # would be a TypeError
    zoo_image = tmp_path / "image.png"
    (tmp_path / "folder.png").mkdir()
    from ppl_zoo.imaging import write_image

    write_image(zoo_image, torch.rand(8, 8))
    before = names(tmp_path)
    assert main(["restore", str(zoo_image), "--out", str(tmp_path / out)]) == 2
    message = capsys.readouterr().err
    assert said in message and "expected a file such as" in message
    assert names(tmp_path) == before


# ---- a checkpoint that fails --------------------------------------------------------------------


class Fills(Mean):
    """Fills the disk at the 12th run of its program, and frees it at the 20th where it may."""

    def model(self, x):
        self.runs = getattr(self, "runs", 0) + 1
        if self.runs == 12:
            Fills.full = True
        if self.runs == 20 and Fills.freed:
            Fills.full = False
        return super().model(x)


@pytest.mark.parametrize("freed", [True, False])
def test_a_checkpoint_that_fails_is_one_warning(tmp_path, monkeypatch, freed):
    Fills.full, Fills.freed = False, freed
    sync = run_directory._sync

    def full(file):
        if Fills.full:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(run_directory, "_sync", full)
    solver = zoo.SVI(steps=30, compile=False)
    options = {"progress": False, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.warns(UserWarning) as caught:
        fit = zoo.fit(Fills(), line(5), solver, **options)
    (warning,) = caught
    assert "No space left" in str(warning.message) and "is intact" in str(warning.message)
    whole = zoo.fit(Mean(), line(5), solver, progress=False)
    assert np.array_equal(fit.history["objective"], whole.history["objective"])
    stands = zoo.load(tmp_path / "run", model=Fills)
    if freed:
        assert fit.save_error is None and stands.solution.steps == (30,)
    else:
        assert isinstance(fit.save_error, zoo.RunError)
        assert stands.stopped == "interrupted" and 0 < stands.solution.steps[0] < 20
        Fills.full = False
        assert zoo.load(fit.save(tmp_path / "else"), model=Fills).solution.steps == (30,)


def test_the_command_ends_in_an_error_where_its_fit_is_not_saved(tmp_path, monkeypatch, capsys):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_directory, "_sync", full)
    words = ["fit", "gaussian-mixture", "--steps", "3", "--out", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="No space left"):
        assert main(words) != 0
    out, err = capsys.readouterr()
    assert "saved to" not in out and "No space left" in err


def test_a_run_of_the_earlier_layout_is_replaced(tmp_path):
    """Old files stay readable, and go once the run is saved anew."""
    old = Path(__file__).parent.parent / "fitting" / "old_runs" / "em"
    path = tmp_path / "run"
    path.mkdir()
    for file in old.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    fit = zoo.load(path)
    fit.save(path)
    assert {n for n in names(path) if "-" not in n} == {"fit.json"}
    assert repr(zoo.load(path)) == repr(fit)
