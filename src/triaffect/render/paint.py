"""The atlas of the skin (where each texel lies on the mesh) and the furrows that action units draw.

Everything is in texture space, two square tiles side by side (face, back of the head), and is placed by the position of
a texel on the neutral mesh, so that it moves with the skin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from scipy.interpolate import make_interp_spline

from triaffect.render.model import SKIN, FaceModel, Floats, f32, trace
from triaffect.render.props import FIXED, fixed

TILE = 512
"""Texels along a tile: about 30 per model unit, near one per pixel of a 224 px face."""

FURROWS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("furrows.yaml").read_text("utf-8"))
"""Furrow -> its `lines`, `width` and `depth`."""


@dataclass
class Furrow:
    """One furrow on one side: where it is in the atlas, and what it adds there.

    Attributes:
        at: Rows and columns of the atlas.
        relief: (h, w, 4) gradient of the height (three axes of the neutral head), and darkening in [0, 1].
    """

    at: tuple[slice, slice]
    relief: Floats


class Atlas:
    """Where each texel lies on the neutral mesh, and the masks for painting; made once per model (about 1 s).

    Attributes:
        place: (TILE, 2 TILE, 3) neutral position of each texel; uncovered texels have that of the nearest covered one.
        lip: (TILE, 2 TILE) signed distance to the border of the red lips in model units, positive inside.
        furrows: Name -> the furrow's left and right part (the person's left, x > 0).
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        self.place = self._places()
        self.x, self.y, self.z = np.moveaxis(self.place, 2, 0)
        self.face = np.zeros((TILE, 2 * TILE), np.float32)
        self.face[:, :TILE] = 1
        self.landmarks = self._landmarks()
        self.lip = self._lip()
        self.furrows = {name: self._furrow(**furrow) for name, furrow in FURROWS.items()}

    def _places(self) -> Floats:
        skin = self.model.part == SKIN
        uv = self.model.uv[skin].reshape(-1, 2)
        flat = f32(np.c_[uv * TILE, np.zeros(len(uv))])
        scene = trace(flat, np.arange(len(flat), dtype=np.int32).reshape(-1, 3))
        column, row = np.meshgrid(np.arange(2 * TILE) + 0.5, TILE - 0.5 - np.arange(TILE))
        origins = f32(np.stack([column.ravel(), row.ravel(), np.full(column.size, 5.0)], 1))
        hit = scene.run(origins, np.broadcast_to(f32([0, 0, -1]), origins.shape).copy(), output=1)
        covered = np.flatnonzero(hit["primID"] >= 0)
        corners = self.model.neutral[self.model.triangles[skin][hit["primID"][covered]]]
        u, v = hit["u"][covered, None], hit["v"][covered, None]
        place = np.zeros((column.size, 3), np.float32)
        place[covered] = (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
        empty = (hit["primID"] < 0).astype(np.uint8).reshape(column.shape)
        _, nearest = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
        source = np.zeros(int(nearest.max()) + 1, np.int64)
        source[nearest.ravel()[covered]] = covered
        return place[source[nearest.ravel()]].reshape(*column.shape, 3)

    def _landmarks(self) -> Floats:
        """(68, 2) texel column and row of the landmarks."""
        faces = self.model.triangles[self.model.part == SKIN]
        uv = self.model.uv[self.model.part == SKIN].reshape(-1, 2)
        first = np.full(len(self.model.neutral), -1, np.int64)
        first[faces.ravel()[::-1]] = np.arange(faces.size)[::-1]
        at = uv[first[self.model.landmarks]]
        return f32(np.stack([at[:, 0] * TILE, (1 - at[:, 1]) * TILE], 1))

    def _lip(self) -> Floats:
        upper = smooth(self.landmarks[48:55], 60)
        lower = smooth(self.landmarks[[*range(54, 60), 48]], 60)
        mask = np.zeros((TILE, 2 * TILE), np.uint8)
        cv2.fillPoly(mask, [fixed(np.concatenate([upper, lower]))], 255, cv2.LINE_8, FIXED)
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(255 - mask, cv2.DIST_L2, 5)
        return f32(inside / self.scale)

    @cached_property
    def scale(self) -> float:
        """Texels per model unit around the mouth and eyes."""
        eyes = self.landmarks[45] - self.landmarks[36]
        true = self.model.neutral[self.model.landmarks[45]] - self.model.neutral[self.model.landmarks[36]]
        return float(np.linalg.norm(eyes) / np.linalg.norm(true))

    def _furrow(self, lines: list[list[list[float]]], width: float, depth: float) -> tuple[Furrow, Furrow]:
        parts = []
        for side in (1, -1):
            # Texels of the front of the face near the lines, on this side.
            points = np.array([p for line in lines for p in line])
            low, high = points.min(0) - 4 * width, points.max(0) + 4 * width
            across = self.x * side
            near = (across > max(low[0], 0) - 0.02) & (across < high[0]) & (self.y > low[1]) & (self.y < high[1])
            near &= (self.z > 3) & (self.face > 0)
            rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
            if not len(rows):
                parts.append(Furrow((slice(0, 0), slice(0, 0)), np.zeros((0, 0, 4), np.float32)))
                continue
            at = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            flat = np.stack([across[at], self.y[at]], 2)
            relief = np.zeros((*flat.shape[:2], 4), np.float32)
            for line in lines:
                away, along = _to_line(flat, smooth(np.array(line, np.float32), 24))
                distance = np.linalg.norm(away, axis=2)
                # The ends fade out; the skin above a furrow bulges a little (a wider, weaker ridge).
                crosses_midline = line[0][0] <= 0.05
                fade = (1 - along) * 3 + 0.2 if crosses_midline else np.minimum(along, 1 - along) * 4 + 0.25
                fade = np.clip(fade, 0, 1)
                dip = np.exp(-0.5 * (distance / width) ** 2) * fade
                ridge = np.exp(-0.5 * (distance / (2.2 * width)) ** 2) * fade
                slope = depth * (dip / width**2 - 0.55 * ridge / (2.2 * width) ** 2)
                relief[..., 0] += slope * away[..., 0] * side
                relief[..., 1] += slope * away[..., 1]
                relief[..., 3] = np.maximum(relief[..., 3], dip * min(1.0, depth * 2.2))
            parts.append(Furrow(at, relief * near[at][..., None]))
        return parts[0], parts[1]


def smooth(points: Floats, count: int) -> Floats:
    """A curve through the points, (count, 2): a quadratic spline by chord length, straight through two points."""
    steps = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    at = np.linspace(0, steps[-1], count)
    return f32(make_interp_spline(steps, points, k=min(len(points) - 1, 2))(at))


def _to_line(flat: Floats, line: Floats) -> tuple[Floats, Floats]:
    """Vector from the nearest point of a polyline to each texel, and how far along the line in [0, 1] that point is."""
    best = np.full(flat.shape[:2], np.inf, np.float32)
    away = np.zeros_like(flat)
    along = np.zeros(flat.shape[:2], np.float32)
    for k, (a, b) in enumerate(pairwise(line)):
        edge = b - a
        t = np.clip(((flat - a) @ edge) / max(float(edge @ edge), 1e-9), 0, 1)
        offset = flat - a - t[..., None] * edge
        distance = (offset**2).sum(2)
        closer = distance < best
        best[closer] = distance[closer]
        away[closer] = offset[closer]
        along[closer] = (k + t[closer]) / (len(line) - 1)
    return away, along


def noise(rng: np.random.Generator, cells: int, shape: tuple[int, int] = (TILE, 2 * TILE)) -> Floats:
    """Smooth noise, mean 0 and deviation near 1, with `cells` bumps down a tile."""
    small = rng.standard_normal((cells + 2, cells * shape[1] // shape[0] + 2)).astype(np.float32)
    return f32(cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))
