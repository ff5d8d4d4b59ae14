"""One invented person: identity, skin, hair, eyes, and the texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triaffect.render.model import EYE_LEFT, EYE_RIGHT, SKIN, FaceModel, Floats, f32
from triaffect.render.paint import Atlas
from triaffect.render.ranges import Ranges
from triaffect.render.skin import hair_cover, linear, paint, srgb, step

SKIN_GROUPS = 6
"""truth.parquet gives a person's skin as the sixth of the tone range, 1 (lightest) to 6 (darkest)."""

HAIR = srgb("120f0e 231914 3e2a1e 60422a 967044 c4a470 803e20 969492")
IRIS = srgb("3a2214 54361e 68522c 586846 5c7a8e 708088")


@dataclass
class Person:
    """Everything that stays the same over a person's videos.

    Attributes:
        base: (V, 3) neutral vertices, hair included.
        albedo: (TILE, 2 TILE, 3) linear RGB.
        gloss: (TILE, 2 TILE) strength of the highlight.
        relief: (TILE, 2 TILE, 4) gradient of the height and darkening at rest.
        eyes: (2, 3) centres of the left and right eyeball.
        iris: Linear RGB.
        sclera: Linear RGB.
        iris_size: Cosine of the angle between the eye's axis and the rim of the iris.
        hair_colour: Linear RGB.
        long_hair: Width of the hair at the sides of the face in model units, 0 for none.
        glasses: Their size, colour and tint, None without.
        tone: Skin tone, 0 to 1.
        furrow: Depth of furrows at full contraction.
        strength: (12,) how far each action unit moves the face.
        sides: (12, 2) the same for the left and the right half.
    """

    base: Floats
    albedo: Floats
    gloss: Floats
    relief: Floats
    eyes: Floats
    iris: Floats
    sclera: Floats
    iris_size: float
    hair_colour: Floats
    long_hair: float
    glasses: dict[str, float] | None
    tone: float
    furrow: float
    strength: Floats
    sides: Floats

    @property
    def skin_group(self) -> int:
        """1 (lightest) to `SKIN_GROUPS` (darkest)."""
        return min(int(self.tone * SKIN_GROUPS), SKIN_GROUPS - 1) + 1


def make_person(model: FaceModel, atlas: Atlas, rng: np.random.Generator, ranges: Ranges) -> Person:
    """Make up a person.

    Args:
        model: The face model.
        atlas: Its atlas.
        rng: Source of randomness; the same state gives the same person.
        ranges: What people may look like.
    """
    modes = min(ranges.modes, len(model.modes))
    mean = rng.normal(0, ranges.identity, modes).clip(-2, 2)
    sides = [mean + rng.normal(0, ranges.identity * ranges.asymmetry, modes) for _ in range(2)]
    base = model.identity(f32(sides[0]), f32(sides[1]))

    base = _close_lips(model, base)
    tone = rng.uniform(*ranges.tone)
    dark = rng.random() < 0.25 + 0.9 * tone
    hair_srgb = HAIR[rng.integers(3)] if dark else HAIR[rng.integers(len(HAIR))]
    hair_srgb = np.clip(hair_srgb * rng.uniform(0.8, 1.25), 0, 255)
    shares = [1 - ranges.bald - ranges.covering, ranges.bald, ranges.covering]
    kind = str(rng.choice(["hair", "bald", "covering"], p=shares))
    line = f32([rng.normal(0, 0.5), rng.normal(0.2, 0.6), rng.normal(0, 0.6)])
    if kind == "covering":
        line += f32([-0.6, 0, -0.5])
    volume = {"hair": rng.uniform(0.15, 1.1), "bald": 0.0, "covering": rng.uniform(0.3, 0.8)}[kind]
    inside = step(hair_cover(model.neutral, line), -0.1, 1.1)
    on_skin = np.isin(np.arange(len(base)), model.triangles[model.part == SKIN])
    lumps = rng.normal(0, 1, (3, 3)).astype(np.float32)
    wave = 1 + 0.15 * np.sin(model.neutral @ lumps).mean(1)
    base = base + model.normals(base) * (inside * on_skin * volume * wave)[:, None]

    albedo, gloss, relief = paint(atlas, rng, ranges, tone, hair_srgb, kind, line)
    eyeballs = (base[np.unique(model.triangles[model.part == part])] for part in (EYE_LEFT, EYE_RIGHT))
    brown = rng.random() < 0.35 + 0.8 * tone
    iris_srgb = IRIS[rng.integers(2 if brown else len(IRIS))] * rng.uniform(0.8, 1.15)
    glasses: dict[str, float] | None = None
    if rng.random() < ranges.glasses:
        glasses = {
            "width": rng.uniform(1.75, 2.35),
            "height": rng.uniform(1.2, 1.75),
            "round": rng.uniform(2.0, 5.0),
            "rim": rng.uniform(0.07, 0.22),
            "grey": float(rng.choice([0.02, 0.03, 0.2, 0.45])),
            "tint": float(rng.choice([0.0, 0.05, 0.12, 0.3])),
        }
    return Person(
        base=f32(base),
        albedo=albedo,
        gloss=gloss,
        relief=relief,
        eyes=f32([_centre(points) for points in eyeballs]),
        iris=linear(iris_srgb),
        sclera=linear(np.array([218, 210, 206]) * rng.uniform(0.88, 1.0)),
        iris_size=float(np.cos(np.radians(rng.uniform(25.5, 29.5)))),
        hair_colour=linear(hair_srgb),
        long_hair=float(rng.uniform(1.0, 4.0)) if kind == "hair" and rng.random() < ranges.long_hair else 0.0,
        glasses=glasses,
        tone=float(tone),
        furrow=float(rng.uniform(*ranges.furrow)),
        strength=f32(rng.uniform(*ranges.strength, 12)),
        sides=f32(1 - np.eye(2)[rng.integers(2, size=12)] * rng.uniform(0, ranges.lopsided, (12, 1)) ** 1.5),
    )


def _close_lips(model: FaceModel, base: Floats) -> Floats:
    """Close the lips again where the identity modes opened them, with a little of the jaw's shape."""
    jaw = model.shapes[model.columns["jawOpen"]]

    def gap(points: Floats) -> float:
        return float((points[model.landmarks[61:64], 1] - points[model.landmarks[[67, 66, 65]], 1]).mean())

    opening = gap(jaw)
    return base + jaw * f32(np.clip(-(gap(base) + 0.02) / opening if opening else 0, -0.2, 0.15))


def _centre(points: Floats) -> Floats:
    """Centre of the sphere nearest to the points (linear least squares)."""
    system = np.c_[2 * points, np.ones(len(points))]
    return f32(np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3])
