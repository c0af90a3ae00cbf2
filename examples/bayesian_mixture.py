"""
How many kinds of eruption? A Bayesian mixture finds out
========================================================

Eight components are allowed; stick-breaking weights let those empty out that the data do not
support. What is left is pruned and looked at. The same from small batches, as for data that do
not fit into memory.
"""

import matplotlib.pyplot as plt

import ppl_zoo as zoo

components, passes = 8, 50
x = zoo.data.load("old-faithful").train.double()

# %%
# Coordinate ascent (CAVI) raises a lower bound of log p(x), from three starts.

mixture = zoo.BayesianGaussianMixture(components, 2, weights="dirichlet-process").double()
fit = zoo.fit(mixture, x, zoo.CAVI(restarts=3), progress=False)
print(f"{components} components allowed, lower bound of log p(x): {fit.objective:.2f} nats")
print("expected eruptions of each:", [round(n, 1) for n in mixture.counts.tolist()])

# %%
# Drop the empty ones, and go on from there. Posterior means come with their sd.

small = mixture.pruned()
again = zoo.fit(small, x, zoo.CAVI(initialize=False), progress=False)
posterior = again.to_arviz(num_samples=2000).posterior
print(f"{small.num_components} have any. Posterior means, minutes:")
for k in range(small.num_components):
    length, wait = posterior["means"].isel(component=k).mean(("chain", "draw")).values
    sd = posterior["means"].isel(component=k, feature=1).std().item()
    share = posterior["weights"].isel(component=k).mean().item()
    print(f"  {share:.0%} last {length:.2f}, wait {wait:.1f} +- {sd:.1f}")

# %%
# From batches of 32 rows, by natural gradients.

stream = zoo.CAVI(stochastic=True, batch_size=32, steps=passes)
batches = zoo.fit(small.fresh(), x, stream, progress=False)
print(f"from batches of 32: {batches.objective:.2f}, at once {again.objective:.2f}")

# %%
# Rows by their component, and draws of the components' means: how sure each mean is.

means = posterior["means"].isel(draw=slice(0, 500))
plt.figure(figsize=(6, 4), layout="constrained")
plt.scatter(*x.T, c=small.encode(x).argmax(1), cmap="tab10", s=10)
for k in range(small.num_components):
    plt.plot(*means.isel(component=k, chain=0).values.T, "k.", markersize=1, alpha=0.4)
plt.xlabel("eruption, minutes")
plt.ylabel("wait for the next, minutes")
plt.show()
