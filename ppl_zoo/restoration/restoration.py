"""Image restoration: ``zoo.restore`` and its methods."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyro.infer import autoguide
from torch import Tensor

from ppl_zoo.core.device import pick_device
from ppl_zoo.core.display import Described, brief, html_table
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.fitting.result import Fit
from ppl_zoo.imaging.colour import from_opponent, noise_gains, to_opponent
from ppl_zoo.imaging.files import png_bytes
from ppl_zoo.imaging.noise import estimate_noise
from ppl_zoo.imaging.operators import Identity, LinearOperator, Mask
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.imaging.validation import as_channels, as_image, check_unit_interval
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.models.pretrained import load_pretrained
from ppl_zoo.restoration.dip import (
    restore_by_early_stopping,
    restore_by_langevin,
    restore_by_normal,
)
from ppl_zoo.restoration.half_quadratic import (
    QUALITIES,
    HalfQuadraticSplitting,
    make_schedule,
)
from ppl_zoo.restoration.problem import MIN_NOISE_SD, ImageEstimate, RestorationProblem
from ppl_zoo.restoration.sampling import SplitGibbs, Tiling
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping
from ppl_zoo.solvers.svi.svi import SVI

__all__ = ["Restoration", "SplitGibbs", "Tiling", "restore"]

#: steps of the mean-field fit
SVI_STEPS = 300


@dataclass(repr=False)
class Restoration(Described):
    """Restored image, with its uncertainty where the method estimates one.

    Attributes
    ----------
    image
        The restored image in [0, 1], ``(height, width)`` or ``(height, width, channels)``.
    sd
        Posterior standard deviation of each pixel, of the shape of ``image``; None for "map" and
        "dip".
    fit
        The fit of :class:`ppl_zoo.EPLL`, whose posterior draws ``to_arviz`` exports; None for
        "map". Its images are the channels, in opponent colours where the image has three. Or the
        fit of :class:`ppl_zoo.DeepImagePrior`.
    sigma
        Standard deviation of the noise that was assumed, in units of the image.
    """

    image: Tensor
    sd: Tensor | None
    fit: Fit | None
    sigma: float

    def _repr_html_(self) -> str:
        """Show the image, and beside it the sd of its pixels, the largest white."""
        pictures = [self.image]
        if self.sd is not None:
            pictures.append(self.sd / self.sd.max().clamp_min(1e-9))
        rows = {"image": brief(self.image), "noise": f"sd {self.sigma:.4g}"}
        if self.sd is not None:
            rows["sd of a pixel"] = f"{self.sd.mean():.4g} on average, {self.sd.max():.4g} at most"
        shown = "".join(
            f'<img alt="{name}" title="{name}" style="max-width:48%;margin-right:8px" '
            f'src="data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode()}">'
            for name, picture in zip(("restored image", "pixel sd"), pictures, strict=False)
        )
        return html_table("Restoration", rows, shown)


@one_at_a_time
def restore(
    image: Any,
    operator: Any = None,
    sigma: Any = None,
    prior: Any = "gmm200-patches",
    method: Any = "map",
    *,
    value_range: Any = None,
    quality: str = "best",
    stride: int | None = None,
    num_draws: int = 64,
    steps: int | None = None,
    net: Any = "auto",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Restoration:
    """Restore an image by the expected patch log likelihood, or a deep image prior.

    Parameters
    ----------
    image
        The degraded image, ``(height, width)`` or ``(height, width, channels)``: floats in [0, 1],
        which noise may exceed, or integers of 8 or 16 bits. The last of 2 or 4 channels is
        transparency and is returned unchanged. Or a path, or an image of Pillow.
    operator
        The degradation before noise: ``zoo.imaging.Identity()`` (the default), ``Blur``,
        ``Mask`` or ``Downsample``.
    sigma
        Standard deviation of the noise in units of [0, 1] (25 grey levels are ``25 / 255``);
        None to estimate it, for the identity only.
    prior
        Name of a pretrained prior, or a ``zoo.GaussianMixture`` over patches: of their pixels
        row by row, or of cosine coefficients without the mean
        (:func:`ppl_zoo.imaging.cosine_basis`).
    method
        "map": the posterior mode, by half-quadratic splitting. "posterior": mean, sd and draws
        by tilings for noise alone (the identity), by split Gibbs behind an operator. "svi": a
        mean-field normal posterior of every pixel; for small images. "dip": a deep image prior,
        which is trained on no other image, stopped early; ``zoo.EarlyStopping(...)`` for its
        options, such as the rule, the runs to average or a true image to compare with.
        "dip-langevin", "dip-normal": mean and sd of the image over a posterior of the net's
        weights, by Langevin dynamics or mean-field normal.
    value_range
        The values of black and white in ``image`` where they are not 0 and 1, such as ``(-1, 1)``
        or ``(0, 255)``; ``sigma`` and the result stay in units of [0, 1].
    quality
        "best", "fast" (some .04 dB below), "fastest" (some .15 dB) or "exact": the published
        algorithm, with every patch and components by exact scores, slow and some .1 dB below,
        since the others use the image at half its size too (Papyan & Elad 2016).
    stride
        Pixels between the starts of two patches, instead of that of ``quality``.
    num_draws
        Number of posterior draws.
    steps
        Steps of "svi" (300), and largest number of steps of the net.
    net
        "fast", "paper", or a mapping of options (:class:`ppl_zoo.DeepImagePrior`); "auto" for
        the paper's on a GPU.
    seed
        Seed of the draws.
    device
        "auto" (a GPU where there is one), "cpu", "cuda".
    progress
        Show a progress bar; silent in any case where there is no terminal.
    checkpoint
        Run directory that a fit (of a deep image prior, or by "svi") is saved to, every half
        minute and at its end. If it holds one of this image already, that goes on.

    Returns
    -------
    Restoration

    Raises
    ------
    DataError
        If the image is smaller than a patch, has NaN or more values outside of [0, 1] than its
        noise explains, cannot be read, or an option is unknown.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> clean = torch.linspace(0.0, 1.0, 32).expand(32, 32)
    >>> noisy = clean + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    >>> done = zoo.restore(noisy, sigma=0.1, progress=False)
    >>> zoo.imaging.psnr(done.image, clean) > zoo.imaging.psnr(noisy, clean) + 10.0
    True
    """
    custom = isinstance(method, EarlyStopping)
    if not custom and method not in _METHODS:
        raise DataError(
            f"method: got {method!r}{did_you_mean(method, _METHODS)}, "
            f"expected one of {', '.join(_METHODS)}"
        )
    if quality not in QUALITIES:
        raise DataError(
            f"quality: got {quality!r}{did_you_mean(quality, QUALITIES)}, "
            f"expected one of {', '.join(QUALITIES)}"
        )
    operator = Identity() if operator is None else operator
    if not isinstance(operator, LinearOperator):
        raise DataError(
            f"operator: got a {type(operator).__name__}, expected one of zoo.imaging: Identity(), "
            "Blur(kernel), Mask(mask), Downsample(factor), Lanczos(factor)"
        )
    ignore = operator.mask if isinstance(operator, Mask) else None
    values = as_image(image, ignore, value_range).to(pick_device(device))
    channels, alpha = as_channels(values)
    noise_sd = _noise_level(sigma, channels, operator)
    if value_range is None:
        check_unit_interval(channels, noise_sd)
    problem = RestorationProblem(
        channels,
        operator,
        noise_sd,
        sigma_known=sigma is not None,
        prior=prior,
        method=method,
        quality=quality,
        stride=stride,
        num_draws=num_draws,
        steps=steps,
        net=net,
        seed=seed,
        progress=progress,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    estimate = (restore_by_early_stopping if custom else _METHODS[method])(problem)
    return _as_given(estimate, problem.sigma, values.ndim, alpha)


# ---- methods of EPLL ------------------------------------------------------------------------


def _posterior_mode(problem: RestorationProblem) -> ImageEstimate:
    """Posterior mode by half-quadratic splitting."""
    return _from_opponent(ImageEstimate(_splitting(problem).mode()))


def _posterior_draws(problem: RestorationProblem) -> ImageEstimate:
    """Posterior mean and sd of draws, by tilings or behind an operator by split Gibbs."""
    splitting, operator = _splitting(problem), problem.operator
    sampler = Tiling if isinstance(operator, Identity) else SplitGibbs
    solver = sampler(problem.num_draws, problem.quality, problem.stride)
    model, data = EPLL.of(splitting.mixture, operator), (splitting.channels, splitting.noise)
    fitted = problem.fit(model, data, solver)
    mean, sd = (fitted.solution.state_tensors[name] for name in ("mean", "sd"))
    return _from_opponent(ImageEstimate(mean, sd, fitted))


def _mean_field(problem: RestorationProblem) -> ImageEstimate:
    """Mean-field normal posterior of every pixel, initialised at the mode."""
    splitting = _splitting(problem)
    start = functools.partial(autoguide.init_to_value, values={"image": splitting.mode()})
    solver = SVI(
        guide=functools.partial(autoguide.AutoNormal, init_loc_fn=start, init_scale=0.02),
        steps=SVI_STEPS if problem.steps is None else problem.steps,
        learning_rate=0.003,
        schedule="cosine",
        compile=False,
    )
    model = EPLL.of(splitting.mixture, problem.operator)
    data = (splitting.channels, splitting.noise)
    fitted = problem.fit(model, data, solver)
    guide = fitted.guide
    mean, sd = guide.locs.image.detach(), guide.scales.image.detach()
    return _from_opponent(ImageEstimate(mean, sd, fitted))


def _splitting(problem: RestorationProblem) -> HalfQuadraticSplitting:
    """Half-quadratic splitting of the problem's channels, in opponent colours if three."""
    channels = problem.channels
    mixture = _find_prior(problem.prior, channels.device)
    PatchGrid(problem.shape, mixture.size)  # refuses images smaller than a patch
    noise = torch.full((len(channels),), max(problem.sigma, MIN_NOISE_SD), device=channels.device)
    if len(channels) == 3:
        channels = to_opponent(channels.movedim(0, -1)).movedim(-1, 0)
        noise = noise * noise.new_tensor(noise_gains())
    schedule = make_schedule(problem.quality, problem.stride)
    return HalfQuadraticSplitting(
        channels, noise, problem.operator, mixture, schedule, problem.progress
    )


def _from_opponent(estimate: ImageEstimate) -> ImageEstimate:
    """Estimate of red, green and blue from that of opponent colours, if there are three."""
    if len(estimate.image) != 3:
        return estimate
    image = from_opponent(estimate.image.movedim(0, -1)).movedim(-1, 0)
    sd = None if estimate.sd is None else _opponent_sd(estimate.sd)
    return ImageEstimate(image, sd, estimate.fit)


def _opponent_sd(sd: Tensor) -> Tensor:
    """Sd of red, green and blue from those of opponent colours, which are independent."""
    back = from_opponent(torch.eye(3, dtype=sd.dtype, device=sd.device))
    back = back - from_opponent(torch.zeros(1, 3, dtype=sd.dtype, device=sd.device))
    variance = torch.einsum("ohw,oc->chw", sd.square(), back.square())
    return variance.clamp_min(0.0).sqrt()


def _find_prior(prior: Any, device: torch.device) -> PatchMixture:
    mixture = _pretrained(prior) if isinstance(prior, str) else PatchMixture.of(prior)
    return mixture.to(device)


@functools.lru_cache(maxsize=2)
def _pretrained(name: str) -> PatchMixture:
    """Load a pretrained prior; its constants by noise level are cached for the next image."""
    return PatchMixture.of(load_pretrained(name))


_METHODS: dict[str, Callable[[RestorationProblem], ImageEstimate]] = {
    "map": _posterior_mode,
    "posterior": _posterior_draws,
    "svi": _mean_field,
    "dip": restore_by_early_stopping,
    "dip-langevin": restore_by_langevin,
    "dip-normal": restore_by_normal,
}


# ---- input and output -----------------------------------------------------------------------


def _noise_level(sigma: Any, channels: Tensor, operator: LinearOperator) -> float:
    if sigma is None:
        if not isinstance(operator, Identity):
            raise DataError(
                f"sigma: got None with a {type(operator).__name__}, expected the sd of the noise "
                "(it can be estimated for Identity() only)"
            )
        return estimate_noise(channels.movedim(0, -1))
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma <= 1:
        raise DataError(
            f"sigma: got {sigma!r}, expected an sd from 0 to 1 in units of the image "
            "(25 grey levels of 255 are 25 / 255)"
        )
    return float(sigma)


def _as_given(
    estimate: ImageEstimate, sigma: float, ndim: int, alpha: Tensor | None
) -> Restoration:
    """Restoration in the dimensions of the image that was given, with its transparency."""
    image, sd = estimate.image.clamp(0.0, 1.0), estimate.sd
    if alpha is not None and alpha.shape[-2:] != image.shape[-2:]:
        raise DataError(
            "image: got transparency with an operator that changes the size, expected an image "
            "without"
        )
    image = _channels_last(image, alpha, ndim)
    if sd is not None:
        sd = _channels_last(sd, None if alpha is None else 0.0 * alpha, ndim)
    return Restoration(image, sd, estimate.fit, sigma)


def _channels_last(channels: Tensor, alpha: Tensor | None, ndim: int) -> Tensor:
    if ndim == 2:
        return channels[0]
    return torch.cat([channels, *([] if alpha is None else [alpha])]).movedim(0, -1)
