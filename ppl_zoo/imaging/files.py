"""Image files: reading to floats in [0, 1], and writing."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["example_photograph", "read_image", "write_image"]

#: Pillow's modes of images without colour, and the mode to read them in
GREY_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA"}


def read_image(path: str | Path, *, grey: bool = False) -> Float[Tensor, "..."]:
    """Read an image file.

    Parameters
    ----------
    path
        PNG, JPEG, TIFF or another format that Pillow reads.
    grey
        Whether to turn colours into grey, with the weights of ITU-R BT.601.

    Returns
    -------
    Tensor
        float32 in [0, 1]: ``(height, width)`` for grey images (8, 16 or 1 bit), else ``(height,
        width, channels)``, with transparency as the last of 2 or 4 channels where there is any.

    Raises
    ------
    DataError
        If there is no such file or it is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: got no image that can be read: {error}") from error
    mode = image.mode
    if mode.startswith("I"):  # 16 bits; "I" holds them in 32
        values = np.asarray(image, dtype=np.float32) / 65535.0
    elif mode == "F":
        values = np.asarray(image, dtype=np.float32)
    else:
        transparent = "transparency" in image.info or mode in ("RGBA", "PA", "RGBa")
        target = GREY_MODES.get(mode, "RGBA" if transparent else "RGB")
        values = np.asarray(image.convert(target), dtype=np.float32) / 255.0
    out = torch.from_numpy(np.ascontiguousarray(values))
    if out.ndim == 3 and out.shape[-1] in (2, 4) and bool((out[..., -1] == 1.0).all()):
        out = out[..., :-1]  # opaque everywhere
        out = out[..., 0] if out.shape[-1] == 1 else out
    if grey and out.ndim == 3:
        weights = (1.0,) if out.shape[-1] == 2 else (0.299, 0.587, 0.114)
        out = (out[..., : len(weights)] * torch.tensor(weights)).sum(-1)
    return out.contiguous()


def example_photograph() -> Float[Tensor, "height width"]:
    """Return a grey photograph of 160 x 200 pixels that comes with the package, in [0, 1].

    A piece of china.jpg by danielbuechele (flickr, CC BY 2.0), as scikit-learn ships it.
    """
    stream = io.BytesIO(files("ppl_zoo.data").joinpath("embedded/photograph.npz").read_bytes())
    with np.load(stream, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["image"].astype(np.float32) / 255.0)


def write_image(path: str | Path, image: Any, *, bits: int = 8) -> Path:
    """Write an image in [0, 1] to a file; values outside are clipped.

    Parameters
    ----------
    path
        Its suffix chooses the format.
    image
        ``(height, width)`` or ``(height, width, channels)`` with 1 to 4 channels.
    bits
        8, or 16 for grey images.
    """
    from PIL import Image

    values = torch.as_tensor(image).detach().cpu().double().clamp(0.0, 1.0).numpy()
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and (bits != 8 or values.shape[-1] > 4)):
        raise DataError(
            f"image: got shape {values.shape} at {bits} bits, expected (height, width) or, at 8 "
            "bits, (height, width, channels) with at most 4 channels"
        )
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    Image.fromarray(np.round(values * (2**bits - 1)).astype(dtype)).save(path)
    return Path(path)
