"""Images in: the one decoder, the one resize and the one alignment that every part of the package uses."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from triaffect.formats import FORMATS, MAX_PIXELS, fill_up, is_heif, is_raw, starts_as_image
from triaffect.io import InputError

TEMPLATE: NDArray[np.float32] = np.array(
    [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)], np.float32
)
"""Position of the eyes, the nose and the mouth corners in an aligned crop of 112 px (x, y; the five points of ArcFace,
from left to right in the image)."""

_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _SUBFILE, _DNG = 0x0112, 256, 257, 258, 254, 50706  # tags of EXIF and TIFF
_RAW = "a camera's raw file, which cannot be developed; save it as JPEG or TIFF"
_DEPTHS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 32))
_UNKNOWN = "damaged image, or one of a rare kind; save it as JPEG"
_MOST_MISSING = 0.25  # of an image that is read although it is damaged


class _DamagedError(ValueError):
    """What a decoder says of a file that it cannot read."""


def read_image(
    source: str | os.PathLike[str] | bytes,
    into: NDArray[np.uint8] | None = None,
    *,
    strict: bool = False,
    notices: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Decode an image file, or its bytes, as it is meant to be seen.

    It is turned upright once, as its EXIF orientation says, in every format. More than 8 bits per channel become 8,
    scaled by the smallest depth (8, 10, 12, 14, 16) that holds the values. Transparent parts become white. Of several
    pages or frames the first is taken (of HEIC, the primary image); `read_animation` reads them all.

    Args:
        source: A path, or the content of a file.
        into: Contiguous uint8 array (height, width, 3). A JPEG of this size is decoded there without a copy, and
            `into` itself is returned.
        strict: Refuse an image that is damaged. By default it is read if at most its last quarter is missing.
        notices: Receives what a user should know: damage, a reduced size, further pages.

    Returns:
        RGB, uint8 (height, width, 3).

    Raises:
        ValueError: The file is missing, not an image, damaged or larger than `MAX_PIXELS`. The message is the reason
            without the file's name.
    """
    notices = [] if notices is None else notices
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if data[:2] == b"\xff\xd8":
        orientation = _jpeg_orientation(data)
        if into is not None and orientation == 1:
            with contextlib.suppress(ValueError):  # another size, or damaged: see below
                pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=into)
                return into if pixels.shape == into.shape else pixels.copy()
        return upright(_decode_jpeg(data, strict, notices), orientation)
    if is_raw(data[:64]):
        raise InputError(_RAW)
    try:
        return _decode_other(data, notices)
    except _DamagedError as error:
        if str(error) == _UNKNOWN and (pixels := _decode_tiff(data)) is not None:
            return pixels
        if strict:
            raise
        return _decode_rest(data, error, notices)


def _decode_other(data: bytes, notices: list[str]) -> NDArray[np.uint8]:
    """Decode anything but a JPEG, upright."""
    with _open_image(data) as image:
        _check_size(*image.size)
        if image.format in (*_ANIMATED, "TIFF", "HEIF") and (count := getattr(image, "n_frames", 1)) > 1:
            kind = {"TIFF": "pages", "HEIF": "pictures"}.get(image.format or "", "frames")
            notices.append(f"the first of its {count} {kind} is read")
        pixels = _eight_bits(image, data)
        # After loading: Pillow itself turns a TIFF then, and drops the tag.
        orientation = image.getexif().get(_ORIENTATION, 1)
        if image.format == "HEIF" and not any(box in data[: 1 << 18] for box in (b"irot", b"imir")):
            orientation = image.info.get("original_orientation") or 1  # nothing else turned it
        return upright(pixels, orientation)


def read_animation(path: str | os.PathLike[str]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Decode every frame of an animated GIF, PNG, WebP or AVIF.

    Yields:
        The time in seconds from the first frame, and RGB uint8 (height, width, 3) over white.

    Raises:
        ValueError: As `read_image`.
    """
    milliseconds = 0.0
    data = Path(path).read_bytes()
    try:
        with _open_image(data):
            is_damaged = False
    except _DamagedError:
        data, is_damaged = fill_up(data, b"\0"), True
    with _open_image(data) as image:
        _check_size(*image.size)
        # The default image of a PNG may be one for programs that show no animations.
        for number in range(getattr(image, "default_image", False), getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = _eight_bits(image, data)
            yield milliseconds / 1000, upright(pixels, image.getexif().get(_ORIENTATION, 1))
            # Browsers take 0.1 s in place of a duration of at most 10 ms, which many files state.
            duration = image.info.get("duration", 0)
            milliseconds += duration if duration > 10 else 100
    if is_damaged:
        raise ValueError(f"damaged, ends before {milliseconds / 1000:.1f} s")


@contextlib.contextmanager
def _open_image(data: bytes) -> Iterator[Image.Image]:
    """Open bytes with Pillow; whatever its decoders raise becomes a ValueError."""
    formats = FORMATS
    if is_heif(data[:64]):
        import pillow_heif  # takes a tenth of a second

        pillow_heif.register_heif_opener(thumbnails=False)
        formats += ("HEIF",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on unusual metadata
        try:
            with Image.open(io.BytesIO(data), formats=formats) as image:
                yield image
        except Image.UnidentifiedImageError:
            if not starts_as_image(data[:64]):
                raise ValueError("not an image that can be read; save it as JPEG" if data else "empty") from None
            raise _DamagedError(_UNKNOWN) from None
        except Image.DecompressionBombError:
            raise ValueError(f"more than {MAX_PIXELS:,} pixels; shrink it") from None
        except InputError:
            raise
        except Exception as error:  # decoders raise anything on damaged files
            raise _DamagedError(f"damaged image ({' '.join(str(error).split())}); copy or save it again") from None


def _decode_rest(data: bytes, error: ValueError, notices: list[str]) -> NDArray[np.uint8]:
    """Decode a damaged file whose end is filled up in two ways; where the two differ, the file lacks the image."""
    versions: list[NDArray[np.uint8]] = []
    for filler in b"\0\1\x55\xe4":  # some decoders refuse some of them
        with contextlib.suppress(ValueError):
            versions.append(_decode_other(fill_up(data, bytes([filler])), []))
        if len(versions) == 2:
            break
    else:
        raise error from None
    pixels, other = versions
    differs = (pixels != other).any(2)
    rows, columns = differs.any(1), differs.any(0)
    missing = float(min(rows.mean(), columns.mean()))
    if missing > _MOST_MISSING:
        raise ValueError(f"{str(error).partition(';')[0]}, {missing:.0%} of it are missing; copy it again") from None
    pixels = pixels.copy()
    pixels[np.ix_(rows, columns)] = 128  # as the decoder of JPEG does
    notices.append("damaged, read" + (f" without {max(0.01, missing):.0%} of it" if missing else ""))
    return pixels


def _decode_tiff(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a TIFF of numbers that Pillow does not know, such as colours with a fraction; None if that fails."""
    if not data.startswith((b"II*\0", b"MM\0*")):
        return None
    with contextlib.suppress(Exception), warnings.catch_warnings():  # Pillow raises anything on damaged metadata
        warnings.simplefilter("ignore")
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        if tags[_WIDTH] * tags[_HEIGHT] > MAX_PIXELS or tags.get(_SUBFILE, 0) & 1 or _DNG in tags:
            return None
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.ndim == 3 and deep.shape[2] == 3:
            return upright(_scale(deep[:, :, ::-1]), tags.get(_ORIENTATION, 1))
    return None


def _jpeg_orientation(data: bytes) -> int:
    """The orientation of a JPEG in its EXIF, or else XMP; 1 where it has none, or a damaged one."""
    # The segment of either comes before the scan. Most crops have none, and Pillow takes its time.
    if data.find(b"\xff\xe1", 0, data.find(b"\xff\xda")) > 0:
        with contextlib.suppress(Exception):  # Pillow raises anything on damaged metadata
            return int(JpegImagePlugin.JpegImageFile(io.BytesIO(data)).getexif().get(_ORIENTATION, 1))
    return 1


def _decode_jpeg(data: bytes, strict: bool, notices: list[str]) -> NDArray[np.uint8]:
    """Decode a JPEG of any colours, at half its size if it is very large."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, 4)
        factor = 1 if width * height <= MAX_PIXELS else 2
        size = {"min_height": height // factor, "min_width": width // factor, "min_factor": factor}
        space = "CMYK" if colours in ("CMYK", "YCCK") else "RGB"
        try:
            pixels = simplejpeg.decode_jpeg(data, space, **size)
        except ValueError as error:
            if strict:
                raise
            pixels = simplejpeg.decode_jpeg(data, space, **size, strict=False)
            # The decoder fills what is missing with grey.
            is_decoded = (pixels[::-1] + np.uint8(1) > 129) | (pixels[::-1] < 127)
            missing = int(is_decoded.any((1, 2)).argmax()) / len(pixels)
            if missing > _MOST_MISSING or not is_decoded.any():
                raise ValueError(f"{error}, the last {missing:.0%} are missing") from None
            notices.append(f"damaged ({error}), read" + (f" without its last {missing:.0%}" if missing else ""))
    except InputError:  # its size
        raise
    except ValueError as error:
        raise ValueError(f"damaged JPEG ({error})") from None
    if space == "CMYK":  # stored as shares of light, as all programs do
        ink = pixels.astype(np.uint16)
        pixels = ((ink[:, :, :3] * ink[:, :, 3:] + 127) // 255).astype(np.uint8)
    if factor > 1:
        half = f"{pixels.shape[1]}x{pixels.shape[0]}"
        notices.append(f"{width}x{height} pixels, read at half its size: boxes are in its {half} pixels")
    return pixels


def _check_size(width: int, height: int, times: int = 1) -> None:
    if width * height > times * MAX_PIXELS:
        advice = "shrink it" if times > 1 else "shrink it, or save it as JPEG, which is shrunk on load"
        raise InputError(f"{width}x{height} pixels, more than {times * MAX_PIXELS:,}; {advice}")


def _eight_bits(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Pixels of a Pillow image as RGB, over white."""
    image.load()
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_SUBFILE, 0) & 1 or _DNG in tags:
        raise InputError(_RAW)
    bits = data[24] if image.format == "PNG" else max(np.atleast_1d(tags.get(_BITS, 8)))
    if bits == 16 and image.mode in ("RGB", "RGBA", "LA"):  # Pillow keeps the upper eight
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
            colours = _scale(deep[:, :, 2::-1])
            if deep.shape[2] == 3:
                return colours
            opacity = _scale(deep[:, :, 3:]) / 255
            return (colours * opacity + 255 * (1 - opacity) + 0.5).astype(np.uint8)
    if image.mode.startswith(("I", "F")):
        top = 65535 if image.format == "PPM" and image.mode != "F" else None  # scaled by Pillow, as the file says
        return np.repeat(_scale(np.asarray(image), top)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _scale(deep: NDArray[Any], top: float | None = None) -> NDArray[np.uint8]:
    """Scale to 8 bits by the smallest depth that holds the values; numbers with a fraction may be 0 to 1.

    Where some are negative, the lowest becomes 0, or -1 if all are from -1 to 1; what is no number becomes 0.
    """
    if deep.dtype.kind == "f":
        deep = np.nan_to_num(deep, posinf=0.0, neginf=0.0)
    lowest, highest = float(deep.min()), float(deep.max())
    if lowest < 0:
        lowest = -1.0 if lowest >= -1 and highest <= 1 else lowest
        deep, top = deep - np.float32(lowest), 2.0 if lowest == -1 else highest - lowest
    depths = (1.0, *_DEPTHS) if deep.dtype.kind == "f" else _DEPTHS
    top = top or next((depth for depth in depths if highest <= depth * 1.001), highest)
    return (deep.clip(0, top) * np.float32(255 / top) + 0.5).astype(np.uint8)


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
    """Whether a file starts as a still image does, whatever its name; an animation counts as a video.

    Raises:
        InputError: It is not a file, or cannot be read.
    """
    require_regular_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(max(0, os.path.getsize(path) - 18))
            return (starts_as_image(start) or file.read(16) == b"TRUEVISION-XFILE") and not is_animation(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a GIF, PNG, WebP or AVIF of several frames."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start.startswith((b"GIF8", b"\x89PNG")) and start[8:12] not in (b"WEBP", b"avis"):
        return False
    try:
        with Image.open(path, formats=_ANIMATED) as image:
            return getattr(image, "is_animated", False)
    except Exception:  # damaged: `read_animation` or `read_image` says so
        return start[8:12] == b"avis" or (start[12:16] == b"VP8X" and bool(start[20] & 2))


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image (height, width, 3) to (size, size, 3), by area where it shrinks."""
    if pixels.shape[:2] == (size, size):
        return pixels
    shrinks = min(pixels.shape[:2]) > size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the (2, 3) rotation, scale and shift that best map `source` to `target` (Umeyama 1991, no reflection)."""
    # Points as complex numbers: one factor turns and scales.
    a, b = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    middle, goal = a.sum() / len(a), b.sum() / len(b)
    a, b = a - middle, b - goal
    factor = np.vdot(a, b) / np.vdot(a, a).real
    shift = goal - factor * middle
    return np.array([(factor.real, -factor.imag, shift.real), (factor.imag, factor.real, shift.imag)], np.float32)


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
