"""The demo and its report, on recipes that take a moment."""

import json
import re

import numpy as np
import pytest

import ppl_zoo as zoo
from ppl_zoo.cli import demo, report
from ppl_zoo.cli.demo import DemoRequest, restored_photograph
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


def test_report_holds_table_figures_and_sources_and_needs_nothing_else(ran):
    out, _ = ran
    page = (out / "report.html").read_text()
    for column in demo.COLUMNS:
        assert f">{column}</th>" in page
    assert page.count("<section id=") == 3
    assert page.count("data:image/png;base64,") == 8
    assert page.count('href="#') == 3 and 'id="eight-schools-tiny"' in page
    assert "https://doi.org/10.3102/10769986006004377" in page
    assert "What to try next" in page and "Posterior summary" in page
    # nothing is fetched: no scripts, style sheets or images from elsewhere
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:)", page)


@pytest.mark.slow
def test_rhat_and_khat_stand_where_they_mean_something(capsys, tmp_path):
    chosen = [(find("eight-schools"), SCHOOLS), (find("gaussian-mixture"), MIXTURE)]
    request = DemoRequest(out=str(tmp_path), device="cpu", json=True)
    assert demo.run_demo(request, chosen=chosen) == 0
    captured = capsys.readouterr()
    schools, mixture = json.loads(captured.out)["fits"]
    assert schools["rhat"] > 0.9 and np.isfinite(schools["khat"])
    assert mixture["rhat"] is None and mixture["khat"] is None
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
        queries={"log_prob": "exact"},
        references=(("bad", "javascript:alert(1)"), ("good", "https://example.org/?a=1&b=2")),
        error='it said "no"',
    )
    table = report.Table(("a",), (("<b>",),))
    path = report.write_report(
        tmp_path / "deep" / "r.html", title="t", lead="l", table=table, sections=[section]
    )
    page = path.read_text()
    assert "<script" not in page and "javascript:" not in page and "<b>" not in page
    assert "a &lt; b &amp; c" in page
    assert 'href="https://example.org/?a=1&amp;b=2"' in page


def test_long_summaries_are_cut_and_say_so():
    import pandas

    frame = pandas.DataFrame({"mean": np.arange(30.0)}, index=[f"z[{i}]" for i in range(30)])
    table, note = report.summary_table(frame, limit=24)
    assert len(table.rows) == 24 and note.startswith("6 more rows")
    assert report.summary_table(frame[:3])[1] == ""


@pytest.mark.slow
def test_the_photograph_is_restored_with_its_uncertainty():
    section = restored_photograph("cpu")
    facts = dict(section.facts)
    noisy, restored = (float(facts[name].split()[0]) for name in ("noisy", "restored"))
    assert restored > noisy + 4.0
    sd, error = (float(facts[n].split()[0]) for n in ("posterior sd", "actual error"))
    assert 0.7 < sd / error < 1.3
    assert len(section.figures) == 1
