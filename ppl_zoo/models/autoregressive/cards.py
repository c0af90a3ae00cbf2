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
)

DEEP_NADE = _card(
    "deep-nade",
    "Order-agnostic deep NADE",
    "DeepNADE",
    "One net for the conditionals of every order; density exact for a mixture of fixed orders, in"
    " D passes each. Conditional samples take an order that begins with what is given.",
    URIA_2014,
    recipes=(_digits({"hidden": (200, 200)}, binarize=True),),
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
)

RECURRENT = _card(
    "recurrent-ar",
    "Autoregressive recurrent net",
    "RecurrentAR",
    "An LSTM or GRU that reads the variables in order, one or a row at a time; density exact."
    + _PREFIX,
    GRAVES_2013,
    recipes=(_digits({"num_hidden": 100, "block": 8}, binarize=True),),
)

TRANSFORMER = _card(
    "transformer-ar",
    "Autoregressive transformer",
    "TransformerAR",
    "Causal attention over the variables, keys and values kept while sampling; density exact."
    + _PREFIX,
    VASWANI_2017,
    recipes=(_digits({"width": 32, "num_layers": 2}, binarize=True),),
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
)

CARDS = (FVSBN, NADE, DEEP_NADE, RNADE, MADE, RECURRENT, TRANSFORMER, PIXELCNN, ENSEMBLE)
