"""Log evidence against closed forms, and the cores of annealing and bridge sampling."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.evaluation.annealing import anneal, bridge, log_mean
from ppl_zoo.evaluation.evidence import log_density
from ppl_zoo.solvers.unconstrained import Unconstrained


def regression():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 2, generator=generator)
    return x, 1.0 + x.sum(-1) + 0.5 * torch.randn(30, generator=generator)


def exact_evidence(model, x, y):
    """log p(y | x) of the normal-inverse-gamma posterior (Bishop, exercise 3.23)."""
    found, n, d = model.closed_form(x, y), len(y), x.shape[1] + 1
    a, b = model.noise_shape.double(), model.noise_rate.double()
    value = -0.5 * n * math.log(2 * math.pi) + 0.5 * torch.logdet(found.scale)
    value = value - d * model.prior_scale.double().log()
    value = value + a * b.log() - found.shape * found.rate.log()
    return (value + torch.lgamma(found.shape) - torch.lgamma(a)).item()


@pytest.fixture(scope="module")
def fit():
    model = zoo.LinearRegression(2, prior_scale=3.0, standardize=False).double()
    return zoo.fit(model, regression(), zoo.SVI(steps=4000), progress=False)


def test_the_oracle_is_the_student_density():
    """One observation: its density is a Student t."""
    model = zoo.LinearRegression(1, prior_scale=2.0, standardize=False).double()
    x, y = torch.zeros(1, 1).double(), torch.tensor([0.7]).double()
    t = torch.distributions.StudentT(2.0, 0.0, (1.0 + 4.0) ** 0.5)
    assert exact_evidence(model, x, y) == pytest.approx(t.log_prob(y).item(), abs=1e-5)


@pytest.mark.parametrize(
    "method", ["importance", "bridge", pytest.param("annealed", marks=pytest.mark.slow)]
)
def test_evidence_of_a_linear_regression(fit, method):
    exact = exact_evidence(fit.model, *regression())
    options = {} if method == "importance" else {"num_steps": 12, "num_leapfrog": 3}
    found = zoo.evidence(fit, method, num_samples=1000, **options)
    assert 0 < found.error < 0.05
    assert abs(found.value - exact) < 4 * found.error
    assert found.method in str(found)


def test_the_bound_is_below_by_the_divergence(fit):
    exact = exact_evidence(fit.model, *regression())
    bound = zoo.evidence(fit, "elbo", num_samples=4000)
    assert bound.value + 4 * bound.error < exact  # the guide is no Student t
    assert bound.value > exact - 0.3


def test_error_bars_cover():
    """Over runs, errors are as large as they say (chi square, 40 degrees, .001 level)."""
    width = torch.linspace(0.5, 2.0, 40).double()[:, None]
    start = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(40, 3).double(), 1.0), 1
    )
    target = torch.distributions.Independent(
        torch.distributions.Normal(0.5 * torch.ones(40, 3).double(), width), 1
    )
    run = anneal(target.log_prob, start, num_particles=200, num_steps=15, num_leapfrog=3)
    value, error = run.estimate
    assert 17.9 < ((value / error) ** 2).sum() < 73.4
    x, y = target.sample((200,)), start.sample((200,))
    pairs = [
        bridge(
            *(d.log_prob(v)[:, i] for v in (x, y) for d in (target, start)),
        )
        for i in range(40)
    ]
    z = torch.stack([e.value / e.error for e in pairs])
    assert 17.9 < (z**2).sum() < 73.4


@pytest.mark.slow
def test_bridge_from_draws_of_nuts():
    data = regression()
    model = zoo.LinearRegression(2, prior_scale=3.0, standardize=False).double()
    sampled = zoo.fit(
        model, data, zoo.NUTS(num_warmup=150, num_samples=400, num_chains=1), progress=False
    )
    found = zoo.evidence(sampled, "bridge", num_samples=400)
    assert abs(found.value - exact_evidence(model, *data)) < 4 * found.error < 0.2
    with pytest.raises(zoo.QueryError):
        zoo.evidence(sampled, "importance")


class Pair(zoo.Model):
    """A mixture of known components and unknown share: evidence by quadrature."""

    def model(self, x):
        share = pyro.sample("share", dist.Beta(self._anchor.new_full((), 2.0), 3.0))
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(3.0 * z, 1.0), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bridge", "annealed"])
def test_discrete_latents_are_summed_out(method):
    x = torch.cat([torch.randn(12), 3.0 + torch.randn(8)]).double()
    done = zoo.fit(Pair().double(), x, zoo.SVI(guide="normal", steps=500), progress=False)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1, None]
    near, far = (dist.Normal(m, 1.0).log_prob(x).exp() for m in (0.0, 3.0))
    log_joint = ((1 - grid) * near + grid * far).log().sum(-1)
    log_joint = log_joint + dist.Beta(2.0, 3.0).log_prob(grid[:, 0])
    exact = (log_joint.logsumexp(0) - math.log(20_000)).item()
    found = zoo.evidence(done, method, num_samples=200, num_steps=8, num_leapfrog=2)
    assert abs(found.value - exact) < 4 * found.error < 0.1


def test_many_points_at_once_score_as_each_alone():
    models = (
        (zoo.EightSchools(), zoo.data.load("eight-schools").train),
        (Pair(), torch.randn(9)),
    )
    for model, data in models:
        problem = Unconstrained(model, model.as_rows(data))
        z = torch.randn(5, problem.size)
        alone = torch.stack([-problem.energy(row, *problem.data) for row in z])
        density = log_density(problem)
        assert "vectorised" in density.__qualname__
        torch.testing.assert_close(density(z), alone)


def test_annealing_keeps_batches_apart():
    """Normals of different widths and masses: log integral by batch element."""
    width = torch.tensor([0.5, 1.0, 3.0]).double()
    mass = torch.tensor([-2.0, 0.0, 5.0]).double()

    def log_target(z):
        return mass - 0.5 * ((z - 1.0) ** 2).sum(-1) / width**2

    zero = torch.zeros(3, 2, dtype=torch.float64)
    start = torch.distributions.Independent(torch.distributions.Normal(zero, 1.0), 1)
    run = anneal(log_target, start, num_particles=300, num_steps=40)
    exact = mass + 2 * (0.5 * math.log(2 * math.pi) + width.log())
    value, error = run.estimate
    assert run.log_weights.shape == (300, 3)
    assert ((value - exact).abs() < 4 * error).all()
    assert (error < 0.15).all()
    assert ((run.acceptance > 0.4) & (run.acceptance < 0.95)).all()
    # and the particles end where the target is
    torch.testing.assert_close(
        run.particles.mean((0, 2)), torch.ones(3).double(), atol=0.5, rtol=0
    )


def test_a_target_with_holes_neither_fails_nor_counts_them():
    def log_target(z):
        return torch.where(z[..., 0] > 0, -0.5 * (z**2).sum(-1), torch.nan)

    start = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(1).double(), 1.0), 1
    )
    value, error = anneal(log_target, start, num_particles=2000, num_steps=10).estimate
    assert abs(value - (0.5 * math.log(2 * math.pi) - math.log(2))) < 4 * error < 0.2


def test_bridge_is_exact_for_a_proposal_that_is_the_target():
    x, y = torch.randn(100).double(), torch.randn(100).double()
    normal = torch.distributions.Normal(0.0, 1.0)
    found = bridge(
        normal.log_prob(x) + 7.0, normal.log_prob(x), normal.log_prob(y) + 7.0, normal.log_prob(y)
    )
    assert found.value.item() == pytest.approx(7.0, abs=1e-6)
    assert found.error < 1e-6


def test_log_mean_is_stable():
    found = log_mean(torch.tensor([-1e4, -1e4], dtype=torch.float64))
    assert found.value.item() == pytest.approx(-1e4)
    assert found.error == 0


def test_refuses(fit):
    with pytest.raises(zoo.DataError, match="method: got 'harmonic', expected one of"):
        zoo.evidence(fit, "harmonic")
    with pytest.raises(zoo.DataError, match="num_samples: got 1"):
        zoo.evidence(fit, num_samples=1)
    mixture = zoo.fit(zoo.GaussianMixture(2, 2), torch.randn(50, 2), progress=False)
    with pytest.raises(zoo.QueryError, match="no continuous latent"):
        zoo.evidence(mixture, "bridge")
    exact = zoo.evidence(mixture, "importance", num_samples=2)
    assert exact.value == pytest.approx(mixture.objective, abs=0.01)
    assert exact.error < 1e-4
