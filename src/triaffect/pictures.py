"""Pictures in: decoding and the one resize that training, inference and demonstrations share."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded."""


def decode(path: Path) -> NDArray[np.uint8]:
    """Reads a picture as uint8 RGB (height, width, 3): JPEG through libjpeg-turbo, anything else through Pillow.

    Raises:
        ValueError: It is missing, corrupt or larger than `MAX_PIXELS`; the message is the reason without the name.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\xff\xd8":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            _check(width, height)
            return simplejpeg.decode_jpeg(data, "RGB")
        with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "GIF", "TIFF", "WEBP")) as picture:
            _check(*picture.size)
            return np.asarray(picture.convert("RGB"))
    except (Image.UnidentifiedImageError, SyntaxError):
        raise ValueError("not a picture") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def _check(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than {MAX_PIXELS}")


def fit(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (height, width, 3) resized to (size, size, 3), by area where it shrinks."""
    if pixels.shape[:2] == (size, size):
        return pixels
    shrinks = min(pixels.shape[:2]) > size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]
