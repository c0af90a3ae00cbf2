"""References of the model cards, one entry a source."""

from ppl_zoo.models.card import Reference

ANDREWS_1974 = Reference(
    "Andrews & Mallows",
    1974,
    "Scale mixtures of normal distributions",
    "https://doi.org/10.1111/j.2517-6161.1974.tb00989.x",
)
ATTIAS_2000 = Reference(
    "Attias",
    2000,
    "A variational Bayesian framework for graphical models",
    "https://proceedings.neurips.cc/paper/1999/hash/74563ba21a90da13dacf2a73e3ddefa7-Abstract.html",
)
BELL_1997 = Reference(
    "Bell & Sejnowski",
    1997,
    'The "independent components" of natural scenes are edge filters',
    "https://doi.org/10.1016/S0042-6989(97)00121-1",
)
BISHOP_1999 = Reference(
    "Bishop", 1999, "Variational principal components", "https://doi.org/10.1049/cp:19991160"
)
BISHOP_2006 = Reference(
    "Bishop",
    2006,
    "Pattern Recognition and Machine Learning",
    "https://www.microsoft.com/en-us/research/publication/pattern-recognition-machine-learning/",
)
BLEI_2006 = Reference(
    "Blei & Jordan",
    2006,
    "Variational inference for Dirichlet process mixtures",
    "https://doi.org/10.1214/06-BA104",
)
BOEHNING_1988 = Reference(
    "Boehning & Lindsay",
    1988,
    "Monotonicity of quadratic-approximation algorithms",
    "https://doi.org/10.1007/BF00049423",
)
BURDA_2016 = Reference(
    "Burda, Grosse & Salakhutdinov",
    2016,
    "Importance weighted autoencoders",
    "https://arxiv.org/abs/1509.00519",
)
CHENG_2019 = Reference(
    "Cheng, Gadelha, Maji & Sheldon",
    2019,
    "A Bayesian perspective on the deep image prior",
    "https://arxiv.org/abs/1904.07457",
)
DEMPSTER_1977 = Reference(
    "Dempster, Laird & Rubin",
    1977,
    "Maximum likelihood from incomplete data via the EM algorithm",
    "https://doi.org/10.1111/j.2517-6161.1977.tb01600.x",
)
DRUGOWITSCH_2013 = Reference(
    "Drugowitsch",
    2013,
    "Variational Bayesian inference for linear and logistic regression",
    "https://arxiv.org/abs/1310.5438",
)
DURANTE_2019 = Reference(
    "Durante & Rigon",
    2019,
    "Conditionally conjugate mean-field variational Bayes for logistic models",
    "https://arxiv.org/abs/1711.06999",
)
FRALEY_2007 = Reference(
    "Fraley & Raftery",
    2007,
    "Bayesian regularization for normal mixture estimation and model-based clustering",
    "https://doi.org/10.1007/s00357-007-0004-5",
)
GERMAIN_2015 = Reference(
    "Germain, Gregor, Murray & Larochelle",
    2015,
    "MADE: masked autoencoder for distribution estimation",
    "https://arxiv.org/abs/1502.03509",
)
GRAVES_2013 = Reference(
    "Graves",
    2013,
    "Generating sequences with recurrent neural networks",
    "https://arxiv.org/abs/1308.0850",
)
HECKERMAN_1995 = Reference(
    "Heckerman",
    1995,
    "A tutorial on learning with Bayesian networks",
    "https://arxiv.org/abs/2002.00269",
)
JAAKKOLA_2000 = Reference(
    "Jaakkola & Jordan",
    2000,
    "Bayesian parameter estimation via variational methods",
    "https://doi.org/10.1023/A:1008932416310",
)
KAC_1952 = Reference(
    "Kac & Ward",
    1952,
    "A combinatorial solution of the two-dimensional Ising model",
    "https://doi.org/10.1103/PhysRev.88.1332",
)
KINGMA_2014 = Reference(
    "Kingma & Welling", 2014, "Auto-encoding variational Bayes", "https://arxiv.org/abs/1312.6114"
)
KOLLER_2009 = Reference(
    "Koller & Friedman",
    2009,
    "Probabilistic Graphical Models",
    "https://mitpress.mit.edu/9780262013192/probabilistic-graphical-models/",
)
LAROCHELLE_2011 = Reference(
    "Larochelle & Murray",
    2011,
    "The neural autoregressive distribution estimator",
    "https://proceedings.mlr.press/v15/larochelle11a.html",
)
LAURITZEN_1988 = Reference(
    "Lauritzen & Spiegelhalter",
    1988,
    "Local computations with probabilities on graphical structures",
    "https://doi.org/10.1111/j.2517-6161.1988.tb01721.x",
)
LUCAS_2019 = Reference(
    "Lucas, Tucker, Grosse & Norouzi",
    2019,
    "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
    "https://arxiv.org/abs/1911.02469",
)
MURPHY_2022 = Reference(
    "Murphy",
    2022,
    "Probabilistic Machine Learning: An Introduction",
    "https://probml.github.io/pml-book/book1.html",
)
NEAL_1992 = Reference(
    "Neal",
    1992,
    "Connectionist learning of belief networks",
    "https://doi.org/10.1016/0004-3702(92)90065-6",
)
NIGAM_2000 = Reference(
    "Nigam, McCallum, Thrun & Mitchell",
    2000,
    "Text classification from labeled and unlabeled documents using EM",
    "https://doi.org/10.1023/A:1007692713085",
)
ONO_2011 = Reference(
    "Ono",
    2011,
    "Stable and fast update rules for independent vector analysis based on auxiliary function"
    " technique",
    "https://doi.org/10.1109/ASPAA.2011.6082320",
)
ONSAGER_1944 = Reference(
    "Onsager",
    1944,
    "Crystal statistics. I. A two-dimensional model with an order-disorder transition",
    "https://doi.org/10.1103/PhysRev.65.117",
)
PAPASPILIOPOULOS_2007 = Reference(
    "Papaspiliopoulos, Roberts & Skold",
    2007,
    "A general framework for the parametrization of hierarchical models",
    "https://arxiv.org/abs/0708.3797",
)
PORTILLA_2003 = Reference(
    "Portilla, Strela, Wainwright & Simoncelli",
    2003,
    "Image denoising using scale mixtures of Gaussians in the wavelet domain",
    "https://doi.org/10.1109/TIP.2003.818640",
)
RUBIN_1981 = Reference(
    "Rubin",
    1981,
    "Estimation in parallel randomized experiments",
    "https://doi.org/10.3102/10769986006004377",
)
RUBIN_1982 = Reference(
    "Rubin & Thayer",
    1982,
    "EM algorithms for ML factor analysis",
    "https://doi.org/10.1007/BF02293851",
)
SHANNON_1948 = Reference(
    "Shannon",
    1948,
    "A mathematical theory of communication",
    "https://doi.org/10.1002/j.1538-7305.1948.tb01338.x",
)
TIPPING_1999 = Reference(
    "Tipping & Bishop",
    1999,
    "Probabilistic principal component analysis",
    "https://doi.org/10.1111/1467-9868.00196",
)
ULYANOV_2018 = Reference(
    "Ulyanov, Vedaldi & Lempitsky", 2018, "Deep image prior", "https://arxiv.org/abs/1711.10925"
)
URIA_2013 = Reference(
    "Uria, Murray & Larochelle",
    2013,
    "RNADE: the real-valued neural autoregressive density-estimator",
    "https://arxiv.org/abs/1306.0186",
)
URIA_2014 = Reference(
    "Uria, Murray & Larochelle",
    2014,
    "A deep and tractable density estimator",
    "https://arxiv.org/abs/1310.1757",
)
URIA_2016 = Reference(
    "Uria, Cote, Gregor, Murray & Larochelle",
    2016,
    "Neural autoregressive distribution estimation",
    "https://arxiv.org/abs/1605.02226",
)
VAN_DEN_OORD_2016 = Reference(
    "van den Oord et al.",
    2016,
    "Conditional image generation with PixelCNN decoders",
    "https://arxiv.org/abs/1606.05328",
)
VASWANI_2017 = Reference(
    "Vaswani et al.", 2017, "Attention is all you need", "https://arxiv.org/abs/1706.03762"
)
WANG_2023 = Reference(
    "Wang, Li, Zhuang, Chen, Liang & Sun",
    2023,
    "Early stopping for deep image prior",
    "https://arxiv.org/abs/2112.06074",
)
ZORAN_2011 = Reference(
    "Zoran & Weiss",
    2011,
    "From learning models of natural image patches to whole image restoration",
    "https://doi.org/10.1109/ICCV.2011.6126278",
)
ZORAN_2012 = Reference(
    "Zoran & Weiss",
    2012,
    "Natural images, Gaussian mixtures and dead leaves",
    "https://proceedings.neurips.cc/paper/2012/hash/8cb22bdd0b7ba1ab13d742e22eed8da2-Abstract.html",
)
