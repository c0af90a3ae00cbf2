"""Old Faithful by mixtures of Gaussians: every kind of covariance, chosen by BIC.

Prints log likelihood and BIC of each, and shows the three queries on the best. Run:

    python examples/gaussian_mixture.py
"""

import argparse

import torch

import ppl_zoo as zoo


def main(largest=4, restarts=20):
    x = zoo.data.load("old-faithful").train.double()
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
    print("density of (2, 50):", mixture.log_prob(torch.tensor([[2.0, 50.0]])).exp().item())
    print("three new eruptions:\n", mixture.sample(3))
    long = torch.tensor([4.5, torch.nan])
    print("waits after one of 4.5 minutes:", mixture.sample(5, given=long)[:, 1])
    print("what is behind (3, 60):", mixture.encode(torch.tensor([[3.0, 60.0]])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=4)
    parser.add_argument("--restarts", type=int, default=20)
    main(**vars(parser.parse_args()))
