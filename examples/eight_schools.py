"""
Eight schools: a guide that fits, and one that does not
=======================================================

Eight schools each measured what a coaching programme gains in a test. How much of the differences
between them is chance? The same model can be written in two ways. Centred, its posterior is a
funnel that a simple guide cannot follow, and k-hat says so; non-centred, the guide fits.
"""

import arviz as az
import matplotlib.pyplot as plt

import ppl_zoo as zoo

steps = 50_000  # at most; a fit stops by itself
draws = 1000
schools = zoo.data.load("eight-schools")

# %%
# Fit both. The guide is a normal density for each latent by itself; ``restarts`` fits it twice,
# from two starts. k-hat, from importance weights, is good below 0.7.

fits = {}
for parametrization in ("centered", "noncentered"):
    model = zoo.EightSchools(parametrization)
    fit = zoo.fit(model, schools, zoo.SVI(guide="normal", steps=steps, restarts=2), progress=False)
    fits[parametrization] = fit
    print(f"\n{parametrization}: {fit}")
    print("k-hat of each chain:", fit.khat().round(2))
    print(az.summary(fit.to_arviz(draws), var_names=["mu", "tau"], kind="stats"))

# %%
# The sd between schools, tau, against the effect of school A, theta. Small tau allows little
# spread of theta: a funnel, of which the centred guide covers the middle only.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharex=True, sharey=True, layout="constrained")
for axis, (name, fit) in zip(axes, fits.items(), strict=True):
    posterior = fit.posterior(draws)
    tau, theta = posterior["tau"].flatten(), posterior["theta"][..., 0].flatten()
    axis.semilogy(theta, tau, ".", markersize=2, alpha=0.5)
    axis.set(title=f"{name}, k-hat {max(fit.khat()):.2f}", xlabel="effect of school A, points")
axes[0].set_ylabel("sd between schools, points")
plt.show()
