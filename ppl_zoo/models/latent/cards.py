"""Cards of the models with continuous latent variables."""

from ppl_zoo.models.card import Card, Figure, Recipe, Reference

__all__ = ["CARDS"]


def _per_row(fit: object, data: object) -> float:
    return fit.objective / len(fit.rows)


FACTOR_ANALYSIS = Card(
    name="factor-analysis",
    title="Factor analysis",
    family="latent",
    factory="ppl_zoo.models:FactorAnalysis",
    summary="What many features have in common, and the noise of each; all three queries are"
    " exact, missing values and conditional samples included.",
    solvers=("EM", "SVI"),
    references=(
        Reference(
            "Rubin & Thayer",
            1982,
            "EM algorithms for ML factor analysis",
            "https://doi.org/10.1007/BF02293851",
        ),
    ),
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
)

PROBABILISTIC_PCA = Card(
    name="probabilistic-pca",
    title="Probabilistic PCA",
    family="latent",
    factory="ppl_zoo.models:ProbabilisticPCA",
    summary="Principal components as a density: factors and one noise for all features, with the"
    " maximum in closed form.",
    solvers=("EM", "SVI"),
    references=(
        Reference(
            "Tipping & Bishop",
            1999,
            "Probabilistic principal component analysis",
            "https://doi.org/10.1111/1467-9868.00196",
        ),
    ),
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
)

ISING = Card(
    name="ising",
    title="Ising model",
    family="latent",
    factory="ppl_zoo.models:Ising",
    summary="Spins that agree with their neighbours, seen through noise: a prior of binary images,"
    " by mean field, Gibbs sweeps and, on narrow grids, exact sums.",
    solvers=("EM", "CAVI"),
    references=(
        Reference(
            "Kac & Ward",
            1952,
            "A combinatorial solution of the two-dimensional Ising model",
            "https://doi.org/10.1103/PhysRev.88.1332",
        ),
        Reference(
            "Onsager",
            1944,
            "Crystal statistics. I. A two-dimensional model with an order-disorder transition",
            "https://doi.org/10.1103/PhysRev.65.117",
        ),
    ),
    figures=(
        Figure(
            what="log Z of a site at the critical coupling, log(2)/2 + 2G/pi (ours: 80 x 80, by"
            " second differences)",
            published=0.929695,
            source="Onsager (1944)",
            reproduced=0.929683,
            command="pytest tests/models/test_ising.py -k onsager",
            tolerance=2e-5,
        ),
    ),
)

BAYESIAN_FACTOR_ANALYSIS = Card(
    name="bayesian-factor-analysis",
    title="Bayesian factor analysis",
    family="latent",
    factory="ppl_zoo.models:BayesianFactorAnalysis",
    summary="As many factors as the data ask for, by automatic relevance determination; with"
    " noise='isotropic' Bayesian PCA.",
    solvers=("CAVI", "SVI", "NUTS"),
    references=(
        Reference(
            "Bishop",
            1999,
            "Variational principal components",
            "https://doi.org/10.1049/cp:19991160",
        ),
    ),
    recipes=(
        Recipe(
            name="photo-patches",
            title="At most 20 factors of 8x8 patches of a photograph",
            data="photo-patches",
            model={"num_factors": 20},
            options={"max_steps": 100, "tol": 1e-3},
            dtype="float64",
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
    references=(
        Reference(
            "Bishop",
            2006,
            "Pattern Recognition and Machine Learning, chapter 10",
            "https://www.microsoft.com/en-us/research/publication/"
            "pattern-recognition-machine-learning/",
        ),
    ),
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
)

VAE = Card(
    name="vae",
    title="Variational autoencoder",
    family="latent",
    factory="ppl_zoo.models:VAE",
    summary="A net decodes latents into a row and another guesses them back; density by"
    " importance sampling, missing features by a Metropolis chain.",
    solvers=("SVI",),
    references=(
        Reference(
            "Kingma & Welling",
            2014,
            "Auto-encoding variational Bayes",
            "https://arxiv.org/abs/1312.6114",
        ),
        Reference(
            "Burda, Grosse & Salakhutdinov",
            2016,
            "Importance weighted autoencoders",
            "https://arxiv.org/abs/1509.00519",
        ),
    ),
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
)

HIERARCHICAL_VAE = Card(
    name="hierarchical-vae",
    title="Hierarchical VAE",
    family="latent",
    factory="ppl_zoo.models:HierarchicalVAE",
    summary="Latents above latents, guessed from below; density by importance sampling.",
    solvers=("SVI",),
    references=(
        Reference(
            "Burda, Grosse & Salakhutdinov",
            2016,
            "Importance weighted autoencoders",
            "https://arxiv.org/abs/1509.00519",
        ),
    ),
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
)

LINEAR_VAE = Card(
    name="linear-vae",
    title="Linear VAE",
    family="latent",
    factory="ppl_zoo.models:LinearVAE",
    summary="A VAE with linear nets, whose density is known and whose optimum is probabilistic"
    " PCA: the oracle of the others.",
    solvers=("SVI",),
    references=(
        Reference(
            "Lucas, Tucker, Grosse & Norouzi",
            2019,
            "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
            "https://arxiv.org/abs/1911.02469",
        ),
    ),
    recipes=(
        Recipe(
            name="old-faithful",
            title="One latent behind length and wait",
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
