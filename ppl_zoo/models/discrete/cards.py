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
    formula=r"p(x) = \prod_d \theta_d^{x_d} (1 - \theta_d)^{1 - x_d}",
    failure_modes=(
        "Draws have the right rates and no structure: every correlation is lost.",
        (
            "A feature that is constant in training gets probability zero for its other value"
            " unless the concentration is above 1."
        ),
    ),
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
    formula=r"p(x) = \prod_d \theta_{d, x_d}",
    failure_modes=(
        "Draws have the right rates and no structure: every correlation is lost.",
        (
            "A state that training rows lack gets probability zero unless the concentration"
            " is above 1."
        ),
    ),
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
    formula=r"p(x) = \prod_{d=1}^{D} p(x_d \mid x_1, \ldots, x_{d-1})",
    failure_modes=(
        (
            "Cells of the table grow as 2^D and soon outnumber the rows: most pasts are seen"
            " once or never, and held-out density falls while training density rises."
        ),
        "More than some twenty binary variables do not fit into memory.",
    ),
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
    formula=r"p(x) = p(x_1, \ldots, x_k) \prod_{t > k} p(x_t \mid x_{t-k}, \ldots, x_{t-1})",
    failure_modes=(
        (
            "What lies further back than the order is forgotten: letters make words, and no"
            " sentence."
        ),
        (
            "The table has S^k rows: beyond a small order most pasts are never seen, and"
            " without pseudo-counts an unseen step has probability zero."
        ),
    ),
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
    formula=r"p(x, y) = \pi_y \prod_d p(x_d \mid y)",
    failure_modes=(
        (
            "Features that tell the same twice are counted twice: class probabilities are"
            " pushed towards 0 and 1, though the class is often right."
        ),
        (
            "Unlabelled rows can pull the classes to where the data cluster, not to where the"
            " labels are; unlabelled_weight holds them back."
        ),
        (
            "A column of a class with almost no variance dominates the others;"
            " variance_smoothing is its floor."
        ),
    ),
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
    formula=(
        r"p(y = c \mid x) = \frac{\exp(b_c + w_c^\top x)}{\sum_{c'} \exp(b_{c'} +"
        r" w_{c'}^\top x)}"
    ),
    failure_modes=(
        (
            "On separable classes the weights grow as far as the prior lets them:"
            " probabilities of 0 and 1 are the prior's doing."
        ),
        (
            "The prior has one scale for all weights: columns in unlike units are shrunk"
            " unlike; standardise them."
        ),
    ),
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
    formula=r"p(x) = \sum_k \pi_k \prod_d \theta_{kd}^{x_d} (1 - \theta_{kd})^{1 - x_d}",
    failure_modes=(
        (
            "EM ends in a local optimum that depends on the start: keep the best of several"
            " restarts."
        ),
        (
            "A rate of exactly 0 or 1 makes a new row impossible in that component; a"
            " concentration above 1 keeps rates inside."
        ),
        (
            "Components are labelled arbitrarily: across restarts and chains they are"
            " permuted, and means over chains mix them."
        ),
    ),
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
    formula=r"p(x) = \prod_{v} p\left(x_v \mid x_{\mathrm{pa}(v)}\right)",
    failure_modes=(
        (
            "The junction tree is exponential in the treewidth: dense nets and grids do not"
            " fit into memory, and marginals become approximate where that is allowed."
        ),
        (
            "A configuration of the parents that no row has leaves its row of the table to"
            " the prior; with concentration 1 an unseen state gets probability zero, and a"
            " new row that has it minus infinity."
        ),
        (
            "Arrows are assumed, not learned; nets of the same independences fit equally, so"
            " that do() is only as causal as the graph."
        ),
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
