"""
What mean field leaves out
==========================

A normal with unknown mean and precision has a posterior in closed form. The factorised q(mean)
q(precision) is held against it in four ways: evidence, sds, k-hat, and ranks of the truth in
simulations. Then two regressions that are fitted the same way, and predict.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

simulations = 200
prior = {"prior_strength": 1.0, "prior_shape": 2.0, "prior_rate": 2.0}
x = torch.tensor([0.3, -0.8], dtype=torch.float64)  # two rows only: the approximation shows

# %%
# A check against exact draws says what is wrong, in words; calibration says it of the solver, by
# fits to data simulated from the prior.

ranks = {}
for factorised in (True, False):
    model = zoo.NormalGamma(factorised, **prior).double()
    fit = zoo.fit(model, x, progress=False)
    name = "q(mean) q(precision)" if factorised else "q(mean, precision)"
    exact = model.closed_form(x).log_evidence
    print(f"{name}: bound {fit.objective:.4f} of a log evidence of {exact:.4f}")
    print(fit.check(reference=model.posterior_draws(x)), "\n")
    ranks[name] = zoo.calibrate(
        zoo.NormalGamma(factorised, **prior), x, num_simulations=simulations, progress=False
    )
    print(ranks[name], "\n")

# %%
# Ranks of the truth among posterior draws: flat where intervals are honest, high at both ends
# where they are too narrow.

figure = ranks["q(mean) q(precision)"].plot()
figure

# %%
# With hundreds of rows it matters less. After an eruption of Old Faithful, how long is the wait,
# and will it be longer than 70 minutes?

data = zoo.data.load("old-faithful", supervised=True)
line = zoo.BayesianLinearRegression(1).double()
zoo.fit(line, data, progress=False)
wait = line.predictive(torch.tensor([[2.0], [4.5]]))
for length, mean, sd in zip((2.0, 4.5), wait.mean.tolist(), wait.stddev.tolist(), strict=True):
    print(f"after {length} minutes, the next eruption in {mean:.1f} +- {sd:.1f} minutes")
data = zoo.data.load("old-faithful", supervised=True, longer_than=70.0)
long = zoo.BayesianLogisticRegression(1).double()
zoo.fit(long, data, progress=False)
lengths = torch.linspace(1.5, 5.0, 50, dtype=torch.float64)
chance = long.predict_proba(lengths[:, None])[:, 1]

# %%
# The chance of a long wait.

plt.figure(figsize=(5.5, 3.6), layout="constrained")
plt.plot(lengths, chance.detach())
plt.xlabel("eruption, minutes")
plt.ylabel("chance of a wait of more than 70 minutes")
plt.show()
