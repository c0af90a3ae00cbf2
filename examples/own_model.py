"""
A model of your own: the goals of football teams
================================================

From one method, ``model``, to the contract that catches silent faults, and to the posterior. Each
team has an attack and a defence, there is an advantage at home, and scores are Poisson (Maher
1982, https://doi.org/10.1111/j.1467-9574.1982.tb00782.x). The data are simulated, so that the fit
can be held against the truth.
"""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo

steps = 50_000  # at most; a fit stops by itself
draws = 1000
num_teams, seasons = 10, 4


# %%
# The model. Prior constants are buffers, so that they move to a GPU with it. ``pyro.plate`` gives
# the teams a dimension of their own in ArviZ; ``self.observations`` opens the plate over the rows
# of data. Teams are picked by ``[..., home]``, since draws stand on the left.


class Football(zoo.Model):
    """Poisson scores from attack, defence and the home ground."""

    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}

    def __init__(self, num_teams):
        super().__init__()
        self.num_teams = num_teams
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, goals, home, away):
        base = pyro.sample("base", dist.Normal(0.0, self.one))
        advantage = pyro.sample("advantage", dist.Normal(0.0, self.one))
        with pyro.plate("teams", self.num_teams):
            attack = pyro.sample("attack", dist.Normal(0.0, 0.5 * self.one))
            defence = pyro.sample("defence", dist.Normal(0.0, 0.5 * self.one))
        at_home = base + advantage + attack[..., home] - defence[..., away]
        abroad = base + attack[..., away] - defence[..., home]
        with self.observations("matches", goals):
            rates = torch.stack([at_home, abroad], -1).exp()
            pyro.sample("goals", dist.Poisson(rates).to_event(1), obs=goals)


# %%
# Simulate four seasons in which each team meets each other one.

torch.manual_seed(0)
pairs = [(h, a) for h in range(num_teams) for a in range(num_teams) if h != a]
home, away = torch.tensor(pairs * seasons).T
attack, defence = 0.4 * torch.randn(2, num_teams)
rates = torch.stack([0.4 + attack[home] - defence[away], 0.1 + attack[away] - defence[home]], -1)
matches = torch.poisson(rates.exp()), home, away

# %%
# Hold the model against the contract of the zoo. Each clause is a way in which Pyro programs go
# wrong without a word: minibatches that are not scaled, values read in Python, a seed that does
# not repeat a run. The first that does not hold is an error that says what was found.

passed = zoo.testing.check_model(lambda: Football(num_teams), lambda: matches)
print(len(passed), "clauses hold:", *passed, sep="\n  ")

# %%
# Fit it, twice from different starts. The program is compiled; nothing in it has to change.

fit = zoo.fit(Football(num_teams), matches, zoo.SVI(steps=steps, restarts=2), progress=False)
print(fit)

# %%
# The posterior against the truth. Scores tell differences between teams only, hence the means are
# taken off. Errors of about one posterior sd are what honest intervals have.

posterior = fit.posterior(draws)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for axis, (name, truth) in zip(axes, {"attack": attack, "defence": defence}.items(), strict=True):
    mean, sd = posterior[name].mean((0, 1)), posterior[name].std((0, 1))
    mean, truth = mean - mean.mean(), truth - truth.mean()
    error = ((mean - truth) / sd).square().mean().sqrt()
    print(f"{name}: root mean square error {error:.2f} posterior sds")
    axis.errorbar(truth, mean, 2 * sd, fmt="o", capsize=2)
    axis.axline((0, 0), slope=1, color="grey", linewidth=1)
    axis.set(title=name, xlabel="simulated", ylabel="posterior mean, 2 sds")
print(f"home advantage {posterior['advantage'].mean():.2f}, simulated with 0.30")
plt.show()
