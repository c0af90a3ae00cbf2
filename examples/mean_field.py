"""What mean field leaves out, seen four ways: a normal with unknown mean and precision.

The factorised q(mean) q(precision) is held against the exact posterior: evidence, sds, k-hat and
simulation-based calibration (with its plot, if --plot names a file). Then two regressions. Run:

    python examples/mean_field.py --plot ranks.png
"""

import argparse

import torch

import ppl_zoo as zoo

PRIOR = {"prior_strength": 1.0, "prior_shape": 2.0, "prior_rate": 2.0}


def main(simulations=200, plot=None):
    x = torch.tensor([0.3, -0.8], dtype=torch.float64)
    for factorised in (True, False):
        model = zoo.NormalGamma(factorised, **PRIOR).double()
        fit = zoo.fit(model, x, progress=False)
        name = "q(mean) q(precision)" if factorised else "q(mean, precision)"
        exact = model.closed_form(x).log_evidence
        print(f"{name}: bound {fit.objective:.4f} of a log evidence of {exact:.4f}")
        print(fit.check(reference=model.posterior_draws(x)), "\n")
        ranks = zoo.calibrate(
            zoo.NormalGamma(factorised, **PRIOR), x, num_simulations=simulations, progress=False
        )
        print(ranks, "\n")
        if factorised and plot:
            ranks.plot().savefig(plot)

    data = zoo.data.load("old-faithful", supervised=True)
    line = zoo.BayesianLinearRegression(1).double()
    zoo.fit(line, data, progress=False)
    wait = line.predictive(torch.tensor([[2.0], [4.5]]))
    for length, mean, sd in zip((2.0, 4.5), wait.mean.tolist(), wait.stddev.tolist(), strict=True):
        print(f"after {length} minutes, the next eruption in {mean:.1f} +- {sd:.1f} minutes")
    data = zoo.data.load("old-faithful", supervised=True, longer_than=70.0)
    long = zoo.BayesianLogisticRegression(1).double()
    zoo.fit(long, data, progress=False)
    chance = long.predict_proba(torch.tensor([[2.0], [3.0], [4.5]]))[:, 1]
    print("chance of more than 70, after 2, 3 and 4.5:", [f"{p:.3f}" for p in chance.tolist()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--plot")
    main(**vars(parser.parse_args()))
