"""Figures: the right one for the data, from the right numbers, and no global state."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from tiny_models import KINDS

import ppl_zoo as zoo
from ppl_zoo.diagnostics import plot_fit, plot_history, plot_posterior, plot_samples
from ppl_zoo.diagnostics.plots.components import gaussians
from ppl_zoo.diagnostics.plots.densities import mass_levels

PLOTS = {"fit": plot_fit, "history": plot_history, "post": plot_posterior, "new": plot_samples}


@pytest.fixture(scope="module")
def cases():
    torch.manual_seed(0)
    geyser = zoo.data.load("old-faithful")
    pair = zoo.data.load("old-faithful", supervised=True)
    schools = zoo.data.load("eight-schools")
    digits = zoo.data.load("digits")
    ink = digits.train[:300] + 0.05 * torch.rand(300, 64)
    wide = (torch.randn(50, 3), torch.randn(50))
    fit = zoo.fit
    quick = {"progress": False}
    return {
        "mixture": (fit(zoo.GaussianMixture(2, 2), geyser, zoo.EM(), **quick), geyser.card),
        "line": (fit(zoo.LinearRegression(1), pair, zoo.SVI(steps=60), **quick), pair.card),
        "effects": (
            fit(zoo.EightSchools(), schools, zoo.SVI(steps=60, restarts=2), **quick),
            schools.card,
        ),
        "images": (
            fit(zoo.GaussianMixture(3, 64, covariance_strength=0.01), ink, **quick),
            digits.card,
        ),
        "several inputs": (fit(zoo.LinearRegression(3), wide, zoo.SVI(steps=60), **quick), None),
        "one column": (fit(zoo.GaussianMixture(2, 1), torch.randn(80, 1), **quick), None),
    }


def render(figure):
    """Draw a figure and return its pixels; text that does not fit is an error of its own."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50)
    stream.seek(0)
    return matplotlib.image.imread(stream)


CASES = ["mixture", "line", "effects", "images", "several inputs", "one column"]


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("case", CASES)
def test_figures_are_drawn(cases, case, plot):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    fit, card = cases[case]
    figure = PLOTS[plot](fit, card)
    pixels = render(figure)
    assert pixels[..., :3].std() > 0.02, "an empty picture"
    assert plt.get_fignums() == before, "pyplot knows nothing of it"


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_pictures(name):
    cls, data = KINDS[name]
    torch.manual_seed(0)
    model = cls(3) if name == "no latents" else cls()
    solver = zoo.EM() if hasattr(model, "maximize") else zoo.SVI(steps=30)
    fit = zoo.fit(model, data(), solver, progress=False)
    for plot in PLOTS.values():
        render(plot(fit))


def text(figure):
    found = [figure.get_suptitle()]
    for ax in figure.axes:
        found += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
        legend = ax.get_legend()
        found += [] if legend is None else [t.get_text() for t in legend.get_texts()]
    for legend in figure.legends:
        found += [t.get_text() for t in legend.get_texts()]
    return "\n".join(found)


def test_titles_and_units_say_what_is_seen(cases):
    assert "eruptions (minutes)" in text(plot_fit(*cases["mixture"]))
    assert "GaussianMixture on old-faithful" in text(plot_fit(*cases["mixture"]))
    assert "waiting (minutes)" in text(plot_fit(*cases["line"]))
    assert "points of the SAT-V test" in text(plot_fit(*cases["effects"]))
    assert "posterior of theta" in text(plot_fit(*cases["effects"]))
    assert "nats" in text(plot_history(*cases["effects"]))
    assert "chain 1" in text(plot_history(*cases["effects"]))


def test_history_shows_the_end_not_the_climb(cases):
    fit, _ = cases["line"]
    trace = fit.history["objective"][0].copy()
    trace[:] = -100.0 + np.random.default_rng(0).normal(size=len(trace))
    trace[0] = -1e6
    fit.solution.history["objective"][0] = trace
    fit.solution.objective[0] = -100.0
    low, high = plot_history(fit).axes[0].get_ylim()
    assert -110.0 < low < -100.0 < high < -90.0


def test_ellipses_are_the_components(cases):
    fit, card = cases["mixture"]
    from matplotlib.patches import Ellipse

    ellipses = [p for p in plot_fit(fit, card).axes[0].patches if isinstance(p, Ellipse)]
    assert len(ellipses) == 2
    for k, ellipse in enumerate(ellipses):
        np.testing.assert_allclose(ellipse.center, fit.model.means[k], rtol=1e-4)
        # points of the ellipse are 2 sd from the mean
        corners = ellipse.get_patch_transform().transform([[1.0, 0.0], [0.0, 1.0]])
        offset = corners - fit.model.means[k].double().numpy()
        precision = np.linalg.inv(fit.model.covariances[k].double().numpy())
        distance = np.sqrt(np.einsum("ni,ij,nj->n", offset, precision, offset))
        np.testing.assert_allclose(distance, 2.0, rtol=1e-4)


def test_levels_hold_the_mass_that_is_said():
    axis = np.linspace(-5, 5, 201)
    density = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    for level, mass in zip(mass_levels(density), (0.95, 0.8, 0.5), strict=True):
        assert level == pytest.approx(1 - mass, abs=0.02)  # of a normal in two dimensions


@pytest.mark.parametrize("kind", ["full", "tied", "diagonal", "spherical"])
def test_components_of_all_covariances(kind):
    model = zoo.GaussianMixture(2, 2, covariance=kind)
    x = torch.cat([torch.randn(60, 2), 5 + torch.randn(60, 2)])
    zoo.fit(model, x, progress=False)
    parts = list(gaussians(model))
    assert sum(weight for weight, _, _ in parts) == pytest.approx(1.0, abs=1e-5)
    for _, mean, covariance in parts:
        assert mean.shape == (2,)
        assert covariance.shape == (2, 2)
        assert np.linalg.eigvalsh(covariance).min() > 0
