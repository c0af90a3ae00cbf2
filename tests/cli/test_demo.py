"""The demo and its report, on recipes that take a moment."""

import json
import re

import numpy as np
import pytest

import ppl_zoo as zoo
from ppl_zoo.cli import demo, report
from ppl_zoo.cli.demo import DemoRequest
from ppl_zoo.cli.exhibits import EXHIBITS
from ppl_zoo.models.card import Recipe
from ppl_zoo.models.catalogue import find

SCHOOLS = Recipe("tiny", "Partial pooling", "eight-schools", options={"steps": 30, "restarts": 2})
MIXTURE = Recipe("tiny", "Two kinds", "old-faithful", {"num_components": 2}, options={"steps": 5})
BROKEN = Recipe("broken", "Too many", "old-faithful", {"num_components": 1000})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One demo of two good recipes and a broken one."""
    out = tmp_path_factory.mktemp("demo")
    mixture = find("gaussian-mixture")
    chosen = [(find("eight-schools"), SCHOOLS), (mixture, BROKEN), (mixture, MIXTURE)]
    code = demo.run_demo(DemoRequest(out=str(out), device="cpu"), chosen=chosen)
    return out, code


def test_one_failure_does_not_stop_the_others_and_shows_in_the_exit_code(ran):
    out, code = ran
    assert code == 1
    assert "num_components" in (out / "report.html").read_text()
    assert not (out / "gaussian-mixture-broken").exists()


@pytest.mark.parametrize("name", ["eight-schools-tiny", "gaussian-mixture-tiny"])
def test_each_fit_leaves_a_run_and_a_netcdf_file(ran, name):
    from ppl_zoo.diagnostics import arviz_compat

    out, _ = ran
    assert zoo.load(out / name).seed == 0
    idata = arviz_compat.from_netcdf(out / f"{name}.nc")
    posterior = arviz_compat.get_group(idata, "posterior")
    assert posterior.sizes["chain"] >= 1 and posterior.sizes["draw"] > 1


def test_report_begins_with_a_verdict_and_needs_nothing_else(ran):
    out, _ = ran
    page = (out / "report.html").read_text()
    assert page.index("Failed: gaussian-mixture-broken") < page.index("<img")
    assert page.index("<b>Points at an optimum:</b>") < page.index("<img")
    for column in demo.COLUMNS:
        assert f">{column}</th>" in page
    assert page.count("<section id=") == 3
    assert page.count("data:image/png;base64,") == 8
    assert 'href="#gaussian-mixture-tiny"' in page and 'id="eight-schools-tiny"' in page
    assert "https://doi.org/10.3102/10769986006004377" in page
    assert "What to try next" in page and page.count("Is this the model") == 2
    assert "means[0, waiting]" in page and "theta" in page
    # nothing is fetched: no scripts, style sheets or images from elsewhere
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:)", page)


def test_the_folder_is_small_and_its_size_is_told(ran):
    out, _ = ran
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert size < 5e6
    assert re.search(r"\d+ MB in\s", (out / "report.html").read_text())


@pytest.mark.slow
def test_rhat_and_khat_stand_where_they_mean_something(capsys, tmp_path):
    chosen = [(find("eight-schools"), SCHOOLS), (find("gaussian-mixture"), MIXTURE)]
    request = DemoRequest(out=str(tmp_path), device="cpu", json=True)
    assert demo.run_demo(request, chosen=chosen) == 0
    captured = capsys.readouterr()
    schools, mixture = json.loads(captured.out)["fits"]
    assert schools["rhat"] is None and np.isfinite(schools["khat"])
    assert mixture["rhat"] is None and mixture["khat"] is None
    assert schools["posterior"] in ("yes", "no") and mixture["posterior"] in ("point", "no")
    assert "[1/2]" in captured.err and "WARNING" not in captured.err


def test_only_chooses_and_names_what_there_is():
    assert [r.name for _, r in demo.choose("eight-schools")] == ["noncentered"]
    assert len(demo.choose("gaussian-mixture-old-faithful")) == 1
    with pytest.raises(
        zoo.DataError, match="expected a model or one of: bayesian-linear-regression"
    ):
        demo.choose("nothing")


# --- the pieces of the report ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (-1130.264, "-1130.26"),
        (3892344.93, "3,892,344.93"),
        (0.0, "0.00"),
        (0.00001, "1.0e-05"),
        (1900, "1900"),
    ],
)
def test_numbers_for_people(value, text):
    assert report.number(value) == text


def test_text_is_escaped_and_only_web_links_become_links(tmp_path):
    section = report.Section(
        anchor="a",
        title="<script>alert(1)</script>",
        text="a < b & c",
        references=(("bad", "javascript:alert(1)"), ("good", "https://example.org/?a=1&b=2")),
        table=report.Table(("a",), (("<b>x",),)),
        error='it said "no"',
    )
    outcome = report.Outcome(find("naive-bayes"), BROKEN, "a", section=section, error="<i>")
    for outcomes, exhibits in (([outcome], ()), ((), [section])):
        page = report.write_demo_report(tmp_path, outcomes, 1.0, exhibits).read_text()
        assert "<script" not in page and "javascript:" not in page and "<b>x" not in page
        assert "a &lt; b &amp; c" in page
        assert 'href="https://example.org/?a=1&amp;b=2"' in page


def test_long_summaries_are_cut_and_say_so():
    import pandas

    frame = pandas.DataFrame({"value": np.arange(30.0)}, index=[f"z[{i}]" for i in range(30)])
    frame.attrs["left_out"] = {"covariances": (20, 64, 64)}
    table, note = report.summary_table(frame, limit=24)
    assert len(table.rows) == 24 and table.columns == ("parameter", "value")
    assert note == "Not listed: 6 numbers more, covariances (20 x 64 x 64)."
    frame.attrs["left_out"] = {}
    assert report.summary_table(frame[:3])[1] == ""


# --- the exhibits ------------------------------------------------------------------------------


def test_a_failed_exhibit_does_not_hide_the_others(monkeypatch, tmp_path, capsys):
    def broken(device):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(demo, "EXHIBITS", {"broken": broken, "bayes-net": EXHIBITS["bayes-net"]})
    monkeypatch.setattr(demo, "choose", lambda only: [])
    assert demo.run_demo(DemoRequest(out=str(tmp_path), device="cpu")) == 1
    page = (tmp_path / "report.html").read_text()
    assert "RuntimeError: no such thing" in page and 'id="bayes-net"' in page
    assert "1 of 2 parts" in capsys.readouterr().out


def test_the_net_explains_away():
    """Lauritzen & Spiegelhalter's net, by enumeration of its 2^8 states."""
    from itertools import product

    from ppl_zoo.cli.exhibits import PARENTS, TABLES

    def posterior(**seen):
        total = cancer = 0.0
        for states in product((0, 1), repeat=len(PARENTS)):
            row = dict(zip(PARENTS, states, strict=True))
            if any(row[k.replace("_", "-")] != v for k, v in seen.items()):
                continue
            p = np.prod(
                [
                    np.asarray(TABLES[n])[tuple(row[q] for q in parents)][row[n]]
                    for n, parents in PARENTS.items()
                ]
            )
            total, cancer = total + p, cancer + p * (row["cancer"] == 0)
        return cancer / total

    section = EXHIBITS["bayes-net"]("cpu")
    cells = next(row for row in section.table.rows if row[0] == "cancer")
    exact = [posterior(), posterior(smoking=0, dyspnoea=0)]
    exact.append(posterior(smoking=0, dyspnoea=0, x_ray=0))
    assert list(cells[1:]) == [f"{100 * p:.1f} %" for p in exact]
    assert f"{exact[1]:.0%}" in section.text and f"{exact[2]:.0%}" in section.text


def test_spins_and_words_come_out_right():
    wrong = [float(p) for p in re.findall(r"([\d.]+)%", EXHIBITS["ising"]("cpu").text)]
    assert wrong[0] > 10 and wrong[1] < 4
    spam = EXHIBITS["spam-filter"]("cpu")
    assert "claim" in spam.text and int(re.search(r"(\d+)% right", spam.text)[1]) >= 90


@pytest.mark.slow
def test_the_golfers_angle_is_that_of_the_case_study():
    section = EXHIBITS["own-program"]("cpu")
    sd = float(re.search(r"sd is ([\d.]+) degrees", section.text)[1])
    assert sd == pytest.approx(1.53, abs=0.015)  # Gelman's case study, sigma_degrees


@pytest.mark.slow
def test_the_photograph_is_restored_with_its_uncertainty():
    section = EXHIBITS["photograph"]("cpu")
    facts = dict(section.facts)
    noisy, restored = (float(facts[name].split()[0]) for name in ("noisy", "restored"))
    assert restored > noisy + 4.0
    sd, error = (float(facts[n].split()[0]) for n in ("posterior sd", "actual error"))
    assert 0.7 < sd / error < 1.3
    assert len(section.figures) == 1
