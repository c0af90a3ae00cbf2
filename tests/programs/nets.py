"""Programs with nets: autoencoders, flows, belief nets, and attend-infer-repeat."""

import pyro
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints

PIXELS = 6


def pictures(rows=12):
    """Binary pictures of two classes, and the classes."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.arange(rows) % 2
    on = torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9, 0.9, 0.9]])
    return torch.bernoulli(on[classes], generator=generator), classes


class Encoder(nn.Module):
    def __init__(self, num_inputs, size, norm=None):
        super().__init__()
        self.hidden = nn.Linear(num_inputs, 4)
        self.norm = nn.Identity() if norm is None else norm(4)
        self.loc, self.log_scale = nn.Linear(4, size), nn.Linear(4, size)

    def forward(self, x):
        hidden = nn.functional.softplus(self.norm(self.hidden(x)))
        return self.loc(hidden), self.log_scale(hidden).exp()


def make_decoder(size, norm=None):
    layers = [nn.Linear(size, 4), nn.Softplus(), nn.Linear(4, PIXELS), nn.Sigmoid()]
    if norm is not None:
        layers.insert(1, norm(4))
    return nn.Sequential(*layers)


class VAE(nn.Module):
    def __init__(self, size=2, norm=None):
        super().__init__()
        self.encoder, self.decoder = Encoder(PIXELS, size, norm), make_decoder(size, norm)
        self.size = size

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            prior = dist.Normal(x.new_zeros(len(x), self.size), x.new_ones(len(x), self.size))
            z = pyro.sample("latent", prior.to_event(1))
            loc = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(loc).to_event(1), obs=x)
            return loc

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


@published("VAE", "pyro.ai/examples/vae.html")
def vae():
    net = VAE()
    return net.model, net.guide, pictures()[:1]


@published("VAE with batch normalisation", "pyro.ai/examples/prodlda.html")
def vae_with_batch_norm():
    net = VAE(norm=nn.BatchNorm1d)
    return net.model, net.guide, pictures()[:1]


class SemiSupervisedVAE(nn.Module):
    """The M2 model; the classes are observed where they are given, and else a latent."""

    def __init__(self, size=2, num_classes=2):
        super().__init__()
        self.size, self.num_classes = size, num_classes
        self.encoder_y = nn.Sequential(nn.Linear(PIXELS, num_classes), nn.Softmax(-1))
        self.encoder_z = Encoder(PIXELS + num_classes, size)
        self.decoder = make_decoder(size + num_classes)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)):
            prior = dist.Normal(xs.new_zeros(len(xs), self.size), 1.0).to_event(1)
            zs = pyro.sample("z", prior)
            even = xs.new_ones(len(xs), self.num_classes) / self.num_classes
            ys = pyro.sample("y", dist.OneHotCategorical(even), obs=ys)
            zs = zs.expand(ys.shape[:-1] + zs.shape[-1:])
            loc = self.decoder(torch.cat([zs, ys], -1))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            joint = torch.cat([xs.expand(ys.shape[:-1] + xs.shape[-1:]), ys], -1)
            loc, scale = self.encoder_z(joint)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def model_classify(self, xs, ys):
        """Auxiliary loss of the classifier, which the supervised bound does not train."""
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)), poutine.scale(scale=5.0):
            pyro.sample("y_aux", dist.OneHotCategorical(self.encoder_y(xs)), obs=ys)

    def guide_classify(self, xs, ys):
        """Nothing to guess."""


SS_VAE = "pyro.ai/examples/ss-vae.html"


@published("SS-VAE without classes", SS_VAE, elbo=lambda: TraceEnum_ELBO(max_plate_nesting=1))
def ss_vae_unsupervised():
    net = SemiSupervisedVAE()
    return net.model, config_enumerate(net.guide, "parallel", expand=True), pictures()[:1]


def one_hot(classes):
    return nn.functional.one_hot(classes, 2).float()


@published("SS-VAE with classes", SS_VAE)
def ss_vae_supervised():
    net = SemiSupervisedVAE()
    x, classes = pictures()
    return net.model, net.guide, (x, one_hot(classes))


@published("SS-VAE's classifier", SS_VAE, exports=False)
def ss_vae_classifier():
    net = SemiSupervisedVAE()
    x, classes = pictures()
    return net.model_classify, net.guide_classify, {"xs": x, "ys": one_hot(classes)}


@published("conditional VAE", "pyro.ai/examples/cvae.html")
def conditional_vae():
    """The right half of a picture from its left half: a prior net, a recognition net, a decoder.

    A baseline net guesses first, and is held fixed.
    """
    half = PIXELS // 2
    baseline = nn.Linear(half, half).requires_grad_(False)
    prior, recognition = Encoder(2 * half, 2), Encoder(2 * half, 2)
    generation = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, half), nn.Sigmoid())

    def model(xs, ys=None):
        pyro.module("prior_net", prior)
        pyro.module("generation_net", generation)
        with pyro.plate("data"):
            guess = baseline(xs).sigmoid()
            loc, scale = prior(torch.cat([xs, guess], -1))
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            loc = generation(z)
            pyro.sample("y", dist.Bernoulli(loc).to_event(1), obs=ys)
            return loc

    def guide(xs, ys=None):
        pyro.module("recognition_net", recognition)
        with pyro.plate("data"):
            loc, scale = recognition(torch.cat([xs, ys], -1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    x, _ = pictures()
    return model, guide, (x[:, :half], x[:, half:])


FLOWS = "pyro.ai/examples/normalizing_flows_i.html"


def moons():
    angles = torch.linspace(0.0, 3.0, 16)
    return torch.stack([angles.cos(), angles.sin() + 0.1 * (7 * angles).sin()], -1)


def nothing_to_guess(x):
    """No latents: maximum likelihood."""


def density(net, transform):
    def model(x):
        pyro.module("flow", net)
        base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
        flow = dist.TransformedDistribution(base, [transform])
        net.clear_cache()  # as the tutorial after each step: what the last parameters gave
        with pyro.plate("data", len(x)):
            pyro.sample("x", flow, obs=x)

    return model, nothing_to_guess, (moons(),)


@published("flow of splines", FLOWS, exports=False)
def flow_of_splines():
    coupling = dist.transforms.spline_coupling(2, count_bins=3, hidden_dims=[4], bound=2.0)
    return density(coupling, coupling)


@published("flow, autoregressive", FLOWS, exports=False)
def flow_autoregressive():
    net = dist.transforms.affine_autoregressive(2, hidden_dims=[4])
    return density(net, net.inv)


@published("conditional flow", FLOWS, exports=False)
def flow_conditional():
    """Density of one coordinate, and of the other given it."""
    first = dist.transforms.spline(1, count_bins=3)
    second = dist.transforms.conditional_spline(1, context_dim=1, count_bins=3, hidden_dims=[3])
    flows = nn.ModuleList([first, second])

    def model(x, y):
        pyro.module("flows", flows)
        base = dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1)
        with pyro.plate("data", len(x)):
            flow = dist.TransformedDistribution(base, [first])
            first.clear_cache()
            x = pyro.sample("x", flow, obs=x)
            given = dist.ConditionalTransformedDistribution(base, [second]).condition(x)
            pyro.sample("y", given, obs=y)

    def guide(x, y):
        """No latents: maximum likelihood."""

    x, y = moons().split(1, -1)
    return model, guide, (x, y)


@published("flow as a guide", "pyro.ai/examples/dmm.html")
def flow_as_guide():
    """Inverse autoregressive flow around a normal, for weights that are correlated."""
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(w[..., :1] * x + w[..., 1:], 0.3), obs=y)

    def guide(x, y):
        pyro.module("iaf", flow)
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.full((2,), 0.5), constraint=constraints.positive)
        base = dist.Normal(loc, scale)
        pyro.sample("w", dist.TransformedDistribution(base, [flow]))

    x = torch.linspace(0.0, 2.0, 10)
    return model, guide, (x, 0.5 * x - 0.2)


class BeliefNet(nn.Module):
    """Two layers of binary units; a recognition net and baselines for the score function."""

    def __init__(self, sizes=(2, 3)):
        super().__init__()
        self.top = nn.Parameter(torch.zeros(sizes[0]))
        self.down = nn.ModuleList([nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], PIXELS)])
        self.up = nn.ModuleList([nn.Linear(PIXELS, sizes[1]), nn.Linear(sizes[1], sizes[0])])

    def model(self, x):
        pyro.module("belief_net", self)
        with pyro.plate("data", len(x)):
            h2 = pyro.sample("h2", dist.Bernoulli(logits=self.top.expand(len(x), -1)).to_event(1))
            h1 = pyro.sample("h1", dist.Bernoulli(logits=self.down[0](h2)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.down[1](h1)).to_event(1), obs=x)

    def guide(self, x, baseline=None):
        infer = {} if baseline is None else {"baseline": baseline}
        with pyro.plate("data", len(x)):
            q = dist.Bernoulli(logits=self.up[0](x)).to_event(1)
            h1 = pyro.sample("h1", q, infer=infer)
            q = dist.Bernoulli(logits=self.up[1](h1)).to_event(1)
            pyro.sample("h2", q, infer=infer)


BELIEF = "pyro.ai/examples/svi_part_iii.html"


@published("sigmoid belief net", BELIEF, elbo=TraceGraph_ELBO)
def belief_net():
    net = BeliefNet()
    return net.model, net.guide, pictures()[:1]


@published(
    "sigmoid belief net, baselines by decaying average",
    BELIEF,
    elbo=TraceGraph_ELBO,
    falls_back="changes from one run to the next",
)
def belief_net_with_average():
    net = BeliefNet()

    def guide(x):
        average = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
        net.guide(x, average)

    return net.model, guide, pictures()[:1]


@published(
    "sigmoid belief net, baselines by a net",
    BELIEF,
    elbo=TraceGraph_ELBO,
)
def belief_net_with_baseline():
    net = BeliefNet()
    baseline = nn.Sequential(nn.Linear(PIXELS, 2), nn.ReLU(), nn.Linear(2, 1), nn.Flatten(0))

    def guide(x):
        pyro.module("baseline", baseline)
        net.guide(x, {"nn_baseline": baseline, "nn_baseline_input": x})

    return net.model, guide, pictures()[:1]


class Decoder(PyroModule):
    """A net whose last weights have a prior."""

    def __init__(self):
        super().__init__()
        self.hidden = PyroModule[nn.Linear](1, 2)
        self.out = PyroModule[nn.Linear](2, PIXELS)
        self.out.weight = PyroSample(dist.Normal(0.0, 1.0).expand([PIXELS, 2]).to_event(2))

    def forward(self, z):
        return self.out(self.hidden(z).tanh())


@published("Bayesian decoder in a function", "pyro.ai/examples/modules.html")
def bayesian_decoder():
    decoder = Decoder()

    def model(x):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        rows = pyro.plate("data", len(x))
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        loc = decoder(z)
        with rows:
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    return model, AutoNormal, pictures(8)[:1]


SIDE, PATCH = 6, 3


class AttendInferRepeat(nn.Module):
    """Up to two objects in a picture: is there one more, where is it, and what is it."""

    steps = 2

    def __init__(self, hidden=4):
        super().__init__()
        self.rnn = nn.LSTMCell(SIDE * SIDE + 1 + 3 + 2, hidden)
        self.predict = nn.Linear(hidden, 1 + 6)
        self.encode = nn.Linear(PATCH * PATCH, 4)
        self.decode = nn.Sequential(nn.Linear(2, PATCH * PATCH), nn.Sigmoid())

    @staticmethod
    def transform(image, where, size):
        """Draw an image under scale and shift."""
        scale, shift = where[:, :1], where[:, 1:]
        eye = torch.eye(2).expand(len(where), 2, 2)
        theta = torch.cat([scale[..., None] * eye, shift[..., None]], -1)
        shape = torch.Size((len(where), 1, size, size))
        grid = nn.functional.affine_grid(theta, shape, align_corners=False)
        side = int(image.shape[-1] ** 0.5)
        image = image.view(len(where), 1, side, side)
        drawn = nn.functional.grid_sample(image, grid, align_corners=False)
        return drawn.view(len(where), size * size)

    def model(self, images):
        pyro.module("decode", self.decode)
        n = len(images)
        with pyro.plate("data", n):
            present, canvas = torch.ones(n, 1), torch.zeros(n, SIDE * SIDE)
            for t in range(self.steps):
                q = dist.Bernoulli(0.6 * present).to_event(1)
                present = pyro.sample(f"z_pres_{t}", q)
                where = dist.Normal(torch.tensor([2.0, 0.0, 0.0]), 0.5).expand([n, 3])
                where = pyro.sample(f"z_where_{t}", where.mask(present.bool()).to_event(1))
                what = dist.Normal(0.0, 1.0).expand([n, 2]).mask(present.bool()).to_event(1)
                what = pyro.sample(f"z_what_{t}", what)
                drawn = self.transform(self.decode(what), where, SIDE)
                canvas = canvas + present * drawn
            pyro.sample("obs", dist.Normal(canvas, 0.3).to_event(1), obs=images)

    def guide(self, images):
        pyro.module("air", self)
        n = len(images)
        with pyro.plate("data", n):
            state = None
            present, where, what = torch.ones(n, 1), torch.zeros(n, 3), torch.zeros(n, 2)
            for t in range(self.steps):
                state = self.rnn(torch.cat([images, present, where, what], -1), state)
                logit, loc, scale = self.predict(state[0]).split([1, 3, 3], -1)
                q = dist.Bernoulli(logit.sigmoid() * present).to_event(1)
                present = pyro.sample(f"z_pres_{t}", q)
                scale = nn.functional.softplus(scale)
                q = dist.Normal(loc + torch.tensor([2.0, 0.0, 0.0]), scale)
                where = pyro.sample(f"z_where_{t}", q.mask(present.bool()).to_event(1))
                inverse = torch.cat([torch.ones(n, 1), -where[:, 1:]], -1) / where[:, :1]
                attended = self.transform(images, inverse, PATCH)
                loc, scale = self.encode(attended).chunk(2, -1)
                q = dist.Normal(loc, nn.functional.softplus(scale))
                what = pyro.sample(f"z_what_{t}", q.mask(present.bool()).to_event(1))


@published(
    "attend, infer, repeat",
    "pyro.ai/examples/air.html",
    elbo=TraceGraph_ELBO,
)
def attend_infer_repeat():
    net = AttendInferRepeat()
    images = torch.zeros(4, SIDE, SIDE)
    for row, at in enumerate([0, 1, 2, 3]):
        images[row, at : at + PATCH, 1:4] = 1.0
    return net.model, net.guide, (images.reshape(4, -1),)
