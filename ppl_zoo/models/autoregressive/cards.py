"""Model cards of the autoregressive models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppl_zoo.models.card import Card, Figure, Recipe, Reference
from ppl_zoo.models.references import (
    GERMAIN_2015,
    GRAVES_2013,
    LAROCHELLE_2011,
    NEAL_1992,
    URIA_2013,
    URIA_2014,
    URIA_2016,
    VAN_DEN_OORD_2016,
    VASWANI_2017,
)

__all__ = ["CARDS"]

_GERMAIN = "Germain et al. 2015, tables 3 and 6"
_URIA = "Uria, Murray & Larochelle 2013, table 1"


def _uci(where: str, model: str, published: float, reproduced: float | None) -> Figure:
    return Figure(
        what=f"test negative log likelihood of {where}, nats a row",
        published=published,
        source=_URIA if "wine" in where else _GERMAIN,
        reproduced=reproduced,
        command=f"python benchmarks/uci.py --only '{where} {model}'",
        tolerance=0.1,
        better="lower",
    )


def _mnist(
    name: str,
    published: float,
    reproduced: float | None,
    tolerance: float,
    how: str = "one order",
) -> Figure:
    return Figure(
        what=f"test negative log likelihood of MNIST, fixed binarization, {how}, nats an image",
        published=published,
        source=_GERMAIN,
        reproduced=reproduced,
        command=f"python benchmarks/mnist.py --only {name}",
        tolerance=tolerance,
        better="lower",
    )


def _digits(
    model: Mapping[str, Any], steps: int = 1500, demo: bool = False, **data: bool
) -> Recipe:
    return Recipe(
        name="digits",
        title="Handwritten digits of 8x8 pixels",
        data="digits",
        data_options=data,
        model=model,
        options={
            "steps": steps,
            "batch_size": 100,
            "learning_rate": 3e-3,
            "patience": 10,
            "average": 0.99,
        },
        demo=demo,
    )


def _card(
    name: str, title: str, factory: str, summary: str, *references: Reference, **rest: Any
) -> Card:
    return Card(
        name=name,
        title=title,
        family="autoregressive",
        factory=f"ppl_zoo.models:{factory}",
        summary=summary,
        solvers=("SVI",),
        references=references,
        **rest,
    )


_PREFIX = (
    " Conditional samples are exact where what is given comes first in the order, and by"
    " importance resampling otherwise, of discrete variables with Gibbs sweeps after it if asked."
)

FVSBN = _card(
    "fvsbn",
    "Fully visible sigmoid belief network",
    "FVSBN",
    "A logistic regression of each variable on those before it; density exact, the fit concave."
    + _PREFIX,
    NEAL_1992,
    recipes=(_digits({}, binarize=True),),
    figures=(
        _uci("adult", "FVSBN", 13.17, 13.196),
        _uci("mushrooms", "FVSBN", 10.27, 10.197),
        _uci("dna", "FVSBN", 83.64, 83.422),
        _mnist("fvsbn", 97.45, 97.464, 0.05),
    ),
    formula=(
        r"p(x) = \prod_i \mathrm{Bernoulli}\left(x_i \mid \sigma\left(b_i + \sum_{j < i}"
        r" w_{ij} x_j\right)\right)"
    ),
    failure_modes=(
        (
            "Each conditional is linear in the logit: strokes that turn, or a parity of"
            " pixels, are out of its reach however long it is fitted."
        ),
        (
            "It has D^2 / 2 weights: on few rows it learns them by heart, and only the path"
            " of weight decays with held-out rows stops it."
        ),
    ),
)

NADE = _card(
    "nade",
    "Neural autoregressive distribution estimator",
    "NADE",
    "Hidden units that all conditionals share, each layer a rank-1 update of the one before;"
    " density exact." + _PREFIX,
    LAROCHELLE_2011,
    URIA_2016,
    recipes=(_digits({"num_hidden": 100}, binarize=True),),
    figures=(
        _uci("adult", "NADE", 13.19, 13.128),
        _uci("mushrooms", "NADE", 9.81, 9.699),
        _uci("dna", "NADE", 84.81, 83.588),
        _mnist("nade", 88.33, 88.574, 0.57),
    ),
    formula=(
        r"p(x) = \prod_i p(x_i \mid x_{<i}), \qquad h_i = \sigma\left(c + \sum_{j<i} W_j"
        r" x_j\right)"
    ),
    failure_modes=(
        (
            "Learns few rows by heart: training density rises long after the held-out one"
            " falls; held-out rows stop it."
        ),
        (
            "What depends on the order is arbitrary: draws that are given what comes late in"
            " it are resampled, and few particles survive where the given is improbable."
        ),
    ),
)

DEEP_NADE = _card(
    "deep-nade",
    "Order-agnostic deep NADE",
    "DeepNADE",
    "One net for the conditionals of every order; density exact for a mixture of fixed orders, in"
    " D passes each. Conditional samples take an order that begins with what is given.",
    URIA_2014,
    recipes=(_digits({"hidden": (200, 200)}, binarize=True),),
    formula=(
        r"\log p(x) \ge \mathbb{E}_{o}\left[\sum_d \log p\left(x_{o_d} \mid"
        r" x_{o_{<d}}\right)\right]"
    ),
    failure_modes=(
        (
            "One net for all orders is worse in each than a net of that order alone; the"
            " mixture over orders makes up for it at num_orders times D passes a row."
        ),
        (
            "Steps are noisy, since each scores one random split of the variables: patience"
            " must be long."
        ),
    ),
)

RNADE = _card(
    "rnade",
    "Real-valued NADE",
    "RNADE",
    "NADE for real vectors: each conditional is a mixture of normals, Laplaces or logistics;"
    " density exact." + _PREFIX,
    URIA_2013,
    recipes=(
        Recipe(
            name="photo-patches",
            title="8x8 patches of photographs",
            data="photo-patches",
            model={"num_components": 5, "num_hidden": 50},
            options={"steps": 1500, "patience": 10, "average": 0.99},
        ),
    ),
    figures=(
        _uci("red-wine", "RNADE", 9.36, 8.622),
        _uci("white-wine", "RNADE", 10.23, 9.877),
    ),
    formula=(
        r"p(x) = \prod_i \sum_k \pi_k(x_{<i})\, \mathcal{N}\left(x_i \mid"
        r" \mu_k(x_{<i}),\, \sigma_k(x_{<i})^2\right)"
    ),
    failure_modes=(
        (
            "Densities of values that repeat (grey levels, rounded measurements) have no"
            " bound: a component narrows onto them down to min_scale. Add noise of a rounding"
            " step."
        ),
        "Learns few rows by heart; held-out rows stop it.",
    ),
)

MADE = _card(
    "made",
    "Masked autoencoder",
    "MADE",
    "A net whose masks let each output see the variables before it; density exact, ensembles over"
    " masks and orders included." + _PREFIX,
    GERMAIN_2015,
    recipes=(_digits({"hidden": (100,)}, 3000, True, binarize=True),),
    figures=(
        _uci("adult", "MADE", 13.12, 13.104),
        _uci("mushrooms", "MADE", 9.68, 9.721),
        _uci("dna", "MADE", 83.63, 82.700),
        _mnist("made", 88.40, None, 0.2),
    ),
    formula=r"p(x) = \prod_i p\left(x_i \mid x_j : j \text{ before } i\right)",
    failure_modes=(
        (
            "With few hidden units, random degrees leave some outputs few units that see what"
            " they depend on; for these only the direct, linear weights remain."
        ),
        "Learns few rows by heart; held-out rows and weight decay stop it.",
        (
            "What depends on the order is arbitrary: draws that are given what comes late in"
            " it are resampled, and few particles survive where the given is improbable."
        ),
    ),
)

RECURRENT = _card(
    "recurrent-ar",
    "Autoregressive recurrent net",
    "RecurrentAR",
    "An LSTM or GRU that reads the variables in order, one or a row at a time; density exact."
    + _PREFIX,
    GRAVES_2013,
    recipes=(_digits({"num_hidden": 100, "block": 8}, binarize=True),),
    formula=r"p(x) = \prod_t p(x_t \mid h_t), \qquad h_t = f(h_{t-1}, x_{t-1})",
    failure_modes=(
        (
            "What is far back fades: in long sequences of single pixels the upper part of a"
            " digit is forgotten; reading a row at a time (block) shortens the way."
        ),
        (
            "Steps take D / block passes one after the other: slow on long rows, whatever the"
            " hardware."
        ),
    ),
)

TRANSFORMER = _card(
    "transformer-ar",
    "Autoregressive transformer",
    "TransformerAR",
    "Causal attention over the variables, keys and values kept while sampling; density exact."
    + _PREFIX,
    VASWANI_2017,
    recipes=(_digits({"width": 32, "num_layers": 2}, binarize=True),),
    formula=r"p(x) = \prod_p p\left(x_{o_p} \mid x_{o_1}, \ldots, x_{o_{p-1}}\right)",
    failure_modes=(
        (
            "Positions are learned from nothing: it is not told that two pixels are neighbours,"
            " and needs rows enough to find out."
        ),
        "Memory and time grow with the square of the number of variables.",
    ),
)

PIXELCNN = _card(
    "pixelcnn",
    "Gated PixelCNN",
    "PixelCNN",
    "Convolutions of the pixels above and to the left, without a blind spot; density exact."
    + _PREFIX,
    VAN_DEN_OORD_2016,
    recipes=(
        _digits(
            {"shape": (8, 8), "num_channels": 16, "num_layers": 3}, binarize=True, images=True
        ),
    ),
    formula=r"p(x) = \prod_{r, c} p\left(x_{rc} \mid x_{<r},\, x_{r, <c}\right)",
    failure_modes=(
        (
            "Sees locally: draws have right strokes and wrong wholes, digits that are none,"
            " if layers are too few for the image."
        ),
        (
            "Given the lower half of an image its order is the wrong one: draws are"
            " resampled, and few particles survive."
        ),
    ),
)

ENSEMBLE = _card(
    "order-ensemble",
    "Ensemble over orders",
    "OrderEnsemble",
    "Autoregressive nets of one class, each in its own order, in equal parts: the mean of their"
    " probabilities, row by row; density exact." + _PREFIX,
    URIA_2014,
    recipes=(
        _digits(
            {
                "kind": "MADE",
                "members": tuple(
                    {"num_features": 64, "hidden": (100,), "order": "random", "seed": seed}
                    for seed in range(4)
                ),
            },
            binarize=True,
        ),
    ),
    figures=(
        _mnist("made", 88.40, 88.250, 0.2, "two MADE in two orders (published: one, of 8,000)"),
    ),
    formula=r"p(x) = \frac{1}{K} \sum_k p_k(x)",
    failure_modes=(
        (
            "K nets cost K times one, in memory, steps and density; members of one order gain"
            " little."
        ),
        (
            "Equal parts: one bad member costs at most log K nats a row, and its draws are"
            " seen among the others."
        ),
    ),
)

CARDS = (FVSBN, NADE, DEEP_NADE, RNADE, MADE, RECURRENT, TRANSFORMER, PIXELCNN, ENSEMBLE)
