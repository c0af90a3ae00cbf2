"""Model cards of the models with continuous latent variables."""

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.data import Dataset
from ppl_zoo.models.card import Card, Figure, Recipe
from ppl_zoo.models.references import (
    BISHOP_1999,
    BISHOP_2006,
    BURDA_2016,
    KAC_1952,
    KINGMA_2014,
    LUCAS_2019,
    ONSAGER_1944,
    RUBIN_1982,
    TIPPING_1999,
)

__all__ = ["CARDS"]


def _per_row(fit: FittedModel, data: Dataset) -> float:
    return fit.objective / len(fit.rows)


FACTOR_ANALYSIS = Card(
    name="factor-analysis",
    title="Factor analysis",
    family="latent",
    factory="ppl_zoo.models:FactorAnalysis",
    summary="Common factors of many features, and the noise of each; all three queries are"
    " exact, missing values and conditional samples included.",
    solvers=("EM", "SVI"),
    references=(RUBIN_1982,),
    recipes=(
        Recipe(
            name="photo-patches",
            title="Ten factors of 8x8 patches of a photograph",
            data="photo-patches",
            model={"num_factors": 10},
            dtype="float64",
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="log likelihood of photo-patches, 10 factors, nats a patch",
            published=78.936925,
            source="scikit-learn FactorAnalysis, tol=1e-8",
            reproduced=78.936925,
            command="ppl-zoo reproduce factor-analysis",
            recipe="photo-patches",
            measure=_per_row,
            tolerance=1e-5,
            better="higher",
        ),
    ),
    formula=r"p(x) = \mathcal{N}\left(x \mid \mu,\, W W^\top + \mathrm{diag}(\psi)\right)",
    failure_modes=(
        (
            "Heywood cases: a factor takes one feature over, whose noise falls to its floor;"
            " the fit names the feature."
        ),
        (
            "Loadings are determined up to a rotation: only the covariance that they make can"
            " be compared between fits."
        ),
    ),
)

PROBABILISTIC_PCA = Card(
    name="probabilistic-pca",
    title="Probabilistic PCA",
    family="latent",
    factory="ppl_zoo.models:ProbabilisticPCA",
    summary="Principal components as a density: factors and one noise for all features, with the"
    " maximum in closed form.",
    solvers=("EM", "SVI"),
    references=(TIPPING_1999,),
    recipes=(
        Recipe(
            name="photo-patches",
            title="Ten components of 8x8 patches of a photograph, by EM from a random start",
            data="photo-patches",
            model={"num_factors": 10, "init": "random"},
            dtype="float64",
        ),
    ),
    figures=(
        Figure(
            what="log likelihood of photo-patches, 10 components, nats a patch",
            published=78.748964,
            source="scikit-learn PCA.score",
            reproduced=78.748964,
            command="ppl-zoo reproduce probabilistic-pca",
            recipe="photo-patches",
            measure=_per_row,
            tolerance=1e-5,
            better="higher",
        ),
    ),
    formula=r"p(x) = \mathcal{N}\left(x \mid \mu,\, W W^\top + \sigma^2 I\right)",
    failure_modes=(
        (
            "One noise for all features: a feature in larger units becomes a component by"
            " itself; standardise, or use factor analysis."
        ),
        (
            "As many components as features leave no direction for the noise, whose estimate"
            " falls to zero."
        ),
    ),
)

ISING = Card(
    name="ising",
    title="Ising model",
    family="latent",
    factory="ppl_zoo.models:Ising",
    summary="Spins coupled to their neighbours, seen through noise: a prior of binary images, by"
    " mean field, Gibbs sweeps and, on narrow grids, exact sums.",
    solvers=("EM", "CAVI"),
    references=(KAC_1952, ONSAGER_1944),
    figures=(
        Figure(
            what="log Z of a site at the critical coupling, log(2)/2 + 2G/pi (ours: 80 x 80, by"
            " second differences)",
            published=0.929695,
            source="Onsager (1944)",
            reproduced=0.929683,
            command="pytest tests/models/latent/test_ising.py -k onsager",
            tolerance=2e-5,
        ),
    ),
    formula=(
        r"p(x, s) = \frac{1}{Z} \exp\left(J \sum_{\langle ij \rangle} s_i s_j\right)"
        r" \prod_i \mathcal{N}(x_i \mid s_i, \sigma^2)"
    ),
    failure_modes=(
        (
            "Near the critical coupling (0.44) mean field sees order where there is none: its"
            " means are too sure, its bound is loose."
        ),
        (
            "Gibbs sweeps of a strongly coupled grid stay in one phase: draws from all-white"
            " and all-black do not mix."
        ),
    ),
)

BAYESIAN_FACTOR_ANALYSIS = Card(
    name="bayesian-factor-analysis",
    title="Bayesian factor analysis",
    family="latent",
    factory="ppl_zoo.models:BayesianFactorAnalysis",
    summary="Number of factors by automatic relevance determination; with"
    " noise='isotropic' Bayesian PCA.",
    solvers=("CAVI", "NUTS"),
    references=(BISHOP_1999,),
    recipes=(
        Recipe(
            name="photo-patches",
            title="At most 20 factors of 8x8 patches of a photograph",
            data="photo-patches",
            model={"num_factors": 20},
            options={"steps": 100, "tol": 1e-3},
            dtype="float64",
        ),
    ),
    formula=(
        r"p(x) = \int \prod_n \mathcal{N}\left(x_n \mid \mu,\, W W^\top +"
        r" \mathrm{diag}(\psi)\right)\, p(W, \mu, \psi)\, dW\, d\mu\, d\psi"
    ),
    failure_modes=(
        (
            "Loadings and factors are held independent: intervals of the loadings are too"
            " narrow, and relevances may switch off a weak factor that is there."
        ),
        (
            "CAVI is slow where factors rotate into each other; a bound that hardly rises is"
            " not yet at rest."
        ),
    ),
)

NORMAL_GAMMA = Card(
    name="normal-gamma",
    title="Unknown mean and precision",
    family="latent",
    factory="ppl_zoo.models:NormalGamma",
    summary="A normal whose mean and precision are unknown: mean field beside the exact"
    " posterior.",
    solvers=("CAVI", "NUTS"),
    references=(BISHOP_2006.part("chapter 10"),),
    recipes=(
        Recipe(
            name="old-faithful",
            title="The mean wait for an eruption and its precision, by mean field",
            data="old-faithful",
            data_options={"column": 1},
            dtype="float64",
            demo=True,
        ),
    ),
    figures=(
        Figure(
            what="posterior mean of the mean wait, minutes",
            published=70.8971,
            source="sample mean, R: mean(faithful$waiting)",
            reproduced=70.8945,
            command="ppl-zoo reproduce normal-gamma",
            recipe="old-faithful",
            measure=lambda fit, data: fit.model.loc.item(),
            tolerance=0.01,
        ),
    ),
    formula=(
        r"p(x) = \int \prod_n \mathcal{N}(x_n \mid \mu, \lambda^{-1})\;"
        r" \mathcal{N}\left(\mu \mid m, (\kappa \lambda)^{-1}\right)"
        r" \mathrm{Gamma}(\lambda \mid a, b)\, d\mu\, d\lambda"
    ),
    failure_modes=(
        (
            "The factorised posterior holds mean and precision independent: with a handful of"
            " rows its tails are too thin, which k-hat shows."
        ),
        (
            "The prior is in units of the data: a prior mean of 0 with data far from it pulls"
            " the mean and inflates the noise."
        ),
    ),
)

VAE = Card(
    name="vae",
    title="Variational autoencoder",
    family="latent",
    factory="ppl_zoo.models:VAE",
    summary="A decoder of latents and an encoder as amortised guide; density by importance"
    " sampling, missing features by a Metropolis chain.",
    solvers=("SVI",),
    references=(KINGMA_2014, BURDA_2016),
    recipes=(
        Recipe(
            name="digits",
            title="Handwritten digits on a map of two latents",
            data="digits",
            data_options={"binarize": True},
            model={"num_latents": 2, "hidden": (128, 128)},
            options={"steps": 3000},
            demo=True,
        ),
    ),
    formula=(
        r"\log p(x) \ge \mathbb{E}_{q(z \mid x)}\left[\log p(x \mid z)\right] -"
        r" \mathrm{KL}\left(q(z \mid x) \,\Vert\, p(z)\right)"
    ),
    failure_modes=(
        (
            "Posterior collapse: latents that the decoder does not use fall back onto the"
            " prior; fit.check() counts those that carry anything."
        ),
        (
            "The encoder's posterior of a row is narrower or elsewhere than the true one (the"
            " amortisation gap); check_rows holds it against NUTS."
        ),
        (
            "Continuous likelihoods have no bound where rows are decoded exactly: sds fall to"
            " their floor, and the fit names them."
        ),
    ),
)

HIERARCHICAL_VAE = Card(
    name="hierarchical-vae",
    title="Hierarchical VAE",
    family="latent",
    factory="ppl_zoo.models:HierarchicalVAE",
    summary="A ladder of latent layers with a bottom-up encoder; density by importance sampling.",
    solvers=("SVI",),
    references=(BURDA_2016,),
    recipes=(
        Recipe(
            name="digits",
            title="Handwritten digits, two latents above eight",
            data="digits",
            data_options={"binarize": True},
            model={"num_latents": (8, 2), "hidden": ((128, 128), (32,))},
            options={"steps": 6000},
        ),
    ),
    formula=(
        r"\log p(x) \ge \mathbb{E}_{q}\left[\log \frac{p(x \mid z_1)\, p(z_1 \mid z_2)"
        r" \cdots p(z_L)}{q(z_1 \mid x)\, q(z_2 \mid z_1) \cdots q(z_L \mid"
        r" z_{L-1})}\right]"
    ),
    failure_modes=(
        (
            "The upper layers collapse onto their prior first, for a bottom-up encoder gives"
            " them little to tell: the model is then a VAE of one layer."
        ),
        (
            "The bound is looser than a VAE's, so that held-out rows need importance sampling"
            " to be compared."
        ),
    ),
)

LINEAR_VAE = Card(
    name="linear-vae",
    title="Linear VAE",
    family="latent",
    factory="ppl_zoo.models:LinearVAE",
    summary="A VAE with linear nets, whose density is known and whose optimum is probabilistic"
    " PCA: the oracle of the others.",
    solvers=("SVI",),
    references=(LUCAS_2019,),
    recipes=(
        Recipe(
            name="old-faithful",
            title="One latent of length and wait",
            data="old-faithful",
            model={"num_latents": 1},
            options={
                "steps": 40_000,
                "learning_rate": 0.02,
                "schedule": "cosine",
                "parameter_tol": 0.0,
                "elbo": "mean-field",
            },
        ),
    ),
    figures=(
        Figure(
            what="log likelihood of old-faithful at the optimum, one latent, nats a row",
            published=-4.741907,
            source="scikit-learn PCA.score",
            reproduced=-4.742546,
            command="ppl-zoo reproduce linear-vae",
            recipe="old-faithful",
            measure=lambda fit, data: float(fit.model.exact_log_prob(data.train).mean()),
            tolerance=2e-3,
        ),
    ),
    formula=r"p(x) = \mathcal{N}\left(x \mid \mu,\, W W^\top + \sigma^2 I\right)",
    failure_modes=(
        (
            "Latents beyond the directions that rise above the noise collapse onto the prior,"
            " in the exact optimum too: it is no fault of the encoder."
        ),
        (
            "Loadings are determined up to a rotation: two fits of the same density have"
            " different latents."
        ),
    ),
)

CARDS: tuple[Card, ...] = (
    VAE,
    HIERARCHICAL_VAE,
    LINEAR_VAE,
    NORMAL_GAMMA,
    FACTOR_ANALYSIS,
    BAYESIAN_FACTOR_ANALYSIS,
    PROBABILISTIC_PCA,
    ISING,
)
