"""``ppl-zoo restore``: an image file in, the restored one and a figure out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.cli.terminal import note
from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import (
    Blur,
    Downsample,
    Identity,
    LinearOperator,
    Mask,
    read_image,
    write_image,
)
from ppl_zoo.restoration.restoration import Restoration, restore

__all__ = ["Request", "picture_of", "restore_image"]

#: assumed noise in grey levels; None to estimate it
NOISE = {"denoise": None, "deblur": 2.55, "inpaint": 0.0, "upscale": 1.0}
#: pixels up to which denoising shows its uncertainty without being asked
SMALL = 2_000_000
#: pixels of a panel's longer side, from which on a figure leaves rows and columns out
SHOWN = 1200


@dataclass(frozen=True)
class Request:
    """What was asked of ``ppl-zoo restore``."""

    image: str
    task: str = "denoise"
    sigma: float | None = None
    kernel: str | None = None
    mask: str | None = None
    factor: int = 2
    prior: str = "gmm200-patches"
    method: str | None = None
    quality: str = "best"
    draws: int = 32
    out: str | None = None
    device: str = "auto"
    seed: int = 0
    net: str = "auto"
    steps: int | None = None


def restore_image(request: Request, *, as_json: bool = False) -> int:
    """Restore, write and report; returns the exit code."""
    source = Path(request.image)
    out = Path(request.out or source.with_name(f"{source.stem}-restored.png"))
    given = read_image(source)
    operator, method = _operator(request), request.method
    if method is None:
        pixels = given.shape[0] * given.shape[1]
        small = request.task == "denoise" and pixels <= SMALL
        method = "posterior" if small else "map"
    level = NOISE[request.task] if request.sigma is None else request.sigma
    began = time.perf_counter()
    done = restore(
        given,
        operator,
        None if level is None else level / 255.0,
        request.prior,
        method,
        quality=request.quality,
        num_draws=request.draws,
        steps=request.steps,
        net=request.net,
        seed=request.seed,
        device=request.device,
    )
    seconds = time.perf_counter() - began
    deep = given.ndim == 2 and source.suffix.lower() != ".jpg"
    write_image(out, done.image, bits=16 if deep and _is_deep(source) else 8)
    figure_file = out.with_name(f"{out.stem}-figure.png")
    picture_of(given, done).savefig(figure_file, dpi=150, bbox_inches="tight")
    record = {
        "image": str(out),
        "figure": str(figure_file),
        "task": request.task,
        "method": method,
        "sigma": round(done.sigma * 255.0, 3),
        "mean_sd": None if done.sd is None else round(float(_colours(done.sd).mean()) * 255.0, 3),
        "seconds": round(seconds, 2),
    }
    if as_json:
        print(json.dumps(record, indent=1))
    else:
        known = "estimated" if level is None else "as given"
        note(f"noise: {record['sigma']} grey levels ({known}); {seconds:.1f} s")
        if done.sd is not None:
            note(f"posterior sd of a pixel: {record['mean_sd']} grey levels on average")
        print(f"{out}\n{figure_file}")
    return 0


def picture_of(given: Tensor, done: Restoration, titles: tuple[str, ...] | None = None) -> Any:
    """Draw input, result and pixel sd side by side; returns a matplotlib ``Figure``."""
    from matplotlib.figure import Figure

    panels = [given.detach().cpu(), done.image.cpu()]
    panels += [] if done.sd is None else [done.sd.cpu()]
    names = titles or ("input", "restored", "posterior sd, grey levels")
    height, width = done.image.shape[:2]
    figure = Figure(figsize=(4.0 * len(panels), 4.0 * height / width + 0.4))
    for index, (panel, name) in enumerate(zip(panels, names, strict=False)):
        # more than a panel shows would take much memory, where a photograph is large
        step = max(1, max(panel.shape[:2]) // SHOWN)
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
            figure.colorbar(shown, ax=axis, fraction=0.046 * height / width, pad=0.02)
    return figure


def _colours(image: Tensor) -> Tensor:
    """Return an image without its transparency, which is nothing that noise is taken off."""
    return image[..., :-1] if image.ndim == 3 and image.shape[-1] in (2, 4) else image


def _operator(request: Request) -> LinearOperator:
    if request.task == "deblur":
        return Blur(_kernel(_needed(request.kernel, "--kernel", request.task)))
    if request.task == "inpaint":
        seen = read_image(_needed(request.mask, "--mask", request.task), grey=True)
        return Mask(seen > 0.5)
    return Downsample(request.factor) if request.task == "upscale" else Identity()


def _kernel(path: str) -> Tensor:
    if not path.endswith(".npy"):
        return read_image(path, grey=True)
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: got no array that can be read: {error}") from error


def _needed(value: str | None, option: str, task: str) -> str:
    if value is None:
        raise DataError(f"{option}: got nothing, expected a file for --task {task}")
    return value


def _is_deep(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as file:
        return file.mode.startswith("I")
