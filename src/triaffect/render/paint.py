"""Where paint goes on the mesh: the atlas of the skin, and the furrows that action units draw.

Everything lives in texture space, two square tiles side by side (face, back of the head), and is placed by where a
texel sits on the neutral mesh, so that it moves with the skin. The tables' coordinates are the neutral mesh's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from scipy.interpolate import make_interp_spline

from triaffect.render.model import SKIN, FaceModel, Floats, f32, trace

TILE = 512
"""Texels along a tile: about 30 to the model's unit, near one a pixel of a 224 px face."""

# Furrow name -> polylines of (|x|, y) on the neutral mesh, half width, depth. Every one is drawn on both sides.
FURROWS: dict[str, tuple[list[list[tuple[float, float]]], float, float]] = {
    # The crease of the upper lid, there at rest
    "lid_crease": ([[(1.95, 3.75), (2.6, 4.35), (3.4, 4.5), (4.2, 4.2), (4.75, 3.75)]], 0.07, 0.2),
    # AU1: short lines in the middle of the forehead, raised at the midline
    "forehead_middle": (
        [
            [(0, 8.0), (1.2, 8.05), (2.4, 7.75)],
            [(0, 8.95), (1.3, 9.0), (2.7, 8.6)],
            [(0, 9.85), (1.2, 9.9), (2.4, 9.6)],
        ],
        0.15,
        0.22,
    ),
    # AU2: arcs over the outer half of the brows
    "forehead_side": (
        [[(2.2, 7.8), (3.4, 7.9), (4.6, 7.4), (5.4, 6.7)], [(2.4, 8.7), (3.7, 8.75), (4.9, 8.15), (5.6, 7.5)]],
        0.15,
        0.2,
    ),
    # AU4: upright lines between the brows and a lying one at the root of the nose
    "glabella": ([[(0.62, 4.7), (0.5, 5.5), (0.68, 6.5)], [(0.0, 4.35), (0.75, 4.25)]], 0.15, 0.3),
    # AU6: crow's feet, and the furrow under the eye pushed up by the cheek
    "crows_feet": (
        [[(5.1, 3.85), (6.0, 4.5)], [(5.15, 3.4), (6.3, 3.55)], [(5.0, 3.0), (6.0, 2.5)], [(5.0, 2.6), (5.7, 1.9)]],
        0.12,
        0.2,
    ),
    "under_eye": ([[(1.75, 2.6), (2.5, 1.95), (3.4, 1.7), (4.2, 1.9)]], 0.16, 0.22),
    # AU7: the lower lid tightens into a roll close to the lashes
    "lower_lid": ([[(1.95, 2.95), (2.6, 2.62), (3.4, 2.55), (4.3, 2.92)]], 0.09, 0.2),
    # AU9 (unlabelled): across the bridge of the nose
    "nose_root": ([[(0.0, 3.2), (0.8, 3.0)], [(0.25, 2.5), (1.0, 2.0)]], 0.13, 0.2),
    # AU10: the upper part of the nasolabial furrow, beside the wing of the nose
    "wing": ([[(1.25, 0.75), (1.75, 0.1), (2.15, -0.9), (2.55, -1.8)]], 0.18, 0.34),
    # AU12: the whole nasolabial furrow down to the corner, and the dimple beside it
    "nasolabial": ([[(1.6, 0.2), (2.3, -0.9), (3.05, -2.1), (3.45, -3.3), (3.4, -4.0)]], 0.2, 0.36),
    "corner": ([[(2.75, -3.2), (2.95, -3.55), (2.8, -3.9)]], 0.12, 0.22),
    # AU15: from the corners down, and the pouch under them
    "marionette": ([[(2.65, -3.65), (2.95, -4.4), (2.95, -5.3)]], 0.17, 0.34),
    # AU17 (unlabelled, with AU15 and AU24): the fold between lower lip and chin
    "chin_fold": ([[(0.0, -5.25), (0.9, -5.2), (1.7, -4.95)]], 0.2, 0.3),
    # AU23: fine upright lines in the skin round the tightened lips
    "lip_lines": (
        [
            *([(x, -1.75), (x * 1.02, -2.35)] for x in (0.55, 1.05, 1.55)),
            *([(x, -4.55), (x * 1.05, -5.1)] for x in (0.3, 0.8, 1.3)),
        ],
        0.09,
        0.16,
    ),
    # AU24: the skin over and under the pressed lips bulges; the folds that bound it
    "press_fold": (
        [[(0.3, -2.2), (1.2, -2.3), (2.2, -2.85), (2.75, -3.5)], [(0.0, -4.75), (1.3, -4.6), (2.3, -4.0)]],
        0.13,
        0.24,
    ),
}


@dataclass
class Furrow:
    """One furrow of one side: rows and columns of the atlas, and what it adds there.

    Attributes:
        at: The slices of the atlas that it touches.
        relief: (h, w, 4) gradient of the height (three axes of the neutral head), and darkening in [0, 1].
    """

    at: tuple[slice, slice]
    relief: Floats


class Atlas:
    """Where each texel lies on the neutral mesh, and the masks that painting needs; made once a model (about 1 s).

    Attributes:
        place: (TILE, 2 TILE, 3) neutral position of each texel; uncovered texels take their nearest one's.
        lip: (TILE, 2 TILE) signed distance to the border of the red lips in model units, positive inside.
        furrows: Name -> the furrow's left and right part (the person's left, x > 0).
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        self.place = self._places()
        x, y, z = np.moveaxis(self.place, 2, 0)
        self.x, self.y, self.z = x, y, z
        self.face = np.zeros((TILE, 2 * TILE), np.float32)
        self.face[:, :TILE] = 1
        self.landmarks = self._landmarks()
        self.lip = self._lip()
        self.furrows = {name: self._furrow(*furrow) for name, furrow in FURROWS.items()}

    def _places(self) -> Floats:
        skin = self.model.part == SKIN
        uv = self.model.uv[skin].reshape(-1, 2)
        flat = f32(np.c_[uv * TILE, np.zeros(len(uv))])
        scene = trace(flat, np.arange(len(flat), dtype=np.int32).reshape(-1, 3))
        column, row = np.meshgrid(np.arange(2 * TILE) + 0.5, TILE - 0.5 - np.arange(TILE))
        origins = f32(np.stack([column.ravel(), row.ravel(), np.full(column.size, 5.0)], 1))
        hit = scene.run(origins, np.broadcast_to(f32([0, 0, -1]), origins.shape).copy(), output=1)
        found = np.flatnonzero(hit["primID"] >= 0)
        corners = self.model.neutral[self.model.triangles[skin][hit["primID"][found]]]
        u, v = hit["u"][found, None], hit["v"][found, None]
        place = np.zeros((column.size, 3), np.float32)
        place[found] = (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
        empty = np.ones(column.size, np.uint8)
        empty[found] = 0
        empty = empty.reshape(column.shape)
        _, nearest = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
        source = np.zeros(nearest.max() + 1, np.int64)
        source[nearest.ravel()[found]] = found
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
        outline = np.round(np.concatenate([upper, lower]) * 16).astype(np.int32)
        mask = np.zeros((TILE, 2 * TILE), np.uint8)
        cv2.fillPoly(mask, [outline], 255, lineType=cv2.LINE_8, shift=4)
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(255 - mask, cv2.DIST_L2, 5)
        return f32(inside / self.scale)

    @cached_property
    def scale(self) -> float:
        """Texels to the model's unit around the mouth and eyes."""
        eyes = self.landmarks[45] - self.landmarks[36]
        true = self.model.neutral[self.model.landmarks[45]] - self.model.neutral[self.model.landmarks[36]]
        return float(np.linalg.norm(eyes) / np.linalg.norm(true))

    def _furrow(self, lines: list[list[tuple[float, float]]], width: float, depth: float) -> tuple[Furrow, Furrow]:
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
                # The ends run out softly; the lip above a furrow bulges a little (a wider, weaker ridge).
                fade = (
                    np.clip(np.minimum(along, 1 - along) * 4 + 0.25, 0, 1)
                    if line[0][0] > 0.05
                    else np.clip((1 - along) * 3 + 0.2, 0, 1)
                )
                dip = np.exp(-0.5 * (distance / width) ** 2) * fade
                ridge = np.exp(-0.5 * (distance / (2.2 * width)) ** 2) * fade
                slope = depth * (dip / width**2 - 0.55 * ridge / (2.2 * width) ** 2)
                relief[..., 0] += slope * away[..., 0] * side
                relief[..., 1] += slope * away[..., 1]
                relief[..., 3] = np.maximum(relief[..., 3], dip * min(1.0, depth * 2.2))
            parts.append(Furrow(at, relief * near[at][..., None]))
        return parts[0], parts[1]


def smooth(points: Floats, count: int) -> Floats:
    """A curve through the points, (count, 2); natural cubic by chord length, straight where there are two."""
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
