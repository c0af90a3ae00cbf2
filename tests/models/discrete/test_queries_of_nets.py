"""Joint posteriors, marginal MAP, approximate marginals and what does not fit in memory."""

import math
import time

import numpy as np
import pytest
import torch
from small_nets import asia, brute_force, joint_table, random_net

import ppl_zoo as zoo
from ppl_zoo.models.discrete.bayes_net import junction_tree, learning


def grid(size, seed=0, strength=0.8):
    """A square grid with arrows to the right and down."""
    g = torch.Generator().manual_seed(seed)
    cells = [(i, j) for i in range(size) for j in range(size)]
    parents = {
        f"g{i}_{j}": [f"g{i - 1}_{j}"] * (i > 0) + [f"g{i}_{j - 1}"] * (j > 0) for i, j in cells
    }
    tables = {
        n: strength * torch.rand(*[2] * (len(p) + 1), generator=g, dtype=torch.float64) + 0.1
        for n, p in parents.items()
    }
    tables = {n: t / t.sum(-1, keepdim=True) for n, t in tables.items()}
    return zoo.BayesNet(parents, dict.fromkeys(parents, 2), tables)


def evidence(net, rows, share=0.4):
    x = net.sample(rows)
    return torch.where(torch.rand(x.shape) < share, x, -1)


# --- joint posteriors and marginal MAP, against enumeration --------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_joint_posteriors_and_marginal_map(seed):
    torch.manual_seed(seed)
    net = random_net(seed=seed)
    x = torch.cat([evidence(net, 6), torch.full((1, 7), -1)])
    states, p = joint_table(net)
    soft_node = net.nodes[1]
    soft = {soft_node: torch.linspace(0.2, 1e-3, len(net.states[soft_node])).double()}
    for chosen in ([5], [2, 6], [4, 0, 3]):
        names = [net.nodes[c] for c in chosen]
        sizes = [net.state_space.sizes[c] for c in chosen]
        for likelihood in (None, soft):
            found = net.query(names, x, likelihood)
            best = net.map_query(names, x, likelihood)
            assert found.dims == ("rows", *names)
            assert {n: tuple(found.coords[n].values) for n in names} == {
                n: net.states[n] for n in names
            }
            for row in range(len(x)):
                w = p * ((states == x[row]) | (x[row] < 0)).all(1)
                if likelihood:
                    w = w * soft[soft_node][states[:, 1]]
                expected = torch.zeros(sizes, dtype=torch.float64)
                expected.index_put_(tuple(states[:, chosen].T), w, accumulate=True)
                np.testing.assert_allclose(found[row], expected / w.sum(), atol=1e-13)
                assert best.log_prob[row].item() == pytest.approx(expected.max().log().item())
                assert expected[tuple(best.states[row, chosen])] == pytest.approx(expected.max())
            rest = [i for i in range(7) if i not in chosen]
            assert (best.states[:, rest] == -1).all()


def test_a_query_by_names():
    net = asia()
    joint = net.query(["lung", "bronc"], {"dysp": "yes"})
    # by hand from the marginals of one, given the other
    lung = net.marginals({"dysp": "yes"})["lung"][0, 0].item()
    bronc = net.marginals({"dysp": "yes", "lung": "yes"})["bronc"][0, 0].item()
    assert joint.sel(lung="yes", bronc="yes").item() == pytest.approx(lung * bronc, abs=1e-14)
    assert net.query("lung", {"dysp": "yes"}).sel(lung="yes").item() == pytest.approx(lung)
    best = net.map_query(["lung", "bronc"], {"dysp": "yes"})
    assert net.names(best.states) == [{"lung": "no", "bronc": "yes"}]
    asked = net.query(["dysp", "lung"], {"dysp": "yes"})  # an observed node has one state left
    assert asked.sel(dysp="no").sum() == 0.0
    rows = zoo.BayesNet({"rows": []}, {"rows": 2}).query("rows")
    assert rows.dims == ("rows_", "rows")


def test_marginal_map_is_not_the_marginals_nor_the_explanation():
    """P(a) = .4, .6; given a = 1 the rest is spread out, so that a = 0 is in the explanation."""
    net = zoo.BayesNet(
        {"a": [], "b": ["a"]},
        {"a": 2, "b": 3},
        {"a": [0.4, 0.6], "b": [[1, 0, 0], [0.3, 0.3, 0.4]]},
    )
    assert net.map_query("a").states.tolist() == [[1, -1]]
    assert net.most_probable().states.tolist() == [[0, 0]]
    assert net.map_query(["a", "b"]).log_prob.item() == pytest.approx(math.log(0.4))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [([], "expected one or more"), (["lung", "lung"], "each once"), ("cough", "got 'cough'")],
)
def test_bad_nodes(nodes, message):
    for ask in (asia().query, asia().map_query):
        with pytest.raises(zoo.DataError, match=message):
            ask(nodes)


def test_impossible_evidence_of_a_query():
    net = asia()
    x = torch.full((3, 8), -1)
    x[2, net.nodes.index("tub")], x[2, net.nodes.index("either")] = 0, 1
    for ask in (net.query, net.map_query):
        with pytest.raises(
            zoo.QueryError, match=r"row 2 has probability 0 \(tub=yes, either=no\)"
        ):
            ask("lung", x)


# --- approximate marginals -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_likelihood_weighting_and_its_standard_error(seed):
    torch.manual_seed(seed)
    net = random_net(seed=seed)
    x = evidence(net, 5, 0.3)
    soft = {net.nodes[3]: torch.linspace(1.0, 0.3, len(net.states[net.nodes[3]])).double()}
    exact = brute_force(net, x, soft)[0]
    found = net.marginals(x, soft, method="likelihood-weighting", num_samples=40_000)
    assert found.method == "likelihood-weighting" and found.converged is None
    scores = []
    for i, node in enumerate(net.nodes):
        seen = x[:, i] >= 0
        torch.testing.assert_close(found[node][seen], exact[node][seen], atol=1e-12, rtol=0)
        assert (found.errors[node][seen] == 0).all()
        inside = (exact[node] > 1e-3) & (exact[node] < 1 - 1e-3) & ~seen[:, None]
        scores.append(((found[node] - exact[node]) / found.errors[node])[inside])
    scores = torch.cat(scores)
    assert scores.abs().max() < 5.0
    assert 0.6 < scores.square().mean().sqrt() < 1.5
    assert found.largest_error < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_loopy_propagation_is_exact_on_a_polytree(seed):
    g = torch.Generator().manual_seed(seed)
    parents = {f"n{i}": [] for i in range(12)}
    for i in range(1, 12):  # a random tree, its arrows in random directions
        other = int(torch.randint(0, i, (), generator=g))
        low, high = (i, other) if torch.rand((), generator=g) < 0.5 else (other, i)
        parents[f"n{high}"].append(f"n{low}")
    sizes = {n: int(torch.randint(2, 4, (), generator=g)) for n in parents}
    tables = {}
    for node, above in parents.items():
        shape = [sizes[p] for p in above] + [sizes[node]]
        table = torch.rand(shape, generator=g, dtype=torch.float64)
        table[..., 1:][torch.rand(table[..., 1:].shape, generator=g) < 0.3] = 0.0
        tables[node] = table / table.sum(-1, keepdim=True)
    net = zoo.BayesNet(parents, sizes, tables)
    torch.manual_seed(seed)
    x = evidence(net, 6)
    exact = net.marginals(x)
    found = net.marginals(x, method="loopy", num_samples=20_000)
    assert found.converged.all() and (found.residual <= 1e-9).all()
    for node in net.nodes:
        torch.testing.assert_close(found[node], exact[node], atol=1e-8, rtol=0)


def test_loopy_propagation_says_how_wrong_it_is():
    torch.manual_seed(0)
    net = grid(8)
    x = {"g4_4": 1, "g7_7": 0}
    exact = net.marginals(x)
    found = net.marginals(x, method="loopy")
    error = max(float((found[n] - exact[n]).abs().max()) for n in net.nodes)
    assert found.converged.all()
    assert 1e-3 < error < 0.1
    assert error / 2 < found.largest_error < 2 * error + 0.02
    with pytest.warns(UserWarning, match="1 of 1 rows did not converge in 3 iterations"):
        found = net.marginals(x, method="loopy", max_iterations=3, num_samples=1000)
    assert not found.converged.any()


def test_loopy_propagation_in_float32_and_with_many_children():
    """A state ruled out by one of 300 children stays out, though the others' product is tiny."""
    children = {f"c{i}": ["a"] for i in range(300)}
    tables = {c: [[0.01, 0.99], [0.2, 0.8]] for c in children}
    tables |= {"a": [0.5, 0.5], "c7": [[0.0, 1.0], [0.2, 0.8]]}
    net = zoo.BayesNet({"a": [], **children}, dict.fromkeys(["a", *children], 2), tables)
    seen = dict.fromkeys(children, 0)
    for model in (net, net.float()):
        with pytest.warns(UserWarning, match="loopy propagation is not checked|effective draws"):
            found = model.marginals(seen, method="loopy", num_samples=4)
        assert found["a"][0].tolist() == [0.0, 1.0]


def test_evidence_that_no_draw_meets():
    net = asia()
    impossible = {"tub": "yes", "either": "no"}
    for method in ("loopy", "likelihood-weighting"):
        with pytest.raises(zoo.QueryError, match="probability 0"):
            net.marginals(impossible, method=method)
    rare = zoo.BayesNet(
        {"a": [], "b": ["a"]}, {"a": 2, "b": 2}, {"a": [1 - 1e-9, 1e-9], "b": torch.eye(2)}
    )
    with pytest.raises(
        zoo.QueryError, match="none of 1000 draws agrees with the evidence of row 0"
    ):
        rare.marginals({"b": 1}, method="likelihood-weighting", num_samples=1000)
    with pytest.warns(UserWarning, match="not checked"):
        found = rare.marginals({"b": 1}, method="loopy", num_samples=1000)
    assert found["a"][0].tolist() == [0.0, 1.0] and math.isnan(found.largest_error)
    with pytest.warns(UserWarning, match="effective draws of 50"):
        net.marginals({"dysp": "yes"}, method="likelihood-weighting", num_samples=50)
    with pytest.raises(zoo.DataError, match="method: got 'gibbs'"):
        net.marginals(method="gibbs")
    with pytest.raises(zoo.DataError, match="num_samples"):
        net.marginals(method="loopy", num_samples=0)


# --- what does not fit ---------------------------------------------------------------------------


def test_a_grid_that_does_not_fit_is_refused_quickly():
    net = grid(30)
    start = time.process_time()
    for ask in (net.marginals, net.log_evidence, net.most_probable, lambda e: net.sample(3, e)):
        with pytest.raises(
            zoo.QueryError,
            match=r"the largest clique found has \d+ nodes and .* cells, .* takes .*iB, and .*iB "
            "are at hand; .*method='loopy'",
        ):
            ask({"g3_3": 1})
    assert time.process_time() - start < 15  # 27 s before it asked for 2e15 bytes
    # what needs no junction tree goes on
    x = net.sample(20)
    assert net.log_prob(x).isfinite().all()
    net.learn(x)
    assert net.query("g3_3").shape == (1, 2)
    with pytest.raises(zoo.QueryError, match="the query does not fit: its largest table has"):
        net.query("g3_3", {"g29_29": 1})


def test_a_grid_is_swept():
    """The treewidth of a grid is its side; min-fill and min-weight do not find it."""
    net = grid(12)
    assert max(len(clique.nodes) for clique in net.tree.cliques) == 13
    x = torch.full((1, 144), -1)
    x[:, :3] = torch.tensor([1, 0, 1])  # the first nodes of the first row, a chain
    a, b, c = (net.cpt(f"g0_{j}") for j in range(3))
    assert net.log_prob(x).exp().item() == pytest.approx((a[1] * b[1, 0] * c[0, 1]).item())


def test_the_limit_is_the_memory_at_hand(monkeypatch):
    net = grid(9)
    monkeypatch.setattr(junction_tree, "SMALL_BYTES", 0)
    net.marginals({"g3_3": 1})
    monkeypatch.setattr(junction_tree, "_available_bytes", lambda device: 10_000)
    net = grid(9)
    with pytest.raises(zoo.QueryError, match=r"and 0\.00954 MiB are at hand"):
        net.marginals({"g3_3": 1})
    assert junction_tree._in_words(3 * 2**40) == "3 TiB"
    monkeypatch.undo()
    assert 2**20 < junction_tree._available_bytes(torch.device("cpu")) < 2**50


@pytest.mark.slow
def test_a_grid_of_40():
    net = grid(40)
    torch.manual_seed(1)
    seen = {"g3_3": 1, "g20_20": 0, "g35_2": 1}
    with pytest.raises(zoo.QueryError, match="largest clique"):
        net.marginals(seen)
    loopy = net.marginals(seen, method="loopy")
    weighted = net.marginals(seen, method="likelihood-weighting")
    assert loopy.converged.all() and loopy.largest_error < 0.05
    for node in net.nodes:
        assert ((loopy[node] - weighted[node]).abs() <= loopy.errors[node] + 0.02).all()


# --- scores --------------------------------------------------------------------------------------


def test_k2_is_the_log_evidence_row_after_row():
    """By the predictive distribution, the rule of succession, one row at a time."""
    torch.manual_seed(0)
    x = torch.stack([torch.randint(0, s, (60,)) for s in (2, 3, 2)], 1)
    scorer = learning._Scorer(x.T.int().contiguous(), [2, 3, 2], "k2", 1.0)
    total, counts = 0.0, torch.ones(2, 2, 3)
    for a, b, c in x.tolist():
        row = counts[a, c]
        total += math.log(row[b] / row.sum())
        row[b] += 1
    assert scorer(1, frozenset({0, 2})) == pytest.approx(total)
    net = zoo.BayesNet.search(x, score="k2")
    assert len(net.nodes) == 3
    with pytest.raises(zoo.DataError, match="score: got 'aic'"):
        zoo.BayesNet.search(x, score="aic")
