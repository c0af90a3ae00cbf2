"""The zoo in scikit-learn's company: a pipeline, a search, and the fit beneath, checked.

Old Faithful's eruptions by mixtures of Gaussians whose number of components a grid search
chooses by held-out log density; then a classifier in a pipeline; then the posterior of a
Bayesian regression, checked and summarised by ArviZ. Run:

    python examples/sklearn_shell.py
"""

import argparse

import arviz as az
import numpy as np
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_zoo as zoo


def main(largest=4, folds=5, starts=3):
    x = np.random.default_rng(0).permutation(zoo.data.load("old-faithful").train.double().numpy())

    # ---- a search over pipelines ------------------------------------------------------------
    mixture = zoo.sklearn.GaussianMixture(n_init=starts, tol=1e-5, random_state=0)
    grid = {
        "gaussianmixture__n_components": range(1, largest + 1),
        "gaussianmixture__covariance_type": ["full", "tied"],
    }
    search = GridSearchCV(make_pipeline(StandardScaler(), mixture), grid, cv=folds).fit(x)
    print("chosen by held-out log density:", search.best_params_)
    best = search.best_estimator_[-1]
    print("the fit beneath:", best.fit_)
    print("three eruptions of its, in sds from the mean:", best.sample(3)[0].round(2).tolist())

    # ---- a classifier: will the wait be longer than 70 minutes? -----------------------------
    longer = np.where(x[:, 1] > 70.0, "long", "short")
    classifier = make_pipeline(StandardScaler(), zoo.sklearn.BayesianLogisticRegression())
    scores = cross_val_score(classifier, x[:, :1], longer, cv=folds)
    print(f"\naccuracy of long or short, cross-validated: {scores.mean():.3f}")

    # ---- a regression with its posterior, and how far it is to be trusted -------------------
    regression = zoo.sklearn.BayesianLinearRegression().fit(x[:, :1], x[:, 1])
    wait, sd = regression.predict([[2.0], [4.5]], return_std=True)
    print("minutes after eruptions of 2 and 4.5 minutes:", wait.round(1), "sd", sd.round(1))
    print(regression.fit_.check())
    tree = regression.fit_.to_arviz()
    print(az.summary(tree, var_names=["weights", "intercept"], kind="stats"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=4)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    main(**vars(parser.parse_args()))
