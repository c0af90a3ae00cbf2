"""Model cards of the discrete models."""

from __future__ import annotations

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.data import Dataset
from ppl_zoo.models.card import Card, Figure, Recipe, Size
from ppl_zoo.models.references import (
    BISHOP_2006,
    BOEHNING_1988,
    HECKERMAN_1995,
    KOLLER_2009,
    LAURITZEN_1988,
    MURPHY_2022,
    NIGAM_2000,
    SHANNON_1948,
)

__all__ = ["CARDS"]


def _accuracy(fit: FittedModel, data: Dataset) -> float:
    x, y = data.test
    return float((fit.model.predict(x) == y).double().mean())


def _log_loss(fit: FittedModel, data: Dataset) -> float:
    x, y = data.test
    p = fit.model.predict_proba(x)
    return -float(p.gather(1, y.long()[:, None]).log().mean())


def _sms(kind: str | None, binary: bool = False) -> Recipe:
    return Recipe(
        name=f"sms-spam-{kind}" if kind else "sms-spam",
        title="Spam or not, by the words of a message",
        data="sms-spam",
        model={"kind": kind} if kind else {},
        data_options={"supervised": True, "binary": binary},
        dtype="float64",
    )


def _sms_figure(
    what: str, recipe: str, card: str, published: float, reproduced: float, loss: bool = False
) -> Figure:
    return Figure(
        what=f"{what} on the test split of SMS Spam",
        published=published,
        source="scikit-learn, the same split and words",
        reproduced=reproduced,
        command=f"ppl-zoo reproduce {card}",
        recipe=recipe,
        measure=_log_loss if loss else _accuracy,
        tolerance=1e-4,
    )


def _digits(title: str, **model: float) -> Recipe:
    return Recipe(
        name="digits",
        title=title,
        data="digits",
        data_options={"binarize": True},
        model={"concentration": 2.0, **model},
        dtype="float64",
    )


def _spambase(kind: str, published: float, reproduced: float) -> Figure:
    return Figure(
        what=f"accuracy in ten folds of Spambase, {kind}",
        published=published,
        source="scikit-learn, the same folds",
        reproduced=reproduced,
        command="python benchmarks/naive_bayes.py",
        tolerance=1e-4,
        better="higher",
    )


INDEPENDENT_BERNOULLI = Card(
    name="independent-bernoulli",
    title="Independent binary features",
    family="discrete",
    factory="ppl_zoo.models:IndependentBernoulli",
    summary="A Bernoulli rate for each feature, as point estimate or exact Beta posterior.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(MURPHY_2022,),
    recipes=(_digits("Independent pixels"),),
    size=Size("n", {"num_features": 10}),
)

CATEGORICAL = Card(
    name="categorical",
    title="Independent categorical features",
    family="discrete",
    factory="ppl_zoo.models:Categorical",
    summary="Categorical rates for each feature, as point estimates or exact Dirichlet posterior.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(MURPHY_2022,),
    recipes=(_digits("Independent pixels"),),
    size=Size("n (K - 1) for K states", {"num_features": 10}),
)

CHAIN_RULE = Card(
    name="chain-rule",
    title="The full table, by the chain rule",
    family="discrete",
    factory="ppl_zoo.models:ChainRule",
    summary="Any distribution of a few discrete variables: exact, exponential in their number.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(KOLLER_2009,),
    size=Size("2^n - 1", {"num_features": 10}),
)

MARKOV_CHAIN = Card(
    name="markov-chain",
    title="Markov chain of order k",
    family="discrete",
    factory="ppl_zoo.models:MarkovChain",
    summary="Each state depends on the k before it; the same table at every step.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(SHANNON_1948,),
    recipes=(_digits("Each pixel given the nine before it", num_states=2, order=9),),
    size=Size("2^k for the steps, 2^k - 1 to begin; here k = 1", {"num_states": 2}),
)

NAIVE_BAYES = Card(
    name="naive-bayes",
    title="Naive Bayes",
    family="discrete",
    factory="ppl_zoo.models:NaiveBayes",
    summary="Features of several types, independent given a class that may be unknown; missing"
    " values, sparse counts, and the posterior of the parameters.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(NIGAM_2000,),
    recipes=(_sms("multinomial"), _sms("bernoulli", binary=True)),
    figures=(
        _sms_figure(
            "accuracy, multinomial", "sms-spam-multinomial", "naive-bayes", 0.9821, 0.98205
        ),
        _sms_figure(
            "log loss, multinomial", "sms-spam-multinomial", "naive-bayes", 0.12349, 0.12349, True
        ),
        _sms_figure("accuracy, Bernoulli", "sms-spam-bernoulli", "naive-bayes", 0.9649, 0.96487),
        _spambase("Bernoulli", 0.8865, 0.8865),
        _spambase("Gaussian", 0.8211, 0.8211),
    ),
    size=Size("2 n + 1 for two classes", {"num_features": 10}),
)

LOGISTIC_REGRESSION = Card(
    name="logistic-regression",
    title="Logistic regression",
    family="discrete",
    factory="ppl_zoo.models:LogisticRegression",
    summary="Two classes or more; the penalised maximum-likelihood estimate,"
    " or a posterior of the weights.",
    solvers=("EM", "SVI", "NUTS"),
    references=(BOEHNING_1988,),
    recipes=(_sms(None),),
    figures=(
        _sms_figure("accuracy", "sms-spam", "logistic-regression", 0.9744, 0.97436),
        _sms_figure("log loss", "sms-spam", "logistic-regression", 0.0773, 0.0773, True),
        _spambase("logistic regression on standardised log(1 + x)", 0.9391, 0.9394),
    ),
    size=Size("n + 1, of the class only", {"num_features": 10}),
)

BERNOULLI_MIXTURE = Card(
    name="bernoulli-mixture",
    title="Mixture of independent binary features",
    family="discrete",
    factory="ppl_zoo.models:BernoulliMixture",
    summary="Each row comes from one of K components: naive Bayes without known classes.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(BISHOP_2006.part("section 9.3.3"),),
    recipes=(
        Recipe(
            name="digits",
            title="Thirty ways to write a digit",
            data="digits",
            data_options={"binarize": True},
            model={"num_components": 30},
            options={"restarts": 3},
            dtype="float64",
            demo=True,
        ),
    ),
    size=Size("K - 1 + K n; here K = 2", {"num_components": 2, "num_features": 10}),
)

BAYES_NET = Card(
    name="bayes-net",
    title="Bayes net",
    family="discrete",
    factory="ppl_zoo.models:BayesNet",
    summary="Any directed graph of discrete variables, from a dict, networkx or BIF; exact"
    " posteriors, explanations and draws by a junction tree, batched over evidence.",
    solvers=("EM", "CAVI", "SVI", "NUTS"),
    references=(LAURITZEN_1988, HECKERMAN_1995),
    figures=(
        Figure(
            what="alarm: all posterior marginals, CPU ms a row in a batch of 2,000, one thread",
            published=2.44,
            source="pyAgrum 3.3.1, Shafer-Shenoy, in the same run",
            reproduced=0.0173,
            command="python benchmarks/bayes_net.py",
            better="lower",
        ),
    ),
    size=Size(
        "sum of 2^|parents|; here a chain",
        {
            "parents": {f"x{i}": [f"x{i - 1}"] if i else [] for i in range(10)},
            "states": {f"x{i}": 2 for i in range(10)},
        },
    ),
)

CARDS: tuple[Card, ...] = (
    BAYES_NET,
    INDEPENDENT_BERNOULLI,
    CATEGORICAL,
    CHAIN_RULE,
    MARKOV_CHAIN,
    NAIVE_BAYES,
    LOGISTIC_REGRESSION,
    BERNOULLI_MIXTURE,
)
