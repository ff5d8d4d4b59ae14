"""What is in front of and behind the head: hair at its sides, glasses, occluders, backgrounds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.render.model import Floats, f32

FIXED = 4  # bits of subpixel precision of OpenCV's drawing functions


def fixed(points: Floats) -> Any:
    """Convert points to OpenCV's fixed-point integers."""
    return np.int32(np.round(np.clip(points, -2000, 4000) * 2**FIXED))


def polygons(side: int, *outlines: Floats) -> NDArray[np.uint8]:
    """(side, side) mask, 0 to 255, of filled polygons, each (n, 2) in pixels."""
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [fixed(outline) for outline in outlines], 255, cv2.LINE_AA, FIXED)
    return mask


def blend(picture: Floats, colour: Floats, weight: Floats) -> None:
    """Cover a picture with a colour, in place; `weight` is (h, w) in [0, 1]."""
    picture += weight[..., None] * (np.asarray(colour, np.float32) - picture)


def hang_hair(picture: Floats, outline: Floats, colour: Floats, seed: int) -> None:
    """Draw the hair behind the face.

    Args:
        picture: (s, s, 3) linear RGB, changed in place.
        outline: (n, 2) closed outline in pixels.
        colour: Linear RGB.
        seed: Seed of the strands, the same in all frames of a video.
    """
    side = len(picture)
    strands = np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32)
    shade = np.clip(0.7 + 0.28 * cv2.resize(strands, (side, side), interpolation=cv2.INTER_CUBIC), 0.2, 1.5)
    weight = cv2.GaussianBlur(polygons(side, outline), (0, 0), side / 160) / np.float32(255)
    blend(picture, colour * shade[..., None] * 0.4, weight)


def draw_glasses(
    picture: Floats, rims: list[Floats], bridge: Floats, temples: list[Floats], style: dict[str, float], pixels: float
) -> None:
    """Draw glasses over the head.

    Args:
        picture: (s, s, 3) linear RGB, changed in place.
        rims: Two closed outlines (n, 2) in pixels.
        bridge: (n, 2) line between them.
        temples: Lines from the rims to the ears, those that are visible.
        style: `rim` (model units), `grey`, `tint`.
        pixels: Pixels per model unit.
    """
    side = len(picture)
    inside = polygons(side, *rims) / np.float32(255)
    picture *= 1 - style["tint"] * inside[..., None]
    slant = np.array([[0.55, 0.0], [0.75, 0.0], [0.45, 1.0], [0.25, 1.0]])
    glare = polygons(side, *(rim.min(0) + slant * (rim.max(0) - rim.min(0)) for rim in rims))
    picture += (0.05 * inside * cv2.blur(glare, (5, 5)) / 255)[..., None]
    lines = np.zeros((side, side), np.uint8)
    width = max(round(style["rim"] * pixels), 1)
    cv2.polylines(lines, [fixed(rim) for rim in rims], True, 255, width, cv2.LINE_AA, FIXED)
    open_lines = [fixed(line) for line in (bridge, *temples)]
    cv2.polylines(lines, open_lines, False, 255, max(width - 1, 1), cv2.LINE_AA, FIXED)
    shadow = np.roll(cv2.GaussianBlur(lines, (0, 0), max(0.16 * pixels, 0.8)), round(0.25 * pixels), axis=0)
    picture *= 1 - 0.35 * shadow[..., None] / np.float32(255)
    blend(picture, np.full(3, style["grey"]), lines / np.float32(255))


def draw_occluder(picture: Floats, occluder: dict[str, Any], skin: Floats) -> None:
    """Draw a hand or a bar in front of the face.

    Args:
        picture: (s, s, 3) linear RGB, changed in place.
        occluder: `kind` ("hand" or "bar"), `x`, `y` (its centre as parts of the side), `angle` (radians), `size` (part
            of the side), `colour` (linear RGB; a hand takes the skin's).
        skin: Linear RGB of the person.
    """
    side = len(picture)
    turn, size = occluder["angle"], occluder["size"] * side
    ahead = np.array([np.sin(turn), -np.cos(turn)])
    across = np.array([np.cos(turn), np.sin(turn)])
    middle = np.array([occluder["x"], occluder["y"]]) * side
    if occluder["kind"] == "hand":
        colour = skin
        corners = ((-1, -1), (1, -1), (1.05, 1), (-1.05, 1))
        palm = [middle + a * across * size * 0.42 + b * ahead * size * 0.45 for a, b in corners]
        height = _dome(polygons(side, np.array(palm)), size * 0.12)
        fingers = ((-0.36, 0.75), (-0.12, 0.9), (0.12, 0.85), (0.34, 0.65), (0.62, 0.2))
        for finger, (offset, length) in enumerate(fingers):
            shape = np.zeros((side, side), np.uint8)
            start = middle + offset * across * size + ahead * size * (0.35 if finger < 4 else -0.25)
            end = start + ahead * size * length + across * size * (offset * 0.25 + (0.25 if finger == 4 else 0))
            cv2.line(shape, fixed(start), fixed(end), 255, max(int(size * 0.2), 2), cv2.LINE_AA, FIXED)
            height = np.maximum(height, _dome(shape, size * 0.1))
    else:
        colour = np.asarray(occluder["colour"], np.float32)
        corners = ((-1, -1), (1, -1), (1, 0), (-1, 0))
        box = [middle + a * across * size * 0.16 + b * ahead * side * 1.5 for a, b in corners]
        bar = polygons(side, np.array(box))
        cv2.circle(bar, fixed(middle), int(size * 0.24 * 2**FIXED), 255, -1, cv2.LINE_AA, FIXED)
        height = _dome(bar, size * 0.12)
    weight = np.clip(height * 4, 0, 1)
    shadow = cv2.GaussianBlur(np.roll(weight, (side // 40, side // 60), (0, 1)), (0, 0), side / 45)
    picture *= 1 - 0.5 * shadow[..., None]
    slope_x, slope_y = cv2.Sobel(height, -1, 1, 0), cv2.Sobel(height, -1, 0, 1)
    shade = np.clip(0.62 - 1.1 * slope_x * side / 224 + 0.9 * -slope_y * side / 224, 0.12, 1.1)
    blend(picture, colour * cv2.blur(shade, (3, 3))[..., None] * 0.85, weight)


def _dome(shape: Any, reach: float) -> Floats:
    """Height, 0 to 1, of a rounded body with this silhouette."""
    inside = cv2.distanceTransform((shape > 127).astype(np.uint8), cv2.DIST_L2, 3)
    t = np.clip(inside / max(reach, 1), 0, 1)
    return f32(np.sqrt(1 - (1 - t) ** 2))


def make_background(rng: np.random.Generator, kind: str, side: int = 96) -> Floats:
    """Make (side, side, 3) linear RGB: "plain", "gradient", "noise" or "shapes" (lights and edges out of focus)."""

    def colour() -> Floats:
        return f32(np.clip(rng.uniform(0.02, 0.7) * rng.uniform(0.6, 1.4, 3), 0, 1) ** 1.5)

    canvas = f32(np.tile(colour(), (side, side, 1)))
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:side, 0:side] / side - 0.5
        t = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
        canvas = f32(canvas * (1 - t) + colour() * t)
    elif kind == "noise":
        cells = int(rng.integers(3, 14))
        grid = f32(rng.standard_normal((cells, cells, 3)))
        rough = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        canvas = canvas * np.clip(1 + 0.45 * rough.mean(2, keepdims=True) + 0.15 * rough, 0.1, 3)
    elif kind == "shapes":
        for _ in range(int(rng.integers(4, 14))):
            shape = np.zeros((side, side), np.uint8)
            at = rng.uniform(0, side, 2)
            if rng.random() < 0.5:
                cv2.circle(shape, fixed(at), int(rng.uniform(3, 16) * 2**FIXED), 255, -1, cv2.LINE_AA, FIXED)
            else:
                other = at + rng.uniform(5, 45, 2)
                cv2.rectangle(shape, fixed(at), fixed(other), 255, -1, cv2.LINE_AA, FIXED)
            blend(canvas, colour() * rng.uniform(0.6, 2.2), shape / np.float32(255) * rng.uniform(0.4, 1))
        canvas = f32(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1.0, 5.0)))
    return np.clip(canvas, 0, 1.5)
