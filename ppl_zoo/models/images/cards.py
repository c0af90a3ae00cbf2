"""Model cards of the image models."""

from ppl_zoo.models.card import Card, Figure, Recipe, Reference
from ppl_zoo.models.references import (
    BELL_1997,
    CHENG_2019,
    ONO_2011,
    ULYANOV_2018,
    WANG_2023,
    ZORAN_2011,
    ZORAN_2012,
)

__all__ = ["CARDS"]


def _set12(level: int, published: float, reproduced: float) -> Figure:
    return Figure(
        what=f"PSNR on Set12, noise of {level} grey levels, dB",
        published=published,
        source="EPLL in Zhang et al. (2017), Beyond a Gaussian denoiser, table III",
        reproduced=reproduced,
        command="python benchmarks/epll.py --parts denoising",
        tolerance=0.05,
        better="higher",
    )


EPLL = Card(
    name="epll",
    title="Expected patch log likelihood",
    family="images",
    factory="ppl_zoo.models:EPLL",
    summary="An image whose patches are probable under a mixture of Gaussians, degraded by blur,"
    " missing pixels or noise: zoo.restore and `ppl-zoo restore` take a photograph.",
    solvers=("SVI", "Tiling", "SplitGibbs"),
    recipes=(
        Recipe(
            "noisy-photograph",
            "A piece of a photograph behind noise, each pixel a normal variable",
            "noisy-photograph",
            {"prior": "gmm20-patches"},
            options={"steps": 300, "learning_rate": 0.01},
        ),
    ),
    references=(ZORAN_2011, ZORAN_2012),
    figures=(
        _set12(15, 32.14, 32.143),
        _set12(25, 29.69, 29.713),
        _set12(50, 26.47, 26.502),
        Figure(
            what="gmm200-patches: log likelihood of BSDS300 patches as RNADE has them, nats",
            published=152.8,
            source="The mixture of Zoran & Weiss as given by Uria et al. (2013), RNADE",
            reproduced=152.84,
            command="python benchmarks/epll.py --parts patches",
            tolerance=0.5,
            better="higher",
        ),
    ),
    formula=(
        r"-\log p(x \mid y) = \frac{1}{2 \sigma^2} \Vert A x - y \Vert^2 - \lambda"
        r" \sum_i \log p(P_i x) + \mathrm{const}"
    ),
    failure_modes=(
        (
            "Overlapping patches are counted as independent: the sd of a pixel is"
            " an approximation, and fine regular texture is smoothed away."
        ),
        (
            "The noise level has to be known or estimated: one that is too low leaves the"
            " noise, one that is too high melts detail."
        ),
    ),
)


def _patch_prior(
    name: str,
    title: str,
    factory: str,
    summary: str,
    recipe: Recipe,
    *references: Reference,
    figures: tuple[Figure, ...] = (),
    formula: str,
    failure_modes: tuple[str, ...],
) -> Card:
    return Card(
        name=name,
        title=title,
        family="images",
        factory=f"ppl_zoo.models:{factory}",
        summary=summary,
        solvers=("EM",) if factory == "MiniDeadLeaves" else ("EM", "SVI"),
        references=(ZORAN_2011, *references),
        recipes=(recipe,),
        figures=figures,
        formula=formula,
        failure_modes=failure_modes,
    )


INDEPENDENT_PIXELS = _patch_prior(
    "independent-pixels",
    "Independent pixels",
    "IndependentPixels",
    "Each pixel by itself, with a mixture of normal distributions: the least prior of a patch.",
    Recipe("photo-patches", "Pixels of photographs", "photo-patches", {"num_components": 3}),
    formula=r"p(x) = \prod_d \sum_k \pi_{dk}\, \mathcal{N}(x_d \mid \mu_{dk}, \sigma_{dk}^2)",
    failure_modes=(
        (
            "Has the histogram of grey levels and no correlation: as a prior of patches it"
            " takes off no noise that a histogram does not tell."
        ),
        "A component narrows onto a value that repeats, such as white.",
    ),
)

MULTIVARIATE_GAUSSIAN = _patch_prior(
    "multivariate-gaussian",
    "Multivariate normal distribution",
    "MultivariateGaussian",
    "Mean and covariance in closed form: the spectrum of photographs, and no edges.",
    Recipe("photo-patches", "Covariance of photographs", "photo-patches"),
    figures=(
        Figure(
            what="log likelihood of BSDS300 test patches, nats a patch",
            published=96.67,
            source="Papamakarios, Pavlakou & Murray 2017, table 1 (their own patches)",
            reproduced=96.25,
            command="python benchmarks/patch_priors.py",
            tolerance=1.0,
        ),
    ),
    formula=r"p(x) = \mathcal{N}(x \mid \mu, \Sigma)",
    failure_modes=(
        (
            "Tails are too light for photographs: edges are improbable, and restoration is"
            " one linear filter that blurs them."
        ),
        (
            "With fewer rows than features the covariance is singular; patches without their"
            " mean have one direction too many."
        ),
    ),
)

PCA_LAPLACE = _patch_prior(
    "pca-laplace",
    "Principal components with Laplace coordinates",
    "PCALaplace",
    "Independent heavy tails along the principal axes, fitted and restored in closed form.",
    Recipe("photo-patches", "Principal axes of photographs", "photo-patches", demo=True),
    formula=(
        r"p(x) = \prod_d \frac{1}{2 s_d}"
        r" \exp\left(-\vert u_d^\top (x - \mu) \vert / s_d\right)"
    ),
    failure_modes=(
        (
            "Coordinates are uncorrelated and taken for independent: the contrast that they"
            " share in a patch is missed."
        ),
        (
            "Directions of equal variance are determined up to a rotation, which the Laplace"
            " density is not indifferent to."
        ),
    ),
)

ICA = _patch_prior(
    "ica",
    "Independent component analysis",
    "ICA",
    "A square linear map of Laplace sources by maximum likelihood: filters of edges, found by EM"
    " without a step size.",
    Recipe(
        "photo-patches",
        "Independent components of photographs",
        "photo-patches",
        options={"steps": 30, "tol": 0.05},
    ),
    BELL_1997,
    ONO_2011,
    formula=(
        r"p(x) = \vert \det W \vert \prod_d \frac{1}{2} \exp\left(-\vert w_d^\top (x -"
        r" \mu) \vert\right)"
    ),
    failure_modes=(
        (
            "Sources of lighter tails than Laplace's are not separated; normal ones are"
            " determined up to a rotation."
        ),
        (
            "As many sources as features: an overcomplete dictionary is out of its reach, and"
            " the likelihood has local optima."
        ),
    ),
)

MIXTURE_OF_SCALE_MIXTURES = _patch_prior(
    "mixture-of-scale-mixtures",
    "Mixture of Gaussian scale mixtures",
    "MixtureOfScaleMixtures",
    "Some shapes of patch, each at several contrasts; all three queries are exact.",
    Recipe(
        "photo-patches",
        "Five shapes at four contrasts",
        "photo-patches",
        {"num_shapes": 5, "num_scales": 4},
        {"remove_mean": False},
        options={"steps": 30, "tol": 0.05},
    ),
    ZORAN_2012,
    formula=r"p(x) = \sum_k \sum_j \pi_{kj}\, \mathcal{N}(x \mid 0,\, s_{kj} \Sigma_k)",
    failure_modes=(
        (
            "Shapes and scales share the work arbitrarily: several solutions of about the"
            " same likelihood, by the start."
        ),
        "Zero mean: data with another mean are described by too large a scale.",
    ),
)

MINI_DEAD_LEAVES = _patch_prior(
    "mini-dead-leaves",
    "Mini dead leaves",
    "MiniDeadLeaves",
    "One textured leaf, or two that meet at a straight edge: occlusion at its smallest, with the"
    " edge's posterior on a grid.",
    Recipe(
        "photo-patches",
        "How many patches of photographs have an edge",
        "photo-patches",
        {"size": 8, "grid": (8, 6)},
        options={"steps": 5},
    ),
    ZORAN_2012,
    formula=r"p(x) = \sum_{e, g} p(e, g)\, \mathcal{N}\left(x \mid m,\, \Sigma_{e, g}\right)",
    failure_modes=(
        (
            "Edge angle and offset lie on a grid: density is a bound of it, coarse grids see"
            " soft edges, and time grows with the grid."
        ),
        (
            "One straight edge at most: corners, lines and textures of photographs are given"
            " to contrast."
        ),
    ),
)

DEEP_IMAGE_PRIOR = Card(
    name="deep-image-prior",
    title="Deep image prior",
    family="images",
    factory="ppl_zoo.models:DeepImagePrior",
    summary="An image that an untrained encoder-decoder makes of noise, fitted to degraded data,"
    " stopped early before it fits the noise: zoo.restore(method='dip') takes a photograph.",
    solvers=("EarlyStopping", "SVI"),
    references=(ULYANOV_2018, WANG_2023, CHENG_2019),
    figures=(
        Figure(
            what="PSNR on a crop of F16, 128 x 128, noise of 25 grey levels, where it stops by"
            " itself, dB",
            published=31.06,
            source="A plain skip net of 16 to 128 channels with moving average, after 1,500 steps",
            reproduced=31.21,
            command="python benchmarks/deep_image_prior.py f16",
            tolerance=0.1,
            better="higher",
        ),
        Figure(
            what="PSNR of brightness on Set5, super-resolution x4, dB",
            published=29.90,
            source="Ulyanov, Vedaldi & Lempitsky 2018, table 1",
            reproduced=None,
            command="python benchmarks/deep_image_prior.py gpu-set5  (needs a GPU)",
            tolerance=0.3,
            better="higher",
        ),
        Figure(
            what="PSNR on Barbara, half of the pixels missing, dB",
            published=32.22,
            source="Ulyanov, Vedaldi & Lempitsky 2018, inpainting table",
            reproduced=None,
            command="python benchmarks/deep_image_prior.py gpu-barbara  (needs a GPU)",
            tolerance=0.5,
            better="higher",
        ),
    ),
    formula=(
        r"p(y) = \int \mathcal{N}\left(y \mid A f(z; \theta),\, \sigma^2\right)"
        r" p(\theta)\, d\theta"
    ),
    failure_modes=(
        (
            "At convergence it fits the noise as well: everything depends on where it stops,"
            " and no rule finds the best step of every image."
        ),
        "Each image takes a training of its own, and another seed gives another image (sd .1 dB"
        " over seeds on a crop of F16).",
        (
            "Fine texture, of the frequency of the noise, is fitted as late as the noise and"
            " is lost."
        ),
    ),
)

CARDS: tuple[Card, ...] = (
    EPLL,
    DEEP_IMAGE_PRIOR,
    INDEPENDENT_PIXELS,
    MULTIVARIATE_GAUSSIAN,
    PCA_LAPLACE,
    ICA,
    MIXTURE_OF_SCALE_MIXTURES,
    MINI_DEAD_LEAVES,
)
