"""Every figure of the demo's fits: what its axes name, what its limits hold, what it says."""

import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import Ellipse

import ppl_zoo as zoo
from ppl_zoo.cli.demo import choose
from ppl_zoo.cli.inspect import inspect_fit
from ppl_zoo.cli.recipes import run
from ppl_zoo.cli.terminal import quiet
from ppl_zoo.diagnostics import plot_fit, plot_history, plot_samples
from ppl_zoo.diagnostics.plots.samples import plot_completions

#: fits of the demo that take a moment
QUICK = (
    "bayesian-logistic-regression-old-faithful",
    "gaussian-mixture-old-faithful",
)
NAMES = {f"{card.name}-{recipe.name}": (card, recipe) for card, recipe in choose()}


def inspected(name):
    """Fit one recipe of the demo, and draw what the report shows of it."""
    card, recipe = NAMES[name]
    fit, dataset = run(card, recipe, device="cpu", progress=False)
    with quiet():
        found = inspect_fit(fit, dataset.card, labels=(dataset.labels or {}).get("train"))
    return fit, dataset, found


@pytest.fixture(scope="module")
def looked_at():
    """Fits that tests share."""
    held = {}

    def get(name):
        if name not in held:
            held[name] = inspected(name)
        return held[name]

    return get


def check_figure(fig):
    """Axes have labels, artists are finite, points lie within the limits."""
    assert fig.get_label(), "a caption that says what to see"
    for ax in fig.axes:
        if not ax.axison or ax.images:
            continue
        assert ax.get_xlabel() or not ax.get_xticks().size, "an x-axis without a name"
        assert ax.get_ylabel() or not ax.get_yticks().size, "a y-axis without a name"
        for text in (ax.get_xlabel(), ax.get_ylabel()):
            assert "none" not in text and not text.endswith("()")
        low, high = ax.get_xlim(), ax.get_ylim()
        assert np.isfinite([*low, *high]).all()
        for line in ax.lines:
            drawn = np.asarray(line.get_xydata(), float)
            assert np.isfinite(drawn).all()
        for points in ax.collections:
            if isinstance(points, PathCollection) and len(points.get_offsets()):
                x, y = np.asarray(points.get_offsets(), float).T
                assert np.isfinite(x).all() and np.isfinite(y).all()
                assert min(low) <= x.min() and x.max() <= max(low)
                assert min(high) <= y.min() and y.max() <= max(high)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_every_figure_names_what_it_shows_and_holds_it(looked_at, name):
    fit, dataset, found = looked_at(name)
    assert not found.failures
    assert {n for n, _, _ in found.figures} == {"fit", "objective", "samples", "posterior"}
    for _, caption, fig in found.figures:
        fig.draw_without_rendering()
        check_figure(fig)
        assert caption.endswith(".")
    # the curve ends at the number that is said, in the same unit
    axes = next(fig for n, _, fig in found.figures if n == "objective").axes[0]
    said = " ".join(t.get_text() for t in axes.get_legend().get_texts())
    score = fit.solution.validation_score
    number = fit.objective if np.isnan(score) else score
    assert f"{number:,.2f}" in said
    assert axes.get_ylim()[0] <= number <= axes.get_ylim()[1]
    rows = 1.0 if np.isnan(score) else fit.objective / score
    last = np.asarray(fit.history["objective"], float)[fit.solution.best] / rows
    last = np.median(last[np.isfinite(last)][-20:])
    span = abs(number) * 0.2
    assert abs(last - number) < span, "the curve and the number are of the same thing"
    assert ("nats a row" in axes.get_ylabel()) == np.isfinite(score)
    assert found.check is not None and len(found.summary) + len(found.summary.attrs["left_out"])
    assert "r_hat" not in found.summary.columns, "restarts of an optimiser are no chains"


def axis_labels(fig):
    return {text for ax in fig.axes for text in (ax.get_xlabel(), ax.get_ylabel())}


def test_a_binary_target_has_probabilities(looked_at):
    fit, dataset, _ = looked_at("bayesian-logistic-regression-old-faithful")
    axes = plot_fit(fit, dataset.card).axes[0]
    assert axes.get_ylabel() == "probability of waiting over 70 minutes"
    assert axes.get_xlabel() == "eruptions (minutes)"
    curve = axes.lines[0].get_ydata()
    assert curve.min() >= 0.0 and curve.max() <= 1.0 and np.ptp(curve) > 0.9
    assert not any("90 % of new" in t.get_text() for t in axes.get_legend().get_texts())
    assert axis_labels(plot_samples(fit, dataset.card)) >= {"waiting over 70 minutes"}


def test_one_column_has_its_own_name(looked_at):
    fit, dataset, found = looked_at("normal-gamma-old-faithful")
    for fig in (plot_fit(fit, dataset.card), plot_samples(fit, dataset.card)):
        assert "waiting (minutes)" in axis_labels(fig)
        assert not any("eruptions" in label for label in axis_labels(fig))


def test_a_card_of_other_columns_names_none():
    from ppl_zoo.diagnostics.plots.style import column_name

    data = zoo.data.load("old-faithful", column=1)
    fit = zoo.fit(zoo.NormalGamma(), data, progress=False)
    other = zoo.data.load("old-faithful").card  # two names, one column
    assert column_name(fit, other, "x") == "x"


def test_frames_name_their_columns():
    import pandas as pd

    x = zoo.data.load("old-faithful").train.numpy()
    frame = pd.DataFrame(x, columns=["length", "pause"])
    fit = zoo.fit(zoo.GaussianMixture(2, 2), frame, progress=False)
    assert axis_labels(plot_fit(fit)) >= {"length", "pause"}


def test_empty_components_are_told_and_not_drawn(looked_at):
    fit, dataset, _ = looked_at("bayesian-gaussian-mixture-old-faithful")
    fig = plot_fit(fit, dataset.card)
    ellipses = [p for p in fig.axes[0].patches if isinstance(p, Ellipse)]
    weights = np.asarray(fit.model.weights)
    held = np.flatnonzero(weights * 272 >= 1)
    assert 0 < len(ellipses) == len(held) < len(weights)
    widths = [e.get_linewidth() for e in ellipses]
    assert list(np.argsort(widths)) == list(np.argsort(weights[held])), "thick is heavy"
    said = " ".join(t.get_text() for t in fig.legends[0].get_texts())
    assert f"{6 - len(held)} of 6 components hold no row" in said


def test_restarts_of_points_are_compared_by_their_optimum_not_by_rhat():
    digits = zoo.data.load("digits", binarize=True)
    model = zoo.BernoulliMixture(10, 64, concentration=2.0)
    fit = zoo.fit(model, digits.train[:300], zoo.EM(restarts=3), device="cpu", progress=False)
    objectives = fit.solution.objective
    same = int((objectives >= objectives.max() - 0.1).sum())
    assert fit.solution.num_at_best == same
    check = fit.check(num_samples=50)
    said = str(check.inference)
    assert "R-hat" not in said and not any(line.rhat > 2 for line in check.lines)
    assert re.search(rf"{same} of 3 restarts", said) or re.search(r"1 of 3 restarts", said)
    posterior = zoo.diagnostics.get_group(fit.to_arviz(num_samples=50), "posterior")
    assert posterior.sizes["chain"] == 1
    assert np.isnan(zoo.diagnostics.max_rhat(fit.to_arviz(num_samples=50)))


def test_history_under_validation_is_a_row_s_on_both_sides():
    digits = zoo.data.load("digits", binarize=True)
    fit = zoo.fit(
        zoo.FVSBN(64), digits, zoo.SVI(steps=60, batch_size=100, patience=5), progress=False
    )
    axes = plot_history(fit).axes[0]
    dashed = axes.lines[-1].get_ydata()
    assert dashed[0] == pytest.approx(fit.solution.validation_score)
    assert axes.get_ylabel() == "objective (nats a row)"
    assert "held-out rows" in axes.get_legend().get_texts()[-1].get_text()


def test_completions_hold_what_is_given():
    digits = zoo.data.load("digits", binarize=True)
    fit = zoo.fit(zoo.FVSBN(64), digits.train, zoo.SVI(steps=30), progress=False)
    fig = plot_completions(fit, digits.card, digits.test, num=3, draws=2)
    images = [np.asarray(ax.images[0].get_array().filled(-1.0)) for ax in fig.axes]
    assert len(images) == 4 and (images[0][4:8, :8] == 0.5).all()
    for drawn in images[1:]:
        np.testing.assert_array_equal(drawn[:4], images[0][:4])
        assert set(np.unique(drawn)) <= {-1.0, 0.0, 1.0}
    check_figure(fig)


def test_a_chain_alone_is_that_chain():
    x = zoo.data.load("old-faithful").train
    fit = zoo.fit(zoo.GaussianMixture(4, 2), x, zoo.EM(restarts=3), device="cpu", progress=False)
    best, alone = fit.solution.best, fit.alone()
    assert alone.solution.stopped == fit.solution.stopped[best : best + 1]
    assert alone.objective == fit.objective and alone.solution.num_at_best == 1
    for name, value in alone.solution.parameters.items():
        assert value.shape[0] == 1 and (value[0] == fit.solution.parameters[name][best]).all()
