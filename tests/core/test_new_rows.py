"""Other rows than those of the fit, under guides that have a factor for each row of it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo


class Tadpoles(zoo.Model):
    def model(self, survived, total):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.5))
        tau = pyro.sample("tau", dist.HalfNormal(1.5))
        with self.observations("tanks", survived):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("survived", dist.Binomial(total, logits=theta), obs=survived)


TOTAL = torch.full((10,), 20.0)
SURVIVED = torch.tensor([1.0, 19.0, 3.0, 18.0, 2.0, 17.0, 10.0, 11.0, 9.0, 12.0])


@pytest.fixture(scope="module", params=[None, "normal", "multivariate-normal"])
def fit(request):
    solver = zoo.SVI() if request.param is None else zoo.SVI(guide=request.param)
    return zoo.fit(Tadpoles(), (SURVIVED, TOTAL), solver, progress=False)


def predictive_density(fit, survived, total):
    """Log of E[p(y | mu, tau)] over draws of mu and tau, theta integrated by quadrature."""
    draws = fit.posterior(2000)
    mu, tau = (draws[name].flatten().double() for name in ("mu", "tau"))
    nodes = torch.linspace(-8.0, 8.0, 401, dtype=torch.float64)
    theta = mu[:, None] + tau[:, None] * nodes
    weight = dist.Normal(0.0, 1.0).log_prob(nodes).softmax(0)
    rows = [
        (dist.Binomial(n, logits=theta).log_prob(y).exp() @ weight).mean().log()
        for y, n in zip(survived.double(), total.double(), strict=True)
    ]
    return torch.stack(rows).float()


@pytest.mark.parametrize(
    ("survived", "total"),
    [
        (SURVIVED, TOTAL),
        (SURVIVED.flip(0), TOTAL),  # as many: the guide runs, and its latents are of other rows
        (torch.tensor([0.0, 10.0, 35.0]), torch.tensor([35.0, 10.0, 35.0])),
    ],
    ids=["own", "as many", "others"],
)
def test_density_integrates_the_latents_of_a_row(fit, survived, total):
    torch.manual_seed(0)
    found = fit.model.log_prob(survived, total, num_samples=4000)
    exact = predictive_density(fit, survived, total)
    torch.testing.assert_close(found, exact, atol=0.15, rtol=0.0)


def test_latents_of_other_rows_are_not_those_of_the_fit(fit, tmp_path):
    own = fit.model.encode(SURVIVED, TOTAL)
    assert torch.corrcoef(torch.stack([own, (SURVIVED / TOTAL).logit()]))[0, 1] > 0.95
    for rows in ((SURVIVED.flip(0), TOTAL), (SURVIVED[:3], TOTAL[:3])):
        with pytest.raises(zoo.QueryError, match="fitted to other rows"):
            fit.model.encode(*rows)
    fit.save(tmp_path / "run")
    loaded = zoo.load(tmp_path / "run", model=Tadpoles)
    assert loaded.model.encode(SURVIVED, TOTAL).shape == (10,)
    with pytest.raises(zoo.QueryError, match="fitted to other rows"):
        loaded.model.encode(SURVIVED.flip(0), TOTAL)


def test_a_program_of_ones_own_with_a_mapping_among_its_arguments():
    def program(y, options):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)):
            effect = pyro.sample("effect", dist.Normal(mu, options["scales"][0]))
            pyro.sample("y", dist.Normal(effect, 1.0), obs=y)

    y, options = torch.linspace(-1.0, 2.0, 10), {"scales": torch.ones(2)}
    fit = zoo.fit(program, (y, options), zoo.SVI(guide="normal"), progress=False)
    torch.manual_seed(0)
    again = {"scales": torch.ones(2)}
    own, others = (fit.model.log_prob(rows, again) for rows in (y, y.flip(0)))
    torch.testing.assert_close(own, others.flip(0), atol=0.2, rtol=0.0)
