"""The texture of one person: skin, blemishes, beard, lips, brows, lashes, hair or head covering, clothes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.render.model import Floats, f32
from triaffect.render.paint import TILE, Atlas, noise, smooth
from triaffect.render.props import FIXED, fixed
from triaffect.render.ranges import Ranges


def srgb(colours: str) -> NDArray[np.int64]:
    """(n, 3) sRGB values, 0 to 255, of hexadecimal colours."""
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()])


TONES = srgb("f3d6c6 eac2ab dcac8f c69576 a8785b 865e47 654636 48332a")
"""Skin from the lightest to the darkest, evenly spaced in `tone`."""


def linear(colour: Floats) -> Floats:
    """Convert sRGB, 0 to 255, to linear light in [0, 1]."""
    return f32((np.asarray(colour, np.float32) / 255) ** 2.2)


def between(table: Floats, at: float) -> Floats:
    """Interpolate the rows of a table; `at` is 0 at the first row and 1 at the last."""
    place = at * (len(table) - 1)
    low = min(int(place), len(table) - 2)
    return f32(table[low] + (table[low + 1] - table[low]) * (place - low))


def step(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return f32(t * t * (3 - 2 * t))


def hair_cover(place: Floats, line: Floats) -> Floats:
    """Distance inside the hairline in model units, negative on bare skin.

    Args:
        place: (..., 3) neutral positions.
        line: Three shifts: of the whole line, of the temples, of the sideburns.
    """
    x, y, z = np.abs(place[..., 0]), place[..., 1], place[..., 2]
    height = np.interp(
        z,
        [-9, -1.5, 1.8, 3.2, 4.6, 6.6, 8.6, 9.6],
        [-6, -3.0, 0.6 + line[2], 4.2 + line[2], 6.6 + line[1], 8.6 + line[1] + line[0], 9.5 + line[0], 9.8 + line[0]],
    )
    # Above the ear the hair thins out; on the ear there is none.
    ear = (x > 6.2) & (z > -2.5) & (z < 3.0)
    return np.where(ear, np.minimum(y - height, (y - 4.7) * 0.6), y - height).astype(np.float32)


def paint(
    atlas: Atlas, rng: np.random.Generator, ranges: Ranges, tone: float, hair: Floats, kind: str, line: Floats
) -> tuple[Floats, Floats, Floats]:
    """Paint a person.

    Args:
        atlas: The model's atlas.
        rng: Source of randomness.
        ranges: Limits of what is drawn.
        tone: Skin tone, 0 to 1.
        hair: sRGB of the hair, 0 to 255.
        kind: "hair", "bald" or "covering".
        line: The hairline, as `hair_cover` takes it.

    Returns:
        Albedo (TILE, 2 TILE, 3) in linear RGB, gloss (TILE, 2 TILE), relief at rest (TILE, 2 TILE, 4).
    """
    canvas = _Canvas(atlas, rng, linear(between(TONES, tone) * rng.uniform(0.96, 1.04, 3)))
    blood = rng.uniform(*ranges.redness)
    canvas.complexion(blood, tone, ranges.freckles)
    shaven = canvas.beard(linear(hair), ranges)
    canvas.lips(blood, shaven and rng.random() < ranges.lipstick)
    brows = _brows(atlas, rng, rng.uniform(*ranges.brow))
    canvas.cover(linear(hair * (0.8 if hair.mean() < 110 else 0.55)), brows * rng.uniform(0.75, 0.97))
    canvas.tint((0.12, 0.1, 0.1), _lashes(atlas, rng.uniform(0.5, 1.6)))
    canvas.gloss -= 0.4 * brows
    canvas.wrinkles(rng.uniform(*ranges.age))
    if kind != "bald":
        canvas.head(hair_cover(atlas.place, line), linear(hair) if kind == "hair" else None)
    canvas.shirt()
    return np.clip(canvas.albedo, 0.004, 0.95), np.clip(canvas.gloss, 0.02, 2), canvas.relief


class _Canvas:
    """A texture being painted."""

    def __init__(self, atlas: Atlas, rng: np.random.Generator, skin: Floats) -> None:
        self.atlas, self.rng, self.skin = atlas, rng, skin
        self.x, self.y = np.abs(atlas.x), atlas.y
        self.front = step(atlas.z, 3, 6) * atlas.face
        self.grain, self.blotches = noise(rng, 256), noise(rng, 22)
        uneven = 1 + 0.045 * self.grain * rng.uniform(0.4, 1.3) + 0.05 * self.blotches + 0.05 * noise(rng, 6)
        self.albedo = f32(skin * uneven[..., None])
        shiny = 0.5 + 0.25 * self.spot(0, 0, 1.0, 4.5) + 0.2 * self.spot(0, 8.5, 3.5, 2) + 0.06 * self.grain
        self.gloss = f32(shiny * rng.uniform(0.5, 1.4))
        pores = rng.uniform(0.03, 0.1)
        bumps = [pores * noise(rng, 240) + 0.04 * noise(rng, 60) for _ in range(2)]
        self.relief = f32(np.stack([*bumps, pores * self.grain, np.zeros_like(self.grain)], 2))

    def tint(self, colour: Sequence[float] | Floats, weight: Floats) -> None:
        """Multiply by a colour where `weight` is 1."""
        self.albedo *= 1 - weight[..., None] * (1 - f32(colour))

    def cover(self, colour: Floats, weight: Floats) -> None:
        """Replace by a colour where `weight` is 1."""
        self.albedo += weight[..., None] * (f32(colour) - self.albedo)

    def spot(self, x: float, y: float, width: float, height: float) -> Floats:
        """A soft spot on both sides of the face."""
        return f32(np.exp(-(((self.x - x) / width) ** 2) - ((self.y - y) / height) ** 2) * self.front)

    def complexion(self, blood: float, tone: float, freckles: float) -> None:
        """Red cheeks, nose and chin, shade around the eyes, freckles and moles."""
        rng = self.rng
        cheeks, nose, chin = self.spot(3.9, 0.2, 1.9, 1.5), self.spot(0, 0.2, 1.1, 0.9), self.spot(0, -6.5, 1.5, 0.9)
        flush = 0.55 * cheeks + 0.5 * nose + 0.25 * chin
        red = (1.0, 0.62 + 0.15 * tone, 0.66 + 0.15 * tone)
        self.tint(red, np.clip(flush * blood * (1 + 0.3 * self.blotches), 0, 1))
        self.tint((0.8, 0.72, 0.74), rng.uniform(0.1, 0.6) * self.spot(3.1, 2.4, 1.5, 0.55))
        self.tint((0.78, 0.7, 0.68), rng.uniform(0.1, 0.5) * self.spot(3.1, 4.3, 1.5, 0.5))
        if rng.random() < freckles:
            dots = step(noise(rng, 170) + 0.5 * noise(rng, 30), 1.6, 2.3) * step(self.y, -4, -1) * step(self.y, 8, 4)
            self.tint((0.72, 0.55, 0.45), rng.uniform(0.4, 0.9) * dots * self.front)
        for column, row in rng.uniform(60, 450, (rng.poisson(2), 2)).astype(int):
            mole = np.zeros((TILE, 2 * TILE), np.uint8)
            cv2.circle(mole, (int(column), int(row)), 2, 255, -1, cv2.LINE_AA)
            self.tint((0.45, 0.35, 0.32), mole / np.float32(255) * rng.uniform(0.3, 0.9))

    def beard(self, colour: Floats, ranges: Ranges) -> bool:
        """Beard or stubble below a line from the sideburns over the cheek to the moustache; True if there is none."""
        grown = self.rng.random()
        if grown > ranges.beard + ranges.stubble:
            return True
        cheek = np.interp(self.x, [0, 2.4, 3.2, 4.5, 6.5, 7.5], [-1.5, -1.7, -2.6, -3.0, 0.0, 2.5])
        where = step(cheek - self.y, 0, 0.8) * step(self.y, -10, -8) * step(self.atlas.lip, -0.05, -0.3)
        where *= self.atlas.face * step(self.atlas.z, 0, 2.5)
        hairs = noise(self.rng, 300)
        if grown < ranges.beard:
            self.cover(colour * 0.9, where * np.clip(0.75 + 0.35 * hairs + 0.2 * self.blotches, 0, 0.97))
        else:
            dense = self.rng.uniform(0.1, 0.4)
            self.cover(colour * 0.7 + self.skin * 0.2, where * np.clip(dense * (1 + 0.8 * hairs), 0, 0.7))
        return False

    def lips(self, blood: float, painted: bool) -> None:
        """Lips: redder and darker than the skin, striped, with a soft border."""
        rng, lip, face = self.rng, self.atlas.lip, self.atlas.face
        where = step(lip, -0.06, 0.08) * face
        colour = self.skin * f32([0.82, 0.5, 0.52]) * rng.uniform(0.85, 1.1) + f32([0.05, 0.0, 0.01]) * blood
        if painted:
            colour = linear(rng.uniform((120, 15, 40), (205, 70, 90)))
        self.cover(colour, where * (0.95 if painted else rng.uniform(0.6, 0.9)))
        stripes = 0.06 * cv2.resize(rng.standard_normal((8, 256)).astype(np.float32), (2 * TILE, TILE))
        self.albedo *= 1 + (where * stripes)[..., None]
        self.tint((0.62, 0.5, 0.5), 0.8 * step(lip, 0.62, 0.95) * face)
        self.tint((0.8, 0.7, 0.68), 0.5 * np.exp(-((lip / 0.12) ** 2)) * face)
        self.gloss += where * rng.uniform(0.1, 1.2)

    def wrinkles(self, age: float) -> None:
        """Furrows at rest; everybody has the crease of the lid, few have the lines of pressed lips."""
        for name, pair in self.atlas.furrows.items():
            depth = age * self.rng.uniform() * (0.3 if name in ("press_fold", "lip_lines", "lower_lid") else 1)
            if name == "lid_crease":
                depth = self.rng.uniform(0.3, 1.3)
            for furrow in pair:
                self.relief[furrow.at] += np.float32(depth) * furrow.relief

    def head(self, covered: Floats, hair: Floats | None) -> None:
        """Hair, combed back in strands, or cloth where `hair` is None."""
        rng = self.rng
        if hair is None:
            where = step(covered, -0.02, 0.08)
            cloth = np.clip(1 + 0.06 * self.grain + 0.12 * self.blotches, 0.5, 1.5)
            self.cover(linear(rng.uniform(15, 235, 3)) * cloth[..., None], where)
        else:
            across = self.atlas.x * 38 + 14 * noise(rng, 8) + 1000
            strands = f32(np.interp(across, np.arange(2048), rng.standard_normal(2048))) + 0.5 * self.grain
            where = step(covered + 0.16 * strands + 0.1 * self.blotches, -0.2, 0.6)
            self.cover(hair * np.clip(1 + 0.3 * strands + 0.2 * self.blotches, 0.3, 2)[..., None], where)
            self.relief[..., 0] += 0.25 * where * strands
        self.gloss *= 1 - 0.6 * where
        self.relief[..., :3] += (0.2 * where * noise(rng, 14))[..., None]

    def shirt(self) -> None:
        """Clothes from the collar down."""
        below = step(self.y, -11.5, -11.8)
        self.cover(linear(self.rng.uniform(10, 240, 3)) * (1 + 0.08 * self.grain[..., None]), below)
        self.gloss *= 1 - below


def _brows(atlas: Atlas, rng: np.random.Generator, thickness: float) -> Floats:
    """Brow hairs as strokes: upright at the inner end, then along the arch, thinner at the outer end."""
    drawing = np.zeros((TILE, 2 * TILE), np.uint8)
    unit = atlas.scale
    drop = rng.uniform(0.0, 0.35)
    arch = rng.normal(0, 0.12)
    for points, outwards in ((atlas.landmarks[17:22][::-1], -1), (atlas.landmarks[22:27], 1)):
        curve = smooth(points, 100)
        curve[:, 1] += unit * (drop - arch * np.sin(np.linspace(0, np.pi, 100)))
        for _ in range(int(330 * thickness**0.5)):
            s = rng.beta(1.1, 1.25)
            half = 0.34 * thickness * np.interp(s, [0, 0.15, 0.5, 1], [0.5, 0.95, 0.85, 0.18])
            root = curve[int(s * 99)] + [0, unit * rng.uniform(-half, half) * 1.0]
            lean = np.radians(np.interp(s, [0, 0.15, 0.5, 1], [78, 50, 18, -18]) + rng.normal(0, 9))
            length = unit * rng.uniform(0.25, 0.5) * (0.7 + 0.3 * thickness)
            tip = root + length * np.array([np.cos(lean) * outwards, -np.sin(lean)])
            cv2.line(drawing, fixed(root), fixed(tip), int(rng.uniform(120, 255)), 1, cv2.LINE_AA, FIXED)
    solid = cv2.GaussianBlur(drawing, (0, 0), 2.2)
    return np.clip(drawing / np.float32(255) * 0.75 + solid / np.float32(255) * 0.75, 0, 1) * atlas.face


def _lashes(atlas: Atlas, strength: float) -> Floats:
    """The dark rim of the lids, strong above and faint below."""
    drawing = np.zeros((TILE, 2 * TILE), np.float32)
    for corner in (36, 42):
        for marks, weight, width in (([0, 1, 2, 3], 1.0, 3), ([0, 5, 4, 3], 0.45, 1)):
            lid = smooth(atlas.landmarks[corner:][marks], 30)
            rim = np.zeros((TILE, 2 * TILE), np.uint8)
            cv2.polylines(rim, [fixed(lid)], False, 255, width, cv2.LINE_AA, FIXED)
            drawing = np.maximum(drawing, rim * np.float32(weight * min(strength, 1.2) / 1.2 / 255))
    return drawing
