"""A regression that stochastic steps take long for, and fixed draws arrive at in a second.

Columns of very different size, strongly correlated: the usual state of a regression on raw data.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo


class Scores(zoo.Model):
    """Test scores of children, from their mothers' schooling and IQ."""

    def model(self, x, y):
        beta = pyro.sample("beta", dist.Normal(0.0, 100.0).expand([x.shape[-1]]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with self.observations("children", x):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)


def children(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    school, iq = rng.random(num_rows) < 0.8, rng.normal(100, 15, num_rows)
    x = np.stack([np.ones(num_rows), school, iq, school * iq], 1)
    return x, x @ [-11.0, 51.0, 1.0, -0.5] + rng.normal(0, 18, num_rows)


def main(num_rows=400, steps=5_000):
    torch.manual_seed(0)
    data = children(num_rows)
    wide = zoo.fit(Scores(), data, zoo.SVI(), progress=False)
    print(f"full rank, fixed draws       {wide.objective:10.2f} nats  ({wide.solution.reason})")
    field = zoo.fit(Scores(), data, zoo.SVI(guide="normal"), progress=False)
    print(f"mean field, fixed draws      {field.objective:10.2f} nats")
    stochastic = zoo.SVI(guide="normal", objective="stochastic", steps=steps)
    slow = zoo.fit(Scores(), data, stochastic, progress=False)
    print(f"mean field, stochastic steps {slow.objective:10.2f} nats  ({slow.stopped})")

    response = field.linear_response()
    print("\nsd of beta     full rank  mean field  with linear response")
    exact, narrow = (f.posterior(4000)["beta"][0].std(0) for f in (wide, field))
    for row in zip(exact.tolist(), narrow.tolist(), response.sd["beta"], strict=True):
        print("               {:9.3f}  {:10.3f}  {:20.3f}".format(*row))


if __name__ == "__main__":
    main()
