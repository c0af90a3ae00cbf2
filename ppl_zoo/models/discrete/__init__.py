"""Models of discrete variables."""

from ppl_zoo.models.discrete.bayes_net.bayes_net import BayesNet
from ppl_zoo.models.discrete.bernoulli_mixture import BernoulliMixture
from ppl_zoo.models.discrete.categorical import Categorical, IndependentBernoulli
from ppl_zoo.models.discrete.chain_rule import ChainRule
from ppl_zoo.models.discrete.logistic_regression import LogisticRegression
from ppl_zoo.models.discrete.markov_chain import MarkovChain
from ppl_zoo.models.discrete.naive_bayes import NaiveBayes

__all__ = [
    "BayesNet",
    "BernoulliMixture",
    "Categorical",
    "ChainRule",
    "IndependentBernoulli",
    "LogisticRegression",
    "MarkovChain",
    "NaiveBayes",
]
