"""check() flags answers known to be wrong, and passes answers known to be right."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Correlated, Mean, line

import ppl_zoo as zoo
from ppl_zoo.diagnostics.check import check_draws
from ppl_zoo.diagnostics.verdicts import LIMITS, SolverDiagnostics


class TwoModes(zoo.Model):
    """The sign of a mean is not identified, so a normal guide sits on one of two modes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0 * self.one))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu.abs(), self.one), obs=x)


def right():
    return Mean(noise=1.0)  # the noise that the data have


def normal_draws(mean, sd, chains=4, draws=4000):
    return mean + sd * torch.randn(chains, draws)


def test_conjugate_answer_passes():
    fit = zoo.fit(right(), line(), zoo.SVI(restarts=2), progress=False)
    mean, sd = fit.model.posterior(line())
    check = fit.check({"mu": normal_draws(mean, sd)})
    assert check.passed, str(check)
    assert check.inference.passed and check.model.passed
    assert "Is this the model's posterior? yes, by convergence" in str(check)
    # what was not measured is no pass
    assert not check.generalisation.passed and "no rows were held out" in str(check)
    assert abs(check.lines[0].mean_error) < 0.1
    assert check.lines[0].distance < LIMITS["distance"]


def test_mean_field_on_a_correlated_posterior_is_flagged():
    x = line(50)
    fit = zoo.fit(Correlated(), x, zoo.SVI(guide="normal"), progress=False)
    precision = torch.eye(2) + 50 * torch.ones(2, 2)
    exact = torch.distributions.MultivariateNormal(
        torch.linalg.solve(precision, x.sum().expand(2)), precision_matrix=precision
    ).sample((4, 4000))
    check = fit.check({"a": exact[..., 0], "b": exact[..., 1]})
    text = " ".join(check.verdict)
    assert "too small" in text
    assert "multivariate-normal" in text
    # mean field has the conditional sd: 1 / sqrt(51) against sqrt(51 / 101)
    narrow = (1 / 51**0.5) / (51 / 101) ** 0.5 - 1
    assert check.lines[0].sd_error == pytest.approx(narrow, abs=0.05)
    full = zoo.fit(Correlated(), x, zoo.SVI(guide="multivariate-normal"), progress=False)
    assert full.check({"a": exact[..., 0], "b": exact[..., 1]}).passed


def test_mean_field_on_a_correlated_posterior_is_flagged_without_a_reference():
    fit = zoo.fit(Correlated(), line(50), zoo.SVI(guide="normal"), progress=False)
    check = fit.check()
    assert not check.passed
    assert {"a", "b"} <= {site for f in check.inference.findings for site in f.sites}
    for line_ in check.lines:
        assert line_.reweighted.sd_error < -0.3  # -.8 in truth; few draws see the tails
    full = zoo.fit(Correlated(), line(50), zoo.SVI(guide="multivariate-normal"), progress=False)
    assert full.check().passed


@pytest.mark.parametrize(
    ("shift", "scale", "word"),
    [(0.3, 1.0, "mean of mu"), (0.0, 0.6, "small"), (0.0, 1.5, "large")],
)
def test_shifted_and_scaled_guides_are_caught(shift, scale, word):
    model, x = right(), line()
    mean, sd = model.posterior(x)

    def guide(x):
        off = pyro.param("off", torch.tensor(shift))
        pyro.sample("mu", dist.Normal(mean + off * sd, scale * sd))

    fit = zoo.fit(model, x, zoo.SVI(guide=guide, steps=2, learning_rate=1e-9), progress=False)
    check = fit.check()
    found = [f for f in check.inference.findings if f.measure in ("mean", "sd")]
    assert [f.sites for f in found] == [("mu",)] and word in found[0].text
    (line_,) = check.lines
    assert line_.reweighted.mean_error == pytest.approx(shift, abs=0.2)
    assert line_.reweighted.sd_error == pytest.approx(scale - 1, abs=0.1)


def test_weights_that_are_nearly_constant_pass():
    """Beta(1, 1), 30 heads of 40: k-hat was 3.56, that of rounding."""

    def coin(heads):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("heads", dist.Binomial(40, p), obs=heads)

    fit = zoo.fit(coin, torch.tensor(30.0), progress=False)
    check = fit.check()
    assert check.passed, str(check)
    (line_,) = check.lines
    exact = dist.Beta(31.0, 11.0)
    assert line_.mean == pytest.approx(exact.mean.item(), abs=0.005)
    assert line_.sd == pytest.approx(exact.variance.sqrt().item(), rel=0.05)


def test_a_latent_that_is_a_point_is_caught():
    """A constant has no density for importance weights to contradict."""

    def line_(y):
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 2.0))
        half = pyro.sample("half", dist.Delta(a / 2.0))
        fixed = pyro.sample("fixed", dist.Delta(torch.tensor(1.0)))  # by the model: no fault
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(2.0 * half, fixed * b.exp()), obs=y)

    y = torch.randn(40)
    mean, sd = y.mean(), y.std(correction=0)

    def guide(y):
        at = pyro.param("at", mean)
        a = pyro.sample("a", dist.Normal(at, sd / 40**0.5))
        pyro.sample("b", dist.Delta(sd.log()))
        pyro.sample("half", dist.Delta(a / 2.0))
        pyro.sample("fixed", dist.Delta(torch.tensor(1.0)))

    solver = zoo.SVI(guide=guide, steps=2, learning_rate=1e-9, compile=False)
    check = zoo.fit(line_, y, solver, progress=False).check()
    assert [f.sites for f in check.inference.findings if f.measure == "constant"] == [("b",)]
    assert not check.passed
    point = zoo.fit(right(), line(), zoo.SVI(guide="delta"), progress=False).check()
    assert [f.sites for f in point.inference.findings] == [("mu",)]
    assert "a point, which is no posterior" in str(point)


def draws_of(values):
    return {"mu": values.numpy()}


def judged(values, **options):
    return check_draws(
        draws_of(values),
        SolverDiagnostics(stopped=("converged",) * len(values), **options),
        reference=None,
        replicates={},
        observed={},
    ).inference


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_fail(bad):
    values, weights = torch.randn(1, 4000), torch.zeros(1, 4000)
    weights[0, :3] = bad
    verdict = judged(values, log_weights=weights)
    assert [f.measure for f in verdict.findings] == ["weights"]
    assert "3 of 4000 importance weights are not finite" in str(verdict)
    assert not judged(values, log_weights=torch.full((1, 4000), -torch.inf)).passed


def test_samplers_are_judged_by_chains_draws_and_divergences():
    values = torch.randn(4, 1000)
    assert judged(values, converges=False).passed
    lost = values.clone()
    lost[3] += 8.0  # a chain in another mode
    assert [f.measure for f in judged(lost, converges=False).findings][0] == "R-hat"
    stuck = torch.randn(4, 10).repeat_interleave(100, 1)
    assert "effective draws" in [f.measure for f in judged(stuck, converges=False).findings]
    diverging = np.zeros((4, 1000), bool)
    diverging[0, :58] = True
    (finding,) = judged(values, converges=False, diverging=diverging).findings
    assert finding.value == 58 and "58 of 4000 draws diverged" in finding.text


def test_fits_that_are_not_done_fail():
    fit = zoo.fit(right(), line(), zoo.SVI(steps=3, objective="stochastic"), progress=False)
    assert "used up its steps" in fit.check().inference.findings[0].text


def test_k_hat_alone_does_not_refuse_where_nearly_all_draws_are_effective():
    values = torch.randn(1, 4000)
    heavy = 0.01 * torch.distributions.StudentT(1.5).sample((1, 4000)).abs().clamp(max=60.0)
    check = check_draws(
        draws_of(values),
        SolverDiagnostics(stopped=("converged",), log_weights=heavy),
        reference=None,
        replicates={},
        observed={},
    )
    assert check.khat[0] > 0.5 and check.share[0] > 0.9
    assert check.passed, str(check)


def test_both_modes_are_found_by_default():
    x = 2.0 + torch.randn(40)
    fit = zoo.fit(TwoModes(), x, progress=False)
    assert fit.check().passed, str(fit.check())
    draws = fit.posterior(4000)["mu"]
    assert (draws > 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert draws.abs().std().item() == pytest.approx(1 / (40 + 1 / 9) ** 0.5, rel=0.1)


def test_one_mode_of_two_is_flagged_by_restarts_and_by_the_reference():
    x = 2.0 + torch.randn(40)
    one = {"guide": "multivariate-normal", "objective": "fixed-draws"}
    fit = zoo.fit(TwoModes(), x, zoo.SVI(restarts=6, **one), progress=False)
    check = fit.check()
    assert any("R-hat" in text for text in check.verdict)
    single = zoo.fit(TwoModes(), x, zoo.SVI(**one), progress=False)
    sd = 1 / (40 + 1 / 9) ** 0.5
    both = normal_draws(x.mean(), sd) * (2 * torch.randint(0, 2, (4, 4000)) - 1)
    assert any(
        "off by" in text or "sd of mu" in text for text in single.check({"mu": both}).verdict
    )


def test_replicates_unlike_the_data_are_the_model_s_fault():
    x = torch.cat([torch.zeros(40), torch.tensor([30.0])])  # an outlier, and a normal likelihood
    fit = zoo.fit(Mean(), x, progress=False)
    check = fit.check()
    assert any("x max" in text and "the model, not the fit" in text for text in check.verdict)
    assert check.passed and not check.model.passed  # right answer, wrong model


def test_check_runs_a_sampler_and_draws_a_picture():
    fit = zoo.fit(right(), line(), progress=False)
    check = fit.check(zoo.NUTS(num_samples=500, num_warmup=200, num_chains=2))
    assert check.passed, str(check)
    assert abs(check.lines[0].mean_error) < 0.2
    assert len(check.plot().axes) == 3
    assert len(fit.check().plot().axes) == 1


@pytest.mark.slow
def test_a_part_that_is_left_out_does_not_pass_though_the_reweighted_draws_agree():
    """A curved ridge: the guide and its reweighted draws leave out the same ends of it."""

    def ridge(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            b = pyro.sample("b", dist.Normal(0.0, 3.0))
            curved = 3.0 * a.square() * torch.cos(3.0 * a)
            pyro.sample("y", dist.Normal(b - curved, 0.1), obs=y)

    fit = zoo.fit(ridge, torch.linspace(-1.0, 1.0, 12), progress=False)
    check = fit.check()
    assert fit.posterior(4000)["a"].std().item() < 0.45  # .53 by quadrature
    assert not check.passed and check.share[0] < 0.2
    assert "not the posterior" in repr(fit)
