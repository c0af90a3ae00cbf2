"""
Fixed draws arrive where stochastic steps wander
================================================

Columns of very different size, strongly correlated: the usual state of a regression on raw data.
With fixed quasi-random draws the bound is a smooth function, and L-BFGS is at its maximum in a
second; stochastic steps take long.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo

num_rows, steps = 400, 5_000

# %%
# Test scores of children from their mothers' schooling and IQ, simulated after Gelman & Hill.


class Scores(zoo.Model):
    """A regression on raw columns."""

    def model(self, x, y):
        beta = pyro.sample("beta", dist.Normal(0.0, 100.0).expand([x.shape[-1]]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with self.observations("children", x):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)


rng = np.random.default_rng(0)
school, iq = rng.random(num_rows) < 0.8, rng.normal(100, 15, num_rows)
x = np.stack([np.ones(num_rows), school, iq, school * iq], 1)
data = x, x @ [-11.0, 51.0, 1.0, -0.5] + rng.normal(0, 18, num_rows)

# %%
# Three fits: a full-rank guide and mean field by fixed draws, and mean field by stochastic steps.

torch.manual_seed(0)
wide = zoo.fit(Scores(), data, zoo.SVI(), progress=False)
print(f"full rank, fixed draws       {wide.objective:10.2f} nats  ({wide.solution.reason})")
field = zoo.fit(Scores(), data, zoo.SVI(guide="normal"), progress=False)
print(f"mean field, fixed draws      {field.objective:10.2f} nats")
stochastic = zoo.SVI(guide="normal", objective="stochastic", steps=steps)
slow = zoo.fit(Scores(), data, stochastic, progress=False)
print(f"mean field, stochastic steps {slow.objective:10.2f} nats  ({slow.stopped})")

# %%
# Mean field has sds that are far too small here; linear response gives them back.

response = field.linear_response()
exact, narrow = (f.posterior(4000)["beta"][0].std(0) for f in (wide, field))
sds = {"full rank": exact, "mean field": narrow, "linear response": response.sd["beta"]}
places = np.arange(4)
plt.figure(figsize=(6, 3.6), layout="constrained")
for shift, (name, values) in zip((-0.25, 0.0, 0.25), sds.items(), strict=True):
    plt.bar(places + shift, values, 0.25, label=name)
    print(f"{name:16}", *(f"{float(v):8.3f}" for v in values))
plt.yscale("log")
plt.xticks(places, ["intercept", "school", "IQ", "school x IQ"])
plt.ylabel("posterior sd")
plt.legend()
plt.show()
