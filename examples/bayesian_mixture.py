"""How many kinds of eruption has Old Faithful? A Bayesian mixture finds out.

Stick-breaking weights let components empty out; what is left is pruned and looked at. The same
in small batches, as for data that do not fit into memory. Run:

    python examples/bayesian_mixture.py
"""

import argparse

import ppl_zoo as zoo


def main(components=8, passes=50):
    x = zoo.data.load("old-faithful").train.double()
    mixture = zoo.BayesianGaussianMixture(components, 2, weights="dirichlet-process").double()
    fit = zoo.fit(mixture, x, zoo.CAVI(restarts=3), progress=False)
    print(f"{components} components allowed, lower bound of log p(x): {fit.objective:.2f} nats")
    print("expected eruptions of each:", [round(n, 1) for n in mixture.counts.tolist()])

    small = mixture.pruned()
    print(f"\n{small.num_components} of them have any. Posterior means, minutes:")
    again = zoo.fit(small, x, zoo.CAVI(initialize=False), progress=False)
    posterior = again.to_arviz(num_samples=2000).posterior
    for k in range(small.num_components):
        length, wait = posterior["means"].isel(component=k).mean(("chain", "draw")).values
        sd = posterior["means"].isel(component=k, feature=1).std().item()
        share = posterior["weights"].isel(component=k).mean().item()
        print(f"  {share:.0%} last {length:.2f}, wait {wait:.1f} +- {sd:.1f}")
    print("three new eruptions:\n", small.sample(3))

    stream = zoo.CAVI(stochastic=True, batch_size=32, steps=passes)
    batches = zoo.fit(small.fresh(), x, stream, progress=False)
    print(f"\nthe same from batches of 32: {batches.objective:.2f}, at once {again.objective:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--passes", type=int, default=50)
    main(**vars(parser.parse_args()))
