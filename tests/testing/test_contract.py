"""check_model passes for the zoo's models and fails, clause by clause, for broken ones."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import EXACT, Chain, Coins, Mean, binary, line

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, ContractError, check_model


def schools():
    return zoo.data.load("eight-schools").train


def regression():
    x = torch.randn(30, 2)
    return x, 1.0 + x.sum(-1) + 0.1 * torch.randn(30)


@pytest.mark.parametrize(
    ("make_model", "make_data"),
    [
        pytest.param(zoo.EightSchools, schools, marks=pytest.mark.slow),
        (lambda: zoo.EightSchools("centered"), schools),
        (lambda: zoo.LinearRegression(2), regression),
    ],
    ids=["eight schools", "eight schools, centred", "linear regression"],
)
def test_models_of_the_zoo(make_model, make_data):
    assert check_model(make_model, make_data) == tuple(CLAUSES)


class LateParameter(Mean):
    def model(self, x):
        if not hasattr(self, "late"):
            self.late = torch.nn.Parameter(torch.zeros(1))
        return super().model(x)


class NoPlate(zoo.Model):
    def model(self, x):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), obs=x)


class PlainPlate(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class Unscaled(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        self.data_plate = "observations"
        with pyro.plate("observations", len(x)):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class Single(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu.float(), torch.tensor(1.0, dtype=torch.float32)))
            pyro.sample("y", dist.Normal(mu, self.noise), obs=x)


class ReadsValues(Mean):
    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), self.prior).to_event(1))
        loc = w[0] if w[1] > 0 else -w[0]
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(loc, self.noise), obs=x)


class LooseGuide(Coins):
    def guide(self, x):
        with self.observations("observations", x):
            pyro.sample("z", dist.Categorical(self.weights))


class WrongSample(Chain):
    def sample(self, num_samples, given=None):
        return 1.0 - torch.bernoulli(torch.full((num_samples, self.num_features), 0.01))

    def log_prob(self, x):
        return super().log_prob(x)

    def initialize(self, rows):
        torch.nn.init.constant_(self.bias, -2.0)


class NanCode(Mean):
    queries = {**Mean.queries, "encode": "estimate"}

    def encode(self, x):
        return x * float("nan")


class OwnSeed(Mean):
    def initialize(self, rows):
        torch.seed()
        self.noise.fill_(0.5 + torch.rand(()).item())


class Store(Mean):
    def initialize(self, rows):
        pyro.get_param_store()["left"] = torch.zeros(1)


class Forgetful(Chain):
    def __init__(self, num_features=3):
        super().__init__(num_features)
        self.__dict__["memory"] = torch.randn(3)

    def state_dict(self, *args, **kwargs):
        return super().state_dict(*args, **kwargs) | {"bias": torch.randn(self.num_features)}


class Averaged(Coins):
    def expected_statistics(self, x):
        return {k: v / len(x) for k, v in super().expected_statistics(x).items()}


class TakesAll(Mean):
    def check_data(self, rows):
        pass

    def model(self, x):
        return super().model(x.clamp(-10, 10))


def three():
    return binary(num_features=3)


BROKEN = [
    ("parameters are made in __init__", LateParameter, line, "made or changed parameters"),
    ("sites and plates have names of their own", NoPlate, line, "no plate over the data"),
    ("sites and plates have names of their own", PlainPlate, line, "no plate over the data"),
    ("a minibatch is scaled", Unscaled, line, "scale 1"),
    ("a minibatch is scaled", PlainPlate, line, "no plate over the data"),
    ("float64 stays float64", Single, line, "float32"),
    ("draws in one run", ReadsValues, line, "one by one"),
    ("log_prob", LooseGuide, binary, "one-sample ELBO"),
    ("sample", WrongSample, three, "different distributions"),
    ("encode", NanCode, line, "not finite"),
    ("one seed, one result", OwnSeed, line, "differ in"),
    ("one seed, one result", Store, line, "global store"),
    ("a fit survives the disk", Forgetful, three, "changed on the way"),
    ("statistics add up", Averaged, binary, "not additive"),
    ("bad data are refused", TakesAll, line, "expected a DataError"),
]


def test_every_clause_has_a_model_that_breaks_it():
    assert {clause for clause, *_ in BROKEN} == set(CLAUSES)
    assert Chain.queries == EXACT


@pytest.mark.parametrize(
    ("clause", "broken", "make_data", "message"),
    BROKEN,
    ids=[broken.__name__ for _, broken, *_ in BROKEN],
)
def test_broken_models_fail(clause, broken, make_data, message):
    with pytest.raises(ContractError, match=message) as caught:
        check_model(broken, make_data, clauses=[clause])
    assert repr(clause) in str(caught.value)
    pyro.clear_param_store()
