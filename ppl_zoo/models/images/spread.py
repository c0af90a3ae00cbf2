"""How wide the draws of split Gibbs are around one image: a law for each kind of operator.

Draws lie under tilings of their own, and are put around one image that knows more than a tiling
does. What that takes off their spread s is most where the tilings agree: in smooth places. On
training images the error of the image follows ``gain * s * (s / 0.05)^(power - 1)`` closely, s
averaged over 5 x 5 pixels, with a power above one. A pixel that was itself seen is another
matter: its error is that of the data, which no tiling knows better, and its draws keep their
spread, times a number near one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.imaging.operators import Blur, Downsample, Identity, LinearOperator, Mask

__all__ = ["LAWS", "SEEN", "Law", "fit_law", "local_spread", "width"]

#: spread of draws, in units of the image, to which a gain refers
UNIT = 0.05
#: pixels across over which the spread is averaged
ACROSS = 5
#: no pixel is made narrower or wider than by these
LIMITS = (0.3, 2.0)


class Law(NamedTuple):
    """Error of the image from the spread of the draws: ``gain * s * (s / UNIT)^(power - 1)``."""

    gain: float
    power: float


#: from 24 images of BSDS300's training part, by `benchmarks/epll.py --parts tempering`
LAWS = {
    Blur: Law(0.84, 1.69),
    Mask: Law(0.70, 1.37),
    Downsample: Law(0.65, 1.56),
    Identity: Law(0.83, 1.0),
}
#: of pixels that a mask lets through
SEEN = 1.13


def width(sd: Tensor, operator: LinearOperator) -> Tensor:
    """Factor by which draws of this standard deviation are made narrower, pixel by pixel.

    Parameters
    ----------
    sd
        Standard deviation of the draws, ``(height, width)``.
    operator
        What they were drawn behind.
    """
    law = LAWS[type(operator)]
    seen = operator.mask.to(sd.device) if isinstance(operator, Mask) else None
    unseen = None if seen is None else ~seen
    local = local_spread(sd, unseen)
    factor = (law.gain * (local / UNIT) ** (law.power - 1.0)).clamp(*LIMITS)
    return factor if seen is None else factor.masked_fill(seen, SEEN)


def local_spread(sd: Tensor, where: Tensor | None = None) -> Tensor:
    """Root of the mean variance around each pixel; only of pixels ``where`` that is true."""
    weight = torch.ones_like(sd) if where is None else where.to(sd)
    total, count = (
        torch.nn.functional.avg_pool2d(t[None, None], ACROSS, 1, ACROSS // 2)[0, 0]
        for t in (weight * sd.square(), weight)
    )
    return (total / count.clamp_min(1e-9)).sqrt()


def fit_law(error: Tensor, spread: Tensor, bins: int = 16) -> Law:
    """Fit the law to pixels: a line through logarithms, of bins of equal count.

    Parameters
    ----------
    error, spread
        What the image is off, and :func:`local_spread`, of the same pixels ``(n,)``.
    bins
        By spread; mean squares are taken in each.

    Raises
    ------
    DataError
        If there are fewer pixels than bins.
    """
    if len(error) < bins:
        raise DataError(f"error: got {len(error)} pixels, expected {bins} or more")
    order = spread.argsort()
    x, y = (
        torch.stack([part.double().square().mean().log() / 2.0 for part in t[order].chunk(bins)])
        for t in (spread, error)
    )
    x = x - torch.tensor(UNIT, dtype=x.dtype).log()
    power = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return Law(float((y.mean() - power * x.mean()).exp()) / UNIT, power)
