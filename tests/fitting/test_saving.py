"""Run directories: whole or not there, refused when damaged, nothing pickled."""

import json

import numpy as np
import pytest
import torch
from tiny_models import Coins, Groups, Mean, binary, line

import ppl_zoo as zoo
from ppl_zoo.fitting import run_directory, saving
from ppl_zoo.fitting.run_record import write_record


@pytest.fixture
def run(tmp_path):
    fit = zoo.fit(Groups(), line(6), zoo.SVI(steps=20, restarts=2), progress=False)
    return fit, fit.save(tmp_path / "run")


def test_round_trip(run):
    fit, path = run
    again = zoo.load(path)
    assert repr(again) == repr(fit)
    assert again.solver == fit.solver
    assert np.array_equal(again.history["objective"], fit.history["objective"])
    for name, draws in fit.posterior(50).items():
        assert torch.equal(draws, again.posterior(50)[name])
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}


def test_queries_work_after_loading(run):
    fit, path = run
    x = line(6)
    assert torch.allclose(
        zoo.load(path).model.encode(x, num_samples=4000),
        fit.model.encode(x, num_samples=4000),
        atol=0.1,
    )
    assert zoo.load(path).model.sample(5).shape == (5,)


def test_arguments_of_the_model_come_back(tmp_path):
    class Shifted(Mean):
        def __init__(self, shift, noise=0.5, *, names=("a", "b")):
            super().__init__(noise=noise)
            self.register_buffer("shift", shift)
            self.names = names

    fit = zoo.fit(Shifted(torch.ones(3), 0.7), line(5), zoo.SVI(steps=3), progress=False)
    again = zoo.load(fit.save(tmp_path / "run")).model
    assert type(again) is Shifted
    assert torch.equal(again.shift, torch.ones(3))
    assert again.noise.item() == pytest.approx(0.7)
    assert tuple(again.names) == ("a", "b")


def test_dtype_comes_back(tmp_path):
    fit = zoo.fit(Coins().double(), binary(), zoo.EM(steps=3), progress=False)
    again = zoo.load(fit.save(tmp_path / "run"), model=Coins)
    assert again.model.dtype == torch.float64
    assert torch.equal(
        again.model.log_prob(binary().double()), fit.model.log_prob(binary().double())
    )


def test_large_data_stay_out(run, tmp_path, monkeypatch):
    fit, _ = run
    monkeypatch.setattr(saving, "SMALL_DATA", 3)
    path = fit.save(tmp_path / "small")
    assert not list(path.glob("data*"))
    with pytest.raises(zoo.RunError, match="pass them"):
        zoo.load(path)  # mean field over groups has a parameter for each
    again = zoo.load(path, data=line(6))
    assert again.posterior(3)["z"].shape == (2, 3, 6)


def test_a_fit_of_global_latents_needs_no_data(tmp_path):
    fit = zoo.fit(Mean(), line(), zoo.SVI(steps=20), progress=False)
    again = zoo.load(fit.save(tmp_path / "run", include_data=False))
    assert again.model.sample(3).shape == (3,)
    with pytest.raises(zoo.QueryError, match="data="):
        again.posterior(3)


def file(path, kind):
    """The file of weights, state, history or data of a run."""
    return next(path.glob(f"{kind}-*.safetensors"))


DAMAGE = {
    "no folder": (lambda p: [f.unlink() for f in p.iterdir()], "no fit.json"),
    "truncated json": (
        lambda p: (p / "fit.json").write_text((p / "fit.json").read_text()[:100]),
        "corrupt or truncated",
    ),
    "truncated weights": (
        lambda p: file(p, "weights").write_bytes(file(p, "weights").read_bytes()[:-8]),
        "checksum",
    ),
    "one bit": (
        lambda p: file(p, "weights").write_bytes(file(p, "weights").read_bytes()[:-1] + b"\x7f"),
        "checksum",
    ),
    "missing file": (lambda p: file(p, "history").unlink(), "missing"),
    "other format": (
        lambda p: (p / "fit.json").write_text(json.dumps({"format": 99})),
        "got format 99",
    ),
    "a list": (lambda p: (p / "fit.json").write_text("[]"), "got a list"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_are_refused(run, damage):
    _, path = run
    harm, message = DAMAGE[damage]
    harm(path)
    with pytest.raises(zoo.RunError, match=message):
        zoo.load(path)


def test_a_class_not_imported_is_not_imported_for_a_file(run):
    _, path = run
    record = json.loads((path / "fit.json").read_text())
    record["model"]["class"] = "os:system"
    (path / "fit.json").write_bytes(write_record(record))
    with pytest.raises(zoo.RunError, match="not imported here"):
        zoo.load(path)
    assert zoo.load(path, model=Groups).objective < 0


def test_saving_replaces_a_run_and_nothing_else(run, tmp_path):
    fit, path = run
    fit.save(path)
    assert zoo.load(path).objective == fit.objective
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("x")
    with pytest.raises(zoo.RunError, match="no run"):
        fit.save(other)
    assert (other / "chapter.tex").read_text() == "x"


def test_nothing_half_written(run, tmp_path, monkeypatch):
    fit, path = run
    before = sorted(p.name for p in path.iterdir())

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(run_directory, "_sync", fail)
    with pytest.raises(zoo.RunError, match="run: cannot be saved: disk full; .* is intact"):
        fit.save(path)
    monkeypatch.undo()
    assert sorted(p.name for p in path.iterdir()) == before
    assert zoo.load(path).objective == fit.objective


def test_functions_in_a_solver_are_asked_for(tmp_path):
    svi = zoo.SVI(steps=3, schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 10))
    path = zoo.fit(Mean(), line(5), svi, progress=False).save(tmp_path / "run")
    again = zoo.load(path)  # all that does not go on is there
    assert again.solution.steps == (3,)
    with pytest.raises(zoo.DataError, match="schedule.*were not saved: pass solver="):
        zoo.fit(Mean(), line(5), resume=again, progress=False)
    assert zoo.load(path, solver=svi).solution.steps == (3,)


def test_checkpoints_while_fitting(tmp_path):
    seen = []

    class Watches(Mean):
        def model(self, x):
            if (tmp_path / "run" / "fit.json").exists():
                seen.append(json.loads((tmp_path / "run" / "fit.json").read_text())["stopped"])
            return super().model(x)

    zoo.fit(
        Watches(),
        line(5),
        zoo.SVI(steps=10),
        progress=False,
        checkpoint=tmp_path / "run",
        checkpoint_seconds=0.0,
    )
    assert ["interrupted"] in seen
    whole = zoo.load(tmp_path / "run")
    assert whole.solution.steps == (10,)


def test_resume_from_a_run_directory(tmp_path):
    zoo.fit(Mean(), line(5), zoo.SVI(steps=10), progress=False, checkpoint=tmp_path / "run")
    longer = zoo.fit(Mean(), line(5), zoo.SVI(steps=30), progress=False, resume=tmp_path / "run")
    whole = zoo.fit(Mean(), line(5), zoo.SVI(steps=30), progress=False)
    assert np.array_equal(longer.history["objective"], whole.history["objective"])
    solver = zoo.SVI(steps=10)  # as many as there are
    same = zoo.fit(Mean(), line(5), solver, progress=False, resume=tmp_path / "run")
    assert same.solution.steps == (10,) and same.stopped == "max_steps"
    with pytest.raises(zoo.DataError, match="got a fit of Groups"):
        fit = zoo.fit(Groups(), line(5), zoo.SVI(steps=3), progress=False)
        zoo.fit(Mean(), line(5), resume=fit, progress=False)


@pytest.mark.gpu
def test_load_on_another_device(run, cuda):
    _, path = run
    assert zoo.load(path, device="cuda").model.device.type == "cuda"
