"""Photo patches by factor analysis and probabilistic principal components.

Chooses the number of factors by held-out density, and by relevance determination from few rows;
fills in pixels that are missing. Run:

    python examples/factor_analysis.py
"""

import argparse

import torch

import ppl_zoo as zoo


def main(largest=16, rows=20_000):
    patches = zoo.data.load("photo-patches", remove_mean=False)
    train, test = patches.train[:rows].double(), patches.test[:rows].double()
    print("factors   factor analysis   probabilistic PCA   (nats a held-out patch)")
    best, k = None, 1
    while k <= largest:
        held_out = []
        for make in (zoo.FactorAnalysis, zoo.ProbabilisticPCA):
            fit = zoo.fit(make(64, k).double(), train, progress=False)
            held_out.append(fit.model.log_prob(test).mean().item())
            if best is None or held_out[-1] > best[0]:
                best = held_out[-1], fit.model
        print(f"{k:7} {held_out[0]:17.3f} {held_out[1]:19.3f}")
        k *= 2
    model = best[1]
    print(f"\nthe best: {type(model).__name__} of {model.num_factors} factors")

    exact = zoo.ProbabilisticPCA(64, 2).double().closed_form(train)
    start = zoo.ProbabilisticPCA(64, 2, init="random").double()
    em = zoo.fit(start, train, progress=False)
    print(f"noise of PCA in closed form {exact.noise:.6f}, by EM {em.model.noise[0]:.6f}")

    few = train[:300]  # so few rows cannot tell many factors from noise
    bayes = zoo.fit(zoo.BayesianFactorAnalysis(64, largest).double(), few, progress=False).model
    print(f"from {len(few)} patches, relevance keeps {bayes.num_relevant()} of {largest} factors")

    given = test[0].clone()
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[3:5, 3:5] = True
    given[hole.flatten()] = torch.nan
    drawn = model.sample(500, given=given)[:, hole.flatten()]
    print("four missing pixels:", test[0, hole.flatten()].numpy().round(3))
    print("filled in:          ", drawn.mean(0).detach().numpy().round(3))
    print("give or take:       ", drawn.std(0).detach().numpy().round(3))
    idata = zoo.fit(model, test[:20], progress=False).to_arviz(num_samples=50)
    print("posterior of the factors:", dict(idata.posterior["factors"].sizes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=16)
    parser.add_argument("--rows", type=int, default=20_000)
    main(**vars(parser.parse_args()))
