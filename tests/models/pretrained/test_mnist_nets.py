"""The shipped nets of MNIST: they load by name, draw digits, and score what their cards say."""

import json
import os
from pathlib import Path

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.models.pretrained import PRETRAINED
from ppl_zoo.models.pretrained.weights import pack, unpack

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "mnist.json"
KINDS = ("fvsbn", "nade", "made", "pixelcnn", "transformer")
NETS = [name for name in PRETRAINED if name.removesuffix("-mnist") in KINDS]


#: a transformer draws pixel by pixel without a cache over rows: ten seconds
LONG = {"transformer-mnist"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in NETS]
)
def test_shipped_nets_draw_digits_as_probable_as_digits_are(name):
    torch.manual_seed(0)
    net = zoo.load(name)
    x = net.sample(100)
    assert x.shape == (100, 28, 28)
    assert 0.10 < float(x.mean()) < 0.16  # of the pixels of the training digits, .132 are white
    recorded = json.loads(RESULTS.read_text())["rows"][name.removesuffix("-mnist")]
    score = net.log_prob(x)
    # a net that fits the digits finds its own draws about as probable as these
    assert float(-score.mean()) == pytest.approx(recorded["test"], abs=12.0)
    # few stay digits upside down
    assert float((score - net.log_prob(x.flip(1))).mean()) > 15.0


def test_files_leave_zeros_out():
    """Of a masked net half of the weights are zeros: a bit each, and the model is the same."""
    net = zoo.MADE(12, (40,), "random", num_masks=2).double()
    x = (torch.rand(50, 12) < 0.5).double()
    before = net.log_prob(x)
    net.prune()
    assert torch.equal(net.log_prob(x), before)
    weights = {k: v.half().float() for k, v in net.state_dict().items()}
    packed = pack(weights)
    assert sum(t.nbytes for t in packed.values()) < sum(2 * w.numel() for w in weights.values())
    read = unpack(packed)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key]) for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_shipped_nets_score_what_is_recorded(name):
    if "PPL_ZOO_DATA" not in os.environ:
        pytest.skip("MNIST is not here")
    x = zoo.data.load("mnist-binarized").test.reshape(-1, 28, 28)
    recorded = json.loads(RESULTS.read_text())["rows"][name.removesuffix("-mnist")]
    assert float(-zoo.load(name).log_prob(x).double().mean()) == pytest.approx(
        recorded["test"], abs=1e-3
    )
