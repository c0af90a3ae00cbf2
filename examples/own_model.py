"""A model of one's own, from its method ``model`` to its contract and its posterior.

Goals of football teams: attack and defence of each team, a home advantage, Poisson scores.
The data are simulated, so that the fit can be held against the truth. Run:

    python examples/own_model.py
"""

import argparse

import pyro
import pyro.distributions as dist
import torch

import ppl_zoo as zoo


class Football(zoo.Model):
    """Poisson scores from attack, defence and the home ground (Maher 1982)."""

    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}

    def __init__(self, num_teams):
        super().__init__()
        self.num_teams = num_teams
        self.register_buffer("one", torch.tensor(1.0))  # prior constants are buffers

    def model(self, goals, home, away):
        base = pyro.sample("base", dist.Normal(0.0, self.one))
        advantage = pyro.sample("advantage", dist.Normal(0.0, self.one))
        with pyro.plate("teams", self.num_teams):  # a plate becomes a dimension in ArviZ
            attack = pyro.sample("attack", dist.Normal(0.0, 0.5 * self.one))
            defence = pyro.sample("defence", dist.Normal(0.0, 0.5 * self.one))
        # [..., index], since draws stand on the left
        at_home = base + advantage + attack[..., home] - defence[..., away]
        abroad = base + attack[..., away] - defence[..., home]
        with self.observations("matches", goals):
            rates = torch.stack([at_home, abroad], -1).exp()
            pyro.sample("goals", dist.Poisson(rates).to_event(1), obs=goals)


def simulate(num_teams=10, seasons=4):
    torch.manual_seed(0)
    pairs = [(h, a) for h in range(num_teams) for a in range(num_teams) if h != a]
    home, away = torch.tensor(pairs * seasons).T
    attack, defence = 0.4 * torch.randn(2, num_teams)
    rates = torch.stack(
        [0.4 + attack[home] - defence[away], 0.1 + attack[away] - defence[home]], -1
    )
    return (torch.poisson(rates.exp()), home, away), attack, defence


def main(steps=50_000, draws=1000):
    matches, attack, defence = simulate()
    passed = zoo.testing.check_model(lambda: Football(10), lambda: matches)
    print(f"{len(passed)} clauses of the contract hold")
    fit = zoo.fit(Football(10), matches, zoo.SVI(steps=steps, restarts=2))
    print(fit)
    posterior = fit.posterior(draws)
    for name, truth in (("attack", attack), ("defence", defence)):
        mean, sd = posterior[name].mean((0, 1)), posterior[name].std((0, 1))
        error = ((mean - mean.mean() - truth + truth.mean()) / sd).square().mean().sqrt()
        print(f"{name}: root mean square error {error:.2f} posterior sds (1 is honest)")
    print(f"home advantage {posterior['advantage'].mean():.2f}, simulated with 0.30")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--draws", type=int, default=1000)
    main(**vars(parser.parse_args()))
