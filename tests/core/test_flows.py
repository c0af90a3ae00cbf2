"""Normalising flows as distributions, priors and guides."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.core.flows import Flow, FlowPrior, make_flow


def test_a_shifted_flow_integrates_to_one_and_draws_what_it_scores():
    inner = make_flow(2, num_transforms=2, hidden=(8,), passes=2)()
    flow = Flow(inner, loc=torch.tensor([1.0, -1.0]), scale=torch.tensor([0.5, 2.0]))
    side = torch.linspace(-15.0, 15.0, 901)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    with torch.no_grad():
        density = flow.log_prob(grid).exp()
        drawn = flow.sample((20_000,))
    cell = (side[1] - side[0]) ** 2
    assert (density.sum() * cell).item() == pytest.approx(1.0, abs=2e-3)
    mean = (density[..., None] * grid).sum((0, 1)) * cell
    assert torch.allclose(drawn.mean(0), mean, atol=0.08)
    copies = flow.expand([5, 3])
    assert copies.rsample((4,)).shape == (4, 5, 3, 2)
    assert copies.log_prob(torch.zeros(5, 3, 2)).shape == (5, 3)


def test_one_dimension_has_no_order():
    with pytest.raises(zoo.DataError, match="expected 2 or more"):
        FlowPrior(1)


class Banana(zoo.Model):
    """A posterior that no normal has the shape of."""

    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}

    def model(self, x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(2 * a**2, 0.5))
        with self.observations("rows", x):
            pyro.sample("x", dist.Normal(b, 10.0), obs=x)


def test_a_flow_guide_is_saved_whole(tmp_path):
    solver = zoo.SVI(guide="flow", steps=20, compile=False)
    flow = zoo.fit(Banana(), torch.zeros(1), solver, progress=False)
    flow.save(tmp_path / "run")
    again = zoo.load(tmp_path / "run", model=Banana())
    assert torch.equal(again.posterior(5)["b"], flow.posterior(5)["b"])


@pytest.mark.slow
def test_a_flow_bends_where_a_normal_cannot():
    x = torch.zeros(1)
    options = {"steps": 3000, "learning_rate": 1e-2, "compile": "xla", "num_particles": 4}
    normal = zoo.fit(Banana(), x, zoo.SVI(guide="multivariate-normal"), progress=False)
    flow = zoo.fit(Banana(), x, zoo.SVI(guide="flow", **options), progress=False)
    assert flow.log_weights(4000).mean().item() > normal.objective + 0.3
