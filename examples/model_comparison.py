"""Three models of the same counts, compared by leave-one-out cross-validation and stacking.

Simulated catches of roaches, far more dispersed than a Poisson's counts. `zoo.compare` tells how
well each model predicts a row that it has not seen, and stacks them: the weights of the mixture
that predicts best (Yao et al. 2018, https://arxiv.org/abs/1704.02030). Pareto k names the rows
that a model depends on too much for that. Run:

    python examples/model_comparison.py
"""

import argparse
import warnings

import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo


def counts(num_rows):
    """Simulate counts after a treatment, given those before; rates vary from row to row."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(num_rows, generator=generator)
    treated = (torch.arange(num_rows) % 2).float()
    rate = (1.0 + 0.6 * before - 0.5 * treated).exp()
    # gamma of shape 1, so that counts are negative binomial
    rate = rate * -torch.rand(num_rows, generator=generator).log()
    return before, treated, torch.poisson(rate, generator=generator)


def coefficients():
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    return intercept, slope, effect


def poisson(before, treated, y):
    intercept, slope, effect = coefficients()
    with pyro.plate("rows", len(y)):
        rate = (intercept + slope * before + effect * treated).exp()
        pyro.sample("y", dist.Poisson(rate), obs=y)


def negative_binomial(before, treated, y):
    intercept, slope, effect = coefficients()
    size = pyro.sample("size", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        logits = intercept + slope * before + effect * treated - size.log()
        pyro.sample("y", dist.NegativeBinomial(size, logits=logits), obs=y)


def no_treatment(before, treated, y):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    size = pyro.sample("size", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        logits = intercept + slope * before - size.log()
        pyro.sample("y", dist.NegativeBinomial(size, logits=logits), obs=y)


MODELS = {
    "Poisson": poisson,
    "negative binomial": negative_binomial,
    "negative binomial, no treatment": no_treatment,
}


def main(rows=100, draws=4000):
    data = counts(rows)
    fits = {}
    for name, model in MODELS.items():
        fits[name] = zoo.fit(model, data, progress=False)
        print(f"\n{name}: {fits[name]}")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            print(zoo.loo(fits[name], num_samples=draws))
        for warning in told:
            print("!", warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told above
        table = zoo.compare(fits, num_samples=draws)
    print("\n" + table[["rank", "elpd_diff", "dse", "weight"]].astype(float).round(2).to_string())
    best = table.index[0]
    effect = fits[best].posterior(draws).get("effect")
    if effect is not None:
        print(f"\nby {best!r} the treatment leaves {effect.exp().mean():.0%} of the roaches")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--draws", type=int, default=4000)
    main(**vars(parser.parse_args()))
