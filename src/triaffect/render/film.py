"""One video: a person, a story, a room and a camera, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triaffect.labels import ACTION_UNITS
from triaffect.render.actions import Actions
from triaffect.render.model import FaceModel, Floats, f32
from triaffect.render.paint import Atlas
from triaffect.render.person import Person, make_person
from triaffect.render.props import make_background
from triaffect.render.ranges import Ranges
from triaffect.render.renderer import Renderer
from triaffect.render.scene import Light, Scene
from triaffect.render.story import Story, make_story


@dataclass
class Video:
    """A video whose pictures are yet to be drawn.

    Attributes:
        person: Who is in it.
        story: What the face does, and its labels.
        scenes: N scenes.
    """

    person: Person
    story: Story
    scenes: list[Scene]


class Studio:
    """Makes videos with one face model; set up once per process (about 3 s)."""

    def __init__(self, model: FaceModel, ranges: Ranges | None = None) -> None:
        self.model = model
        self.ranges = ranges or Ranges()
        self.atlas = Atlas(model)
        self.renderer = Renderer(model, self.atlas)
        self.actions = Actions(model)

    def film(
        self, person_seed: np.random.SeedSequence, seed: np.random.SeedSequence, frames: int, seconds: float
    ) -> Video:
        """Make up a video.

        Args:
            person_seed: Seed of the person.
            seed: Seed of everything else.
            frames: Number of frames.
            seconds: Time between two frames.
        """
        person = make_person(self.model, self.atlas, np.random.default_rng(person_seed), self.ranges)
        rng = np.random.default_rng(seed)
        story = make_story(rng, self.ranges, frames, seconds)
        camera = self._camera(rng)
        occluders = self._occluders(rng, frames)
        drift = np.cumsum(rng.normal(0, 0.25, (frames, 3)), 0)
        scenes = []
        for t in range(frames):
            weights, furrows = self.pose(person, story, t)
            jitter = rng.normal(0, [self.ranges.shift, self.ranges.shift, self.ranges.tilt * 0.4, 0.012]).tolist()
            scenes.append(
                replace(
                    camera,
                    weights=weights,
                    furrows=furrows,
                    head_pose=tuple(story.head_pose[t].tolist()),
                    gaze=tuple(story.gaze[t].tolist()),
                    tilt=camera.tilt + jitter[2],
                    zoom=camera.zoom * (1 + jitter[3]),
                    shift=(camera.shift[0] + jitter[0] * 0.7, camera.shift[1] + jitter[1] * 0.7),
                    background=_panned(camera.background, drift[t]),
                    occluder=occluders[t],
                    blur=float(camera.blur * rng.uniform(0.7, 1.3)),
                    motion=(float(camera.motion[0] * rng.uniform(0, 1)), float(rng.uniform(0, np.pi))),
                )
            )
        return Video(person, story, scenes)

    def pose(self, person: Person, story: Story, t: int) -> tuple[Floats, dict[str, tuple[float, float]]]:
        """Shape weights and furrows of a person at frame `t` of a story."""
        sides = {}
        for name, level in story.actions.items():
            if level[t] > 0.003:
                strength, side = 1.0, np.ones(2)
                if name in ACTION_UNITS:
                    row = ACTION_UNITS.index(name)
                    strength, side = person.strength[row], person.sides[row]
                sides[name] = tuple((level[t] * strength * side).tolist())
        return self.actions.pose(sides, tuple(story.gaze[t].tolist()), person.furrow)

    def pictures(self, video: Video, seed: np.random.SeedSequence, size: int) -> Iterator[NDArray[np.uint8]]:
        """Draw the frames, each (size, size, 3) RGB."""
        for scene, child in zip(video.scenes, seed.spawn(len(video.scenes)), strict=True):
            yield self.renderer.draw(video.person, scene, np.random.default_rng(child), size)

    def _camera(self, rng: np.random.Generator) -> Scene:
        """What is the same in all frames of a video: light, room, camera, codec."""
        r = self.ranges
        warmth = rng.normal(0, 0.12)
        tint = f32([1 + warmth, 1, 1 - warmth])
        side, height = rng.uniform(-1.2, 1.2), rng.uniform(-0.15, 1.0)
        lights = [_light(side, height, tint * rng.uniform(0.7, 1.0), rng.uniform(*r.hard))]
        for _ in range(int(rng.integers(0, 3))):
            other = f32(rng.uniform(0.6, 1.0, 3)) * rng.uniform(0.1, 0.6)
            lights.append(_light(rng.uniform(-2.2, 2.2), rng.uniform(-0.3, 1.0), other, rng.uniform(*r.hard)))
        fill = rng.uniform(*r.fill)
        above = f32(rng.uniform(0.85, 1.1, 3)) * fill
        return Scene(
            weights=np.zeros(len(self.model.names), np.float32),
            lights=lights,
            ambient=f32([above, above * rng.uniform(0.3, 0.9)]),
            exposure=float(rng.uniform(*r.exposure)),
            distance=float(rng.uniform(*r.distance)),
            zoom=float(rng.uniform(*r.zoom)),
            tilt=float(rng.normal(0, r.tilt)),
            shift=tuple(rng.normal(0, r.shift, 2)),
            background=make_background(
                rng, str(rng.choice(["plain", "gradient", "noise", "shapes"], p=[0.2, 0.2, 0.2, 0.4]))
            ),
            blur=float(rng.uniform(*r.blur)),
            motion=(float(rng.uniform(1.5, 5.0)) if rng.random() < r.motion else 0.0, 0.0),
            low=float(rng.uniform(*r.low_size)) if rng.random() < r.low else 0.0,
            noise=float(rng.uniform(*r.noise)),
            white=f32(1 + rng.uniform(-r.white, r.white, 3)),
            grey=bool(rng.random() < r.grey),
            quality=int(rng.uniform(*r.quality)),
        )

    def _occluders(self, rng: np.random.Generator, frames: int) -> list[dict[str, Any] | None]:
        """What is in front of the face in each frame."""
        if rng.random() >= self.ranges.occluder:
            return [None] * frames
        start = int(rng.integers(0, frames))
        stop = start + max(int(frames * rng.uniform(0.1, 0.4)), 1)
        hand = rng.random() < 0.6
        angle = rng.uniform(-0.9, 0.9)
        occluder = {
            "kind": "hand" if hand else "bar",
            "x": rng.uniform(0.1, 0.9),
            "y": rng.uniform(0.65, 1.15) if hand else rng.uniform(0.55, 1.0),
            "angle": angle if hand else angle + rng.choice([0.0, np.pi / 2]),
            "size": rng.uniform(0.22, 0.36),
            "colour": f32(rng.uniform(0.01, 0.6, 3)),
        }
        return [occluder if start <= t < stop else None for t in range(frames)]


def _light(side: float, height: float, colour: Floats, softness: float) -> Light:
    direction = f32([np.sin(side), height, np.cos(side)])
    return Light(direction / np.linalg.norm(direction), f32(colour), float(softness))


def _panned(room: Floats, offset: Floats) -> Floats:
    """A window of the room that drifts a little, as with a hand-held camera."""
    size = int(len(room) * 0.75)
    top, left = (int(np.clip((len(room) - size) / 2 + o, 0, len(room) - size)) for o in offset[:2])
    return np.ascontiguousarray(room[top : top + size, left : left + size])
