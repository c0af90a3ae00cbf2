"""
A diagnosis: a Bayes net asked, and intervened on
=================================================

Shortness of breath may come from tuberculosis, lung cancer or bronchitis, and a chest X-ray does
not tell the first two apart. The net is the one of Lauritzen & Spiegelhalter (1988,
https://doi.org/10.1111/j.2517-6161.1988.tb01721.x), and each answer is exact, by a junction tree.
"""

import math

import matplotlib.pyplot as plt

import ppl_zoo as zoo

evidence = {"smoke": "yes", "dysp": "yes"}

# %%
# A net is its graph, the states of each node, and a table given the parents of each. Nets in files
# are read by ``zoo.BayesNet.from_bif``; tables are learned from rows by ``zoo.fit``.

parents = {
    "asia": [],
    "smoke": [],
    "tub": ["asia"],
    "lung": ["smoke"],
    "bronc": ["smoke"],
    "either": ["tub", "lung"],
    "xray": ["either"],
    "dysp": ["either", "bronc"],
}
tables = {
    "asia": [0.01, 0.99],
    "smoke": [0.5, 0.5],
    "tub": [[0.05, 0.95], [0.01, 0.99]],
    "lung": [[0.10, 0.90], [0.01, 0.99]],
    "bronc": [[0.60, 0.40], [0.30, 0.70]],
    "either": [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    "xray": [[0.98, 0.02], [0.05, 0.95]],
    "dysp": [[[0.90, 0.10], [0.70, 0.30]], [[0.80, 0.20], [0.10, 0.90]]],
}
net = zoo.BayesNet(parents, dict.fromkeys(parents, ["yes", "no"]), tables)

# %%
# What does it say of a smoker who is short of breath?

print(f"probability of the evidence: {math.exp(net.log_evidence(evidence)):.4f}")
before, after = net.marginals(), net.marginals(evidence)
for node in net.nodes:
    if node not in evidence:
        old, new = before[node][0, 0].item(), after[node][0, 0].item()
        print(f"  {node:7} {old:7.4f} -> {new:7.4f}  {'#' * round(30 * new)}")
best = net.most_probable(evidence)
words = ", ".join(f"{n}={s}" for n, s in net.names(best.states)[0].items() if n not in evidence)
share = math.exp(best.log_prob.item() - net.log_evidence(evidence).item())
print(f"most probable explanation ({share:.1%}): {words}")

# %%
# Seeing is not doing. Who is seen to have bronchitis more often smokes, and so has lung cancer
# more often; who is given bronchitis has not.

seen = net.marginals({"bronc": "yes"})["lung"][0, 0].item()
done = net.do({"bronc": "yes"}).marginals()["lung"][0, 0].item()
print(f"P(lung cancer | bronchitis) = {seen:.4f}, P(lung cancer | do(bronchitis)) = {done:.4f}")

# %%
# The net, with what is known shaded.

figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
net.draw(evidence, marginals=True, axes=axis)
plt.show()
