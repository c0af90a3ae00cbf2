"""``ppl-zoo restore``: restore an image file; write the result, and a figure."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tyro.conf import Positional, arg

from ppl_zoo.cli.terminal import DeviceOption, JSONFlag, note
from ppl_zoo.core.errors import DataError, RunError
from ppl_zoo.imaging import (
    Blur,
    Downsample,
    Identity,
    LinearOperator,
    Mask,
    read_image,
    write_image,
)
from ppl_zoo.imaging.validation import as_image
from ppl_zoo.restoration.restoration import Restoration, restore

__all__ = ["RestoreRequest", "restoration_figure", "restore_image"]

#: assumed sd of the noise by task, grey levels of 255; None to estimate it
DEFAULT_SIGMA = {"denoise": None, "deblur": 2.55, "inpaint": 0.0, "upscale": 1.0}
#: pixels of an image up to which denoising draws from the posterior by default
MAX_PIXELS_POSTERIOR = 2_000_000
#: pixels of a panel's longer side; larger images are subsampled in the figure
MAX_PANEL_PIXELS = 1200


@dataclass(frozen=True)
class RestoreRequest:
    """Arguments of ``ppl-zoo restore``.

    Parameters
    ----------
    image
        PNG, JPEG or TIFF, grey or colour.
    value_range
        The values of black and white in a file of floating point; default 0 and 1.
    frame
        Which frame of a file that holds several, from 0.
    task
        What is wrong with it.
    sigma
        Standard deviation of the noise in grey levels of 255; default: estimated to denoise,
        else 2.55 to deblur (one in a hundred), 1 to up-scale and 0 to inpaint.
    kernel
        To deblur: the blur's kernel, an image or .npy file.
    mask
        To inpaint: an image, white where the photograph is seen.
    factor
        To up-scale: by how much.
    prior
        A pretrained prior.
    method
        map, the best image; posterior, with pixel sd; svi, for small images. Default: posterior
        to denoise up to two million pixels, else map. dip: a deep image prior, which needs no
        other prior and a minute for 128 x 128 pixels; dip-langevin, dip-normal: with pixel sd.
    quality
        best, fast, fastest or exact.
    draws
        Posterior draws that are kept.
    out
        The restored image; default IMAGE-restored.png, and IMAGE-restored-figure.png.
    seed
        Of the draws.
    net
        Of the deep image prior: fast, paper, or auto for the paper's on a GPU.
    steps
        Most steps of the deep image prior.
    checkpoint
        Folder that the fit of a net, or of svi, is saved to as it runs; the same command goes on
        from it.
    """

    image: Annotated[str, Positional, arg(metavar="IMAGE")]
    value_range: tuple[float, float] | None = None
    frame: int | None = None
    task: Literal["denoise", "deblur", "inpaint", "upscale"] = "denoise"
    sigma: float | None = None
    kernel: Annotated[str | None, arg(metavar="FILE")] = None
    mask: Annotated[str | None, arg(metavar="FILE")] = None
    factor: int = 2
    prior: str = "gmm200-patches"
    method: Literal["map", "posterior", "svi", "dip", "dip-langevin", "dip-normal"] | None = None
    quality: Literal["best", "fast", "fastest", "exact"] = "best"
    draws: int = 32
    out: Annotated[str | None, arg(metavar="FILE")] = None
    device: DeviceOption = "auto"
    seed: int = 0
    net: Literal["auto", "fast", "paper"] = "auto"
    steps: int | None = None
    checkpoint: Annotated[str | None, arg(metavar="FOLDER")] = None
    json: JSONFlag = False


def restore_image(request: RestoreRequest) -> int:
    """Restore an image, write it and its figure; returns the exit code."""
    source = Path(request.image)
    out = Path(request.out or source.with_name(f"{source.stem}-restored.png"))
    given = as_image(read_image(source, frame=request.frame), value_range=request.value_range)
    bits = 16 if given.ndim == 2 and source.suffix.lower() != ".jpg" and _is_deep(source) else 8
    _try_out(out, given, bits)
    operator, method = _operator(request), request.method
    if method is None:
        pixels = given.shape[0] * given.shape[1]
        small = request.task == "denoise" and pixels <= MAX_PIXELS_POSTERIOR
        method = "posterior" if small else "map"
    level = DEFAULT_SIGMA[request.task] if request.sigma is None else request.sigma
    began = time.perf_counter()
    done = restore(
        given,
        operator,
        None if level is None else level / 255.0,
        request.prior,
        method,
        value_range=None if request.value_range is None else (0.0, 1.0),
        quality=request.quality,
        num_draws=request.draws,
        steps=request.steps,
        net=request.net,
        seed=request.seed,
        device=request.device,
        checkpoint=request.checkpoint,
    )
    seconds = time.perf_counter() - began
    figure_file = out.with_name(f"{out.stem}-figure.png")
    try:
        write_image(out, done.image, bits=bits)
        restoration_figure(given, done).savefig(figure_file, dpi=150, bbox_inches="tight")
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error}") from error
    record = {
        "image": str(out),
        "figure": str(figure_file),
        "task": request.task,
        "method": method,
        "sigma": round(done.sigma * 255.0, 3),
        "mean_sd": None if done.sd is None else round(float(_colours(done.sd).mean()) * 255.0, 3),
        "seconds": round(seconds, 2),
    }
    if request.json:
        print(json.dumps(record, indent=1))
    else:
        known = "estimated" if level is None else "as given"
        note(f"noise: {record['sigma']} grey levels ({known}); {seconds:.1f} s")
        if done.sd is not None:
            note(f"posterior sd of a pixel: {record['mean_sd']} grey levels on average")
        print(f"{out}\n{figure_file}")
    return 0


def _try_out(out: Path, given: Tensor, bits: int) -> None:
    """Write a pixel of such an image to such a file, before the work."""
    trial = out.with_name(f".{out.stem}-{secrets.token_hex(4)}{out.suffix}")
    try:
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder")
        try:
            write_image(trial, given[:1, :1], bits=bits)
        finally:
            trial.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"--out: got {str(out)!r}, expected a file such as {out.stem}.png that can be "
            f"written: {error}"
        ) from error


def restoration_figure(given: Tensor, done: Restoration) -> Figure:
    """Figure of a restoration: input, result and pixel sd side by side."""
    panels = [given.detach().cpu(), done.image.cpu()]
    panels += [] if done.sd is None else [done.sd.cpu()]
    names = ("input", "restored", "posterior sd, grey levels")
    height, width = done.image.shape[:2]
    size = (4.0 * len(panels) + 0.7 * (done.sd is not None), 4.0 * height / width + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    for index, (panel, name) in enumerate(zip(panels, names, strict=False)):
        # subsampled: the pixels of a large photograph would take much memory
        step = max(1, max(panel.shape[:2]) // MAX_PANEL_PIXELS)
        panel = panel[::step, ::step]
        axis = figure.add_subplot(1, len(panels), index + 1)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
        if index < 2:
            values = panel.clamp(0, 1).numpy()
            values = values[..., 0] if values.shape[-1:] in ((1,), (2,)) else values
            axis.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        else:
            sd = panel if panel.ndim == 2 else panel[..., : min(3, panel.shape[-1])].mean(-1)
            shown = axis.imshow(255.0 * sd.numpy(), cmap="viridis", interpolation="nearest")
            # beside the panel, which stays as large as the others
            figure.colorbar(shown, cax=axis.inset_axes((1.03, 0.0, 0.05, 1.0)))
    return figure


def _colours(image: Tensor) -> Tensor:
    """Colour channels of an image; its transparency is not denoised."""
    return image[..., :-1] if image.ndim == 3 and image.shape[-1] in (2, 4) else image


def _operator(request: RestoreRequest) -> LinearOperator:
    """Degradation operator of the task."""
    if request.task == "deblur":
        return Blur(_read_kernel(_required(request.kernel, "--kernel", request.task)))
    if request.task == "inpaint":
        seen = read_image(_required(request.mask, "--mask", request.task), grey=True)
        return Mask(seen > 0.5)
    return Downsample(request.factor) if request.task == "upscale" else Identity()


def _read_kernel(path: str) -> Tensor:
    if not path.endswith(".npy"):
        return read_image(path, grey=True)
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: got no array that can be read: {error}") from error


def _required(value: str | None, option: str, task: str) -> str:
    if value is None:
        raise DataError(f"{option}: got nothing, expected a file for --task {task}")
    return value


def _is_deep(path: Path) -> bool:
    """Whether an image file has more than 8 bits a channel."""
    from PIL import Image

    with Image.open(path) as file:
        return file.mode.startswith("I")
