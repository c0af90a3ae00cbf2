"""Data sets that are fitted side by side are fitted each to its own rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Mean

import ppl_zoo as zoo
from ppl_zoo.fitting.run import fit_many

SOLVERS = {
    "fixed draws": zoo.SVI(steps=2000),
    "stochastic": zoo.SVI(
        objective="stochastic", compile="xla", steps=2000, window=500, schedule="cosine"
    ),
    "minibatches": zoo.SVI(
        batch_size=10, compile="xla", steps=2000, window=500, schedule="cosine"
    ),
    "nuts": zoo.NUTS(num_samples=400, num_warmup=200, num_chains=1),
}


def tables(num=3):
    rng = torch.Generator().manual_seed(0)
    return [2.0 * k + 0.5 * torch.randn(20, generator=rng) for k in range(num)]


#: solvers that take five seconds and more
LONG = {"nuts"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in SOLVERS]
)
def test_each_data_set_gets_its_own_posterior(name, monkeypatch):
    # so that none is fitted alone
    monkeypatch.setattr("ppl_zoo.fitting.run.fit", lambda *args, **kwargs: pytest.fail("alone"))
    for x, done in zip(tables(), fit_many(Mean(), tables(), SOLVERS[name]), strict=True):
        draws = done.posterior(400)["mu"].flatten()
        mean, deviation = Mean().posterior(x)
        assert draws.mean().item() == pytest.approx(mean.item(), abs=0.4 * deviation.item())
        assert draws.std().item() == pytest.approx(deviation.item(), rel=0.25)


class Centred(Mean):
    """Measures from the middle of its data, which it keeps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("middle", torch.zeros(()))

    def initialize(self, rows):
        self.middle.copy_(rows.all()[0].mean())

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(self.middle, 0.1))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixed draws", "stochastic"])
@pytest.mark.filterwarnings("ignore:SVI runs uncompiled")
def test_what_a_model_learns_at_its_start_is_not_shared(name):
    model, sets = Centred(), tables(2)
    found = fit_many(model, sets, SOLVERS[name])
    for x, done in zip(sets, found, strict=True):
        assert done.model.middle.item() == pytest.approx(float(x.mean()))
        assert done.posterior(300)["mu"].mean().item() == pytest.approx(float(x.mean()), abs=0.1)
