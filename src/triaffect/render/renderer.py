"""Draw one picture: rays from the camera to the face, what they hit, and the light there.

Everything is traced and lit in the axes of the head; only camera and lights turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, similarity
from triaffect.render.model import EYE_LEFT, EYE_RIGHT, MOUTH, SKIN, TEETH, FaceModel, Floats, f32, trace
from triaffect.render.paint import TILE, Atlas
from triaffect.render.person import Person, linear
from triaffect.render.props import draw_glasses, draw_occluder, hang_hair
from triaffect.render.scene import Scene, develop, rotation

PIVOT = f32([0, 0.5, 4.0])
"""The head turns about this point of the neutral mesh."""

INSIDE = f32([0.02, 0.008, 0.006])
"""Linear RGB seen through gaps in the mesh."""


@dataclass
class View:
    """The camera on one face.

    Attributes:
        head: (3, 3) head axes to camera axes.
        distance: Camera to pivot.
        matrix: (2, 3) image plane of the camera to pixels.
        side: Pixels along a side, supersampled.
    """

    head: Floats
    distance: float
    matrix: Floats
    side: int

    def project(self, points: Floats) -> Floats:
        """(n, 3) points of the head to (n, 2) pixels."""
        return f32(_flatten(points, self.head, self.distance) @ self.matrix[:, :2].T + self.matrix[:, 2])

    def rays(self) -> tuple[Floats, Floats]:
        """Origin (3,) and unit directions (side², 3) in the head's axes."""
        back = cv2.invertAffineTransform(self.matrix)
        column, row = np.meshgrid(*[np.arange(self.side, dtype=np.float32) + 0.5] * 2)
        x = back[0, 0] * column + back[0, 1] * row + back[0, 2]
        y = back[1, 0] * column + back[1, 1] * row + back[1, 2]
        rays = np.stack([x, -y, np.full_like(x, -1)], -1).reshape(-1, 3) @ self.head
        return PIVOT + f32([0, 0, self.distance]) @ self.head, f32(rays / _length(rays))


@dataclass
class Surface:
    """What the rays of n of the side² pixels hit.

    Attributes:
        pixel: (n,) pixel numbers, row by row.
        triangle: (n,) triangle hit.
        share: (n, 3) barycentric weights of its corners.
        part: (n,) part of the face (`SKIN` and so on).
        at: (n, 3) point hit.
        view: (n, 3) unit vector to the camera.
        normal: (n, 3) unit normal.
        open: (n,) share of the surrounding light that reaches it.
        albedo: (n, 3) linear RGB.
        gloss: (n,) strength of the highlight.
    """

    pixel: NDArray[Any]
    triangle: NDArray[Any]
    share: Floats
    part: NDArray[Any]
    at: Floats
    view: Floats
    normal: Floats
    open: Floats
    albedo: Floats
    gloss: Floats


class Renderer:
    """Draws persons of one face model."""

    def __init__(self, model: FaceModel, atlas: Atlas) -> None:
        self.model = model
        self.atlas = atlas
        self.openness = _openness(model)

    def draw(
        self, person: Person, scene: Scene, rng: np.random.Generator, size: int = 112, supersample: int = 2
    ) -> NDArray[np.uint8]:
        """Draw one picture.

        Args:
            person: Who is in it.
            scene: Pose, light and camera.
            rng: Source of shadow samples and sensor noise.
            size: Side in pixels.
            supersample: Rays along the side of a pixel.

        Returns:
            (size, size, 3) RGB.
        """
        side = size * supersample
        vertices = f32(self.model.express(person.base, scene.weights))
        marks = vertices[self.model.landmarks]
        view = _frame(marks, scene, side)
        mesh = trace(vertices, self.model.triangles)
        surface = self._hit(mesh, vertices, view)
        self._skin(surface, person, scene, side)
        self._mouth(surface, marks)
        self._eyes(surface, person, scene, side)
        colour = self._light(surface, scene, view.head, mesh, side, rng)

        picture = cv2.resize(scene.background, (side, side), interpolation=cv2.INTER_LINEAR)
        if person.long_hair:
            outline = view.project(_curtain(marks, person.long_hair))
            hang_hair(picture, outline, person.hair_colour, int(person.long_hair * 1e6))
        skin = surface.part == SKIN
        # The camera meters on the face, but only in part: dark skin stays darker.
        meter = float(np.median(colour[skin])) if skin.any() else 0.2
        gain = scene.exposure * (0.25 / max(meter, 1e-3)) ** 0.5
        flat = picture.reshape(-1, 3)
        flat *= min(gain, 1.5)
        flat[_gaps(surface.pixel, side)] = INSIDE
        flat[surface.pixel] = colour * gain
        if person.glasses:
            _wear(picture, person.glasses, marks, view, scene.head_pose[0])
        if scene.occluder:
            draw_occluder(picture, scene.occluder, np.median(surface.albedo[skin], axis=0) * 1.1)
        return develop(picture, scene, size, rng)

    def _hit(self, mesh: Any, vertices: Floats, view: View) -> Surface:
        eye, rays = view.rays()
        hit = mesh.run(np.ascontiguousarray(np.broadcast_to(eye, rays.shape)), rays, output=1)
        pixel = np.flatnonzero(hit["primID"] >= 0)
        triangle = hit["primID"][pixel]
        u, v = hit["u"][pixel], hit["v"][pixel]
        share = np.stack([1 - u - v, u, v], 1)
        corners = np.concatenate([self.model.normals(vertices), self.openness[:, None]], 1)
        mixed = np.einsum("nk,nkc->nc", share, corners[self.model.triangles[triangle]])
        toward = -rays[pixel]
        return Surface(
            pixel=pixel,
            triangle=triangle,
            share=share,
            part=self.model.part[triangle],
            at=eye - toward * hit["tfar"][pixel, None],
            view=toward,
            normal=mixed[:, :3] / _length(mixed[:, :3]),
            open=mixed[:, 3].copy(),
            albedo=np.zeros((len(pixel), 3), np.float32),
            gloss=np.full(len(pixel), 0.3, np.float32),
        )

    def _skin(self, surface: Surface, person: Person, scene: Scene, side: int) -> None:
        mine = np.flatnonzero(surface.part == SKIN)
        at = np.einsum("nk,nkc->nc", surface.share[mine], self.model.uv[surface.triangle[mine]])
        column, row = np.full((2, side * side), -1, np.float32)
        column[surface.pixel[mine]], row[surface.pixel[mine]] = at[:, 0] * TILE - 0.5, (1 - at[:, 1]) * TILE - 0.5
        relief = person.relief.copy()
        for name, depths in scene.furrows.items():
            for furrow, depth in zip(self.atlas.furrows[name], depths, strict=True):
                if depth > 0.01:
                    relief[furrow.at] += np.float32(depth) * furrow.relief

        def look_up(texture: Floats) -> Floats:
            sampled = cv2.remap(texture, column.reshape(side, side), row.reshape(side, side), cv2.INTER_LINEAR)
            return sampled.reshape(side * side, -1)[surface.pixel[mine]]

        bumps = look_up(relief)
        surface.albedo[mine] = look_up(person.albedo) * (1 - np.clip(bumps[:, 3:] * f32([0.42, 0.5, 0.52]), 0, 0.75))
        surface.gloss[mine] = look_up(person.gloss)[:, 0]
        surface.open[mine] *= 1 - np.clip(bumps[:, 3] * 0.25, 0, 0.5)
        normal = surface.normal[mine]
        bent = normal * (1 + (bumps[:, :3] * normal).sum(1, keepdims=True)) - bumps[:, :3]
        surface.normal[mine] = bent / _length(bent)

    def _mouth(self, surface: Surface, marks: Floats) -> None:
        rim = marks[60:68, 2].mean()
        for part, colour, shine in ((MOUTH, (150, 62, 60), 0.8), (TEETH, (226, 216, 196), 1.0)):
            mine = surface.part == part
            surface.albedo[mine] = linear(f32(colour))
            surface.gloss[mine] = shine
            # Deep in the mouth is dark.
            surface.open[mine] = np.clip(1.0 - (rim - surface.at[mine, 2]) * 0.35, 0.05, 1.0) * 0.7

    def _eyes(self, surface: Surface, person: Person, scene: Scene, side: int) -> None:
        eyes = np.flatnonzero(surface.part >= EYE_LEFT)
        mask = np.zeros(side * side, np.float32)
        mask[surface.pixel[eyes]] = 1
        # Lids and lashes shade the rim of the eyeball, most of all from above.
        reach = max(side // 36, 1)
        near = cv2.blur(mask.reshape(side, side), (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_CONSTANT)
        above = np.roll(near, reach, axis=0).ravel()[surface.pixel[eyes]]
        surface.open[eyes] = np.clip(0.12 + 0.8 * above, 0.16, 0.85)
        surface.gloss[eyes] = 1.0
        axis = rotation(*scene.gaze, 0.0) @ f32([0, 0, 1])
        for part, centre in zip((EYE_LEFT, EYE_RIGHT), person.eyes, strict=True):
            mine = np.flatnonzero(surface.part == part)
            out = surface.at[mine] - centre
            out /= _length(out)
            # Distance from the axis, 1 at the rim of the iris.
            ring = np.sqrt(np.clip(1 - out @ axis, 0, 2) / (1 - person.iris_size))
            spokes = 0.85 + 0.3 * np.abs(np.sin(np.arctan2(out[:, 1] - axis[1], out[:, 0] - axis[0]) * 9))
            shade = spokes * np.interp(ring, [0.35, 0.75, 0.92, 1.0], [0.75, 1.25, 0.9, 0.35])
            white = person.sclera * np.interp(ring, [1, 2.4], [1.0, 0.8])[:, None]
            rim = np.clip((ring - 0.97) / 0.1, 0, 1)[:, None]
            pupil = np.clip((0.42 - ring) / 0.08, 0, 1)[:, None]
            colour = person.iris * shade[:, None] * (1 - rim) + white * rim
            surface.albedo[mine] = colour * (1 - pupil) + 0.004 * pupil
            surface.normal[mine] = out

    def _light(
        self, surface: Surface, scene: Scene, head: Floats, mesh: Any, side: int, rng: np.random.Generator
    ) -> Floats:
        """(n, 3) linear RGB from the surface to the camera."""
        normal, eyes = surface.normal, surface.part >= EYE_LEFT
        sky = (0.5 + 0.5 * normal @ (head.T @ f32([0, 1, 0])))[:, None]
        colour = scene.ambient[1] + (scene.ambient[0] - scene.ambient[1]) * sky
        colour *= surface.albedo * surface.open[:, None]
        # Light that enters skin leaves it redder nearby: the edge of a shadow is warm and soft.
        wrap = np.where(eyes[:, None], np.float32(0.3), f32([0.32, 0.16, 0.12]))
        bleed = f32([0.1, 0.03, 0.02])
        for number, light in enumerate(scene.lights):
            toward = f32(head.T @ light.direction)
            facing = normal @ toward
            # Only two lights cast traced shadows; the others are dim.
            lit = _shadow(mesh, surface, toward, light.softness, side, rng) if number < 2 else surface.open
            diffuse = np.clip((facing[:, None] + wrap) / (1 + wrap), 0, None) * surface.albedo
            diffuse *= (bleed + (1 - bleed) * lit[:, None]) * (0.35 + 0.65 * surface.open)[:, None]
            half = toward + surface.view
            shine = np.clip((normal * half).sum(1) / _length(half)[:, 0], 0, 1)
            broad = _power(shine, 4)
            narrow = _power(broad, 2)
            highlight = np.where(eyes, 2.5 * narrow**6, 0.045 * broad + 0.035 * narrow)
            highlight *= surface.gloss * lit * (facing > -0.1)
            colour += (diffuse + highlight[:, None]) * light.colour
        edge = 1 - np.clip((normal * surface.view).sum(1), 0, 1)
        return f32(colour + (0.05 * _power(edge, 2) * surface.open)[:, None] * scene.ambient[0])


def _length(vectors: Floats) -> Floats:
    """(n, 1) lengths, never 0."""
    return f32(np.sqrt(np.einsum("nc,nc->n", vectors, vectors))[:, None] + 1e-9)


def _power(values: Floats, doublings: int) -> Floats:
    for _ in range(doublings):
        values = values * values
    return values


def _flatten(points: Floats, head: Floats, distance: float) -> Floats:
    """Perspective: (n, 3) points of the head to the image plane, y down."""
    placed = (points - PIVOT) @ head.T
    return f32(np.stack([placed[:, 0], -placed[:, 1]], 1) / (distance - placed[:, 2:]))


def _frame(marks: Floats, scene: Scene, side: int) -> View:
    """The crop that a detector's five points give, with the scene's zoom, tilt and shift."""
    head = rotation(*scene.head_pose)
    five = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
    matrix = similarity(_flatten(five, head, scene.distance), TEMPLATE * (side / 112))
    cosine, sine = scene.zoom * np.cos(scene.tilt), scene.zoom * np.sin(scene.tilt)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([0.5, 0.6]) * side
    moved = turn @ matrix
    moved[:, 2] += middle - turn @ middle + (np.array(scene.shift) - [0, (1 - scene.zoom) * 0.08]) * side
    return View(head, scene.distance, f32(moved), side)


def _gaps(pixel: NDArray[Any], side: int) -> NDArray[np.bool_]:
    """(side²,) pixels inside the head that no ray hits (not connected to the corners of the picture)."""
    reached = np.zeros((side, side), np.uint8)
    reached.ravel()[pixel] = 2
    for corner in ((0, 0), (side - 1, 0), (0, side - 1), (side - 1, side - 1)):
        if reached[corner[1], corner[0]] == 0:
            cv2.floodFill(reached, None, corner, 1)
    return np.asarray(reached.ravel() == 0)


def _shadow(
    mesh: Any, surface: Surface, toward: Floats, softness: float, side: int, rng: np.random.Generator
) -> Floats:
    """(n,) share of a light that reaches each point: one jittered ray for every fourth pixel, then smoothed."""
    row, column = np.divmod(surface.pixel, side)
    few = np.flatnonzero((row % 2 == 0) & (column % 2 == 0))
    start = f32(surface.at[few] + 0.12 * surface.normal[few] + 0.05 * toward)
    aim = toward + np.float32(softness) * rng.uniform(-1, 1, start.shape).astype(np.float32)
    blocked = mesh.run(start, aim, query="OCCLUDED")
    half = side // 2
    light, there = f32(np.zeros((2, half, half)))
    there[row[few] // 2, column[few] // 2] = 1
    light[row[few] // 2, column[few] // 2] = np.asarray(blocked) < 0
    width = max(int(half * 0.03) | 1, 3)
    for _ in range(2):
        light, there = (f32(cv2.blur(grid, (width, width))) for grid in (light, there))
        width = 3
    full = cv2.resize(light / np.maximum(there, 1e-3), (side, side), interpolation=cv2.INTER_LINEAR)
    return f32(np.clip(full.ravel()[surface.pixel], 0, 1))


def _openness(model: FaceModel) -> Floats:
    """(V,) share of the sky that each vertex sees on the neutral face (ambient occlusion, 48 rays each)."""
    rng = np.random.default_rng(1)
    mesh = trace(model.neutral, model.triangles)
    normal = model.normals(model.neutral)
    start = f32(model.neutral + 0.05 * normal)
    free = np.zeros(len(normal), np.float32)
    for _ in range(48):
        aim = normal + 0.58 * rng.standard_normal(normal.shape).astype(np.float32)
        free += np.asarray(mesh.run(start, f32(aim), query="OCCLUDED")) < 0
    return f32(0.15 + 0.85 * free / 48)


def _curtain(marks: Floats, width: float) -> Floats:
    """(12, 3) outline of the hair that hangs behind the face."""
    down = np.array([(0.6, 5.5), (0.8, 2.0), (0.9, -2.0), (0.8, -7.0), (0.0, -16.0), (-3.0, -16.0)])
    down[2:5, 0] += width * np.array([0.3, 0.8, 1.0])
    sides = [
        np.stack([ear[0] + sign * down[:, 0], ear[1] + down[:, 1], np.full(6, -0.5)], 1)
        for sign, ear in ((-1, marks[0]), (1, marks[16]))
    ]
    return np.concatenate([sides[0][::-1], sides[1]])


def _wear(picture: Floats, style: dict[str, float], marks: Floats, view: View, yaw: float) -> None:
    """Fit glasses to a face and draw them."""
    around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    bend = [np.sign(w) * np.abs(w) ** (2 / style["round"]) for w in (np.cos(around), np.sin(around))]
    front = max(marks[27, 2], marks[[37, 38, 43, 44], 2].max() + 0.6) + 0.25
    rims, middles = [], [marks[36:42].mean(0), marks[42:48].mean(0)]
    for middle in middles:
        x = middle[0] * 1.02 + style["width"] * bend[0]
        # Lenses curve a little towards the temples.
        rims.append(np.stack([x, middle[1] - 0.15 + style["height"] * bend[1], front - 0.03 * np.abs(x) ** 1.6], 1))
    inner = [rims[0][np.argmax(rims[0][:, 0])], rims[1][np.argmin(rims[1][:, 0])]]
    bridge = np.stack([inner[0], (inner[0] + inner[1]) / 2 + [0, 0.3, 0.25], inner[1]])
    temples = []
    for sign, rim, ear in ((-1, rims[0], marks[0]), (1, rims[1], marks[16])):
        # The far side's temple is hidden behind the face.
        if sign * yaw < 0.25:
            hinge = rim[np.argmax(sign * rim[:, 0])]
            temples.append(view.project(np.stack([hinge, ear + np.array([sign * 0.4, 0.6, 0.3])])))
    apart = np.diff(view.project(np.stack(middles)), axis=0)
    pixels = float(np.linalg.norm(apart)) / 6.2
    draw_glasses(picture, [view.project(rim) for rim in rims], view.project(bridge), temples, style, pixels)
