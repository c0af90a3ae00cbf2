"""Cards of the models of images."""

from ppl_zoo.card import Card, Reference

__all__ = ["CARDS"]

EPLL = Card(
    name="epll",
    title="Expected patch log likelihood",
    family="images",
    factory="ppl_zoo.models:EPLL",
    summary="An image whose patches are probable under a mixture of Gaussians, seen through blur,"
    " missing pixels or noise: zoo.restore and `ppl-zoo restore` take a photograph.",
    solvers=("SVI", "Tiling"),
    references=(
        Reference(
            "Zoran & Weiss",
            2011,
            "From learning models of natural image patches to whole image restoration",
            "https://doi.org/10.1109/ICCV.2011.6126278",
        ),
        Reference(
            "Zoran & Weiss",
            2012,
            "Natural images, Gaussian mixtures and dead leaves",
            "https://proceedings.neurips.cc/paper/2012/hash/"
            "8cb22bdd0b7ba1ab13d742e22eed8da2-Abstract.html",
        ),
    ),
)

CARDS: tuple[Card, ...] = (EPLL,)
