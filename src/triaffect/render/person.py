"""One made-up person: identity, skin, hair, eyes and the texture that holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from triaffect.render.model import EYE_LEFT, EYE_RIGHT, SKIN, FaceModel, Floats, f32
from triaffect.render.paint import Atlas
from triaffect.render.ranges import Ranges
from triaffect.render.skin import hair_cover, linear, paint, step

SKIN_GROUPS = 6
"""The side file names a person's skin by the sixth of the tone range, 1 (lightest) to 6 (darkest)."""

HAIR = np.array(
    [
        (18, 15, 14),
        (35, 25, 20),
        (62, 42, 30),
        (96, 66, 42),
        (150, 112, 68),
        (196, 164, 112),
        (128, 62, 32),
        (150, 148, 146),
    ]
)
IRIS = np.array([(58, 34, 20), (84, 54, 30), (104, 82, 44), (88, 104, 70), (92, 122, 142), (112, 128, 136)])


@dataclass
class Person:
    """All that stays the same over a person's videos.

    Attributes:
        base: (V, 3) neutral vertices, hair included.
        albedo: (TILE, 2 TILE, 3) linear RGB.
        gloss: (TILE, 2 TILE) strength of the highlight.
        relief: (TILE, 2 TILE, 4) gradient of the height and darkening at rest.
        eyes: Centre (2, 3) of the left and right eyeball.
        iris: Linear RGB.
        sclera: Linear RGB.
        iris_size: Cosine of the angle between the eye's axis and the rim of the iris.
        hair_colour: Linear RGB.
        long_hair: Width of the hair beside the face in model units, 0 for none.
        glasses: Whether the person wears them, and their colour, size and tint.
        tone: Skin tone, 0 to 1.
        furrow: Depth of furrows at full contraction.
        strength: (12,) by action unit, and `side` (12, 2) for left and right.
    """

    base: Floats
    albedo: Floats
    gloss: Floats
    relief: Floats
    eyes: Floats
    radius: float
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


def make_person(model: FaceModel, atlas: Atlas, rng: np.random.Generator, ranges: Ranges | None = None) -> Person:
    """Draws a person.

    Args:
        model: The face model.
        atlas: Its atlas.
        rng: Decides everything; the same state gives the same person.
        ranges: What people may look like.
    """
    ranges = ranges or Ranges()
    modes = min(ranges.modes, len(model.modes))
    mean = rng.normal(0, ranges.identity, modes).clip(-2, 2)
    sides = [mean + rng.normal(0, ranges.identity * ranges.asymmetry, modes) for _ in range(2)]
    base = model.identity(f32(sides[0]), f32(sides[1]))

    base = _close_lips(model, base)
    tone = rng.uniform(*ranges.tone)
    dark = rng.random() < 0.25 + 0.9 * tone
    hair_srgb = HAIR[rng.integers(3)] if dark else HAIR[rng.integers(len(HAIR))]
    hair_srgb = np.clip(hair_srgb * rng.uniform(0.8, 1.25), 0, 255)
    kind = rng.choice(["hair", "bald", "covering"], p=[1 - ranges.bald - ranges.covering, ranges.bald, ranges.covering])
    line = f32([rng.normal(0, 0.5), rng.normal(0.2, 0.6), rng.normal(0, 0.6)])
    if kind == "covering":
        line += f32([-0.6, 0, -0.5])
    volume = {"hair": rng.uniform(0.15, 1.1), "bald": 0.0, "covering": rng.uniform(0.3, 0.8)}[kind]
    inside = step(hair_cover(model.neutral, line), -0.1, 1.1)
    normals = model.normals(base)
    skin_vertices = np.zeros(len(base), bool)
    skin_vertices[model.triangles[model.part == SKIN]] = True
    lumps = rng.normal(0, 1, (3, 3)).astype(np.float32)
    wave = 1 + 0.15 * np.sin(model.neutral @ lumps).mean(1)
    base = base + normals * (inside * skin_vertices * volume * wave)[:, None]

    albedo, gloss, relief = paint(atlas, rng, ranges, tone, hair_srgb, kind, line)
    centres, radii = zip(
        *(_ball(base[np.unique(model.triangles[model.part == p])]) for p in (EYE_LEFT, EYE_RIGHT)), strict=True
    )
    brown = rng.random() < 0.35 + 0.8 * tone
    iris_srgb = IRIS[rng.integers(2 if brown else len(IRIS))] * rng.uniform(0.8, 1.15)
    glasses = None
    if rng.random() < ranges.glasses:
        glasses = {
            "width": rng.uniform(1.75, 2.35),
            "height": rng.uniform(1.2, 1.75),
            "round": rng.uniform(2.0, 5.0),
            "rim": rng.uniform(0.07, 0.22),
            "grey": rng.choice([0.02, 0.03, 0.2, 0.45]),
            "tint": rng.choice([0.0, 0.05, 0.12, 0.3]),
        }
    return Person(
        base=f32(base),
        albedo=albedo,
        gloss=gloss,
        relief=relief,
        eyes=f32(centres),
        radius=float(np.mean(radii)),
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
    """Takes back what the identity modes opened the lips by, with a little of the jaw's shape."""
    if "jawOpen" not in model.columns:
        return base
    jaw = model.shapes[model.columns["jawOpen"]]

    def gap(points: Floats) -> float:
        return float((points[model.landmarks[61:64], 1] - points[model.landmarks[[67, 66, 65]], 1]).mean())

    opening = gap(jaw)
    return base + jaw * f32(np.clip(-(gap(base) + 0.02) / opening if opening else 0, -0.2, 0.15))


def _ball(points: Floats) -> tuple[Floats, float]:
    """Centre and radius of the sphere nearest to the points (linear least squares)."""
    system = np.c_[2 * points, np.ones(len(points))]
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    centre = solution[:3]
    return centre, float(np.sqrt(max(solution[3] + centre @ centre, 1e-6)))
