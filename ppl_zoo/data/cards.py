"""Data cards: source, units, licence and sizes of every data set."""

from ppl_zoo.data.dataset import DataCard


def _sizes(train: int, valid: int = 0, test: int = 0) -> dict[str, int]:
    sizes = {"train": train, "valid": valid, "test": test}
    return {split: size for split, size in sizes.items() if size}


WINE_FEATURES = (
    "fixed acidity",
    "volatile acidity",
    "citric acid",
    "residual sugar",
    "chlorides",
    "free sulfur dioxide",
    "total sulfur dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
)
_WINE = {
    "shape": "(11,): physicochemical measurements; labels: quality, 0 to 10",
    "units": "g/dm3 (acids, sugar, chlorides, sulphates), mg/dm3 (sulphur dioxide), g/cm3"
    " (density), % vol (alcohol)",
    "licence": "CC BY 4.0 (UCI)",
    "citation": "Cortez, Cerdeira, Almeida, Matos & Reis (2009), Modeling wine preferences by data"
    " mining from physicochemical properties, Decision Support Systems 47(4)",
    "url": "https://doi.org/10.24432/C56S3T",
    "feature_names": WINE_FEATURES,
}
_BINARY = {
    "units": "none: 0 or 1",
    "licence": "CC BY 4.0 (UCI); the split comes without a licence",
}

CARDS = (
    DataCard(
        name="old-faithful",
        title="Eruptions of the Old Faithful geyser",
        shape="(2,): duration of an eruption and the wait for the next",
        units="minutes",
        licence="public facts, from a published table",
        citation="Azzalini & Bowman (1990), A look at some data on the Old Faithful geyser,"
        " Applied Statistics 39(3)",
        url="https://doi.org/10.2307/2347385",
        feature_names=("eruptions", "waiting"),
        embedded=True,
        num_observations=_sizes(272),
    ),
    DataCard(
        name="digits",
        title="Handwritten digits, 8x8",
        shape="(64,): 8x8 pixels; labels: the digit",
        units="ink, 0 (none) to 1, in sixteenths",
        licence="CC BY 4.0 (UCI)",
        citation="Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; as"
        " shipped by scikit-learn",
        url="https://doi.org/10.24432/C50P49",
        image_shape=(8, 8),
        embedded=True,
        num_observations=_sizes(1297, 200, 300),
    ),
    DataCard(
        name="photo-patches",
        title="Grey 8x8 patches of two photographs",
        shape="(64,): 8x8 pixels",
        units="grey value, 0 (black) to 1 (white)",
        licence="CC BY 2.0",
        citation="Photographs china.jpg by danielbuechele and flower.jpg by vultilion (flickr), as"
        " shipped by scikit-learn; turned to grey and cut into patches",
        url="https://scikit-learn.org/stable/modules/generated/"
        "sklearn.datasets.load_sample_images.html",
        image_shape=(8, 8),
        embedded=True,
        num_observations=_sizes(20_000, 2_500, 2_500),
    ),
    DataCard(
        name="eight-schools",
        title="Effects of coaching in eight schools, with standard errors",
        shape="two tensors (8,): effect y and its standard error sigma",
        units="points of the SAT-V test",
        licence="public facts, from a published table",
        citation="Rubin (1981), Estimation in parallel randomized experiments, Journal of"
        " Educational Statistics 6(4)",
        url="https://doi.org/10.3102/10769986006004377",
        feature_names=("y", "sigma"),
        embedded=True,
        num_observations=_sizes(8),
    ),
    DataCard(
        name="noisy-photograph",
        title="A piece of a photograph behind white noise, with the noise's level",
        shape="two tensors: y (1, 32, 32), noise (1,)",
        units="grey value, 0 (black) to 1 (white), and what noise adds",
        licence="CC BY 2.0",
        citation="Photograph china.jpg by danielbuechele (flickr), as shipped by scikit-learn;"
        " turned to grey, with noise of 25 grey levels",
        url="https://scikit-learn.org/stable/modules/generated/"
        "sklearn.datasets.load_sample_images.html",
        image_shape=(32, 32),
        embedded=True,
        num_observations=_sizes(1),
    ),
    DataCard(
        name="short-messages",
        title="A hundred short messages as counts of words",
        shape="(words,): how often each word of train occurs; labels: 1 for spam",
        units="counts",
        licence="Apache-2.0, as this package",
        citation="Written for this package, after the manner of Almeida, Gomez Hidalgo & Yamakami"
        " (2011), Contributions to the study of SMS spam filtering; nobody's own messages",
        url="https://doi.org/10.24432/C5CC84",
        embedded=True,
        num_observations=_sizes(70, 0, 30),
    ),
    DataCard(
        name="mnist",
        title="Handwritten digits, 28x28",
        shape="(784,): 28x28 pixels; labels: the digit",
        units="ink, 0 (none) to 1, in 255ths",
        licence="CC BY-SA 3.0, as commonly stated",
        citation="LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to"
        " document recognition, Proceedings of the IEEE 86(11)",
        url="http://yann.lecun.com/exdb/mnist/",
        image_shape=(28, 28),
        num_observations=_sizes(50_000, 10_000, 10_000),
    ),
    DataCard(
        name="mnist-binarized",
        title="MNIST in black and white: the fixed draw of the papers, or a fresh one",
        shape="(784,): 28x28 pixels; labels with binarization='dynamic' only",
        units="none: 0 or 1",
        licence="CC BY-SA 3.0, as commonly stated for MNIST",
        citation="Salakhutdinov & Murray (2008), On the quantitative analysis of deep belief"
        " networks, ICML; files by Larochelle & Murray (2011)",
        url="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        image_shape=(28, 28),
        num_observations=_sizes(50_000, 10_000, 10_000),
    ),
    DataCard(
        name="adult",
        title="Census records as 123 binary features",
        shape="(123,): one-hot attributes of a person",
        citation="Becker & Kohavi (1996), Adult, UCI; split of Larochelle & Murray (2011), NADE",
        url="https://doi.org/10.24432/C5XW20",
        num_observations=_sizes(5_000, 1_414, 26_147),
        **_BINARY,
    ),
    DataCard(
        name="dna",
        title="Splice junctions of DNA as 180 binary features",
        shape="(180,): 60 nucleotides, three bits each",
        citation="Noordewier, Towell & Shavlik (1991), Molecular Biology (Splice-junction Gene"
        " Sequences), UCI; split of Larochelle & Murray (2011), NADE",
        url="https://doi.org/10.24432/C5M888",
        num_observations=_sizes(1_400, 600, 1_186),
        **_BINARY,
    ),
    DataCard(
        name="mushrooms",
        title="Mushrooms as 112 binary features",
        shape="(112,): one-hot attributes of a mushroom",
        citation="Schlimmer (1987), Mushroom, UCI; split of Larochelle & Murray (2011), NADE",
        url="https://doi.org/10.24432/C5959T",
        num_observations=_sizes(2_000, 500, 5_624),
        **_BINARY,
    ),
    DataCard(
        name="red-wine",
        title="Red vinho verde: 11 measurements and a quality",
        num_observations=_sizes(1_279, 160, 160),
        **_WINE,
    ),
    DataCard(
        name="white-wine",
        title="White vinho verde: 11 measurements and a quality",
        num_observations=_sizes(3_918, 490, 490),
        **_WINE,
    ),
    DataCard(
        name="sms-spam",
        title="Text messages as counts of words, spam or not",
        shape="(4514,): how often each word occurs; labels: 1 for spam",
        units="counts",
        licence="CC BY 4.0 (UCI)",
        citation="Almeida, Gomez Hidalgo & Yamakami (2011), Contributions to the study of SMS spam"
        " filtering, DocEng",
        url="https://doi.org/10.24432/C5CC84",
        num_observations=_sizes(1_674, 0, 3_900),
    ),
    DataCard(
        name="spambase",
        title="E-mails as 57 measurements, spam or not",
        shape="(57,): frequencies of 48 words and 6 characters, lengths of runs of capitals;"
        " labels: 1 for spam",
        units="per cent of words or characters; runs in letters",
        licence="CC BY 4.0 (UCI)",
        citation="Hopkins, Reeber, Forman & Suermondt (1999), Spambase, UCI",
        url="https://doi.org/10.24432/C53G6X",
        num_observations=_sizes(4_601),
    ),
    DataCard(
        name="bsds300-patches",
        title="Grey 8x8 patches of the Berkeley images, in RNADE's 63 coordinates",
        shape="(63,): 8x8 pixels less their mean, without the last",
        units="grey value, 1 is white",
        licence="Berkeley Segmentation Dataset: non-commercial research and education only",
        citation="Martin, Fowlkes, Tal & Malik (2001), A database of human segmented natural"
        " images, ICCV; protocol of Uria, Murray & Larochelle (2013), RNADE, NIPS",
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        num_observations=_sizes(90_000, 10_000, 20_000),
    ),
)
