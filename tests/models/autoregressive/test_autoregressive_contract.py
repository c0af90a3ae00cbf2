"""Autoregressive models hold the contract."""

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, check_model


def digits(num_rows=60):
    return zoo.data.load("digits", binarize=True).train[:num_rows].reshape(-1, 8, 8)[:, ::2, ::3]


CONTRACT = {
    "FVSBN": (lambda: zoo.FVSBN((4, 3)), digits),
    "NADE": (lambda: zoo.NADE(12, 9, "random"), lambda: digits().flatten(1)),
    "MADE": (lambda: zoo.MADE((4, 3), (9,), num_masks=2), digits),
    "DeepNADE": (lambda: zoo.DeepNADE((4, 3), (9,)), digits),
    "RecurrentAR": (lambda: zoo.RecurrentAR((4, 3), 6, block=3), digits),
    "TransformerAR": (lambda: zoo.TransformerAR((4, 3), 8, num_heads=2, num_layers=1), digits),
    "PixelCNN": (lambda: zoo.PixelCNN((4, 3), 4, 2), digits),
    "OrderEnsemble": (
        lambda: zoo.OrderEnsemble("MADE", [{"num_features": (4, 3), "hidden": (5,)}] * 2),
        digits,
    ),
    "RNADE": (lambda: zoo.RNADE(3, 2, 6), lambda: torch.randn(50, 1) + torch.randn(50, 3)),
}


#: nets whose contract takes five seconds and more
LONG = {
    "RNADE",
    "FVSBN",
    "PixelCNN",
    "TransformerAR",
    "RecurrentAR",
    "DeepNADE",
    "OrderEnsemble",
    "MADE",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in CONTRACT]
)
def test_contract(name):
    assert check_model(*CONTRACT[name]) == tuple(CLAUSES)
