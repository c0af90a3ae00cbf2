"""
Factors of photo patches, and pixels that are missing
=====================================================

64 pixels of a patch go up and down together; some ten factors say most of it. Held-out density
chooses how many, relevance determination does so from few rows, and the model fills in pixels
that are missing, with their uncertainty.
"""

import matplotlib.pyplot as plt
import torch

import ppl_zoo as zoo

largest, rows = 16, 5000
patches = zoo.data.load("photo-patches", remove_mean=False)
train, test = patches.train[:rows].double(), patches.test[:rows].double()

# %%
# Factor analysis has a noise for each pixel, probabilistic PCA one for all.

best, counts, held_out = None, [], []
print("factors   factor analysis   probabilistic PCA   (nats a held-out patch)")
while not counts or 2 * counts[-1] <= largest:
    counts.append(2 * counts[-1] if counts else 1)
    held_out.append([])
    for make in (zoo.FactorAnalysis, zoo.ProbabilisticPCA):
        fit = zoo.fit(make(64, counts[-1]).double(), train, progress=False)
        held_out[-1].append(fit.model.log_prob(test).mean().item())
        if best is None or held_out[-1][-1] > best[0]:
            best = held_out[-1][-1], fit.model
    print(f"{counts[-1]:7} {held_out[-1][0]:17.3f} {held_out[-1][1]:19.3f}")
model = best[1]
print(f"the best: {type(model).__name__} of {model.num_factors} factors")

# %%
# From 300 patches, a prior on the size of each factor switches off those that noise explains.

few = train[:300]
bayes = zoo.fit(zoo.BayesianFactorAnalysis(64, largest).double(), few, progress=False).model
print(f"from {len(few)} patches, relevance keeps {bayes.num_relevant()} of {largest} factors")

# %%
# Four pixels are missing (NaN): draws of what they may have been, given the others.

hole = torch.zeros(8, 8, dtype=torch.bool)
hole[3:5, 3:5] = True
given = test[0].clone()
given[hole.flatten()] = torch.nan
drawn = model.sample(500, given=given).detach()
missing = drawn[:, hole.flatten()]
print("four missing pixels:", test[0, hole.flatten()].numpy().round(3))
print("filled in:          ", missing.mean(0).numpy().round(3))
print("give or take:       ", missing.std(0).numpy().round(3))

# %%
# Held-out density by the number of factors; the patch as it was, as it was given, filled in.

figure, axes = plt.subplots(
    1, 4, figsize=(10, 2.8), layout="constrained", width_ratios=(2.2, 1, 1, 1)
)
axes[0].semilogx(counts, held_out, marker="o", label=["factor analysis", "PCA"])
axes[0].set(xlabel="factors", ylabel="nats a held-out patch")
axes[0].legend()
limits = {"cmap": "gray", "vmin": test[0].min(), "vmax": test[0].max()}
panels = {"patch": test[0], "given": given, "filled in": drawn.mean(0)}
for axis, (name, values) in zip(axes[1:], panels.items(), strict=True):
    axis.imshow(values.reshape(8, 8).numpy(), **limits)
    axis.set_title(name)
    axis.set_axis_off()
plt.show()
