"""Draw predictions on images and videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from triaffect.inference.frame import Frame, Overlay
from triaffect.jobs import prefetch
from triaffect.labels import ACTION_UNITS, ACTIVE, AU_NAMES

if TYPE_CHECKING:
    from triaffect.inference.video_writer import VideoWriter

Pixels = NDArray[np.uint8]
Edges = tuple[int, int, int, int]

LONGEST = 1920
"""Longer side in pixels of annotated videos: larger ones are made smaller, since encoding 4K takes most of the time."""

_BRIGHT = ((118, 183, 230), (245, 179, 97), (128, 208, 190), (205, 160, 214))
"""`style.SERIES` lightened, for a dark background; a face keeps its colour in images and figures."""
_CARD, _WHITE, _GREY, _LINE = (18, 22, 27, 205), (255, 255, 255, 255), (178, 186, 194, 255), (92, 100, 108, 255)
_SUPERSAMPLING = 4  # shapes are drawn this much larger, for smooth edges


def active_units(row: Mapping[str, Any]) -> list[str]:
    """Return the active AUs of a row, the most probable first; none if the model has no AUs."""
    return sorted((unit for unit in ACTION_UNITS if (row.get(unit) or 0) >= ACTIVE), key=lambda unit: -row[unit])


def annotate(pixels: Pixels, rows: Sequence[Mapping[str, Any]]) -> Pixels:
    """Draw predictions on a copy of an image.

    Each face gets thin corners and, if a card fits next to it, its expression, active AUs, quality flags and a dot on
    the valence-arousal plane; otherwise its expression alone. Sizes follow the size of the image.

    Args:
        pixels: RGB uint8 (height, width, 3).
        rows: Rows of the image's faces, as dictionaries of an `Analyzer` table.
    """
    return np.asarray(Frame(0, 0.0, pixels).with_overlays(_overlays(pixels.shape[:2], rows)))


def _overlays(shape: tuple[int, int], rows: Sequence[Mapping[str, Any]]) -> list[Overlay]:
    """What is drawn on an image of a shape: corners and a card for each face."""
    overlays: list[Overlay] = []
    side = min(shape)
    occupied = [(row["x"], row["y"], row["x"] + row["w"], row["y"] + row["h"]) for row in rows]
    for row in sorted(rows, key=lambda row: -row["w"] * row["h"]):
        colour = _BRIGHT[(row["face"] - 1) % len(_BRIGHT)]
        em = round(max(9, side / 45, min(side / 26, row["h"] / 13)))
        overlays += _corners(row, colour, em)
        box = (row["x"], row["y"], row["x"] + row["w"], row["y"] + row["h"])
        for draw_card in (_card, _label):
            card = draw_card(row, colour, em)
            if place := _place(shape, box, card.shape, occupied, em // 2):
                occupied.append((place[0], place[1], place[0] + card.shape[1], place[1] + card.shape[0]))
                overlays.append((*place, card))
                break
    return overlays


def write_annotated(writer: VideoWriter, frames: Sequence[Frame], rows: pl.DataFrame) -> None:
    """Write frames of a video with predictions drawn on them.

    Args:
        writer: Where to write.
        frames: Some frames, in order.
        rows: The `Analyzer` table of their faces.
    """
    faces = rows.rows_by_key("frame", named=True)

    def draw(frame: Frame) -> Any:
        scale = min(1.0, LONGEST / max(frame.width, frame.height))
        scaled = [row | {name: row[name] * scale for name in "xywh"} for row in faces.get(frame.number, [])]
        return frame.with_overlays(_overlays((round(frame.height * scale), round(frame.width * scale)), scaled), scale)

    # The next frames are drawn while one is encoded.
    for frame, drawn in zip(frames, prefetch(draw, frames, workers=1), strict=True):
        writer.write(drawn, frame.time, frame.duration)


def _corners(row: Mapping[str, Any], colour: tuple[int, ...], em: int) -> list[Overlay]:
    """Corners around the face, bright over dark, visible on any background."""
    x, y, w, h = (row[name] for name in "xywh")
    arm, thick = 0.18 * min(w, h), max(1, round(em / 8))
    side, overlays = _even(arm) + 2 * thick + 6, []
    for cx, cy, dx, dy in ((x, y, 1, 1), (x + w, y, -1, 1), (x, y + h, 1, -1), (x + w, y + h, -1, -1)):
        left, top = (_even(c) - _even(thick + 3 if d > 0 else side - thick - 3) for c, d in ((cx, dx), (cy, dy)))
        overlay = np.full((side, side, 4), (*_CARD[:3], 0), np.uint8)
        line = (np.array([(cx + dx * arm, cy), (cx, cy), (cx, cy + dy * arm)]) - (left, top)) * 16
        for tint, width in ((_CARD[:3], thick + 2), (colour, thick)):
            cv2.polylines(overlay, [line.round().astype(np.int32)], False, (*tint, 255), width, cv2.LINE_AA, 4)
        overlays.append((left, top, overlay))
    return overlays


def _place(
    shape: Sequence[int], box: Sequence[float], size: Sequence[int], occupied: Sequence[Sequence[float]], gap: int
) -> tuple[int, int] | None:
    """Left and top of a card near a face that covers no face and no other card, or None."""
    (x0, y0, x1, y1), (h, w) = box, size[:2]
    top = min(max(gap, y0), shape[0] - h - gap)
    side = min(max(gap, (x0 + x1 - w) / 2), shape[1] - w - gap)
    for x, y in ((x1 + gap, top), (x0 - gap - w, top), (side, y1 + gap), (side, y0 - gap - h)):
        inside = x >= 0 and y >= 0 and x + w <= shape[1] and y + h <= shape[0]
        if inside and all(x >= r or x + w <= left or y >= b or y + h <= t for left, t, r, b in occupied):
            return _even(x), _even(y)
    return None


@lru_cache(16)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


@lru_cache(512)
def _words(words: str, size: int) -> Image.Image:
    """Words as a mask, kept since most of them are on the next frame too."""
    left, top, right, bottom = _font(size).getbbox(words, anchor="lm")
    mask = Image.new("L", (int(right - min(0, left)) + 1, 2 * int(max(-top, bottom)) + 2))
    ImageDraw.Draw(mask).text((0, mask.height / 2), words, 255, _font(size), anchor="lm")
    return mask


def _write(
    draw: ImageDraw.ImageDraw, x: float, y: float, words: str, colour: tuple[int, ...], size: int, right: bool = False
) -> None:
    """Write words that begin, or end, at x, with their middle at y."""
    mask = _words(words, size)
    draw.bitmap((round(x) - mask.width * right, round(y) - mask.height // 2), mask, colour)


def _smooth(size: tuple[int, int], paint: Callable[[ImageDraw.ImageDraw, Edges], None]) -> Image.Image:
    """A transparent image with what `paint` draws between its edges, drawn larger and reduced."""
    large = Image.new("RGBA", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), (*_CARD[:3], 0))
    paint(ImageDraw.Draw(large), (0, 0, large.width - 1, large.height - 1))
    return large.reduce(_SUPERSAMPLING)


@lru_cache(8)
def _background(size: tuple[int, int], em: int) -> Image.Image:
    """The background of a card; like the plane and the dot it is kept, since the next frame has it too."""
    return _smooth(size, lambda draw, edges: draw.rounded_rectangle(edges, em * _SUPERSAMPLING / 2, fill=_CARD))


@lru_cache(8)
def _plane(side: int) -> Image.Image:
    """The valence-arousal plane: a circle and two axes."""

    def paint(draw: ImageDraw.ImageDraw, edges: Edges) -> None:
        middle = edges[2] / 2
        draw.line((0, middle, edges[2], middle), _LINE, _SUPERSAMPLING)
        draw.line((middle, 0, middle, edges[3]), _LINE, _SUPERSAMPLING)
        draw.ellipse(edges, outline=_GREY, width=_SUPERSAMPLING)

    return _smooth((side, side), paint)


@lru_cache(8)
def _dot(side: int, colour: tuple[int, ...]) -> Image.Image:
    """The dot on the plane."""
    fill = (*colour, 255)
    return _smooth((side, side), lambda draw, edges: draw.ellipse(edges, fill, _WHITE, _SUPERSAMPLING))


def _sheet(width: float, height: float, em: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = _background((_even(width), _even(height)), em).copy()
    return sheet, ImageDraw.Draw(sheet)


def _even(length: float) -> int:
    """A place or a length in whole squares of two pixels, for which videos store the colour."""
    return 2 * int(length // 2)


def _headline(row: Mapping[str, Any]) -> str:
    name = row.get("expression")
    return f"{row['face']}  {name} {row[name.lower()]:.0%}" if name else f"face {row['face']}"


def _label(row: Mapping[str, Any], colour: tuple[int, ...], em: int) -> Pixels:
    """The expression alone."""
    words = _headline(row)
    sheet, draw = _sheet(_font(em).getlength(words) + em, 1.6 * em, em)
    _write(draw, em * 0.5, em * 0.8, words, (*colour, 255), em)
    return np.asarray(sheet)


def _card(row: Mapping[str, Any], colour: tuple[int, ...], em: int) -> Pixels:
    """Expression, V-A plane, active AUs and quality flags."""
    small, pad, side = round(0.78 * em), 0.7 * em, 5 * em if row.get("valence") is not None else 0
    units = active_units(row)
    lines = [(unit[2:], AU_NAMES[unit], _WHITE) for unit in units[:5]]
    if len(units) > 5:
        lines.append(("", f"and {len(units) - 5} more", _GREY))
    if "AU1" in row and not units:
        lines = [("", "no active action unit", _GREY)]
    if row["quality_flags"]:
        lines.append(("", "quality: " + row["quality_flags"].replace(",", ", "), (*_BRIGHT[1], 255)))
    column = 1.55 * small if units else 0.0
    width = max([10.5 * em, *(_font(small).getlength(words) + column * bool(n) + 2 * pad for n, words, _ in lines)])
    height = 2.0 * em + len(lines) * 1.25 * small + (side + 0.6 * em if side else 0) + 0.5 * em
    sheet, draw = _sheet(width, height, em)
    _write(draw, pad, 1.15 * em, _headline(row), (*colour, 255), em)
    y = 2.0 * em
    for number, words, tint in lines:
        _write(draw, pad + 1.15 * small, y + 0.6 * small, number, _GREY, small, right=True)
        _write(draw, pad + (column if number else 0), y + 0.6 * small, words, tint, small)
        y += 1.25 * small
    if side:
        y += 0.4 * em
        sheet.alpha_composite(_plane(side), (round(pad), round(y)))
        for name, value, down in (("valence", row["valence"], 0.3), ("arousal", row["arousal"], 0.7)):
            middle = y + down * side
            _write(draw, pad + side + 0.6 * em, middle - 0.45 * em, name, _GREY, small)
            _write(draw, pad + side + 0.6 * em, middle + 0.45 * em, f"{value:+.2f}", _WHITE, small)
        dot = _dot(round(0.72 * em), colour)
        x, y = pad + side * (1 + row["valence"]) / 2, y + side * (1 - row["arousal"]) / 2
        sheet.alpha_composite(dot, (max(0, round(x - dot.width / 2)), max(0, round(y - dot.height / 2))))
    return np.asarray(sheet)
