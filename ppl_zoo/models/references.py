"""References of the model cards, solvers, checks and libraries, one entry a source."""

from ppl_zoo.models.card import Reference

ANDREWS_1974 = Reference(
    "Andrews & Mallows",
    1974,
    "Scale mixtures of normal distributions",
    "https://doi.org/10.1111/j.2517-6161.1974.tb00989.x",
    "Journal of the Royal Statistical Society: Series B",
)
ATTIAS_2000 = Reference(
    "Attias",
    2000,
    "A variational Bayesian framework for graphical models",
    "https://proceedings.neurips.cc/paper/1999/hash/74563ba21a90da13dacf2a73e3ddefa7-Abstract.html",
    "Advances in Neural Information Processing Systems 12",
    "inproceedings",
)
BELL_1997 = Reference(
    "Bell & Sejnowski",
    1997,
    'The "independent components" of natural scenes are edge filters',
    "https://doi.org/10.1016/S0042-6989(97)00121-1",
    "Vision Research",
)
BESKOS_2013 = Reference(
    "Beskos, Pillai, Roberts, Sanz-Serna & Stuart",
    2013,
    "Optimal tuning of the hybrid Monte Carlo algorithm",
    "https://arxiv.org/abs/1001.4460",
    "Bernoulli",
)
BINGHAM_2019 = Reference(
    "Bingham et al.",
    2019,
    "Pyro: deep universal probabilistic programming",
    "https://jmlr.org/papers/v20/18-403.html",
    "Journal of Machine Learning Research",
)
BISHOP_1999 = Reference(
    "Bishop",
    1999,
    "Variational principal components",
    "https://doi.org/10.1049/cp:19991160",
    "International Conference on Artificial Neural Networks",
    "inproceedings",
)
BISHOP_2006 = Reference(
    "Bishop",
    2006,
    "Pattern Recognition and Machine Learning",
    "https://www.microsoft.com/en-us/research/publication/pattern-recognition-machine-learning/",
    "Springer",
    "book",
)
BLEI_2006 = Reference(
    "Blei & Jordan",
    2006,
    "Variational inference for Dirichlet process mixtures",
    "https://doi.org/10.1214/06-BA104",
    "Bayesian Analysis",
)
BOEHNING_1988 = Reference(
    "Boehning & Lindsay",
    1988,
    "Monotonicity of quadratic-approximation algorithms",
    "https://doi.org/10.1007/BF00049423",
    "Annals of the Institute of Statistical Mathematics",
)
BRADBURY_2018 = Reference(
    "Bradbury et al.",
    2018,
    "JAX: composable transformations of Python+NumPy programs",
    "https://github.com/jax-ml/jax",
    kind="software",
)
BURDA_2016 = Reference(
    "Burda, Grosse & Salakhutdinov",
    2016,
    "Importance weighted autoencoders",
    "https://arxiv.org/abs/1509.00519",
    "International Conference on Learning Representations",
    "inproceedings",
)
CHENG_2019 = Reference(
    "Cheng, Gadelha, Maji & Sheldon",
    2019,
    "A Bayesian perspective on the deep image prior",
    "https://arxiv.org/abs/1904.07457",
    "IEEE Conference on Computer Vision and Pattern Recognition",
    "inproceedings",
)
DEMPSTER_1977 = Reference(
    "Dempster, Laird & Rubin",
    1977,
    "Maximum likelihood from incomplete data via the EM algorithm",
    "https://doi.org/10.1111/j.2517-6161.1977.tb01600.x",
    "Journal of the Royal Statistical Society: Series B",
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
    "Statistical Science",
)
FRALEY_2007 = Reference(
    "Fraley & Raftery",
    2007,
    "Bayesian regularization for normal mixture estimation and model-based clustering",
    "https://doi.org/10.1007/s00357-007-0004-5",
    "Journal of Classification",
)
GERMAIN_2015 = Reference(
    "Germain, Gregor, Murray & Larochelle",
    2015,
    "MADE: masked autoencoder for distribution estimation",
    "https://arxiv.org/abs/1502.03509",
    "International Conference on Machine Learning",
    "inproceedings",
)
GIORDANO_2024 = Reference(
    "Giordano, Ingram & Broderick",
    2024,
    (
        "Black box variational inference with a deterministic objective: faster, more"
        " accurate, and even more black box"
    ),
    "https://arxiv.org/abs/2304.05527",
    "Journal of Machine Learning Research",
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
HOFFMAN_2013 = Reference(
    "Hoffman, Blei, Wang & Paisley",
    2013,
    "Stochastic variational inference",
    "https://arxiv.org/abs/1206.7051",
    "Journal of Machine Learning Research",
)
HOFFMAN_2014 = Reference(
    "Hoffman & Gelman",
    2014,
    "The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian Monte Carlo",
    "https://arxiv.org/abs/1111.4246",
    "Journal of Machine Learning Research",
)
JAAKKOLA_2000 = Reference(
    "Jaakkola & Jordan",
    2000,
    "Bayesian parameter estimation via variational methods",
    "https://doi.org/10.1023/A:1008932416310",
    "Statistics and Computing",
)
JORDAN_2024 = Reference(
    "Jordan et al.",
    2024,
    "Muon: an optimizer for hidden layers in neural networks",
    "https://kellerjordan.github.io/posts/muon/",
)
KAC_1952 = Reference(
    "Kac & Ward",
    1952,
    "A combinatorial solution of the two-dimensional Ising model",
    "https://doi.org/10.1103/PhysRev.88.1332",
    "Physical Review",
)
KINGMA_2014 = Reference(
    "Kingma & Welling",
    2014,
    "Auto-encoding variational Bayes",
    "https://arxiv.org/abs/1312.6114",
    "International Conference on Learning Representations",
    "inproceedings",
)
KINGMA_2015 = Reference(
    "Kingma & Ba",
    2015,
    "Adam: a method for stochastic optimization",
    "https://arxiv.org/abs/1412.6980",
    "International Conference on Learning Representations",
    "inproceedings",
)
KOLLER_2009 = Reference(
    "Koller & Friedman",
    2009,
    "Probabilistic Graphical Models",
    "https://mitpress.mit.edu/9780262013192/probabilistic-graphical-models/",
    "MIT Press",
    "book",
)
KUMAR_2019 = Reference(
    "Kumar, Carroll, Hartikainen & Martin",
    2019,
    "ArviZ: a unified library for exploratory analysis of Bayesian models in Python",
    "https://doi.org/10.21105/joss.01143",
    "Journal of Open Source Software",
)
LAROCHELLE_2011 = Reference(
    "Larochelle & Murray",
    2011,
    "The neural autoregressive distribution estimator",
    "https://proceedings.mlr.press/v15/larochelle11a.html",
    "International Conference on Artificial Intelligence and Statistics",
    "inproceedings",
)
LAURITZEN_1988 = Reference(
    "Lauritzen & Spiegelhalter",
    1988,
    "Local computations with probabilities on graphical structures",
    "https://doi.org/10.1111/j.2517-6161.1988.tb01721.x",
    "Journal of the Royal Statistical Society: Series B",
)
LI_2016 = Reference(
    "Li, Chen, Carlson & Carin",
    2016,
    "Preconditioned stochastic gradient Langevin dynamics for deep neural networks",
    "https://arxiv.org/abs/1512.07666",
    "AAAI Conference on Artificial Intelligence",
    "inproceedings",
)
LUCAS_2019 = Reference(
    "Lucas, Tucker, Grosse & Norouzi",
    2019,
    "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
    "https://arxiv.org/abs/1911.02469",
    "Advances in Neural Information Processing Systems 32",
    "inproceedings",
)
MAGNUSSON_2019 = Reference(
    "Magnusson, Andersen, Jonasson & Vehtari",
    2019,
    "Bayesian leave-one-out cross-validation for large data",
    "https://arxiv.org/abs/1904.10679",
    "International Conference on Machine Learning",
    "inproceedings",
)
MURPHY_2022 = Reference(
    "Murphy",
    2022,
    "Probabilistic Machine Learning: An Introduction",
    "https://probml.github.io/pml-book/book1.html",
    "MIT Press",
    "book",
)
NEAL_1992 = Reference(
    "Neal",
    1992,
    "Connectionist learning of belief networks",
    "https://doi.org/10.1016/0004-3702(92)90065-6",
    "Artificial Intelligence",
)
NIGAM_2000 = Reference(
    "Nigam, McCallum, Thrun & Mitchell",
    2000,
    "Text classification from labeled and unlabeled documents using EM",
    "https://doi.org/10.1023/A:1007692713085",
    "Machine Learning",
)
NOCEDAL_1980 = Reference(
    "Nocedal",
    1980,
    "Updating quasi-Newton matrices with limited storage",
    "https://doi.org/10.2307/2006193",
    "Mathematics of Computation",
)
ONO_2011 = Reference(
    "Ono",
    2011,
    (
        "Stable and fast update rules for independent vector analysis based on auxiliary"
        " function technique"
    ),
    "https://doi.org/10.1109/ASPAA.2011.6082320",
    "IEEE Workshop on Applications of Signal Processing to Audio and Acoustics",
    "inproceedings",
)
ONSAGER_1944 = Reference(
    "Onsager",
    1944,
    "Crystal statistics. I. A two-dimensional model with an order-disorder transition",
    "https://doi.org/10.1103/PhysRev.65.117",
    "Physical Review",
)
PAPASPILIOPOULOS_2007 = Reference(
    "Papaspiliopoulos, Roberts & Skold",
    2007,
    "A general framework for the parametrization of hierarchical models",
    "https://arxiv.org/abs/0708.3797",
    "Statistical Science",
)
PASZKE_2019 = Reference(
    "Paszke et al.",
    2019,
    "PyTorch: an imperative style, high-performance deep learning library",
    "https://arxiv.org/abs/1912.01703",
    "Advances in Neural Information Processing Systems 32",
    "inproceedings",
)
PHAN_2019 = Reference(
    "Phan, Pradhan & Jankowiak",
    2019,
    "Composable effects for flexible and accelerated probabilistic programming in NumPyro",
    "https://arxiv.org/abs/1912.11554",
)
PORTILLA_2003 = Reference(
    "Portilla, Strela, Wainwright & Simoncelli",
    2003,
    "Image denoising using scale mixtures of Gaussians in the wavelet domain",
    "https://doi.org/10.1109/TIP.2003.818640",
    "IEEE Transactions on Image Processing",
)
PPL_ZOO = Reference(
    "the ppl_zoo authors",
    2026,
    "ppl_zoo: a zoo of probabilistic models for Pyro",
    "",
    kind="software",
)
RANGANATH_2014 = Reference(
    "Ranganath, Gerrish & Blei",
    2014,
    "Black box variational inference",
    "https://arxiv.org/abs/1401.0118",
    "International Conference on Artificial Intelligence and Statistics",
    "inproceedings",
)
REZENDE_2015 = Reference(
    "Rezende & Mohamed",
    2015,
    "Variational inference with normalizing flows",
    "https://arxiv.org/abs/1505.05770",
    "International Conference on Machine Learning",
    "inproceedings",
)
ROEDER_2017 = Reference(
    "Roeder, Wu & Duvenaud",
    2017,
    ("Sticking the landing: simple, lower-variance gradient estimators for variational inference"),
    "https://arxiv.org/abs/1703.09194",
    "Advances in Neural Information Processing Systems 30",
    "inproceedings",
)
RUBIN_1981 = Reference(
    "Rubin",
    1981,
    "Estimation in parallel randomized experiments",
    "https://doi.org/10.3102/10769986006004377",
    "Journal of Educational Statistics",
)
RUBIN_1982 = Reference(
    "Rubin & Thayer",
    1982,
    "EM algorithms for ML factor analysis",
    "https://doi.org/10.1007/BF02293851",
    "Psychometrika",
)
SHANNON_1948 = Reference(
    "Shannon",
    1948,
    "A mathematical theory of communication",
    "https://doi.org/10.1002/j.1538-7305.1948.tb01338.x",
    "Bell System Technical Journal",
)
TALTS_2018 = Reference(
    "Talts, Betancourt, Simpson, Vehtari & Gelman",
    2018,
    "Validating Bayesian inference algorithms with simulation-based calibration",
    "https://arxiv.org/abs/1804.06788",
)
TIPPING_1999 = Reference(
    "Tipping & Bishop",
    1999,
    "Probabilistic principal component analysis",
    "https://doi.org/10.1111/1467-9868.00196",
    "Journal of the Royal Statistical Society: Series B",
)
TUCKER_2019 = Reference(
    "Tucker, Lawson, Gu & Maddison",
    2019,
    "Doubly reparameterized gradient estimators for Monte Carlo objectives",
    "https://arxiv.org/abs/1810.04152",
    "International Conference on Learning Representations",
    "inproceedings",
)
ULYANOV_2018 = Reference(
    "Ulyanov, Vedaldi & Lempitsky",
    2018,
    "Deep image prior",
    "https://arxiv.org/abs/1711.10925",
    "IEEE Conference on Computer Vision and Pattern Recognition",
    "inproceedings",
)
URIA_2013 = Reference(
    "Uria, Murray & Larochelle",
    2013,
    "RNADE: the real-valued neural autoregressive density-estimator",
    "https://arxiv.org/abs/1306.0186",
    "Advances in Neural Information Processing Systems 26",
    "inproceedings",
)
URIA_2014 = Reference(
    "Uria, Murray & Larochelle",
    2014,
    "A deep and tractable density estimator",
    "https://arxiv.org/abs/1310.1757",
    "International Conference on Machine Learning",
    "inproceedings",
)
URIA_2016 = Reference(
    "Uria, Cote, Gregor, Murray & Larochelle",
    2016,
    "Neural autoregressive distribution estimation",
    "https://arxiv.org/abs/1605.02226",
    "Journal of Machine Learning Research",
)
VAN_DEN_OORD_2016 = Reference(
    "van den Oord et al.",
    2016,
    "Conditional image generation with PixelCNN decoders",
    "https://arxiv.org/abs/1606.05328",
    "Advances in Neural Information Processing Systems 29",
    "inproceedings",
)
VASWANI_2017 = Reference(
    "Vaswani et al.",
    2017,
    "Attention is all you need",
    "https://arxiv.org/abs/1706.03762",
    "Advances in Neural Information Processing Systems 30",
    "inproceedings",
)
VEHTARI_2017 = Reference(
    "Vehtari, Gelman & Gabry",
    2017,
    "Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC",
    "https://arxiv.org/abs/1507.04544",
    "Statistics and Computing",
)
VEHTARI_2021 = Reference(
    "Vehtari, Gelman, Simpson, Carpenter & Buerkner",
    2021,
    (
        "Rank-normalization, folding, and localization: an improved R-hat for assessing"
        " convergence of MCMC"
    ),
    "https://arxiv.org/abs/1903.08008",
    "Bayesian Analysis",
)
VEHTARI_2024 = Reference(
    "Vehtari, Simpson, Gelman, Yao & Gabry",
    2024,
    "Pareto smoothed importance sampling",
    "https://arxiv.org/abs/1507.02646",
    "Journal of Machine Learning Research",
)
VONO_2019 = Reference(
    "Vono, Dobigeon & Chainais",
    2019,
    "Split-and-augmented Gibbs sampler: application to large-scale inference problems",
    "https://arxiv.org/abs/1804.05809",
    "IEEE Transactions on Signal Processing",
)
WANG_2023 = Reference(
    "Wang, Li, Zhuang, Chen, Liang & Sun",
    2023,
    "Early stopping for deep image prior",
    "https://arxiv.org/abs/2112.06074",
    "Transactions on Machine Learning Research",
)
WELLING_2011 = Reference(
    "Welling & Teh",
    2011,
    "Bayesian learning via stochastic gradient Langevin dynamics",
    "https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf",
    "International Conference on Machine Learning",
    "inproceedings",
)
YAO_2018 = Reference(
    "Yao, Vehtari, Simpson & Gelman",
    2018,
    "Yes, but did it work? Evaluating variational inference",
    "https://arxiv.org/abs/1802.02538",
    "International Conference on Machine Learning",
    "inproceedings",
)
ZHANG_2022 = Reference(
    "Zhang, Carpenter, Gelman & Vehtari",
    2022,
    "Pathfinder: parallel quasi-Newton variational inference",
    "https://jmlr.org/papers/v23/21-0889.html",
    "Journal of Machine Learning Research",
)
ZORAN_2011 = Reference(
    "Zoran & Weiss",
    2011,
    "From learning models of natural image patches to whole image restoration",
    "https://doi.org/10.1109/ICCV.2011.6126278",
    "IEEE International Conference on Computer Vision",
    "inproceedings",
)
ZORAN_2012 = Reference(
    "Zoran & Weiss",
    2012,
    "Natural images, Gaussian mixtures and dead leaves",
    "https://proceedings.neurips.cc/paper/2012/hash/8cb22bdd0b7ba1ab13d742e22eed8da2-Abstract.html",
    "Advances in Neural Information Processing Systems 25",
    "inproceedings",
)
