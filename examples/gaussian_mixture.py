"""
A mixture of Gaussians, chosen by BIC
=====================================

Old Faithful erupts in two kinds, short and long; the wait for the next one depends on which. How
many components does a mixture need, and of which covariance? Then the three questions to a
density: how probable, what next, what is behind.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

largest, restarts = 4, 5
x = zoo.data.load("old-faithful").train.double()  # (272, 2): minutes of eruption, of waiting

# %%
# Fit each kind of covariance with up to four components, keeping the best of some starts.
# The Bayesian information criterion charges for parameters: the lowest is the best.

best = None
print("covariance  K  log likelihood        BIC")
for covariance in ("full", "tied", "diagonal", "spherical"):
    for k in range(1, largest + 1):
        mixture = zoo.GaussianMixture(k, 2, covariance).double()
        fit = zoo.fit(mixture, x, zoo.EM(restarts=restarts, tol=1e-8), progress=False)
        bic = mixture.bic(x)
        print(f"{covariance:10}  {k}  {mixture.log_prob(x).sum():14.4f} {bic:10.3f}")
        if best is None or bic < best[0]:
            best = bic, fit
mixture = best[1].model
print(f"\nthe best: {mixture.config['covariance']}, K={mixture.num_components}")

# %%
# Density, generation and representation; and a conditional draw, NaN being what is to be drawn.

print("density of (2, 50):", mixture.log_prob(torch.tensor([[2.0, 50.0]])).exp().item())
print("three new eruptions:\n", mixture.sample(3))
long = torch.tensor([4.5, torch.nan])
print("waits after one of 4.5 minutes:", mixture.sample(5, given=long)[:, 1])
print("what is behind (3, 60):", mixture.encode(torch.tensor([[3.0, 60.0]])))

# %%
# The density over the data.

length, wait = torch.meshgrid(
    torch.linspace(1, 6, 120), torch.linspace(35, 105, 120), indexing="ij"
)
density = mixture.log_prob(torch.stack([length.flatten(), wait.flatten()], 1).double())
plt.figure(figsize=(6, 4), layout="constrained")
plt.contour(length, wait, density.reshape(120, 120).exp(), levels=8, cmap="viridis")
plt.scatter(*x.T, c=mixture.encode(x).argmax(1), cmap="tab10", s=10)
plt.xlabel("eruption, minutes")
plt.ylabel("wait for the next, minutes")
plt.show()
