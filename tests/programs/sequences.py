"""Programs of sequences: hidden Markov models, a deep one, and series with continuous states."""

import pyro
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_mean
from torch import nn
from torch.distributions import constraints

HMM = "pyro.ai/examples/hmm.html"
HIDDEN = 3
PARALLEL = {"enumerate": "parallel"}


def chorales():
    """Three sequences of up to four steps in which two keys may sound, and their lengths."""
    tones = torch.randint(2, (3, 4, 2), generator=torch.Generator().manual_seed(1)).float()
    lengths = torch.tensor([4, 2, 3])
    return tones * (torch.arange(4)[:, None] < lengths[:, None, None]), lengths


def of_probs(model):
    """Point estimates of what the example learns; the states are summed out."""
    blocked = poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_"))
    return AutoDelta(blocked, init_loc_fn=init_to_mean)


def one_plate():
    return TraceEnum_ELBO(max_plate_nesting=1)


def two_plates():
    return TraceEnum_ELBO(max_plate_nesting=2)


def transitions(*shape):
    near = 0.9 * torch.eye(HIDDEN) + 0.1
    return dist.Dirichlet(near.expand(*shape, HIDDEN, HIDDEN)).to_event(1 + len(shape))


def emissions(*shape):
    return dist.Beta(0.5, 0.9).expand(shape).to_event(len(shape))


@published("HMM 0", HMM, elbo=one_plate, falls_back="lengths[i]")
def hmm_one_by_one():
    """Sequences in a Python loop."""

    def model(sequences, lengths):
        probs_x = pyro.sample("probs_x", transitions())
        probs_y = pyro.sample("probs_y", emissions(HIDDEN, 2))
        tones = pyro.plate("tones", 2, dim=-1)
        for i in pyro.plate("sequences", len(sequences)):
            sequence = sequences[i, : lengths[i]]
            x = 0
            for t in pyro.markov(range(len(sequence))):
                x = pyro.sample(f"x_{i}_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                with tones:
                    emission = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    pyro.sample(f"y_{i}_{t}", emission, obs=sequence[t])

    return model, of_probs(model), chorales()


@published("HMM 1", HMM, elbo=two_plates, falls_back="range(lengths.max())")
def hmm_in_plate():
    """All sequences at once, a mask over what lies after their ends; a flag among the data."""

    def model(sequences, lengths, include_prior=True):
        with poutine.mask(mask=include_prior):
            probs_x = pyro.sample("probs_x", transitions())
            probs_y = pyro.sample("probs_y", emissions(HIDDEN, 2))
        tones = pyro.plate("tones", 2, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            x = 0
            for t in pyro.markov(range(lengths.max())):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                    with tones:
                        emission = dist.Bernoulli(probs_y[x.squeeze(-1)])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    sequences, lengths = chorales()
    data = {"sequences": sequences, "lengths": lengths, "include_prior": True}
    return model, of_probs(model), data


@published("HMM 1 without its prior", HMM, elbo=two_plates, falls_back="range(lengths.max())")
def hmm_without_prior():
    """Held-out likelihood as the example evaluates it: the same program, its prior masked."""
    model, guide, data = hmm_in_plate()
    return model, guide, {**data, "include_prior": False}


@published("HMM 2", HMM, elbo=two_plates)
def hmm_of_tones():
    """Each tone also hangs on whether it sounded before; sequences are subsampled."""

    def model(sequences, lengths, batch_size=None):
        num_sequences, max_length, num_tones = sequences.shape
        probs_x = pyro.sample("probs_x", transitions())
        probs_y = pyro.sample("probs_y", emissions(HIDDEN, 2, num_tones))
        tones = pyro.plate("tones", num_tones, dim=-1)
        with pyro.plate("sequences", num_sequences, batch_size, dim=-2) as batch:
            lengths = lengths[batch]
            x = y = 0
            for t in pyro.markov(range(max_length)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                    with tones as tone:
                        emission = dist.Bernoulli(probs_y[x, y, tone])
                        y = pyro.sample(f"y_{t}", emission, obs=sequences[batch, t]).long()

    sequences, lengths = chorales()
    return model, of_probs(model), {"sequences": sequences, "lengths": lengths, "batch_size": 2}


@published("HMM 3", HMM, elbo=two_plates)
def hmm_of_two_chains():
    def model(sequences, lengths):
        probs_w = pyro.sample("probs_w", transitions())
        probs_x = pyro.sample("probs_x", transitions())
        probs_y = pyro.sample("probs_y", emissions(HIDDEN, HIDDEN, 2))
        tones = pyro.plate("tones", 2, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            w, x = 0, 0
            for t in pyro.markov(range(sequences.shape[1])):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=PARALLEL)
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                    with tones as tone:
                        emission = dist.Bernoulli(probs_y[w, x, tone])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return model, of_probs(model), chorales()


@published("HMM 4", HMM, elbo=two_plates)
def hmm_of_dependent_chains():
    def model(sequences, lengths):
        probs_w = pyro.sample("probs_w", transitions())
        probs_x = pyro.sample("probs_x", transitions(HIDDEN))
        probs_y = pyro.sample("probs_y", emissions(HIDDEN, HIDDEN, 2))
        tones = pyro.plate("tones", 2, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            # indices are tensors from the start, so that they broadcast
            w = x = torch.tensor(0)
            for t in pyro.markov(range(sequences.shape[1])):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=PARALLEL)
                    probs = probs_x[w, x]
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs), infer=PARALLEL)
                    with tones as tone:
                        emission = dist.Bernoulli(probs_y[w, x, tone])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return model, of_probs(model), chorales()


class TonesGenerator(nn.Module):
    """Logits of the tones from the state and the tones before."""

    def __init__(self, num_tones, hidden=4):
        super().__init__()
        self.x_to_hidden = nn.Linear(HIDDEN, hidden)
        self.y_to_hidden = nn.Linear(num_tones, hidden)
        self.hidden_to_logits = nn.Linear(hidden, num_tones)

    def forward(self, x, y):
        one_hot = torch.eye(HIDDEN)[x]
        if one_hot.dim() > 1:  # the tones' plate is to the right of the state's dimensions
            one_hot = one_hot.squeeze(-2)
        hidden = (self.x_to_hidden(one_hot) + self.y_to_hidden(y)).relu()
        return self.hidden_to_logits(hidden)


@published("HMM 5", HMM, elbo=two_plates)
def hmm_with_net():
    net = TonesGenerator(2)

    def model(sequences, lengths):
        pyro.module("tones_generator", net)
        probs_x = pyro.sample("probs_x", transitions())
        tones = pyro.plate("tones", 2, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            x, y = 0, torch.zeros(2)
            for t in pyro.markov(range(sequences.shape[1])):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=PARALLEL)
                    with tones:
                        emission = dist.Bernoulli(logits=net(x, y))
                        y = pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return model, of_probs(model), chorales()


@published("HMM 6", HMM, elbo=two_plates)
def hmm_of_second_order():
    def model(sequences, lengths):
        num_tones = sequences.shape[2]
        size = 2
        probs_x = pyro.param(
            "x_rank",
            torch.tensor([[0.7, 0.3], [0.4, 0.6]]),
            constraint=constraints.simplex,
        )
        probs_x = torch.stack([probs_x, probs_x.flip(0)])
        probs_y = pyro.sample("probs_y", emissions(size, num_tones))
        tones = pyro.plate("tones", num_tones, dim=-1)
        with pyro.plate("sequences", len(sequences), dim=-2):
            before = current = torch.tensor(0)
            for t in pyro.markov(range(sequences.shape[1]), history=2):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    probs = probs_x[before, current]
                    after = pyro.sample(f"x_{t}", dist.Categorical(probs), infer=PARALLEL)
                    before, current = current, after
                    with tones:
                        emission = dist.Bernoulli(probs_y[current.squeeze(-1)])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return model, of_probs(model), chorales()


@published("HMM 7", HMM)
def hmm_as_distribution():
    """The whole chain is one distribution, its states eliminated in parallel."""

    def model(sequences):
        num_sequences, duration, num_tones = sequences.shape
        probs_x = pyro.sample("probs_x", transitions())
        probs_y = pyro.sample("probs_y", emissions(HIDDEN, num_tones))
        with pyro.plate("sequences", num_sequences, dim=-1):
            start = torch.full((HIDDEN,), -float("inf"))
            start[0] = 0
            emission = dist.Bernoulli(probs_y).to_event(1)
            chain = dist.DiscreteHMM(start, probs_x.log(), emission, duration=duration)
            pyro.sample("y", chain, obs=sequences)

    return model, of_probs(model), chorales()[:1]


@published("Gaussian HMM", "docs.pyro.ai/en/stable/distributions.html")
def gaussian_hmm():
    """A harmonic oscillator with noisy positions."""

    def model(positions):
        decay = pyro.sample("decay", dist.Beta(8.0, 2.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
        start = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        chain = dist.GaussianHMM(
            start,
            decay * turn,
            dist.Normal(torch.zeros(2), 0.3).to_event(1),
            torch.tensor([[1.0], [0.0]]),
            dist.Normal(torch.zeros(1), noise[..., None]).to_event(1),
            duration=positions.shape[-2],
        )
        with pyro.plate("series", len(positions)):
            pyro.sample("positions", chain, obs=positions)

    times = torch.arange(4.0)
    return model, AutoNormal, (torch.stack([times.cos(), times.sin()])[..., None],)


class GatedTransition(nn.Module):
    """Next state: a gate mixes a linear and a nonlinear move."""

    def __init__(self, size, hidden):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.Sigmoid()
        )
        self.move = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.linear = nn.Linear(size, size)
        self.linear.weight.data = torch.eye(size)
        self.linear.bias.data = torch.zeros(size)
        self.scale = nn.Linear(size, size)

    def forward(self, z):
        gate, move = self.gate(z), self.move(z)
        loc = (1 - gate) * self.linear(z) + gate * move
        return loc, nn.functional.softplus(self.scale(move.relu()))


class Combiner(nn.Module):
    """Guide's next state from the one before and the RNN, which has read what comes."""

    def __init__(self, size, hidden):
        super().__init__()
        self.z_to_hidden = nn.Linear(size, hidden)
        self.to_loc, self.to_scale = nn.Linear(hidden, size), nn.Linear(hidden, size)

    def forward(self, z, h_rnn):
        hidden = 0.5 * (self.z_to_hidden(z).tanh() + h_rnn)
        return self.to_loc(hidden), nn.functional.softplus(self.to_scale(hidden))


class DeepMarkov(nn.Module):
    def __init__(self, cell, num_tones=2, size=2, hidden=3):
        super().__init__()
        self.emitter = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, num_tones), nn.Sigmoid()
        )
        self.transition = GatedTransition(size, hidden)
        self.combiner = Combiner(size, hidden)
        self.rnn = cell(num_tones, hidden, batch_first=True)
        self.z_0 = nn.Parameter(torch.zeros(size))
        self.z_q_0 = nn.Parameter(torch.zeros(size))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, hidden))

    def model(self, sequences, mask, annealing=1.0):
        pyro.module("dmm", self)
        z = self.z_0.expand(len(sequences), -1)
        with pyro.plate("sequences", len(sequences)):
            for t in pyro.markov(range(sequences.shape[1])):
                loc, scale = self.transition(z)
                with poutine.scale(scale=annealing):
                    prior = dist.Normal(loc, scale).mask(mask[:, t : t + 1]).to_event(1)
                    z = pyro.sample(f"z_{t}", prior)
                emission = dist.Bernoulli(self.emitter(z)).mask(mask[:, t : t + 1]).to_event(1)
                pyro.sample(f"x_{t}", emission, obs=sequences[:, t])

    def guide(self, sequences, mask, annealing=1.0):
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(-1, len(sequences), -1).contiguous()
        h = self.rnn(sequences.flip(1), h_0)[0].flip(1)
        z = self.z_q_0.expand(len(sequences), -1)
        with pyro.plate("sequences", len(sequences)):
            for t in pyro.markov(range(sequences.shape[1])):
                loc, scale = self.combiner(z, h[:, t])
                with poutine.scale(scale=annealing):
                    q = dist.Normal(loc, scale).mask(mask[:, t : t + 1]).to_event(1)
                    z = pyro.sample(f"z_{t}", q)


def masked_chorales():
    sequences, lengths = chorales()
    return sequences, (torch.arange(4) < lengths[:, None])


@published("deep Markov model", "pyro.ai/examples/dmm.html")
def deep_markov():
    dmm = DeepMarkov(nn.RNN)
    return dmm.model, dmm.guide, masked_chorales()


@published("deep Markov model, annealed", "pyro.ai/examples/dmm.html")
def deep_markov_annealed():
    dmm = DeepMarkov(nn.GRU)
    sequences, mask = masked_chorales()
    return dmm.model, dmm.guide, {"sequences": sequences, "mask": mask, "annealing": 0.2}


@published("local level", "pyro.ai/examples/forecasting_i.html")
def local_level():
    """Drift of heavy tails, summed over time, and a regression."""

    def model(series, covariates):
        duration = len(series)
        with pyro.plate("features", covariates.shape[-1]):
            weight = pyro.sample("weight", dist.Normal(0.0, 0.5))
        drift_scale = pyro.sample("drift_scale", dist.LogNormal(-2.0, 1.0))
        with pyro.plate("time", duration):
            drift = pyro.sample("drift", dist.StudentT(4.0, 0.0, drift_scale))
            level = drift.cumsum(-1)
            noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.3))
            centre = level + (covariates * weight.unsqueeze(-2)).sum(-1)
            pyro.sample("series", dist.Normal(centre, noise), obs=series)

    times = torch.arange(6.0)
    covariates = torch.stack([times.sin(), times.cos()], -1)
    return model, AutoNormal, (0.2 * times + covariates[:, 0], covariates)


@published("autoregression in pyro.markov", "docs.pyro.ai/en/stable/primitives.html")
def autoregression():
    """A continuous state with a guide for each step."""

    def model(series):
        step = pyro.sample("step", dist.LogNormal(-1.0, 0.5))
        z = torch.zeros(())
        for t in pyro.markov(range(len(series))):
            z = pyro.sample(f"z_{t}", dist.Normal(0.9 * z, step))
            pyro.sample(f"series_{t}", dist.Normal(z, 0.2), obs=series[t])

    def guide(series):
        positive = constraints.positive
        loc = pyro.param("step_loc", torch.tensor(-1.0))
        scale = pyro.param("step_scale", torch.tensor(0.1), constraint=positive)
        pyro.sample("step", dist.LogNormal(loc, scale))
        z = torch.zeros(())
        for t in pyro.markov(range(len(series))):
            slope = pyro.param(f"slope_{t}", torch.tensor(0.5))
            loc = pyro.param(f"loc_{t}", torch.tensor(0.0))
            scale = pyro.param(f"scale_{t}", torch.tensor(0.3), constraint=positive)
            z = pyro.sample(f"z_{t}", dist.Normal(slope * z + loc, scale))

    return model, guide, (torch.tensor([0.1, 0.4, 0.3, 0.9]),)


@published(
    "local level, vectorised particles",
    "pyro.ai/examples/forecasting_i.html",
    elbo=lambda: Trace_ELBO(num_particles=2, vectorize_particles=True),
)
def local_level_in_particles():
    return local_level()
