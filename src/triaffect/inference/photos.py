"""Photos in: whatever cameras, phones and image editors write, upright and as 8-bit RGB."""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triaffect.images import MAX_PIXELS, decode
from triaffect.io import InputError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
_STARTS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_ORIENTATION = 0x0112


def regular(path: Path) -> None:
    """Refuses what is no file on a disk, before it is opened: a pipe would wait for ever.

    Raises:
        InputError: It is none, or is not there, or may not be looked at.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: not a file; give photos, videos or folders of them")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def is_photo(path: Path) -> bool:
    """Whether the file starts as a picture does, whatever its name; an animated GIF counts as a video.

    Raises:
        InputError: It is no file.
        OSError: It cannot be read.
    """
    regular(path)
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"GIF8"):
        try:
            with Image.open(path, formats=("GIF",)) as picture:
                return getattr(picture, "n_frames", 1) == 1
        except Exception:
            return True  # `photo` says what is wrong
    return head.startswith(_STARTS) or head[8:12] == b"WEBP" or head[4:12] in (b"ftypavif", b"ftypavis")


def photo(path: Path) -> NDArray[np.uint8]:
    """Reads a photo as uint8 RGB (height, width, 3), turned upright as its EXIF orientation says.

    Transparent parts become white, 16 bits become 8, of several pages or frames the first is taken.

    Raises:
        ValueError: It is corrupt, truncated or larger than `MAX_PIXELS`; the message is the reason without the name.
        OSError: It cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        try:
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError(f"{picture.width}x{picture.height}, more than {MAX_PIXELS:,} pixels")
                turn = picture.getexif().get(_ORIENTATION, 1)
                plain = picture.format in ("JPEG", "MPO") and picture.mode == "RGB"
                pixels = decode(path) if plain else _eight_bits(picture)
        except Image.DecompressionBombError:
            raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
        except Image.UnidentifiedImageError:
            raise ValueError("not a picture that can be read") from None
        except OSError as error:
            if error.errno:
                raise
            raise ValueError(f"broken picture ({error})") from None
        except Exception as error:  # parsers fed with garbage raise anything
            raise error if isinstance(error, ValueError) else ValueError(f"broken picture ({error})") from None
    return upright(pixels, turn)


def _eight_bits(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith(("I", "F")):
        deep = np.asarray(picture, np.float32)
        top = 65535 if picture.mode.startswith("I") and deep.max() > 255 else max(float(deep.max()), 1e-6)
        grey = (deep.clip(0) * (255 / top)).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) as they are to be seen, from the EXIF orientation 1 to 8; anything else is 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
