"""Pictures of graphical models: all is legible, as it is drawn."""

import itertools
import xml.etree.ElementTree as ET

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch

import ppl_zoo as zoo
from ppl_zoo.diagnostics.plots.graphical_model import DARK, LIGHT


def crossed(y):
    mu = pyro.sample("a_rather_long_name_of_a_mean", dist.Normal(0.0, 1.0))
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Normal(mu, 1.0))
    with columns:
        b = pyro.sample("b", dist.Normal(mu, 1.0))
    with rows, columns:
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


GRAPHS = {
    "eight schools": lambda: zoo.render(zoo.EightSchools(), zoo.data.load("eight-schools")),
    "a net and its guide": lambda: zoo.render(
        zoo.VAE(64, 2), (torch.rand(50, 64) > 0.5).float(), guide=True
    ),
    "crossed plates": lambda: zoo.render(crossed, (torch.zeros(3, 4),)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_labels_never_overlap(name):
    graph = GRAPHS[name]()
    figure = graph.plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in figure.axes[0].texts if t.get_text()]
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in texts]
    for (i, one), (j, other) in itertools.combinations(enumerate(boxes), 2):
        assert not one.overlaps(other), (texts[i].get_text(), texts[j].get_text())
    for box in boxes:
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
    shown = {t.get_text() for t in texts}
    assert shown >= graph.collapsed().nodes.keys() | {p.label for p in graph.plates.values()}


def contrast(one, other):
    """Contrast ratio of two colours (WCAG 2.1)."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_legible(colours):
    for ground in (colours.ground, colours.latent, colours.observed):
        assert contrast(colours.ink, ground) > 7
        assert contrast(colours.faint, ground) > 4.5
    assert contrast(colours.line, colours.ground) > 4.5
    assert contrast(colours.parameter, colours.ground) > 3


def test_observed_nodes_are_shaded_and_deterministic_ones_dashed():
    figure = GRAPHS["eight schools"]().plot()
    faces = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    filled = [p for p in faces if p.get_facecolor()[:3] != (1, 1, 1) and p.get_facecolor()[3]]
    dashed = [p for p in faces if p.get_linestyle() not in ("solid", "-")]
    assert len(filled) == 2 and len(dashed) == 1  # y and sigma; theta


def test_pages_are_light_or_dark():
    graph = GRAPHS["eight schools"]()
    light, dark = graph._repr_svg_(), graph._repr_svg_(dark=True)
    assert LIGHT.ground in light and DARK.ground in dark and DARK.ground not in light
    assert ET.fromstring(light).tag.endswith("svg")
    assert graph._repr_svg_() == light  # the same bytes each time
    page = graph._repr_html_()
    assert "prefers-color-scheme: dark" in page and "theta = f(mu, tau, eta)" in page
