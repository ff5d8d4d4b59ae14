"""Kinds of files by their first bytes, and files that lack their end."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded. A JPEG of up to four times as many is decoded at half its size."""

FORMATS: tuple[str, ...] = (
    "PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "PSD", "TGA", "PCX",
    "SGI", "DDS", "ICNS", "SUN",
)  # fmt: skip
"""What Pillow may open here; JPEG goes through libjpeg-turbo where it can."""

_SIGNATURES = (
    b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51", b"\0\0\1\0", b"qoif", b"8BPS", b"\x0a\5\1\x08", b"\1\xda", b"DDS ", b"icns",
    b"\x59\xa6\x6a\x95",
    *(b"P%c%c" % (kind, space) for kind in b"123456Ff" for space in b" \n\t\r"),
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2")
_AVIF_BRANDS = (b"avif", b"avis")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the number of the kind of colours
_PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and every how many, of each pass of an interlaced PNG (ISO/IEC 15948, 8.2)."""
_RAW = (b"FUJIFILM", b"IIRO", b"IIRS", b"IIU\0", b"MMOR")
"""First bytes of Fujifilm's, Olympus's and Panasonic's raw files; those of others are TIFF or have a brand."""


def starts_as_image(start: bytes) -> bool:
    """Whether the first 64 bytes of a file are those of an image."""
    is_webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    is_avif = _brands(start)[0] in (*_AVIF_BRANDS, *_HEIF_BRANDS)  # the latter may hold either
    return start.startswith(_SIGNATURES) or is_webp or is_avif or is_raw(start)


def is_heif(start: bytes) -> bool:
    """Whether a file is HEIC, or another image in the same container that is not AVIF."""
    brands = _brands(start)
    return brands[0] in _HEIF_BRANDS and not {*_AVIF_BRANDS} & {*brands}


def is_raw(start: bytes) -> bool:
    """Whether a file is a camera's raw file, by its first bytes; those that are like any TIFF are not recognised."""
    is_canon = (start[:2] == b"II" and start[8:10] == b"CR") or _brands(start)[0] == b"crx "
    return start.startswith(_RAW) or is_canon


def _brands(start: bytes) -> list[bytes]:
    """The brands of an ISO base media file, the major one first; an empty one of any other file."""
    if start[4:8] != b"ftyp":
        return [b""]
    end = min(len(start), int.from_bytes(start[:4]))
    return [start[8:12], *(start[at : at + 4] for at in range(16, end, 4))]


def fill_up(data: bytes, filler: bytes) -> bytes:
    """Return a damaged file with bytes added at its end; in a PNG, after the last compressed bytes that are whole."""
    start = data.find(b"IDAT") - 4
    if not data.startswith(b"\x89PNG") or start < 33:
        return data + filler * (len(data) // 2 + 65536)
    width, height, bits, colours = struct.unpack(">IIBB", data[16:26])
    if width * height > MAX_PIXELS:
        return data
    compressed, position = bytearray(), start
    while data[position + 4 : position + 8] == b"IDAT":
        end = position + 8 + int.from_bytes(data[position : position + 4])
        if len(data) >= end + 4 and zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            break
        compressed += data[position + 8 : end]
        position = end + 4
    size = 0
    for x, y, every_x, every_y in _PNG_PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // every_x), -(-(height - y) // every_y)
        size += rows * (1 + -(-columns * bits * _PNG_CHANNELS.get(colours, 4) // 8)) if columns > 0 < rows else 0
    inflate, lines = zlib.decompressobj(), bytearray()
    with contextlib.suppress(zlib.error):
        for at in range(0, len(compressed), 64):
            lines += inflate.decompress(compressed[at : at + 64], max(1, size - len(lines)))
    body = b"IDAT" + zlib.compress(lines[:size] + filler * (size - len(lines)), 1)
    part = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    return data[:start] + part + bytes(4) + b"IEND\xaeB`\x82"


def is_cut_off(path: str | os.PathLike[str]) -> bool:
    """Whether a video file is shorter than its container (RIFF, Matroska or ISO base media) states."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(4096)
        if start.startswith(b"RIFF"):
            return size < int.from_bytes(start[4:8], "little") + 8 < 0xFFFFFF00  # more: of unknown length
        if start.startswith(b"\x1aE\xdf\xa3"):
            length, position = _matroska_number(start, 4)
            length, position = _matroska_number(start, position + length + 4)
            return size < position + length < 1 << 48  # all bits set: of unknown length
        position, kinds = 0, {start[4:8]}
        while b"ftyp" in kinds and position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            kinds.add(header[4:8])
            length = int.from_bytes(header[:4])
            length = int.from_bytes(header[8:]) if length == 1 else length
            if length < 8:
                return False
            position += length
        return b"ftyp" in kinds and (position != size or b"moov" not in kinds)


def _matroska_number(data: bytes, position: int) -> tuple[int, int]:
    """A number of one to eight bytes (RFC 8794, 4), and the position after it."""
    count = 9 - data[position].bit_length() if len(data) > position else 1
    return int.from_bytes(data[position : position + count]) & ((1 << 7 * count) - 1), position + count
