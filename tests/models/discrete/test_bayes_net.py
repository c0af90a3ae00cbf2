"""BayesNet against brute force, variable elimination, closed forms and NUTS."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_nets import ASIA_PARENTS, asia, brute_force, eliminate, joint_table, random_net

import ppl_zoo as zoo
from ppl_zoo.models.discrete.bayes_net import junction_tree

SMALL = ("asia", "cancer", "earthquake", "sachs", "survey")
LARGE = ("alarm", "child", "hailfinder", "insurance")


def from_folder(name):
    if not os.environ.get("PPL_ZOO_DATA"):
        pytest.skip("PPL_ZOO_DATA is not set: nets that are not embedded are not tested")
    return zoo.BayesNet.from_bif(Path(os.environ["PPL_ZOO_DATA"]) / "bif" / f"{name}.bif")


def with_gaps(net, rows, share):
    x = net.sample(rows)
    return torch.where(torch.rand(x.shape) < share, -1, x)


def assert_marginals(found, expected, tol=1e-10):
    assert found.keys() == expected.keys()
    for node, value in expected.items():
        torch.testing.assert_close(found[node], value, rtol=0, atol=tol)


# --- queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_random_nets_agree_with_brute_force(seed):
    net = random_net(seed=seed)
    x = with_gaps(net, 12, 0.6)
    x[0] = -1
    soft_node = net.nodes[2]
    soft = {soft_node: torch.linspace(0.2, 1e-3, len(net.states[soft_node])).double()}
    for likelihood in (None, soft):
        marginals, log_evidence, best = brute_force(net, x, likelihood)
        assert_marginals(net.marginals(x, likelihood), marginals, 1e-12)
        torch.testing.assert_close(net.log_evidence(x, likelihood), log_evidence)
        explained = net.most_probable(x, likelihood)
        torch.testing.assert_close(explained.log_prob, best)
        assert ((explained.states == x) | (x < 0)).all()
    torch.testing.assert_close(net.log_prob(x), brute_force(net, x)[1])
    code = net.encode(x)
    torch.testing.assert_close(code, torch.cat(list(net.marginals(x).values()), 1))


@pytest.mark.parametrize("name", SMALL)
def test_small_nets_of_the_repository(name):
    net = from_folder(name)
    x = with_gaps(net, 4, 0.6)
    marginals, log_evidence, best = brute_force(net, x)
    assert_marginals(net.marginals(x), marginals)
    torch.testing.assert_close(net.log_evidence(x), log_evidence)
    torch.testing.assert_close(net.most_probable(x).log_prob, best)


@pytest.mark.parametrize("name", LARGE)
def test_large_nets_agree_with_variable_elimination(name):
    net = from_folder(name)
    x = with_gaps(net, 1, 0.8)
    seen = {n: int(c) for n, c in zip(net.nodes, x[0], strict=True) if c >= 0}
    found = net.marginals(x)
    for node in net.nodes:
        torch.testing.assert_close(found[node][0], eliminate(net, seen, node), rtol=0, atol=1e-10)


def test_evidence_in_all_its_forms(monkeypatch):
    net = asia()
    by_name = net.marginals({"smoke": "yes", "dysp": "no"})
    assert by_name["lung"].shape == (1, 2)
    x = torch.full((1, 8), -1)
    x[0, 2], x[0, 7] = 0, 1
    assert_marginals(net.marginals(x), by_name, 0.0)
    certain = {"smoke": [1.0, 0.0], "dysp": [[0.0, 1.0]]}
    assert_marginals(net.marginals(likelihood=certain), by_name, 1e-15)
    several = net.marginals({"smoke": ["yes", "no", None], "dysp": "no"})
    assert several["lung"].shape == (3, 2)
    rows = with_gaps(net, 500, 0.5)
    whole = net.marginals(rows)
    monkeypatch.setitem(junction_tree.MAX_CELLS_PER_CHUNK, "cpu", 1000)
    assert_marginals(net.marginals(rows), whole, 1e-15)


def test_float32_and_gradients():
    net = asia().float()
    x = with_gaps(net, 20, 0.5)
    found = net.marginals(x)
    assert found["lung"].dtype == torch.float32
    for node, value in asia().marginals(x).items():
        torch.testing.assert_close(found[node].double(), value, rtol=0, atol=1e-5)


def test_impossible_evidence_is_refused_by_row():
    net = asia()
    x = torch.full((3, 8), -1)
    x[2, net.nodes.index("tub")], x[2, net.nodes.index("either")] = 0, 1
    for ask in (net.marginals, net.most_probable, lambda x: net.sample(3, given=x), net.encode):
        with pytest.raises(
            zoo.QueryError, match=r"row 2 has probability 0 \(tub=yes, either=no\)"
        ):
            ask(x)
    assert net.log_evidence(x)[2] == -math.inf
    assert net.log_prob(x)[2] == -math.inf
    with pytest.raises(zoo.QueryError, match="row 0"):
        net.marginals({"tub": "yes"}, {"either": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({"cough": "yes"}, "got 'cough', expected one of: asia"),
        ({"dysp": "maybe"}, r"dysp: got state 'maybe', expected one of \['yes', 'no'\]"),
        ({"dysp": 2}, "dysp|node 'dysp'"),
        (torch.zeros(2, 7, dtype=torch.int64), r"got shape \(2, 7\), expected \(n, 8\)"),
        (torch.full((1, 8), 5), "got 5 at row 0"),
        (torch.full((1, 8), 0.5), "got 0.5, expected integers"),
    ],
)
def test_bad_evidence(evidence, message):
    with pytest.raises(zoo.DataError, match=message):
        asia().marginals(evidence)


def test_sampling_follows_the_joint_and_the_posterior():
    net = random_net(5, seed=3)
    grid, p = joint_table(net)
    number = {tuple(row): i for i, row in enumerate(grid.tolist())}
    free = [i for i, node in enumerate(net.nodes) if len(net.children_of(node)) == 0][0]
    for given in (None, {net.nodes[free]: 0}):
        w = p if given is None else p * (grid[:, free] == 0)
        w = w / w.sum()
        drawn = net.sample(20_000, given)
        seen = torch.tensor([number[tuple(row)] for row in drawn.tolist()]).bincount(
            minlength=len(p)
        )
        assert (seen[w == 0] == 0).all()
        expected = 20_000 * w[w > 0]
        chi2 = ((seen[w > 0] - expected) ** 2 / expected).sum()
        assert chi2 < len(expected) + 5 * math.sqrt(2 * len(expected))
    rows = with_gaps(net, 50, 0.5)
    drawn = net.sample(50, given=rows)
    assert ((drawn == rows) | (rows < 0)).all()
    assert net.log_prob(drawn).isfinite().all()


def test_wide_cliques_stay_in_memory():
    """A net of 240 nodes whose largest clique has 2^18 cells, and rows in chunks."""
    parents = {f"n{i}": [] for i in range(17)}
    parents["all"] = list(parents)
    parents |= {f"c{i}": [f"c{i - 1}"] if i else ["all"] for i in range(230)}
    g = torch.Generator().manual_seed(0)
    tables = {
        n: torch.rand(*[2] * (len(p) + 1), generator=g, dtype=torch.float64)
        for n, p in parents.items()
    }
    tables = {n: t / t.sum(-1, keepdim=True) for n, t in tables.items()}
    net = zoo.BayesNet(parents, dict.fromkeys(parents, 2), tables)
    assert max(c.cells for c in net.tree.cliques) == 2**18
    x = torch.full((40, len(parents)), -1)
    x[:, 17] = torch.arange(40) % 2
    found = net.marginals(x)
    # by hand: P(n0 | all), summing the others out
    joint = tables["all"]
    for i in range(17):
        joint = joint * tables[f"n{i}"].reshape([2 if j == i else 1 for j in range(18)])
    by_hand = joint.sum(tuple(range(1, 17)))
    by_hand = by_hand / by_hand.sum(0)
    torch.testing.assert_close(found["n0"], by_hand.T[x[:, 17]], rtol=0, atol=1e-12)


# --- graph -------------------------------------------------------------------------------------


def test_interventions_cut_the_parents():
    net = asia()
    after = net.do({"either": "yes"})
    assert after.parents_of("either") == ()
    torch.testing.assert_close(after.marginals()["smoke"], net.marginals()["smoke"])
    torch.testing.assert_close(after.marginals()["xray"][0], net.cpt("xray")[0])
    assert not torch.allclose(
        after.marginals()["smoke"], net.marginals({"either": "yes"})["smoke"]
    )
    mixed = net.do({"smoke": [0.2, 0.8]})
    assert mixed.marginals()["smoke"][0].tolist() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("seed", range(3))
def test_d_separation_is_independence(seed):
    """In a net of random tables without zeros, the graph and the numbers say the same."""
    net = random_net(5, seed=seed, zeros=0.0)
    grid, p = joint_table(net)
    for a in range(5):
        for b in range(5):
            for given in ([], [(a + b) % 5], [(a + 1) % 5, (b + 2) % 5]):
                if a == b or {a, b} & set(given):
                    continue
                assert net.d_separated(
                    net.nodes[a], net.nodes[b], [net.nodes[c] for c in given]
                ) == independent(grid, p, a, b, given)
    node = net.nodes[2]
    others = set(net.nodes) - net.markov_blanket(node) - {node}
    assert not others or net.d_separated(node, others, net.markov_blanket(node))


def independent(grid, p, a, b, given):
    """Whether a and b are independent given others, read off the joint table."""
    groups = {}
    for row, weight in zip(grid.tolist(), p.tolist(), strict=True):
        table = groups.setdefault(tuple(row[c] for c in given), torch.zeros(3, 3).double())
        table[row[a], row[b]] += weight
    return all(
        torch.allclose(t / t.sum(), torch.outer(t.sum(1), t.sum(0)) / t.sum() ** 2, atol=1e-9)
        for t in groups.values()
    )


def test_networkx_there_and_back():
    net = asia()
    graph = net.to_networkx()
    again = zoo.BayesNet.from_networkx(graph)
    assert again.graph.parents == net.graph.parents
    assert net.kl_divergence(again) == pytest.approx(0.0, abs=1e-12)
    graph.add_edge("dysp", "asia")
    graph.nodes["asia"].pop("parents")
    with pytest.raises(zoo.DataError, match="cycle"):
        zoo.BayesNet.from_networkx(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": {"a": ["b"], "b": ["a"]}}, "cycle a -> b -> a|cycle b -> a -> b"),
        ({"parents": {"a": [], "b": ["c"]}}, "parents of 'b': got 'c'"),
        ({"states": {"a": 2}}, "states"),
        ({"states": {"a": 2, "b": ["x", "x"]}}, "states of 'b'"),
        ({"tables": {"a": [0.5, 0.6]}}, "sums to 1.1, expected 1"),
        ({"tables": {"b": [0.5, 0.5]}}, r"got shape \(2,\), expected \(2, 2\)"),
        ({"tables": {"a": [-0.5, 1.5]}}, "expected probabilities"),
        ({"tables": {"c": [0.5, 0.5]}}, "got 'c'"),
        ({"concentration": 0.5}, "concentration"),
    ],
)
def test_bad_nets(change, message):
    good = {"parents": {"a": [], "b": ["a"]}, "states": {"a": 2, "b": 2}}
    with pytest.raises(zoo.DataError, match=message):
        zoo.BayesNet(**{**good, **change})


def test_drawing():
    figure = asia().draw({"smoke": "yes"}, marginals=True)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "smoke\n= yes" in texts
    assert any(t.startswith("lung\nyes 0.100") for t in texts)
    figure.canvas.draw()


# --- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.0), ({"missing": True}, 0.3), ({"bayesian": True}, 0.0)]
)
def test_contract(options, share):
    def make():
        return zoo.BayesNet(
            {"A b": [], "c": ["A b"], "Class": ["c", "A b"]},
            {"A b": 2, "c": 3, "Class": 2},
            **options,
        )

    def data():
        x = torch.stack([torch.randint(0, s, (40,)) for s in (2, 3, 2)], 1)
        return torch.where(torch.rand(x.shape) < share, -1, x)

    zoo.testing.check_model(make, data)


def test_counts_are_exact():
    net = random_net(6, seed=2)
    x = net.sample(3000)
    statistics = net.expected_statistics(x)
    for i, node in enumerate(net.nodes):
        family = [*(net.nodes.index(p) for p in net.parents_of(node)), i]
        counts = torch.zeros(net.cpt(node).shape, dtype=torch.float64)
        for row in x[:, family].tolist():
            counts[tuple(row)] += 1
        found = statistics[f"{net.site_names[node]}_table"].reshape(counts.shape)
        assert torch.equal(found, counts)
        table = net.fresh().learn(x).cpt(node)
        total = counts.sum(-1, keepdim=True).expand_as(counts)
        torch.testing.assert_close(table[total > 0], (counts / total)[total > 0])
    fit = zoo.fit(net.fresh(), x, zoo.EM(), progress=False)
    assert fit.objective == pytest.approx(net.fresh().learn(x).log_prob(x).sum().item())


def test_expected_counts_are_posterior_sums():
    """The gradient of the log likelihood against sums of brute-force posteriors."""
    net = random_net(5, seed=5)
    x = with_gaps(net, 10, 0.5)
    grid, p = joint_table(net)
    statistics = net.expected_statistics(x)
    i = max(range(5), key=lambda i: len(net.parents_of(net.nodes[i])))
    node = net.nodes[i]
    family = [*(net.nodes.index(q) for q in net.parents_of(node)), i]
    expected = torch.zeros(net.cpt(node).shape, dtype=torch.float64)
    for row in x:
        w = p * ((grid == row) | (row < 0)).all(1)
        for cell, weight in zip(grid[:, family].tolist(), (w / w.sum()).tolist(), strict=True):
            expected[tuple(cell)] += weight
    found = statistics[f"{net.site_names[node]}_table"].reshape(expected.shape)
    torch.testing.assert_close(found, expected)
    assert statistics["log_likelihood"].item() == pytest.approx(
        brute_force(net, x)[1].sum().item()
    )


def test_em_with_values_missing_recovers_the_net():
    net = asia()
    divergences = []
    for rows in (300, 6000):
        x = with_gaps(net, rows, 0.2)
        learned = asia(tables={}, missing=True, concentration=1.5)
        fit = zoo.fit(learned, x, zoo.EM(tol=1e-5), progress=False)
        assert (torch.diff(torch.as_tensor(fit.history["objective"][0])) > -1e-6).all()
        divergences.append(net.kl_divergence(learned))
    # 18 free parameters, of which some 12 matter: KL of about 12 / (2 n) with nothing missing
    assert divergences[1] < 4 * 18 / (2 * 6000)
    assert divergences[1] < divergences[0]


def test_em_finds_a_hidden_cause():
    """Three answers with one hidden cause are a latent class model, known up to its labels."""
    parents = {"cause": [], "a": ["cause"], "b": ["cause"], "c": ["cause"]}
    noisy = [[0.9, 0.1], [0.2, 0.8]]
    tables = {"cause": [0.4, 0.6], "a": noisy, "b": noisy, "c": noisy}
    truth = zoo.BayesNet(parents, dict.fromkeys(parents, 2), tables)
    x = truth.sample(8000)
    x[:, 0] = -1
    net = zoo.BayesNet(parents, dict.fromkeys(parents, 2), missing=True)
    zoo.fit(net, x, zoo.EM(restarts=2, tol=1e-8), progress=False)
    assert sorted(net.cpt("cause").tolist()) == pytest.approx([0.4, 0.6], abs=0.05)
    assert sorted(net.cpt("a")[:, 0].tolist()) == pytest.approx([0.2, 0.9], abs=0.05)


def test_missing_values_are_refused_without_missing():
    x = asia().sample(10)
    x[3, 2] = -1
    with pytest.raises(zoo.DataError, match="'smoke' is missing .* row 3.*missing=True"):
        zoo.fit(asia(), x, progress=False)


def chain(**options):
    return zoo.BayesNet({"a": [], "b": ["a"]}, {"a": 2, "b": 3}, bayesian=True, **options)


def test_the_posterior_of_complete_data_is_dirichlet():
    x = torch.tensor([[0, 0], [0, 2], [1, 1], [0, 2]])
    net = chain(concentration={"b": [[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]]})
    fit = zoo.fit(net, x, progress=False)
    b = [[2.0, 2.0, 2.5], [1.0, 2.0, 1.0]]
    torch.testing.assert_close(
        net.posterior_concentration("b_table").detach(), torch.tensor(b, dtype=torch.float64)
    )
    # and the objective is the log evidence: row after row by the predictive distribution
    total, rest = 0.0, chain(concentration={"b": [[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]]})
    for i in range(4):
        total += rest.log_prob(x[i : i + 1]).item()
        rest.learn(x[: i + 1])
    assert fit.objective == pytest.approx(total, abs=1e-8)
    data = fit.to_arviz(50, coords=net.coords)
    assert data.posterior["b_table"].dims == ("chain", "draw", "b_parents", "b_state")
    assert data.posterior["b_parents"].values.tolist() == ["a=0", "a=1"]


@pytest.mark.slow
def test_nuts_agrees_with_the_dirichlet_posterior():
    x = torch.stack([torch.randint(0, 2, (30,)), torch.randint(0, 3, (30,))], 1)
    net = chain(concentration=1.5)
    zoo.fit(net, x, progress=False)
    drawn = zoo.fit(chain(concentration=1.5), x, zoo.NUTS(), progress=False).posterior(10_000)
    for site in ("a_table", "b_table"):
        exact = torch.distributions.Dirichlet(net.posterior_concentration(site).detach())
        values = drawn[site].flatten(0, 1).double()
        error = exact.variance.sqrt() / math.sqrt(len(values) / 4)
        assert ((values.mean(0) - exact.mean).abs() < 4 * error).all()
        torch.testing.assert_close(values.var(0), exact.variance, rtol=0.15, atol=0)


# --- structure ---------------------------------------------------------------------------------


def undirected(net):
    return {frozenset((p, n)) for n, above in net.graph.parents.items() for p in above}


def test_chow_liu_finds_a_tree():
    g = torch.Generator().manual_seed(1)
    parents = {f"n{i}": [f"n{(i - 1) // 2}"] if i else [] for i in range(10)}
    tables = {}
    for node, above in parents.items():
        table = torch.rand(*[3] * (len(above) + 1), generator=g, dtype=torch.float64) ** 3
        tables[node] = table / table.sum(-1, keepdim=True)
    truth = zoo.BayesNet(parents, dict.fromkeys(parents, 3), tables)
    data = dict(zip(truth.nodes, truth.sample(20_000).T, strict=True))
    found = zoo.BayesNet.chow_liu(data)
    assert undirected(found) == undirected(truth)
    assert all(len(above) <= 1 for above in found.graph.parents.values())


@pytest.mark.parametrize("score", ["bic", "bdeu", "k2"])
def test_search_finds_the_arrows(score):
    truth = zoo.BayesNet(
        {"a": [], "b": [], "c": ["a", "b"], "d": ["c"], "e": []},
        dict.fromkeys("abcde", 2),
        {
            "a": [0.4, 0.6],
            "b": [0.6, 0.4],
            "c": [[[0.95, 0.05], [0.6, 0.4]], [[0.5, 0.5], [0.1, 0.9]]],
            "d": [[0.8, 0.2], [0.1, 0.9]],
            "e": [0.5, 0.5],
        },
    )
    x = truth.sample(10_000)
    found = zoo.BayesNet.search(
        dict(zip(truth.nodes, x.T, strict=True)), score=score, tabu=5, patience=10
    )
    # the collider a -> c <- b and hence c -> d show in the data; e stands alone
    assert {n: set(p) for n, p in found.graph.parents.items()} == {
        n: set(p) for n, p in truth.graph.parents.items()
    }
    assert truth.kl_divergence(truth) == 0.0
    assert found.num_free_parameters == truth.num_free_parameters == 1 + 1 + 4 + 2 + 1


def test_free_parameters_of_asia():
    assert asia().num_free_parameters == sum(2 ** len(p) for p in ASIA_PARENTS.values()) == 18


@pytest.mark.gpu
def test_on_a_gpu(cuda):
    net = random_net(seed=1)
    x = with_gaps(net, 200, 0.5)
    expected = net.marginals(x)
    found = net.to(cuda).marginals(x)
    assert_marginals({n: v.cpu() for n, v in found.items()}, expected, 1e-12)
    assert net.sample(10, given=x[0]).device.type == "cuda"


def test_a_net_of_complete_rows_reaches_arviz():
    net = zoo.BayesNet({"a": [], "b": ["a"]}, {"a": ["x", "y"], "b": ["u", "v", "w"]})
    x = torch.stack([torch.arange(40) % 2, torch.arange(40) % 3], 1)
    idata = zoo.fit(net, x, progress=False).to_arviz(num_samples=20)
    assert set(idata["observed_data"].data_vars) == {"a", "b"}
    drawn = idata["posterior_predictive"]["b"]
    assert drawn.shape[:2] == (1, 20) and set(np.unique(drawn)) <= {0, 1, 2}
