"""Independence, chain rule, Markov chains and Bernoulli mixtures, against oracles."""

import itertools

import numpy as np
import pyro
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.testing import check_model


def states(*sizes, rows=40):
    return torch.stack([torch.randint(size, (rows,)).float() for size in sizes], -1)


CASES = {
    "independent-bernoulli": (lambda **o: zoo.IndependentBernoulli(3, **o), (2, 2, 2)),
    "categorical": (lambda **o: zoo.Categorical(3, [2, 3, 3], **o), (2, 3, 3)),
    "chain-rule": (lambda **o: zoo.ChainRule(3, [2, 3, 2], **o), (2, 3, 2)),
    "markov-chain": (lambda **o: zoo.MarkovChain(3, 2, **o), (3,) * 6),
    "bernoulli-mixture": (lambda **o: zoo.BernoulliMixture(2, 4, **o), (2,) * 4),
}


def fitted(model, x, solver=None, **options):
    return zoo.fit(model.double(), x, solver, device="cpu", progress=False, **options)


@pytest.mark.parametrize("bayesian", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_contract(name, bayesian):
    make, sizes = CASES[name]
    check_model(lambda: make(bayesian=bayesian), lambda: states(*sizes))


def every_row(sizes):
    return torch.tensor(list(itertools.product(*map(range, sizes)))).double()


@pytest.mark.parametrize("name", CASES)
def test_densities_sum_to_one(name):
    make, sizes = CASES[name]
    model = make().double()
    fitted(model, states(*sizes).double())
    assert float(model.log_prob(every_row(sizes)).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_free_parameters_of_the_course():
    n = 10
    assert zoo.ChainRule(n).num_free_parameters == 2**n - 1
    assert zoo.IndependentBernoulli(n).num_free_parameters == n
    assert zoo.MarkovChain(2).num_free_parameters == 3
    assert zoo.NaiveBayes(n).num_free_parameters == 2 * n + 1
    assert zoo.Categorical(n, 4).num_free_parameters == 3 * n


def test_counts_are_the_gradient_and_exact():
    x = states(2, 3, 2, rows=500).double()
    model = zoo.ChainRule(3, [2, 3, 2]).double()
    found = model.expected_statistics(x)
    counts = np.zeros((2, 3, 2))
    np.add.at(counts, tuple(x.long().numpy().T), 1)
    np.testing.assert_allclose(found["table_2"], counts.reshape(6, 2), atol=1e-10)
    np.testing.assert_allclose(found["table_1"], counts.sum(2), atol=1e-10)
    np.testing.assert_allclose(found["table_0"], counts.sum((1, 2))[None], atol=1e-10)


def test_cells_of_zero_give_no_nan_and_stay_zero():
    model = zoo.ChainRule(2).double()
    fitted(model, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert model.joint().tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert model.log_prob(torch.tensor([[0.0, 1.0]])).tolist() == [-np.inf]
    with pytest.raises(zoo.DataError, match="probability 0"):
        model.sample(2, given=[[0.0, 1.0], [1.0, 1.0]])
    again = model.expected_statistics(torch.tensor([[0.0, 0.0]], dtype=torch.float64))
    assert all(bool(v.isfinite().all()) for v in again.values())


def test_em_with_missing_values_of_the_full_table():
    """EM meets the direct maximum of the observed likelihood, by plain gradient ascent."""
    x = states(2, 2, rows=200).double()
    x[:60, 0] = torch.nan
    x[60:100, 1] = torch.nan
    model = zoo.ChainRule(2)
    fitted(model, x, zoo.EM(tol=1e-14))
    free = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([free], max_iter=500, line_search_fn="strong_wolfe")
    a, b = x.T

    def loss():
        solver.zero_grad()
        p = free.softmax(0).reshape(2, 2)
        both = ~(a.isnan() | b.isnan())
        total = p[a[both].long(), b[both].long()].log().sum()
        total = total + p.sum(0)[b[a.isnan()].long()].log().sum()
        total = -(total + p.sum(1)[a[b.isnan()].long()].log().sum())
        total.backward()
        return total

    solver.step(loss)
    np.testing.assert_allclose(model.joint(), free.detach().softmax(0).reshape(2, 2), atol=2e-6)


def test_conditional_samples_of_the_full_table():
    model = zoo.ChainRule(3).double()
    fitted(model, states(2, 2, 2, rows=300).double())
    joint = model.joint()
    drawn = model.sample(20_000, given=[1.0, np.nan, 0.0])
    assert bool((drawn[:, 0] == 1).all() and (drawn[:, 2] == 0).all())
    expected = joint[1, 1, 0] / joint[1, :, 0].sum()
    assert float(drawn[:, 1].mean()) == pytest.approx(float(expected), abs=0.02)


# --- posteriors --------------------------------------------------------------------------------


def test_posterior_and_evidence_are_the_closed_forms():
    x = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    model = zoo.IndependentBernoulli(1, bayesian=True)
    fit = fitted(model, x)
    assert fit.stopped == "converged" and type(fit.solver).__name__ == "CAVI"
    assert model.posterior_concentration("rates").tolist() == [[2.0, 4.0]]
    # Beta(1, 1): the evidence of 3 successes in 4 trials, in order, is B(4, 2) = 1 / 20
    assert fit.objective == pytest.approx(np.log(1 / 20), abs=1e-10)
    assert float(model.log_prob(torch.tensor([[1.0]]))) == pytest.approx(np.log(4 / 6))


@pytest.mark.slow
def test_nuts_agrees_with_the_beta_and_dirichlet_posteriors():
    x = states(3, 2, rows=60)
    make = lambda: zoo.Categorical(2, [3, 2], bayesian=True)  # noqa: E731
    exact = make()
    fitted(exact, x.double())
    solver = zoo.NUTS(num_samples=1000, num_warmup=500, num_chains=2)
    draws = fitted(make(), x.double(), solver).posterior(1000)
    for name in ("state_rates_3", "state_rates_2"):
        alpha = exact.posterior_concentration(name).detach()
        total = alpha.sum(-1, keepdim=True)
        mean, sd = alpha / total, (alpha * (total - alpha) / (total**2 * (total + 1))).sqrt()
        found = draws[name].double()
        assert float(((found.mean((0, 1)) - mean) / sd).abs().max()) < 0.12
        assert float((found.std((0, 1)) / sd - 1).abs().max()) < 0.12


def test_posteriors_reach_arviz_with_named_dims():
    model = zoo.Categorical(2, 3, bayesian=True)
    idata = fitted(model, states(3, 3).double()).to_arviz(num_samples=20)
    assert idata["posterior"]["state_rates"].dims == ("chain", "draw", "feature", "state")
    assert "posterior_predictive" in (idata.groups() if callable(idata.groups) else idata.children)


# --- Markov chains -----------------------------------------------------------------------------


def test_markov_chain_counts_transitions():
    x = torch.randint(3, (30, 20)).double()
    x[0, 7:] = torch.nan
    model = zoo.MarkovChain(3).double()
    fitted(model, x)
    counts = np.zeros((3, 3))
    for row in x.tolist():
        row = [int(s) for s in row if s == s]
        np.add.at(counts, (row[:-1], row[1:]), 1)
    np.testing.assert_allclose(
        model.table("transition").detach(), counts / counts.sum(1, keepdims=True), atol=1e-12
    )
    short, log_table = x[:1, :7], model.table("transition").detach().log()
    start = model.table("initial_0")[0].detach().log()
    s = short[0].long()
    expected = start[s[0]] + log_table[s[:-1], s[1:]].sum()
    assert float(model.log_prob(x[:1])) == pytest.approx(float(expected))
    assert float(model.log_prob(short)) == pytest.approx(float(expected))


@pytest.mark.parametrize("most", [1024, 4])
@pytest.mark.parametrize("order", [1, 2])
def test_stationary_distribution(order, most, monkeypatch):
    from ppl_zoo.models.discrete import markov_chain

    monkeypatch.setattr(markov_chain, "MAX_DENSE_PASTS", most)
    model = zoo.MarkovChain(6, order).double()
    table = torch.rand(6**order, 6, dtype=torch.float64) ** 3
    model.set_table("transition", table / table.sum(1, keepdim=True))
    share = model.stationary()
    if order == 1:
        np.testing.assert_allclose(share @ model.table("transition").detach(), share, atol=1e-9)
    drawn = model.sample(500, length=400)[:, 50:]
    seen = torch.bincount(drawn.flatten().long(), minlength=6) / drawn.numel()
    np.testing.assert_allclose(share, seen, atol=0.01)


def test_a_periodic_chain_has_a_stationary_distribution():
    model = zoo.MarkovChain(2).double()
    model.set_table("transition", [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(model.stationary(), [0.5, 0.5], atol=1e-12)


def test_samples_go_on_from_a_beginning():
    model = zoo.MarkovChain(3).double()
    model.set_table("transition", [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert model.sample(1, given=[1, 2], length=6).tolist() == [[1, 2, 0, 1, 2, 0]]


# --- mixtures ----------------------------------------------------------------------------------


def test_mixture_finds_its_components():
    truth = torch.tensor([[0.9, 0.9, 0.1, 0.1, 0.5], [0.1, 0.2, 0.9, 0.8, 0.5]])
    z = (torch.rand(3000) < 0.3).long()
    x = torch.bernoulli(truth[z]).double()
    x[torch.rand(x.shape) < 0.1] = torch.nan
    model = zoo.BernoulliMixture(2, 5)
    fitted(model, x, zoo.EM(restarts=3))
    np.testing.assert_allclose(model.rates, truth, atol=0.06)
    np.testing.assert_allclose(model.weights, [0.7, 0.3], atol=0.05)
    assert float((model.predict(x) == z).double().mean()) > 0.9


# --- impossible data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (zoo.IndependentBernoulli(2), [[0.0, 2.0]], "got 2 in row 0, column 1"),
        (zoo.Categorical(2, 3), [[0.0, -1.0]], "got -1 in row 0, column 1, expected 0 to 2"),
        (zoo.Categorical(2, 3), [[0.0, 0.5]], "got 0.5"),
        (zoo.ChainRule(2), [[0.0, 3.0]], "got 3 in row 0, column 1, expected 0 to 1"),
        (zoo.ChainRule(2), [[0.0]], r"got shape \(1, 1\), expected \(1, 2\)"),
        (zoo.MarkovChain(2), [[0.0, 2.0]], "got 2 in row 0 at time 1"),
        (zoo.MarkovChain(2), [[0.0, np.nan, 1.0]], "got 1 in row 0 at time 2"),
        (zoo.BernoulliMixture(2, 2), [[0.0, 0.3]], "got 0.3"),
    ],
)
def test_impossible_data_are_refused(model, x, message):
    x = torch.tensor(x)
    with pytest.raises(zoo.DataError, match=message):
        zoo.fit(model, x, device="cpu", progress=False)
    with pytest.raises(zoo.DataError, match=message):
        model.log_prob(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.Categorical(2, 1), "num_states"),
        (lambda: zoo.Categorical(2, concentration=0.5), "expected 1 or more"),
        (lambda: zoo.Categorical(2, concentration=0.0, bayesian=True), "more than 0"),
        (lambda: zoo.ChainRule(40), "cells at most"),
        (lambda: zoo.MarkovChain(1), "num_states"),
        (lambda: zoo.MarkovChain(3).set_table("transition", torch.eye(2)), "shape"),
        (lambda: zoo.MarkovChain(2).set_table("transition", 2 * torch.eye(2)), "sums to 2"),
    ],
)
def test_impossible_models_are_refused(make, message):
    with pytest.raises(zoo.DataError, match=message):
        make()


def test_the_prior_of_the_tables_is_part_of_the_story():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    plain, smoothed = zoo.Categorical(2), zoo.Categorical(2, concentration=3.0)
    with torch.no_grad():
        for model in (plain, smoothed):
            for parameter in model.parameters():
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
    without, with_prior = (
        pyro.poutine.trace(model).get_trace(x).log_prob_sum() for model in (plain, smoothed)
    )
    assert float(smoothed.log_prior().detach()) != 0.0
    torch.testing.assert_close(with_prior, without + smoothed.log_prior())
