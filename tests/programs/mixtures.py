"""Mixtures of Pyro's tutorials, their assignments summed out or drawn: points, words, answers."""

import pyro
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn
from torch.distributions import constraints

positive = constraints.positive
GMM = "pyro.ai/examples/gmm.html"
points = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])


def enumerated_1():
    return TraceEnum_ELBO(max_plate_nesting=1)


def enumerated_2():
    return TraceEnum_ELBO(max_plate_nesting=2)


@config_enumerate
def two_normals(data):
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def modes():
    starts = {"weights": torch.full((2,), 0.5), "scale": torch.tensor(3.0)}
    starts["locs"] = torch.tensor([1.0, 9.0])
    globals_only = poutine.block(two_normals, expose=["weights", "locs", "scale"])
    return AutoDelta(globals_only, init_loc_fn=lambda site: starts[site["name"]])


@published("two normals at their mode", GMM, elbo=enumerated_1)
def normals_at_mode():
    return two_normals, modes(), (points,)


@published("two normals, a guide of assignments too", GMM, elbo=enumerated_1)
def normals_with_assignments():
    global_guide = modes()

    @config_enumerate
    def full_guide(data):
        with poutine.block(hide_types=["param"]):  # as fitted before
            global_guide(data)
        with pyro.plate("data", len(data)):
            even = torch.ones(len(data), 2) / 2
            probs = pyro.param("assignment_probs", even, constraint=constraints.simplex)
            pyro.sample("assignment", dist.Categorical(probs))

    return two_normals, full_guide, (points,)


def stick_lengths(beta):
    left = (1 - beta).cumprod(-1)
    return nn.functional.pad(beta, (0, 1), value=1) * nn.functional.pad(left, (1, 0), value=1)


def plane_points(rows=12):
    noise = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return noise + 4.0 * (torch.arange(rows) % 3 - 1)[:, None]


@published("Dirichlet process mixture", "pyro.ai/examples/dirichlet_process_mixture.html")
def dirichlet_process():
    alpha, sticks = 0.5, 4

    def model(data):
        with pyro.plate("beta_plate", sticks - 1):
            beta = pyro.sample("beta", dist.Beta(1, alpha))
        with pyro.plate("mu_plate", sticks):
            centre = dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2))
            mu = pyro.sample("mu", centre)
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(stick_lengths(beta)))
            pyro.sample("obs", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)

    def guide(data):
        kappa = pyro.param("kappa", lambda: torch.ones(sticks - 1), constraint=positive)
        spread = torch.linspace(-4.0, 4.0, sticks)[:, None]
        tau = pyro.param("tau", lambda: spread.expand(sticks, 2).clone())
        even = torch.full((len(data), sticks), 1.0 / sticks)
        phi = pyro.param("phi", lambda: even, constraint=constraints.simplex)
        with pyro.plate("beta_plate", sticks - 1):
            pyro.sample("beta", dist.Beta(torch.ones(sticks - 1), kappa))
        with pyro.plate("mu_plate", sticks):
            pyro.sample("mu", dist.MultivariateNormal(tau, torch.eye(2)))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Categorical(phi))

    return model, guide, (plane_points(),)


@published("topics", "examples/lda.py", elbo=enumerated_2)
def topics():
    num_topics, num_words, num_docs, batch_size = 2, 5, 8, 4
    shape = num_topics, num_words

    def model(data):
        with pyro.plate("topics", num_topics):
            weights = pyro.sample("topic_weights", dist.Gamma(1.0 / num_topics, 1.0))
            words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(num_words) / num_words))
        with pyro.plate("documents", num_docs) as rows:
            data = data[:, rows]
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(weights))
            with pyro.plate("words", len(data)):
                infer = {"enumerate": "parallel"}
                topic = pyro.sample("word_topics", dist.Categorical(doc_topics), infer=infer)
                pyro.sample("doc_words", dist.Categorical(words[topic]), obs=data)

    layers = nn.Linear(num_words, 3), nn.Sigmoid(), nn.Linear(3, num_topics), nn.Softmax(-1)
    predictor = nn.Sequential(*layers)

    def guide(data):
        weights_start, words_start = torch.ones(num_topics), torch.ones(shape)
        weights = pyro.param("weights_posterior", lambda: weights_start, constraint=positive)
        more = constraints.greater_than(0.5)
        words = pyro.param("words_posterior", lambda: words_start, constraint=more)
        with pyro.plate("topics", num_topics):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(words))
        pyro.module("predictor", predictor)
        with pyro.plate("documents", num_docs, batch_size) as rows:
            batch = data[:, rows]
            ones = torch.ones(batch.shape)
            counts = torch.zeros(num_words, len(rows)).scatter_add(0, batch, ones)
            doc_topics = predictor(counts.transpose(0, 1))
            pyro.sample("doc_topics", dist.Delta(doc_topics, event_dim=1))

    generator = torch.Generator().manual_seed(0)
    return model, guide, (torch.randint(num_words, (6, num_docs), generator=generator),)


@published("answers to items", "pyro-ppl/py-irt")
def answers_to_items():
    def model(answers):
        students, items = answers.shape
        spread = pyro.sample("spread", dist.Gamma(2.0, 2.0))
        student_plate = pyro.plate("students", students, dim=-2)
        item_plate = pyro.plate("items", items, dim=-1)
        with student_plate:
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        with item_plate:
            difficulty = pyro.sample("difficulty", dist.Normal(0.0, spread))
            steepness = pyro.sample("steepness", dist.LogNormal(0.0, 0.5))
        with student_plate, item_plate:
            logits = steepness * (ability - difficulty)
            pyro.sample("answer", dist.Bernoulli(logits=logits), obs=answers)

    able = torch.linspace(-1.0, 1.0, 6)[:, None] > torch.linspace(-1.0, 1.0, 4)
    return model, None, (able.float(),)


@published("answers known, guessed or slipped", "forum.pyro.ai", elbo=enumerated_2)
def answers_by_class():
    @config_enumerate
    def model(answers):
        students, items = answers.shape
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("items", items, dim=-1):
            slip = pyro.sample("slip", dist.Beta(1.0, 5.0))
            guess = pyro.sample("guess", dist.Beta(2.0, 5.0))
        with pyro.plate("students", students, dim=-2):
            knows = pyro.sample("knows", dist.Bernoulli(share))
            with pyro.plate("items_of_students", items, dim=-1):
                right = torch.where(knows == 1, 1 - slip, guess)
                pyro.sample("answer", dist.Bernoulli(right), obs=answers)

    continuous = poutine.block(model, hide=["knows"])
    able = (torch.arange(6)[:, None] > 2).expand(6, 4).float().contiguous()
    able[0, 1] = 1.0
    return model, AutoNormal(continuous), (able,)


@published("Dirichlet process mixture, summed out", "forum.pyro.ai")
def truncated_mixture():
    sticks = 3

    def model(data):
        concentration = pyro.sample("concentration", dist.Gamma(2.0, 2.0))
        with pyro.plate("sticks", sticks - 1):
            beta = pyro.sample("beta", dist.Beta(1.0, concentration))
        with pyro.plate("components", sticks):
            locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
            scales = pyro.sample("scales", dist.InverseGamma(3.0, 2.0))
        shares = dist.Categorical(probs=stick_lengths(beta))
        mixture = dist.MixtureSameFamily(shares, dist.Normal(locs, scales))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", mixture, obs=data)

    return model, None, (plane_points()[:, 0],)


@published(
    "causes of an alarm",
    "examples/toy_mixture_model_discrete_enumeration.py",
    elbo=enumerated_1,
)
def causes_of_an_alarm():
    interval = constraints.unit_interval

    @config_enumerate
    def model(alarm, call):
        thief = pyro.param("thief_rate", torch.tensor(0.3), constraint=interval)
        start = torch.tensor([[0.1, 0.6], [0.5, 0.8]])
        rates = pyro.param("alarm_rates", start, constraint=interval)
        with pyro.plate("nights", len(alarm)):
            thief_came = pyro.sample("thief", dist.Bernoulli(thief)).long()
            storm = pyro.sample("storm", dist.Bernoulli(0.4)).long()
            pyro.sample("alarm", dist.Bernoulli(rates[thief_came, storm]), obs=alarm)
            pyro.sample("call", dist.Bernoulli(0.1 + 0.7 * thief_came), obs=call)

    @config_enumerate
    def guide(alarm, call):
        start = torch.tensor([[0.2, 0.4], [0.4, 0.7]])
        probs = pyro.param("thief_given", start, constraint=interval)
        storms = pyro.param("storm_given", torch.full((2, 2), 0.4), constraint=interval)
        with pyro.plate("nights", len(alarm)):
            seen = alarm.long()
            thief = pyro.sample("thief", dist.Bernoulli(probs[seen, call.long()])).long()
            pyro.sample("storm", dist.Bernoulli(storms[thief, seen]))

    alarm = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    call = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    return model, guide, (alarm, call)
