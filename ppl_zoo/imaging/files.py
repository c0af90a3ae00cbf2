"""Image files: reading to floats in [0, 1], and writing."""

from __future__ import annotations

import io
import warnings
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["example_photograph", "read_image", "write_image"]

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pillow's modes of images without colour, and the mode to read them in
GREY_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA"}
#: formats whose further frames are previews of the first, such as those of mobile phones
PREVIEW_FORMATS = ("MPO",)
#: value of white at 16 bits
WHITE_16_BITS = 65535


def read_image(
    source: str | Path | Image, *, grey: bool = False, frame: int | None = None
) -> Float[Tensor, "..."]:
    """Read an image file.

    Parameters
    ----------
    source
        PNG, JPEG, TIFF or another format that Pillow reads; or an image of Pillow. It is turned
        as its EXIF data say.
    grey
        Whether to turn colours into grey, with the weights of ITU-R BT.601.
    frame
        Which frame of a file that holds several, from 0.

    Returns
    -------
    Tensor
        float32 in [0, 1]: ``(height, width)`` for grey images (8, 16 or 1 bit), else ``(height,
        width, channels)``, with transparency as the last of 2 or 4 channels where there is any.
        Files of floating point keep their values.

    Raises
    ------
    DataError
        If there is no such file, it is no image, damaged, has several frames, or more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``; the message names the file.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    what = "image" if isinstance(source, pillow.Image) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which are not read
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            if isinstance(source, pillow.Image):
                values = _pixels(ImageOps.exif_transpose(source))
            else:
                with pillow.open(source) as file:
                    _choose_frame(file, what, frame)
                    file.load()
                    values = _pixels(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise DataError(f"{what}: no such file") from error
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise DataError(
            f"{what}: {error} Raise PIL.Image.MAX_IMAGE_PIXELS if the file can be trusted"
        ) from error
    except DataError:
        raise
    except Exception as error:  # a damaged file shows anywhere in Pillow
        raise DataError(f"{what}: got no image that can be read: {error}") from error
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise DataError(f"{what}: got {count} pixels that are NaN or infinite, expected numbers")
    out = torch.from_numpy(np.ascontiguousarray(values))
    if out.ndim == 3 and out.shape[-1] in (2, 4) and bool((out[..., -1] == 1.0).all()):
        out = out[..., :-1]  # opaque everywhere
        out = out[..., 0] if out.shape[-1] == 1 else out
    if grey and out.ndim == 3:
        weights = (1.0,) if out.shape[-1] == 2 else (0.299, 0.587, 0.114)
        out = (out[..., : len(weights)] * torch.tensor(weights)).sum(-1)
    return out.contiguous()


def _choose_frame(file: Any, what: str, frame: int | None) -> None:
    """Go to a frame; refuse several where none is named."""
    count = getattr(file, "n_frames", 1)
    if frame is not None:
        if not 0 <= frame < count:
            raise DataError(f"{what}: got frame {frame}, expected 0 to {count - 1}")
        file.seek(frame)
    elif count > 1 and file.format not in PREVIEW_FORMATS:
        raise DataError(f"{what}: got {count} frames, expected one image; frame=0 reads the first")


def _pixels(image: Image) -> np.ndarray:
    """Values of an image, float32, with transparency as the last of 2 or 4 channels."""
    mode = image.mode
    if mode.startswith("I"):  # 16 bits; "I" holds them in 32
        values = np.asarray(image)
        least, most = int(values.min()), int(values.max())
        if least < 0 or most > WHITE_16_BITS:
            raise ValueError(f"integers from {least} to {most}; expected 8 or 16 bits")
        return values.astype(np.float32) / WHITE_16_BITS
    if mode == "F":
        return np.array(image, dtype=np.float32)
    transparent = "transparency" in image.info or mode in ("RGBA", "PA", "RGBa")
    target = GREY_MODES.get(mode, "RGBA" if transparent else "RGB")
    if target == "L" and transparent:
        target = "LA"
    return np.asarray(image.convert(target), dtype=np.float32) / 255.0


def example_photograph() -> Float[Tensor, "height width"]:
    """Return a grey photograph of 160 x 200 pixels that comes with the package, in [0, 1].

    A piece of china.jpg by danielbuechele (flickr, CC BY 2.0), as scikit-learn ships it.
    """
    stream = io.BytesIO(files("ppl_zoo.data").joinpath("embedded/photograph.npz").read_bytes())
    with np.load(stream, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["image"].astype(np.float32) / 255.0)


def png_bytes(image: Tensor, max_size: int = 320) -> bytes:
    """Return an image in [0, 1] as the bytes of a PNG file, thinned to so many pixels a side."""
    step = max(1, -(-max(image.shape[:2]) // max_size))
    stream = io.BytesIO()
    write_image(stream, image[::step, ::step])
    return stream.getvalue()


def write_image(path: str | Path | io.BytesIO, image: Any, *, bits: int = 8) -> Path | io.BytesIO:
    """Write an image in [0, 1] to a file; values outside are clipped.

    Parameters
    ----------
    path
        Its suffix chooses the format; or a stream of bytes, which gets a PNG.
    image
        ``(height, width)`` or ``(height, width, channels)`` with 1 to 4 channels.
    bits
        8, or 16 for grey images.

    Raises
    ------
    DataError
        If it is no image, or has NaN or infinite values.
    """
    from PIL import Image

    given = torch.as_tensor(image).detach().cpu().double()
    if not bool(given.isfinite().all()):
        raise DataError(f"{path}: got an image with NaN or infinite values, expected numbers")
    values = given.clamp(0.0, 1.0).numpy()
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and (bits != 8 or values.shape[-1] > 4)):
        raise DataError(
            f"image: got shape {values.shape} at {bits} bits, expected (height, width) or, at 8 "
            "bits, (height, width, channels) with at most 4 channels"
        )
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    Image.fromarray(np.round(values * (2**bits - 1)).astype(dtype)).save(
        path, **({} if isinstance(path, str | Path) else {"format": "png"})
    )
    return Path(path) if isinstance(path, str | Path) else path
