from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from triaffect.images import TEMPLATE, similarity
from triaffect.render.model import SKIN, f32
from triaffect.render.person import make_person
from triaffect.render.props import make_background
from triaffect.render.ranges import Ranges
from triaffect.render.renderer import _frame
from triaffect.render.scene import Light, Scene, rotation
from triaffect.render.skin import hair_cover

PLAIN = Ranges(glasses=0, covering=0, bald=1, beard=0, stubble=0, lipstick=0, lopsided=0, asymmetry=0, identity=0.2)


@pytest.fixture(scope="module")
def person(studio):
    return make_person(studio.model, studio.atlas, np.random.default_rng(3), PLAIN)


def scene(studio, actions=None, lights=None, **settings):
    weights, furrows = studio.actions.pose(actions or {})
    lights = lights or [Light(f32([0, 0.2, 0.98]), f32([1, 1, 1]))]
    return Scene(weights, furrows, lights=lights, **settings)


def test_similarity_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))

    def errors(p):
        return (source @ np.array([[p[0], p[1]], [-p[1], p[0]]]) + p[2:] - target).ravel()

    best = least_squares(errors, [1, 0, 0, 0]).x
    a, b, x, y = best
    np.testing.assert_allclose(similarity(source, target), [[a, -b, x], [b, a, y]], atol=1e-4)


def test_rotation_turns_the_way_it_says():
    turn = rotation(0.3, 0.2, 0.1)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert (rotation(0.3, 0, 0) @ [0, 0, 1])[0] > 0
    assert (rotation(0, 0.3, 0) @ [0, 0, 1])[1] > 0
    assert (rotation(0, 0, 0.3) @ [1, 0, 0])[1] > 0


def test_the_crop_is_aligned_as_a_detector_would(studio, person):
    marks = person.base[studio.model.landmarks]
    five = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
    view = _frame(marks, scene(studio, zoom=1.0, head_pose=(0.2, 0.05, 0.3)), 112)
    assert np.abs(view.project(five) - TEMPLATE).max() < 9
    half = _frame(marks, scene(studio, zoom=0.5), 112)
    full = _frame(marks, scene(studio, zoom=1.0), 112)
    apart = [np.linalg.norm(np.diff(v.project(five[:2]), axis=0)) for v in (half, full)]
    assert apart[0] == pytest.approx(apart[1] / 2, rel=1e-3)


def test_rays_go_through_the_pixels_they_are_for(studio, person):
    marks = person.base[studio.model.landmarks]
    view = _frame(marks, scene(studio, head_pose=(0.3, -0.1, 0.2), tilt=0.1), 64)
    eye, rays = view.rays()
    for row, column in ((10, 50), (40, 21)):
        point = eye + 70 * rays[row * 64 + column]
        np.testing.assert_allclose(view.project(point[None])[0], [column + 0.5, row + 0.5], atol=0.02)


def test_a_picture(studio, person):
    picture = studio.renderer.draw(person, scene(studio), np.random.default_rng(0), size=64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    again = studio.renderer.draw(person, scene(studio), np.random.default_rng(0), size=64)
    np.testing.assert_array_equal(picture, again)


def test_light_comes_from_where_it_is(studio, person):
    def brightness(x):
        light = Light(f32([x, 0, 0.6]) / np.hypot(x, 0.6), f32([1, 1, 1]))
        picture = studio.renderer.draw(person, scene(studio, lights=[light]), np.random.default_rng(0), size=64)
        return picture[20:50, 16:28].mean() - picture[20:50, 36:48].mean()

    assert brightness(-0.8) > 10
    assert brightness(0.8) < -10


def test_an_action_unit_changes_its_part_of_the_face(studio, person):
    neutral = studio.renderer.draw(person, scene(studio), np.random.default_rng(0), size=64).astype(int)
    frown = scene(studio, {"AU4": (1.0, 1.0)})
    frown.weights = scene(studio).weights  # furrows alone
    changed = np.abs(studio.renderer.draw(person, frown, np.random.default_rng(0), size=64) - neutral).max(2)
    rows, columns = np.nonzero(changed > 8)
    assert len(rows) > 10
    assert rows.max() < 36
    assert np.abs(columns - 32).max() < 12


def test_gaze_moves_the_iris(studio, person):
    sides = (scene(studio, gaze=(yaw, 0.0)) for yaw in (0.3, -0.3))
    looks = [studio.renderer.draw(person, side, np.random.default_rng(0), 64) for side in sides]
    assert np.abs(looks[0].astype(int) - looks[1])[24:36, 14:50].max() > 40


def test_props_and_the_camera_leave_their_marks(studio, person):
    plain = studio.renderer.draw(person, scene(studio), np.random.default_rng(0), 64).astype(int)
    hand = {"kind": "hand", "x": 0.5, "y": 0.8, "angle": 0.2, "size": 0.3, "colour": f32([0.5, 0.1, 0.1])}
    for change in (
        {"occluder": hand},
        {"occluder": hand | {"kind": "bar"}},
        {"blur": 1.5},
        {"motion": (4.0, 0.3)},
        {"low": 0.5},
        {"noise": 5.0},
        {"white": f32([1.1, 1, 0.9])},
    ):
        picture = studio.renderer.draw(person, scene(studio, **change), np.random.default_rng(0), 64)
        assert np.abs(picture - plain).mean() > 0.4, change
    grey = studio.renderer.draw(person, scene(studio, grey=True), np.random.default_rng(0), 64)
    assert (grey == grey[..., :1]).all()


def test_people_have_the_asked_skin(studio):
    tones = []
    for tone in (0.0, 1.0):
        ranges = Ranges(tone=(tone, tone), bald=1, covering=0)
        made = make_person(studio.model, studio.atlas, np.random.default_rng(0), ranges)
        tones.append(made.albedo[100:400, 100:400].mean())
        assert made.skin_group == (1 if tone == 0 else 6)
        assert 0 < made.albedo.min() <= made.albedo.max() < 1
    assert tones[0] > 4 * tones[1]


def test_hair_grows_on_the_head_and_not_on_the_face():
    line = np.zeros(3)
    assert hair_cover(np.float32([0, 12, 5]), line) > 0.5
    assert hair_cover(np.float32([0, 5, 10]), line) < -0.5
    assert hair_cover(np.float32([8, 1, 1]), line) < 0


@pytest.mark.parametrize("kind", ["plain", "gradient", "noise", "shapes"])
def test_backgrounds(kind):
    room = make_background(np.random.default_rng(2), kind)
    assert room.shape == (96, 96, 3)
    assert room.min() >= 0
    assert (room.std() < 1e-6) == (room.reshape(-1, 3).std(0).max() < 1e-6)
    assert kind == "plain" or room.reshape(-1, 3).std(0).max() > 1e-3


def test_texels_lie_where_the_mesh_says(studio):
    model, atlas = studio.model, studio.atlas
    skin = np.flatnonzero(model.part == SKIN)[::40]
    for triangle in skin:
        u, v = model.uv[triangle].mean(0)
        column, row = int(u * 512), int((1 - v) * 512)
        centre = model.neutral[model.triangles[triangle]].mean(0)
        np.testing.assert_allclose(atlas.place[row, column], centre, atol=0.15)
