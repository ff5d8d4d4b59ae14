"""Pictures in: decoding, and the one resize and the one alignment that training, inference and demonstrations share."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded; phones take 50 million."""

TEMPLATE: NDArray[np.float32] = np.array(
    [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)], np.float32
)
"""Where the eyes, the nose and the corners of the mouth lie in an aligned crop of 112 px (x, y; ArcFace's five points,
left and right as in the picture)."""


def decode(source: Path | bytes, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Reads a picture, a file or its bytes, as uint8 RGB (height, width, 3).

    JPEG goes through libjpeg-turbo, anything else through Pillow.

    Args:
        source: The file or its bytes.
        into: Contiguous (height, width, 3); a JPEG of this size is decoded there, and `into` itself is returned.

    Raises:
        ValueError: It is missing, corrupt or larger than `MAX_PIXELS`; the message is the reason without the name.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if data[:2] == b"\xff\xd8":
            if into is not None:
                with contextlib.suppress(ValueError):  # larger than `into`, or corrupt, which is told below
                    picture = simplejpeg.decode_jpeg(data, "RGB", buffer=into)
                    return into if picture.shape == into.shape else picture.copy()
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


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
    """(2, 3) rotation, scale and shift that bring `source` nearest to `target` (Umeyama 1991, without reflection)."""
    a, b = source - source.mean(0), target - target.mean(0)
    turn = complex((a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / float((a**2).sum())
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.c_[matrix, target.mean(0) - matrix @ source.mean(0)].astype(np.float32)


def align(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """The crop (size, size, 3) of a face whose five landmarks (5, 2) are brought to `TEMPLATE`.

    Pixel centres lie at whole numbers; outside the picture its border is repeated. A picture that shrinks by more than
    half is blurred first, since the warp looks at four pixels only.
    """
    # Scaled about the corner of the first pixel, as a resize of the 112 px crop would.
    template = (TEMPLATE + 0.5) * (size / 112) - 0.5
    warp = similarity(landmarks, template)
    shrink = 1 / max(1e-6, float(np.hypot(*warp[:, 0])))
    if shrink > 2:
        middle, reach = landmarks.mean(0), shrink * size
        x0, y0 = (max(0, int(m - reach)) for m in middle)
        near = pixels[y0 : int(middle[1] + reach), x0 : int(middle[0] + reach)]
        if near.size:
            pixels = cv2.resize(near, None, fx=1.5 / shrink, fy=1.5 / shrink, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            ratio = np.array(pixels.shape[1::-1]) / near.shape[1::-1]
            warp = similarity((landmarks - (x0, y0) + 0.5) * ratio - 0.5, template)
    return cv2.warpAffine(pixels, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]
