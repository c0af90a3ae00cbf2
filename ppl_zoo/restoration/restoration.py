"""``restore``: a spoiled image in; the restored image, with its uncertainty where wanted, out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import autoguide
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit
from ppl_zoo.core.device import pick_device
from ppl_zoo.imaging.colour import from_opponent, noise_gains, to_opponent
from ppl_zoo.imaging.noise import estimate_noise
from ppl_zoo.imaging.operators import Identity, LinearOperator
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.imaging.validation import as_channels, as_image
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.models.pretrained import load_pretrained
from ppl_zoo.restoration.dip import DIP_METHODS, restore_by_net
from ppl_zoo.restoration.half_quadratic import LEAST_NOISE, QUALITIES, Splitting, make_schedule
from ppl_zoo.restoration.sampling import SplitGibbs, Tiling
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping
from ppl_zoo.solvers.svi.svi import SVI

__all__ = ["Restoration", "SplitGibbs", "Tiling", "restore"]

METHODS = ("map", "posterior", "svi", *DIP_METHODS)


@dataclass
class Restoration:
    """What became of an image.

    Attributes
    ----------
    image
        The restored image in [0, 1], ``(height, width)`` or ``(height, width, channels)``.
    sd
        Posterior standard deviation of each pixel, of the shape of ``image``; None for a map,
        and for "dip".
    fit
        The fit of :class:`ppl_zoo.EPLL`, whose posterior draws reach ArviZ; None for a map.
        Its images are the channels, in opponent colours where the image has three. Or the fit
        of :class:`ppl_zoo.DeepImagePrior`.
    sigma
        Standard deviation of the noise that was assumed, in units of the image.
    """

    image: Tensor
    sd: Tensor | None
    fit: Fit | None
    sigma: float


def restore(
    image: Any,
    operator: Any = None,
    sigma: Any = None,
    prior: Any = "gmm200-patches",
    method: Any = "map",
    *,
    quality: str = "best",
    stride: int | None = None,
    num_draws: int = 64,
    steps: int | None = None,
    net: Any = "auto",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Restoration:
    """Restore an image by the expected patch log likelihood, or a deep image prior.

    Parameters
    ----------
    image
        What was seen, ``(height, width)`` or ``(height, width, channels)``: floats in [0, 1], on
        which noise may go beyond, or whole numbers of 8 or 16 bits. The last of 2 or 4 channels
        is transparency and is left alone.
    operator
        How the image was spoiled before noise came: ``zoo.imaging.Identity()`` (the default),
        ``Blur``, ``Mask`` or ``Downsample``.
    sigma
        Standard deviation of the noise in units of [0, 1] (25 grey levels are ``25 / 255``);
        None to estimate it, which takes the identity or a mask's seen pixels as they are.
    prior
        Name of a pretrained prior, or a ``zoo.GaussianMixture`` over patches: of their pixels
        row by row, or of cosine coefficients without the mean
        (:func:`ppl_zoo.imaging.cosine_basis`).
    method
        "map": the posterior mode, by half-quadratic splitting. "posterior": mean, sd and draws
        by tilings for noise alone (the identity), by split Gibbs behind an operator. "svi": a
        mean-field normal posterior of every pixel; for small images. "dip": a deep image prior,
        which has seen no other image and stops by itself; ``zoo.EarlyStopping(...)`` for options
        of one's own, such as the rule, runs to average or the truth to look at. "dip-langevin",
        "dip-normal": mean and sd of the image over a density of the net's weights.
    quality
        "best", "fast" (some .04 dB below), "fastest" (some .15 dB) or "exact": the published
        algorithm, with every patch and the component by all products, slow and some .1 dB below,
        for the others look at the image at half its size too (Papyan & Elad 2016).
    stride
        Every how many pixels a patch begins, instead of that of ``quality``.
    num_draws
        Posterior draws that are kept.
    steps
        Steps of "svi" (300) and, at most, of the net.
    net
        "fast", "paper", or a mapping of options (:class:`ppl_zoo.DeepImagePrior`); "auto" for
        the paper's on a GPU.
    seed
        Makes draws repeatable.
    device
        "auto" (a GPU where there is one), "cpu", "cuda".
    progress
        Show a progress bar; silent in any case where there is no terminal.

    Returns
    -------
    Restoration

    Raises
    ------
    DataError
        If the image is smaller than a patch, has NaN or values that are not of [0, 1], or an
        option is unknown.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> clean = torch.linspace(0.0, 1.0, 32).expand(32, 32)
    >>> noisy = clean + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    >>> done = zoo.restore(noisy, sigma=0.1, progress=False)
    >>> zoo.imaging.psnr(done.image, clean) > zoo.imaging.psnr(noisy, clean) + 10.0
    True
    """
    by_net = isinstance(method, EarlyStopping) or method in DIP_METHODS
    if not by_net and method not in METHODS:
        raise DataError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if quality not in QUALITIES:
        raise DataError(f"quality: got {quality!r}, expected one of {', '.join(QUALITIES)}")
    operator = Identity() if operator is None else operator
    if not isinstance(operator, LinearOperator):
        raise DataError(
            f"operator: got a {type(operator).__name__}, expected one of zoo.imaging: Identity(), "
            "Blur(kernel), Mask(mask), Downsample(factor), Lanczos(factor)"
        )
    device = pick_device(device)
    values = as_image(image, ignore=getattr(operator, "mask", None)).to(device)
    channels, alpha = as_channels(values)
    known, sigma = sigma is not None, _noise_level(sigma, channels, operator)
    if by_net:
        restored, sd, done = restore_by_net(
            channels,
            operator,
            sigma,
            method,
            known=known,
            net=net,
            num_draws=num_draws,
            steps=steps,
            seed=seed,
            progress=progress,
        )
        return _finish(restored, sd, done, sigma, values, alpha)
    mixture = _find_prior(prior, device)
    shape = operator.image_shape(tuple(channels.shape[-2:]))
    PatchGrid(shape, mixture.size)  # refuses images smaller than a patch
    opponent = len(channels) == 3
    if opponent:
        channels = to_opponent(channels.movedim(0, -1)).movedim(-1, 0)
    noise = torch.full((len(channels),), max(sigma, LEAST_NOISE), device=device)
    if opponent:
        noise = noise * noise.new_tensor(noise_gains())
    schedule = make_schedule(quality, stride)
    sd, done = None, None
    if method == "map":
        restored = Splitting(channels, noise, operator, mixture, schedule, progress).mode()
    elif method == "posterior":
        draw = Tiling if isinstance(operator, Identity) else SplitGibbs
        solver = draw(num_draws, quality, stride)
        data = (channels, noise)
        model = EPLL.of(mixture, operator)
        done = fit(model, data, solver, device=device, seed=seed, progress=progress)
        restored, sd = (done.solution.state_tensors[name] for name in ("mean", "sd"))
    else:
        job = Splitting(channels, noise, operator, mixture, schedule, progress)
        done = _fit_normal(job, 300 if steps is None else steps, seed, progress)
        guide = done.guide
        restored = guide.locs.image.detach()
        sd = guide.scales.image.detach()
    if opponent:
        restored = from_opponent(restored.movedim(0, -1)).movedim(-1, 0)
        sd = None if sd is None else _opponent_sd(sd)
    return _finish(restored, sd, done, sigma, values, alpha)


def _finish(
    restored: Tensor,
    sd: Tensor | None,
    done: Fit | None,
    sigma: float,
    values: Tensor,
    alpha: Tensor | None,
) -> Restoration:
    """Bring channels into the form that the image was given in."""
    restored = restored.clamp(0.0, 1.0)
    if alpha is not None and alpha.shape[-2:] != restored.shape[-2:]:
        raise DataError(
            "image: got transparency with an operator that changes the size, expected an image "
            "without"
        )
    out = [
        None if part is None else _as_given(part, extra, values.ndim)
        for part, extra in ((restored, alpha), (sd, None if alpha is None else 0.0 * alpha))
    ]
    return Restoration(out[0], out[1], done, sigma)


def _fit_normal(job: Splitting, steps: int, seed: int, progress: bool) -> Fit:
    """Mean-field normal posterior of every pixel, from the mode."""
    model = EPLL.of(job.mixture, job.operator)
    start = functools.partial(autoguide.init_to_value, values={"image": job.mode()})
    guide = functools.partial(autoguide.AutoNormal, init_loc_fn=start, init_scale=0.02)
    solver = SVI(guide=guide, steps=steps, learning_rate=0.003, schedule="cosine", compile=False)
    data = (job.channels, job.noise)
    device = job.channels.device
    return fit(model, data, solver, device=device, seed=seed, progress=progress)


def _find_prior(prior: Any, device: torch.device) -> PatchMixture:
    mixture = _pretrained(prior) if isinstance(prior, str) else PatchMixture.of(prior)
    return mixture.to(device)


@functools.lru_cache(maxsize=2)
def _pretrained(name: str) -> PatchMixture:
    """Load a pretrained prior; what is computed of it is there for the next image."""
    return PatchMixture.of(load_pretrained(name))


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


def _as_given(channels: Tensor, alpha: Tensor | None, ndim: int) -> Tensor:
    if ndim == 2:
        return channels[0]
    return torch.cat([channels, *([] if alpha is None else [alpha])]).movedim(0, -1)


def _opponent_sd(sd: Tensor) -> Tensor:
    """Sd of red, green and blue from those of opponent colours, which are independent."""
    back = from_opponent(torch.eye(3, dtype=sd.dtype, device=sd.device))
    back = back - from_opponent(torch.zeros(1, 3, dtype=sd.dtype, device=sd.device))
    variance = torch.einsum("ohw,oc->chw", sd.square(), back.square())
    return variance.clamp_min(0.0).sqrt()
