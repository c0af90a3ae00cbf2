"""Small nets for the tests of BayesNet, and inference by brute force."""

import itertools

import torch

import ppl_zoo as zoo

ASIA_PARENTS = {
    "asia": [],
    "tub": ["asia"],
    "smoke": [],
    "lung": ["smoke"],
    "bronc": ["smoke"],
    "either": ["lung", "tub"],
    "xray": ["either"],
    "dysp": ["bronc", "either"],
}
ASIA_TABLES = {
    "asia": [0.01, 0.99],
    "tub": [[0.05, 0.95], [0.01, 0.99]],
    "smoke": [0.5, 0.5],
    "lung": [[0.10, 0.90], [0.01, 0.99]],
    "bronc": [[0.60, 0.40], [0.30, 0.70]],
    "either": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    "xray": [[0.98, 0.02], [0.05, 0.95]],
    "dysp": [[[0.90, 0.10], [0.80, 0.20]], [[0.70, 0.30], [0.10, 0.90]]],
}


def asia(**options):
    states = dict.fromkeys(ASIA_PARENTS, ["yes", "no"])
    return zoo.BayesNet(ASIA_PARENTS, states, **{"tables": ASIA_TABLES, **options})


def random_net(num_nodes=7, max_parents=3, seed=0, zeros=0.2):
    """A net of random arrows and tables, exact zeros among them."""
    g = torch.Generator().manual_seed(seed)
    names = [f"N/{i}" for i in range(num_nodes)]
    sizes = torch.randint(2, 4, (num_nodes,), generator=g).tolist()
    parents, tables = {}, {}
    for i, name in enumerate(names):
        count = min(i, int(torch.randint(0, max_parents + 1, (), generator=g)))
        above = torch.randperm(i, generator=g)[:count].tolist()
        parents[name] = [names[p] for p in above]
        table = torch.rand(*(sizes[p] for p in above), sizes[i], generator=g, dtype=torch.float64)
        cut = torch.rand(table.shape, generator=g) < zeros
        cut[..., 0] = False
        table[cut] = 0.0
        tables[name] = table / table.sum(-1, keepdim=True)
    # columns in another order than the arrows
    order = torch.randperm(num_nodes, generator=g).tolist()
    shuffled = {names[i]: parents[names[i]] for i in order}
    return zoo.BayesNet(shuffled, {names[i]: sizes[i] for i in order}, tables)


def joint_table(net):
    """All joint states ``(cells, nodes)`` and their probabilities, straight from the tables."""
    grid = torch.tensor(list(itertools.product(*map(range, net.state_space.sizes))))
    p = torch.ones(len(grid), dtype=torch.float64)
    for i, node in enumerate(net.nodes):
        at = [grid[:, net.nodes.index(q)] for q in net.parents_of(node)]
        p *= net.cpt(node)[(*at, grid[:, i])]
    return grid, p


def brute_force(net, x, soft=None):
    """Posterior of each node, log evidence and most probable joint state of each row."""
    grid, p = joint_table(net)
    marginals, log_evidence, best = {n: [] for n in net.nodes}, [], []
    for row in x:
        w = p * ((grid == row) | (row < 0)).all(1)
        for node, vector in (soft or {}).items():
            w = w * torch.as_tensor(vector, dtype=w.dtype)[grid[:, net.nodes.index(node)]]
        log_evidence.append(w.sum().log())
        best.append(w.max().log())
        for i, node in enumerate(net.nodes):
            sums = torch.zeros(net.state_space.sizes[i], dtype=w.dtype).index_add(0, grid[:, i], w)
            marginals[node].append(sums / w.sum())
    stacked = {n: torch.stack(v) for n, v in marginals.items()}
    return stacked, torch.stack(log_evidence), torch.stack(best)


def eliminate(net, evidence, node):
    """Posterior of one node by variable elimination with einsum, one node at a time."""
    import numpy as np

    index = {n: i for i, n in enumerate(net.nodes)}
    factors = []
    for name in net.nodes:
        family = [*net.parents_of(name), name]
        table = net.cpt(name).numpy()
        for axis, member in enumerate(family):
            if member in evidence:
                mask = np.zeros(table.shape[axis])
                mask[evidence[member]] = 1.0
                table = table * mask.reshape([-1 if i == axis else 1 for i in range(table.ndim)])
        factors.append(([index[m] for m in family], table))
    left = set(range(len(net.nodes))) - {index[node]}
    while left:

        def cost(v, factors=factors):
            scope = {m for f, _ in factors if v in f for m in f}
            return np.prod([float(net.state_space.sizes[m]) for m in scope])

        v = min(left, key=cost)
        left.remove(v)
        touched = [f for f in factors if v in f[0]]
        factors = [f for f in factors if v not in f[0]]
        scope = sorted({m for f, _ in touched for m in f} - {v})
        local = {m: i for i, m in enumerate([*scope, v])}
        operands = []
        for names, table in touched:
            operands += [table, [local[m] for m in names]]
        factors.append((scope, np.einsum(*operands, [local[m] for m in scope], optimize=True)))
    result = np.ones(net.state_space.sizes[index[node]])
    for _, table in factors:
        result = result * table
    return torch.from_numpy(result / result.sum())
