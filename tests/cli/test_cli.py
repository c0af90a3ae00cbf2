"""Command-line interface, in process: output, files, errors and exit codes."""

import json
import subprocess

import numpy as np
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo import cli
from ppl_zoo.cli.commands import COMMANDS
from ppl_zoo.cli.recipes import load_data, make_model
from ppl_zoo.cli.terminal import table_text
from ppl_zoo.core.errors import DataError
from ppl_zoo.models.card import Figure
from ppl_zoo.models.catalogue import find


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; returns its code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = cli.main(line.split())
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


QUICK = "fit gaussian-mixture --restarts 1 --steps 3 --device cpu"


# --- listing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "--help", "fit --help", "list --help", "reproduce --help"])
def test_help_teaches_by_example(call, line):
    code, out, _ = call(line)
    assert code == 0
    assert "examples:" in out and "ppl-zoo " in out


def test_every_example_of_the_help_is_a_command():
    for command in COMMANDS:
        assert all(line.startswith(f"ppl-zoo {command.name}") for line in command.examples)


def test_list(call):
    code, out, _ = call("list")
    assert code == 0
    for card in zoo.ZOO:
        assert card.name in out
    assert "old-faithful" in out and "exact" in out


def test_list_as_json(call):
    code, out, err = call("list --json")
    listed = json.loads(out)
    assert code == 0 and not err
    assert [m["name"] for m in listed["models"]] == [card.name for card in zoo.ZOO]
    assert {d["name"] for d in listed["data"]} >= {"old-faithful", "mnist"}


@pytest.mark.parametrize("card", zoo.ZOO, ids=lambda card: card.name)
def test_show(call, card):
    code, out, _ = call(f"show {card.name}")
    assert code == 0
    assert card.title in out and card.references[0].link in out
    assert "~" in out  # the generative model
    assert (f"ppl-zoo fit {card.name} --recipe" in out) == bool(card.recipes)
    record = json.loads(call(f"show {card.name} --json")[1])
    assert record["queries"] == dict(card.queries)


# --- fitting -----------------------------------------------------------------------------------


def test_fit_inspect_and_resume(call, tmp_path):
    code, out, err = call(QUICK)
    assert code == 0 and "ppl-zoo inspect runs/gaussian-mixture" in out
    assert "fitting gaussian-mixture to Dataset('old-faithful'" in err
    run = tmp_path / "runs" / "gaussian-mixture"
    assert zoo.load(run).solver.steps == 3

    code, _, err = call(QUICK)
    assert code == 2 and "--resume" in err and "--overwrite" in err
    assert call(f"{QUICK} --overwrite")[0] == 0

    code, out, _ = call("fit gaussian-mixture --resume --steps 50 --json")
    record = json.loads(out)
    assert code == 0 and record["stopped"] == "converged"
    assert record["objective"] == pytest.approx(-1130.264, abs=1e-3)

    code, out, _ = call(f"inspect {run}")
    assert code == 0 and "mean" in out
    assert {p.name for p in (run / "figures").iterdir()} == {
        "fit.png",
        "objective.png",
        "posterior.png",
        "samples.png",
    }
    record = json.loads(call(f"inspect {run} --json --draws 20")[1])
    assert record["model"] == "gaussian-mixture" and record["rhat"] is None
    assert record["summary"] and len(record["figures"]) == 4


def test_fit_own_table(call, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt(tmp_path / "mine.csv", x, delimiter=",", header="a,b,c", comments="")
    line = "fit gaussian-mixture --data mine.csv --steps 3"
    code, out, _ = call(
        f"{line} --components 2 --set covariance=tied --dtype float64 --out r --json"
    )
    assert code == 0 and json.loads(out)["run"] == "r"
    model = zoo.load(tmp_path / "r").model
    assert model.num_features == 3 and model.config["covariance"] == "tied"
    assert model.dtype == torch.float64
    code, _, err = call(line)
    assert code == 2 and "--set num_components=VALUE" in err
    code, out, _ = call("fit linear-regression --data mine.csv --target a --steps 5 --out s")
    assert code == 0 and zoo.load(tmp_path / "s").model.num_features == 2


def test_fit_a_table_as_it_is_found(call, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2))
    y = x @ np.array([2.0, -1.0]) + 3.0
    lines = ["größe;kind;x;y", *(f"{a};k;{b};{c}" for (a, b), c in zip(x, y, strict=True))]
    lines += ["-1;k;unknown;2"]
    text = "\n".join(lines).replace(".", ",")
    (tmp_path / "mine.txt").write_bytes(text.encode("latin-1"))
    line = "fit linear-regression --data mine.txt --steps 5"
    line += " --columns größe,x --target y --missing unknown,nothing --out r"
    code, _, err = call(f"{line} --separator ; --decimal , --encoding latin-1")
    assert code == 2 and "missing" in err.lower()  # a regression takes no missing values
    (tmp_path / "mine.txt").write_bytes(text.rsplit("\n", 1)[0].encode("latin-1"))
    code, _, err = call(line)
    assert code == 0
    assert "decimal mark ','" in err and "encoding is taken as cp1252" in err
    read = zoo.load(tmp_path / "r").data()
    assert np.array_equal(read[0], x) and np.array_equal(read[1], y)
    options = json.loads((tmp_path / "r" / "about.json").read_text())["data_options"]
    assert options == {"columns": ["größe", "x"], "na_values": ["unknown", "nothing"]}


def test_states_of_words_are_counted(tmp_path):
    text = "who,colour,size,ok\nA,red,1.5,True\nB,blue,2,False\nC,green,2.5,True\n"
    (tmp_path / "words.csv").write_text(text)
    card = find("naive-bayes")
    name = str(tmp_path / "words.csv")
    dataset = load_data(card.model_class, name, {"columns": ["colour", "size", "ok"]}, "who")
    x, y = dataset.train
    assert list(x.columns) == ["colour", "size", "ok"] and y.tolist() == ["A", "B", "C"]
    model = make_model(card, dataset, {})
    assert model.num_features == 3 and model.config["num_classes"] == 3
    assert model.config["kind"] == ["categorical", "gaussian", "categorical"]
    assert model.config["num_states"] == [3, 2]
    options = {"columns": ["who", "ok"]}
    card = find("categorical")
    model = make_model(card, load_data(card.model_class, name, options), {})
    assert model.config["num_states"] == [3, 2]
    card = find("markov-chain")
    dataset = load_data(card.model_class, name, {"columns": ["who", "colour"]})
    assert make_model(card, dataset, {}).config["num_states"] == 6
    with pytest.raises(DataError, match="column 'size'.*got 1.5, expected labels"):
        make_model(find("categorical"), load_data(zoo.Categorical, name), {})


def test_fit_reports_a_held_out_score(call):
    line = "fit gaussian-mixture --data photo-patches --components 2 --set covariance=spherical"
    code, out, _ = call(f"{line} --steps 2")
    assert code == 0 and "held out (test):" in out


def test_another_solver_drops_the_options_of_the_recipe(call, tmp_path):
    line = "fit gaussian-mixture --solver svi --steps 3 --solver-option learning_rate=0.1"
    assert call(line)[0] == 0
    solver = zoo.load(tmp_path / "runs" / "gaussian-mixture").solver
    assert solver == zoo.SVI(steps=3, learning_rate=0.1)


def test_interrupted_fit_is_saved_and_says_how_to_go_on(call, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        done = zoo.fit(*args, **kwargs)
        done.solution.stopped = ("interrupted",)
        return done

    monkeypatch.setattr("ppl_zoo.cli.fit.fit", stop)
    code, _, err = call(QUICK)
    assert code == 130
    assert "--out runs/gaussian-mixture --resume" in err
    assert (tmp_path / "runs" / "gaussian-mixture" / "fit.json").exists()


def test_run_without_its_data_is_inspected_with_the_named_ones(call, tmp_path):
    assert call(QUICK)[0] == 0
    run = tmp_path / "runs" / "gaussian-mixture"
    about = (run / "about.json").read_text()
    zoo.load(run).save(run, include_data=False)
    (run / "about.json").unlink()
    code, _, err = call(f"inspect {run}")
    assert code == 2 and "--data" in err
    assert call(f"inspect {run} --data old-faithful --draws 10")[0] == 0
    (run / "about.json").write_text(about)
    assert call(f"inspect {run} --draws 10")[0] == 0
    assert call("fit gaussian-mixture --resume --steps 9")[0] == 0


# --- failing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show nothing", "the zoo has: bayesian-linear-regression"),
        ("fit gausian-mixture", "did you mean 'gaussian-mixture'"),
        ("fit gaussian-mixture --data nothing", "no data set 'nothing'"),
        ("fit gaussian-mixture --data no/such.csv", "no such file"),
        ("fit gaussian-mixture --components 1000", "1000"),
        ("fit gaussian-mixture --set colour=red", "no argument 'colour'"),
        ("fit gaussian-mixture --set colour", "expected KEY=VALUE"),
        ("fit gaussian-mixture --solver-option colour=red", "EM has no option 'colour'"),
        ("fit gaussian-mixture --device cuda:99", "not available"),
        ("fit gaussian-mixture --recipe none", "expected one of: old-faithful"),
        ("fit gaussian-mixture --resume --out nothing", "no run here"),
        ("fit gaussian-mixture --out .", "is no run"),
        ("inspect nothing", "no run here"),
        ("demo --only nothing", "expected a model or one of"),
        ("fit gaussian-mixture --steps many", "many"),
        ("frobnicate", "frobnicate"),
        ("fti eight-schools", "did you mean 'fit'"),
        ("fit gaussian-mixture --recipe old-faithfull", "did you mean 'old-faithful'"),
        ("fit gaussian-mixture --solver-option stps=3", "did you mean 'steps'"),
    ],
)
def test_errors_are_one_clear_line_and_code_two(call, tmp_path, line, message):
    (tmp_path / "something.txt").write_text("not a run")
    code, out, err = call(line)
    assert code == 2
    assert message in err
    if "For full helptext" not in err:  # errors of parsing are tyro's
        assert err.rstrip().splitlines()[-1].startswith("ppl-zoo: ")


def test_corrupt_run(call, tmp_path):
    assert call(QUICK)[0] == 0
    (file,) = (tmp_path / "runs" / "gaussian-mixture").glob("weights-*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    code, _, err = call("inspect runs/gaussian-mixture")
    assert code == 2 and "corrupt or truncated" in err


def test_ctrl_c_before_there_is_a_fit(call, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_zoo.cli.fit.load_data", stop)
    code, _, err = call(QUICK)
    assert code == 130 and "interrupted" in err


# --- reproducing -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("card", zoo.ZOO, ids=lambda card: card.name)
def test_reproduce(call, card):
    code, out, err = call(f"reproduce {card.name} --json")
    if not card.figures:
        assert code == 2 and "no published numbers" in err
        return
    figures = json.loads(out)["figures"]
    # a figure without a recipe has a command of its own, which takes longer
    pairs = zip(figures, card.figures, strict=True)
    run = [obtained for obtained, figure in pairs if figure.recipe is not None]
    assert code == 0 and all(f["agrees"] for f in run)


def test_reproduce_says_when_a_number_is_missed(call, monkeypatch):
    import dataclasses

    card = find("gaussian-mixture")
    right = card.figures[0]
    assert right.published == pytest.approx(-1130.2640)
    elsewhere = Figure("hours of training", 1.0, "a paper", None, "python benchmarks/long.py")
    wrong = dataclasses.replace(right, published=0.0)
    card = dataclasses.replace(card, figures=(right, wrong, elsewhere))
    monkeypatch.setattr("ppl_zoo.cli.reproduce.find", lambda name: card)
    code, out, _ = call("reproduce gaussian-mixture")
    assert code == 1
    assert "NO" in out and "yes" in out and "run: python benchmarks/long.py" in out


def test_tables_align():
    table = table_text(("a", "number"), [("long name", "1"), ("b", "22")])
    assert len({len(line) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(call, tmp_path, shell):
    code, out, _ = call(f"completion {shell}")
    assert code == 0 and "ppl-zoo" in out
    for word in ("inspect", "reproduce", "components", "data-option"):
        assert word in out
    if shell == "bash":
        (tmp_path / "script").write_text(out)
        assert subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=False).returncode == 0
