"""Eight schools in both parametrisations: how a guide's fit is told from a good one.

The same model is written twice. Centred, its posterior has a funnel between tau and theta that
a mean-field guide cannot follow, and k-hat says so; non-centred, the guide fits. Run:

    python examples/eight_schools.py
"""

import argparse

import arviz as az

import ppl_zoo as zoo


def main(steps=50_000, draws=1000):
    schools = zoo.data.load("eight-schools")
    for parametrization in ("centered", "noncentered"):
        model = zoo.EightSchools(parametrization)
        fit = zoo.fit(model, schools, zoo.SVI(steps=steps, restarts=2))
        print(f"\n{parametrization}: {fit}")
        print("k-hat of each chain:", fit.khat().round(2), "(good below 0.7)")
        print(az.summary(fit.to_arviz(draws), var_names=["mu", "tau"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--draws", type=int, default=1000)
    main(**vars(parser.parse_args()))
