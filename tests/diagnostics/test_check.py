"""check() flags answers known to be wrong, and passes answers known to be right."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Correlated, Mean, line

import ppl_zoo as zoo
from ppl_zoo.diagnostics.check import LIMITS


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
    assert "nothing wrong was found" in str(check)
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


def test_one_mode_of_two_is_flagged_by_restarts_and_by_the_reference():
    x = 2.0 + torch.randn(40)
    fit = zoo.fit(TwoModes(), x, zoo.SVI(restarts=6), progress=False)
    check = fit.check()
    assert any("R-hat" in text for text in check.verdict)
    single = zoo.fit(TwoModes(), x, progress=False)
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


def test_check_runs_a_sampler_and_draws_a_picture():
    fit = zoo.fit(right(), line(), progress=False)
    check = fit.check(zoo.NUTS(num_samples=300, num_warmup=200, num_chains=2))
    assert check.passed, str(check)
    assert abs(check.lines[0].mean_error) < 0.2
    assert len(check.plot().axes) == 3
    assert len(fit.check().plot().axes) == 1
