"""The VAE that is shipped, on ten digits of the test split, one of each class."""

import base64

import numpy as np
import pytest
import torch

import ppl_zoo as zoo

DIGITS = (
    "AAAAAAAAAAAAAAAAAAAAAcAAAD+AABP8AAe/4ADx/gAfh+AD/A8APwBwB/AHAH8AeAfADwB4A+AHwDwAfn/gA//4"
    "AD//AAP/4AAf/AAA/oAAAyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAYAAABwAAAHAAAAcAAAAYAAABg"
    "AAAOAAAAQAAADgAAAPAAAAsAAABwAAADAAAAcAAABwAAAHAAAAcAAAA4AAAHAAAAeAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAA8AAAAwAAADAAAAEAAABgAAAOAAAAQAAAHAAAAYAAADAAAAZAQAB3/gA/wCAD8AAA8"
    "AAAHAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAHAAAB8AAAEwAAARgAAAGAAAAYAAA"
    "DAAAAOAAAA0AAAD8AAAPwAAAbgAAAOAAAAYAAADAAAB8AAAPgAAD6AAAHAAAAYAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAABAAAAGAAAAQgAACCAAAYEAABAYAAEDAAAwIAAGAgAAYCAAAoFAAA/+AAAfAAAAMAAAAwA"
    "AAAAAAAEAAAAYAAABgAAAGAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABQgAAP8AAAi+AADAAAAIAAABwA"
    "AAGAAAAYwAAB7gAAdPAABwcAACBwAAACAABAIAAABgAAwMAADBwAAEMAAAfwAAAQAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAACgAAAOAAAAwAAAGAAAAYAAADAAAAcAAABAAAAcAAABwAAAOAAAAx4AADHwAAYHAABgcAAHBgAAMOAAB/"
    "4AAD/gAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABgDwAB//AAD78AAIPwAAAOAAA"
    "B4AAAHgAAA4AAAHwAAA8AAAPwAAAeAAAH4AAAfAAADwAAAOAAAD4AAAPAAAA+AAADwAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAv/AAP/8AD/3AAHkeAAeDwAA8fAAB/wAAH+AAAH4AAAPwAAB+AAAPcAAA44AADDgAAWOAA"
    "B4YAAHDgAAOeAABfwAAB4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA6AAAPYAAB4wAAOBYAAwHAADAOA"
    "AMBwABgDAAGAYAAYDgAA5+AAB84AAABAAAAMAAABwAAAHAAAAYAAADgAAAOAAAAwAAAAAAAAAAA="
)


@pytest.fixture(scope="module")
def x():
    packed = np.frombuffer(base64.b64decode(DIGITS), np.uint8).reshape(10, 98)
    return torch.from_numpy(np.unpackbits(packed, axis=1)).float()


@pytest.fixture(scope="module")
def vae():
    return zoo.load("vae-mnist", device="cpu")


def test_its_density_is_that_of_the_card(vae, x):
    torch.manual_seed(0)
    bound, density = vae.elbo(x, 100), vae.log_prob(x, 1000)
    assert bound.mean().item() == pytest.approx(-89.85, abs=0.5)
    assert density.mean().item() == pytest.approx(-86.2, abs=0.5)
    assert (density > bound).all()
    # a row of independent pixels with the frequencies of the data has -194 nats
    assert vae.log_prob(1 - x, 100).mean() < -1000


def test_the_importance_weighted_net_trades_its_bound_for_its_density(vae, x):
    torch.manual_seed(0)
    iwae = zoo.load("iwae-mnist", device="cpu")
    assert iwae.elbo(x, 100).mean() < vae.elbo(x, 100).mean() - 1.0
    assert iwae.log_prob(x, 1000).mean() > vae.log_prob(x, 1000).mean()


def test_the_net_of_the_fixed_binarization_is_there(x):
    torch.manual_seed(0)
    fixed = zoo.load("vae-mnist-fixed", device="cpu")
    assert fixed.log_prob(x, 1000).mean().item() == pytest.approx(-88.5, abs=0.5)


def test_it_codes_and_draws_digits(vae, x):
    assert (vae.reconstruct(x).round() == x).float().mean() > 0.96
    assert zoo.evaluation.latent_use(vae, x).active.sum() > 15
    torch.manual_seed(0)
    drawn = vae.sample(200)
    assert 0.11 < drawn.mean() < 0.16  # 13 % of the pixels of MNIST are white


def test_it_fills_in_what_is_hidden(vae, x):
    torch.manual_seed(0)
    hidden = torch.rand(784) < 0.2
    filled = vae.sample(20, torch.where(hidden, torch.nan, x[0]), num_steps=100)
    assert (filled[:, ~hidden] == x[0, ~hidden]).all()
    free = vae.sample(20)
    wrong = [(drawn[:, hidden] != x[0, hidden]).float().mean() for drawn in (filled, free)]
    assert wrong[0] < 0.5 * wrong[1]
