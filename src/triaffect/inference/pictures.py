"""Pictures: what `Analyzer` accepts in memory, and what it shows in a notebook."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from triaffect.images import MAX_PIXELS, read_image
from triaffect.inference.inputs import read_photo
from triaffect.io import InputError

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def to_pixels(image: Any, bgr: bool = False) -> tuple[str, NDArray[np.uint8]]:
    """Return the name ("" if it has none) and the RGB pixels of an image.

    Args:
        image: A path; the bytes of an image file; an open binary file; a Pillow image; or a uint8 array, grey
            (height, width) or (height, width, 1), RGB (height, width, 3), or RGBA (height, width, 4), whose
            transparent parts become white.
        bgr: Arrays have their colours in the order of OpenCV: BGR or BGRA.

    Raises:
        InputError: It cannot be read, or is an array of another shape or type (floats: their range is not known).
    """
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image), read_photo(image)
    if isinstance(image, np.ndarray):
        return "", _array_pixels(image, bgr)
    if isinstance(image, Image.Image):
        name, data = getattr(image, "filename", ""), io.BytesIO()
        # As a file, so that orientation, transparency and 16 bits follow the rules of every other image.
        if image.mode in ("F", "I"):  # PNG holds neither
            image.save(data, "TIFF")
        else:
            png = image if image.mode in _PNG_MODES else image.convert("RGB")
            png.save(data, "PNG", compress_level=0, exif=image.getexif())
        content: Any = data.getvalue()
    else:
        name = getattr(image, "name", "")
        content = image.read() if hasattr(image, "read") else image
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError(
            f"{type(image).__name__}: not an image; give a path, bytes, a binary file, Pillow or numpy image"
        )
    try:
        return str(name), read_image(bytes(content))
    except ValueError as error:
        raise InputError(f"{name or type(image).__name__}: {error}") from None


def _array_pixels(image: NDArray[Any], bgr: bool) -> NDArray[np.uint8]:
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or not image.size:
        raise InputError(
            f"an array {image.shape} of {image.dtype} is no image; give uint8 from 0 to 255 of shape (height, width), "
            "or with 1, 3 or 4 channels (multiply floats from 0 to 1 by 255)"
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise InputError(f"an array {image.shape} has more than {MAX_PIXELS:,} pixels; shrink it")
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)
    pixels = image[..., 2::-1] if bgr else image[..., :3]
    if channels == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        pixels = (pixels * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class Picture:
    """An image with predictions drawn on it, and their table; a notebook displays both.

    Attributes:
        pixels: RGB uint8 (height, width, 3), annotated.
        rows: The `Analyzer` table of its faces.
    """

    pixels: NDArray[np.uint8]
    rows: pl.DataFrame

    def __repr__(self) -> str:
        return f"Picture({self.pixels.shape[1]}x{self.pixels.shape[0]}, faces={self.rows.height})"

    def _repr_html_(self) -> str:
        data = base64.b64encode(simplejpeg.encode_jpeg(self.pixels, 88)).decode()
        return f'<img src="data:image/jpeg;base64,{data}" style="max-width:100%">{self.rows._repr_html_()}'
