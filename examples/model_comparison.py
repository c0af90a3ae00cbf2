"""
Three models of the same counts, compared and stacked
=====================================================

Simulated catches of roaches, far more dispersed than a Poisson's counts. ``zoo.compare`` tells how
well each model predicts a row that it has not seen, and stacks them: the weights of the mixture
that predicts best (Yao et al. 2018, https://arxiv.org/abs/1704.02030). Pareto k names the rows
that a model depends on too much for that.

.. note:: This page is not run when the documentation is built: it takes half a minute.
"""

import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo

rows, draws = 100, 4000

# %%
# Counts after a treatment, given those before. Rates vary from row to row by a gamma variable, so
# that counts are negative binomial.

generator = torch.Generator().manual_seed(0)
before = torch.randn(rows, generator=generator)
treated = (torch.arange(rows) % 2).float()
rate = (1.0 + 0.6 * before - 0.5 * treated).exp()
rate = rate * -torch.rand(rows, generator=generator).log()
data = before, treated, torch.poisson(rate, generator=generator)

# %%
# Three models, as plain Pyro functions: Poisson, negative binomial, and one without the treatment.


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


models = {
    "Poisson": poisson,
    "negative binomial": negative_binomial,
    "negative binomial, no treatment": no_treatment,
}

# %%
# Leave-one-out density of each. What it warns of (rows with a high Pareto k) is printed.

fits = {}
for name, model in models.items():
    fits[name] = zoo.fit(model, data, progress=False)
    print(f"\n{name}: {fits[name]}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        print(zoo.loo(fits[name], num_samples=draws))
    for warning in told:
        print("!", warning.message)

# %%
# Ranked and stacked.

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # told above
    table = zoo.compare(fits, num_samples=draws)
table = table[["rank", "elpd_diff", "dse", "weight"]].astype(float)
print(table.round(2).to_string())
best = table.index[0]
effect = fits[best].posterior(draws).get("effect")
if effect is not None:
    print(f"\nby {best!r} the treatment leaves {effect.exp().mean():.0%} of the roaches")

# %%
# The difference to the best, with its standard error.

plt.figure(figsize=(7, 2.4), layout="constrained")
plt.errorbar(-table["elpd_diff"], table.index, xerr=table["dse"], fmt="o", capsize=3)
plt.xlabel("log density of unseen rows, difference to the best, nats")
plt.ylim(len(table) - 0.5, -0.5)
plt.show()

# sphinx_gallery_thumbnail_path = "posteriordb.png"
