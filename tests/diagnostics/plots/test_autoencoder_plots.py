"""Plots for autoencoders."""

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.diagnostics.plots import fit as plots


@pytest.fixture(scope="module", params=[1, 2, 3])
def fitted(request):
    digits = zoo.data.load("digits", binarize=True)
    model = zoo.VAE(64, request.param, [16])
    solver = zoo.SVI(steps=200, learning_rate=5e-3, batch_size=100, compile=False)
    return zoo.fit(model, digits.train, solver, progress=False), digits


def test_codes_are_coloured_by_class(fitted):
    fit, digits = fitted
    figure = plots.plot_fit(fit, digits.card, digits.labels["train"])
    pictures, chart = figure.axes
    assert pictures.images[0].get_array().shape == (8 * 9 - 1, 8 * 9 - 1)
    assert [t.get_text() for t in chart.get_legend().get_texts()] == [str(d) for d in range(10)]
    # each class has its own dots, at the means of the guide
    code = fit.model.encode(digits.train[torch.from_numpy(_shown(fit))])
    assert sum(len(dots.get_offsets()) for dots in chart.collections) == len(code)
    across = torch.cat([torch.as_tensor(dots.get_offsets()[:, 0]) for dots in chart.collections])
    latent = int(chart.get_xlabel().split()[1])
    assert torch.allclose(across.sort().values, code[:, latent].double().sort().values, atol=1e-5)


def test_without_classes_the_map_has_one_colour(fitted):
    fit, digits = fitted
    figure = plots.plot_fit(fit, digits.card)
    assert figure.axes[1].get_legend() is None and len(figure.axes[1].collections) == 1


def _shown(fit):
    from ppl_zoo.diagnostics.arrays import even_indices

    return fit.row_numbers[even_indices(len(fit.rows), 1000)]
