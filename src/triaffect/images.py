"""Images in: the one decoder, the one resize and the one alignment that every part of the package uses."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from triaffect.io import InputError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded; phones take 50 million pixels."""

TEMPLATE: NDArray[np.float32] = np.array(
    [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)], np.float32
)
"""Position of the eyes, the nose and the mouth corners in an aligned crop of 112 px (x, y; the five points of ArcFace,
from left to right in the image)."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
"""What Pillow may open here; JPEG (also CMYK and MPO) goes through libjpeg-turbo where it can."""

_SIGNATURES = (
    b"\xff\xd8",
    b"\x89PNG",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"\0\0\1\0",
    *(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \n\t\r"),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_ORIENTATION = 0x0112


def read_image(source: str | os.PathLike[str] | bytes, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode an image file, or its bytes, as it is meant to be seen.

    It is turned upright once, as its EXIF orientation says, in every format. 16 bits per channel become 8, transparent
    parts become white; of several pages or frames the first is taken.

    Args:
        source: A path, or the content of a file.
        into: Contiguous uint8 array (height, width, 3). A JPEG of this size is decoded there without a copy, and
            `into` itself is returned.

    Returns:
        RGB, uint8 (height, width, 3).

    Raises:
        ValueError: The file is missing, not an image, damaged or larger than `MAX_PIXELS`. The message is the reason
            without the file's name.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if data[:2] == b"\xff\xd8":
        # Metadata comes first; a crop without any is the common case in training.
        rotated = b"Exif\0\0" in data[:65536]
        if into is not None and not rotated:
            with contextlib.suppress(ValueError):  # another size, or damaged: see below
                pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=into)
                return into if pixels.shape == into.shape else pixels.copy()
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise ValueError(f"damaged JPEG ({error})") from None
        _check_size(width, height)
        if not rotated and colours not in ("CMYK", "YCCK"):
            return _decode_jpeg(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on unusual metadata
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                if image.format in ("JPEG", "MPO") and image.mode == "RGB":
                    pixels = _decode_jpeg(data)
                else:
                    pixels = _eight_bits(image)
                # After loading: Pillow itself turns a TIFF then, and drops the tag.
                orientation = image.getexif().get(_ORIENTATION, 1)
        except Image.UnidentifiedImageError:
            kind = "HEIC, which cannot be read yet; save it as JPEG" if is_heic(data) else "not an image"
            raise ValueError(kind) from None
        except Image.DecompressionBombError:
            raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
        except ValueError:
            raise
        except Exception as error:  # decoders raise anything on damaged files
            raise ValueError(f"damaged image ({error})") from None
    return upright(pixels, orientation)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        raise ValueError(f"damaged JPEG ({error})") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a Pillow image as RGB; deep grey is scaled by its range."""
    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image, np.float32)
        top = 65535 if image.mode.startswith("I") and deep.max() > 255 else max(float(deep.max()), 1e-6)
        grey = (deep.clip(0) * (255 / top)).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels (height, width, 3) as the EXIF orientation 1 to 8 says; any other number is taken as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a file on a disk, before it is opened: reading a pipe would block.

    Raises:
        InputError: It is not a file, is missing, or cannot be accessed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: not a file; give photos, videos or folders of them")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as an image does, whatever its name; an animated GIF counts as a video.

    Raises:
        InputError: It is not a file, or cannot be read.
    """
    require_regular_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if start.startswith(b"GIF8"):
        try:
            with Image.open(path, formats=("GIF",)) as image:
                return getattr(image, "n_frames", 1) == 1
        except Exception:
            return True  # `read_image` says what is wrong
    return start.startswith(_SIGNATURES) or start[8:12] == b"WEBP" or _brand(start) in _BRANDS


def is_heic(data: bytes) -> bool:
    """Whether bytes start as a HEIC file does."""
    return _brand(data) in _BRANDS[2:]


def _brand(start: bytes) -> bytes:
    return start[8:12] if start[4:8] == b"ftyp" else b""


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image (height, width, 3) to (size, size, 3), by area where it shrinks."""
    if pixels.shape[:2] == (size, size):
        return pixels
    shrinks = min(pixels.shape[:2]) > size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the (2, 3) rotation, scale and shift that best map `source` to `target` (Umeyama 1991, no reflection)."""
    a, b = source - source.mean(0), target - target.mean(0)
    rotation = complex((a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / float((a**2).sum())
    matrix = np.array([[rotation.real, -rotation.imag], [rotation.imag, rotation.real]])
    return np.c_[matrix, target.mean(0) - matrix @ source.mean(0)].astype(np.float32)


def align(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Cut the crop (size, size, 3) of a face, its five landmarks (5, 2) mapped to `TEMPLATE`.

    Pixel centres are whole numbers; the border of the image is repeated outside of it. An image that shrinks by more
    than half is resized first, since the warp interpolates between four pixels only.
    """
    # Scaled about the corner of the first pixel, as resizing the 112 px crop would.
    template = (TEMPLATE + 0.5) * (size / 112) - 0.5
    warp = similarity(landmarks, template)
    factor = 1 / max(1e-6, float(np.hypot(*warp[:, 0])))
    if factor > 2:
        centre, reach = landmarks.mean(0), factor * size
        x0, y0 = (max(0, int(m - reach)) for m in centre)
        near = pixels[y0 : int(centre[1] + reach), x0 : int(centre[0] + reach)]
        if near.size:
            pixels = cv2.resize(near, None, fx=1.5 / factor, fy=1.5 / factor, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            ratio = np.array(pixels.shape[1::-1]) / near.shape[1::-1]
            warp = similarity((landmarks - (x0, y0) + 0.5) * ratio - 0.5, template)
    return cv2.warpAffine(pixels, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]
