"""The encoder-decoder: the same function as the paper's modules, one after the other."""

import pytest
import torch
from torch import nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.images import skip_net
from ppl_zoo.models.images.skip_net import PRESETS, BilinearUpsampling, SkipNet

SMALL = {"num_inputs": 3, "down": (6, 8), "up": (5, 7), "skip": (2, 0)}
KINDS = {
    "paper's form": {},
    "nearest": {"upsampling": "nearest"},
    "zeros": {"padding": "zeros"},
    "no mixing": {"mixing": False},
    "narrow": {"narrow": True},
    "no norm where parts join": {"join_norm": False},
}


def convolution(net, before, after, size, stride=1):
    pad = size // 2 if net.padding == "zeros" else 0
    parts = [nn.ReflectionPad2d(size // 2)] if size > 1 and not pad else []
    return [*parts, nn.Conv2d(before, after, size, stride, padding=pad, bias=False)]


def layer(net, before, after, size, stride=1):
    parts = convolution(net, before, after, size, stride)
    return nn.Sequential(*parts, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


class Level(nn.Module):
    """A level as the paper's code has it."""

    def __init__(self, net, level, before):
        super().__init__()
        down, up, skip = net.down[level], net.up[level], net.skip[level]
        last = level + 1 == len(net.down)
        self.skip = layer(net, before, skip, 1) if skip else None
        self.deep = nn.ModuleList([layer(net, before, down, 3, 2), layer(net, down, down, 3)])
        if not last:
            self.deep.append(Level(net, level + 1, down))
        self.doubling = nn.Upsample(scale_factor=2, mode=net.upsampling)
        joined = skip + (down if last else net.num_outputs_of(level + 1))
        self.join = nn.BatchNorm2d(joined) if net.join_norm else nn.Identity()
        self.up = layer(net, joined, up, 3)
        self.mix = layer(net, up, net.num_outputs_of(level), 1) if net.mixing else nn.Identity()

    def forward(self, x):
        deep = x
        for part in self.deep:
            deep = part(deep)
        deep = self.doubling(deep)
        joined = deep if self.skip is None else torch.cat([self.skip(x), deep], 1)
        return self.mix(self.up(self.join(joined)))


def as_modules(net, theta):
    """Build the net of modules, with these weights."""
    modules = nn.Sequential(
        Level(net, 0, net.num_inputs),
        nn.Conv2d(net.num_outputs_of(0), net.num_outputs, 1),
        nn.Sigmoid(),
    ).to(theta.dtype)
    given = dict(zip(net.shapes, theta.split(net.sizes), strict=True))

    def fill(part, name):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                shape = net.shapes[name]
                module.weight.data = given[name].view(shape).permute(0, 3, 1, 2).contiguous()
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data = given[f"{name}.gain"].clone()
                module.bias.data = given[f"{name}.shift"].clone()

    place = modules[0]
    for level in range(len(net.down)):
        for name, part in (
            ("skip", place.skip),
            ("down", place.deep[0]),
            ("deep", place.deep[1]),
            ("join", place.join),
            ("up", place.up),
            ("mix", place.mix),
        ):
            if part is not None:
                fill(part, f"{name}{level}")
        place = place.deep[2] if len(place.deep) > 2 else None
    modules[1].weight.data = given["out"].view(net.shapes["out"]).permute(0, 3, 1, 2).contiguous()
    modules[1].bias.data = given["out.shift"].clone()
    return modules


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_net_of_modules(kind):
    net = SkipNet(**SMALL | KINDS[kind])
    theta = net.start(torch.Generator().manual_seed(0)).double()
    theta += 0.1 * torch.randn(theta.shape, dtype=torch.float64)
    theta.requires_grad_()
    z = torch.rand(2, 3, 12, 20, dtype=torch.float64)
    target = torch.rand(2, 3, 12, 20, dtype=torch.float64)
    ours = net(z, theta)
    modules = as_modules(net, theta.detach())
    theirs = modules(z)
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad((ours - target).square().sum(), theta)
    (theirs - target).square().sum().backward()
    first = gradient.split(net.sizes)[0].view(net.shapes["skip0"]).permute(0, 3, 1, 2)
    torch.testing.assert_close(first, modules[0].skip[0].weight.grad)
    total = sum(p.grad.square().sum() for p in modules.parameters())
    torch.testing.assert_close(gradient.square().sum(), total)


def test_the_papers_net_has_its_number_of_weights():
    # 2,217,831 in the authors' notebook, less the biases that batch normalisation takes away
    assert SkipNet(**PRESETS["paper"]).num_weights == 2_217_831 - 5 * (4 + 4 * 128)


def test_the_small_net_has_twenty_times_less_to_compute():
    def products(net, side=128):
        total = 0
        for name, shape in net.shapes.items():
            if len(shape) == 4:
                level = 0 if name == "out" else int(name[-1])
                halved = level + name.startswith(("down", "deep"))
                total += shape[0] * shape[1] * shape[2] * shape[3] * (side >> halved) ** 2
        return total

    assert products(SkipNet()) > 20 * products(SkipNet(**PRESETS["fast"]))


def test_doubling_has_the_right_gradient():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BilinearUpsampling.apply, (x,))


def test_low_precision_is_close():
    net = SkipNet(**SMALL)
    theta, z = net.start(torch.Generator().manual_seed(0)), torch.rand(1, 3, 32, 32)
    low, full = net(z, theta, bfloat16=True), net(z, theta)
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, atol=0.02, rtol=0)
    small = z[..., :16, :16]  # where it would not pay it is left alone
    assert torch.equal(net(small, theta, bfloat16=True), net(small, theta))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down": (8,)}, "1 levels down, 5 up"),
        ({"down": (0,) * 5}, "without channels"),
        ({"upsampling": "cubic"}, "upsampling: got 'cubic'"),
        ({"padding": "wrap"}, "padding: got 'wrap'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        SkipNet(**options)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_wide_convolutions_have_the_same_gradients(monkeypatch, padding):
    net = SkipNet(num_inputs=3, down=(6, 8), up=(6, 8), skip=(2, 0), padding=padding)
    z, gradients = torch.rand(2, 3, 16, 12, dtype=torch.float64), []
    theta = net.start(torch.Generator().manual_seed(0)).double().requires_grad_()
    for wide in (96, 1):
        monkeypatch.setattr(skip_net, "MIN_WIDE_CHANNELS", wide)
        (gradient,) = torch.autograd.grad(net(z, theta).square().sum(), theta)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)
