"""
In the company of scikit-learn
==============================

Old Faithful's eruptions by mixtures of Gaussians whose number of components a grid search chooses;
a classifier in a pipeline; and a regression that brings its posterior along. Needs the extra
``ppl_zoo[sklearn]``.
"""

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ppl_zoo as zoo

largest, folds, starts = 4, 5, 3
x = np.random.default_rng(0).permutation(zoo.data.load("old-faithful").train.double().numpy())

# %%
# A search over pipelines. Estimators of ``zoo.sklearn`` have scikit-learn's names and parameters,
# and score rows by their log density, so that held-out rows choose.

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

# %%
# A classifier: will the wait be longer than 70 minutes?

longer = np.where(x[:, 1] > 70.0, "long", "short")
classifier = make_pipeline(StandardScaler(), zoo.sklearn.BayesianLogisticRegression())
scores = cross_val_score(classifier, x[:, :1], longer, cv=folds)
print(f"accuracy of long or short, cross-validated: {scores.mean():.3f}")

# %%
# A regression with its posterior. ``fit_`` is the fit beneath: it is checked, and goes to ArviZ.

regression = zoo.sklearn.BayesianLinearRegression().fit(x[:, :1], x[:, 1])
print(regression.fit_.check())
tree = regression.fit_.to_arviz()
print(az.summary(tree, var_names=["weights", "intercept"], kind="stats"))

# %%
# What it predicts, with the sd of a new eruption.

lengths = np.linspace(1.5, 5.2, 50)
wait, sd = regression.predict(lengths[:, None], return_std=True)
plt.figure(figsize=(6, 4), layout="constrained")
plt.plot(*x.T, ".", color="grey")
plt.plot(lengths, wait)
plt.fill_between(lengths, wait - 1.645 * sd, wait + 1.645 * sd, alpha=0.2, label="90 % of new")
plt.xlabel("eruption, minutes")
plt.ylabel("wait for the next, minutes")
plt.legend()
plt.show()
