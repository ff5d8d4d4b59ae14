from __future__ import annotations

import numpy as np
import pytest

from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.render.ranges import Ranges
from triaffect.render.story import PROTOTYPES, SUBTLE, VA_MEANS, make_story, occurrence

VISIBLE = Ranges().visible


@pytest.fixture(scope="module")
def stories():
    return [make_story(np.random.default_rng(seed), Ranges(), 60, 0.15) for seed in range(150)]


def gather(stories, name):
    return np.concatenate([getattr(story, name) for story in stories])


def test_labels_follow_the_intensities():
    np.testing.assert_array_equal(occurrence(np.array([0, 0.069, 0.071, 0.349, 0.35, 1]), 0.35), [0, 0, -1, -1, 1, 1])


def test_every_label_is_the_one_its_intensity_gives(stories):
    intensity, labels = gather(stories, "intensity"), gather(stories, "occurrence")
    assert intensity.min() >= 0
    assert intensity.max() <= 1
    assert (intensity[labels == 1] >= VISIBLE).all()
    assert (intensity[labels == 0] < VISIBLE / 5).all()
    assert (labels == -1).mean() < 0.06


def test_expressions_are_their_prototypes(stories):
    intensity, expression = gather(stories, "intensity"), gather(stories, "expression")
    for name, prototype in PROTOTYPES.items():
        mine = intensity[expression == EXPRESSIONS.index(name)]
        for movement, chance in prototype.items():
            if movement in ACTION_UNITS and chance == 1:
                # Its onset may trail the expression's by a moment.
                assert (mine[:, ACTION_UNITS.index(movement)] > 0.1).mean() > 0.95, (name, movement)


def test_a_neutral_face_moves_lips_and_jaw_only(stories):
    neutral = gather(stories, "expression") == 0
    telling = [k for k, au in enumerate(ACTION_UNITS) if au not in ("AU25", "AU26")]
    assert gather(stories, "intensity")[neutral][:, telling].max() < VISIBLE
    assert (gather(stories, "occurrence")[neutral][:, telling] == 1).sum() == 0
    assert gather(stories, "intensity")[neutral][:, ACTION_UNITS.index("AU25")].max() > VISIBLE


def test_pressed_lips_are_not_open(stories):
    present = gather(stories, "occurrence") == 1
    pressed = present[:, [ACTION_UNITS.index(a) for a in ("AU23", "AU24")]].any(1)
    opened = present[:, [ACTION_UNITS.index(a) for a in ("AU25", "AU26")]].any(1)
    assert pressed.any()
    assert (pressed & opened).mean() < 0.005


def test_valence_and_arousal_have_the_class_means_and_move_smoothly(stories):
    expression = gather(stories, "expression")
    va = np.stack([gather(stories, "valence"), gather(stories, "arousal")], 1)
    assert np.abs(va).max() <= 1
    for code, name in enumerate(EXPRESSIONS):
        np.testing.assert_allclose(va[expression == code].mean(0), VA_MEANS[name], atol=0.1, err_msg=name)
    for story in stories:
        assert np.abs(np.diff(story.valence)).max() < 0.75  # an onset of .2 s is little more than one frame


def test_nothing_is_starved(stories):
    rates = (gather(stories, "occurrence") == 1).mean(0)
    assert rates.min() > 0.05
    shares = np.bincount(gather(stories, "expression") + 1, minlength=9) / 9000
    assert shares[2:].min() > 0.03
    assert 0.1 < shares[0] < 0.4


def test_same_seed_same_story():
    first, second = (make_story(np.random.default_rng(5), Ranges(), 30, 0.1) for _ in range(2))
    np.testing.assert_array_equal(first.intensity, second.intensity)
    np.testing.assert_array_equal(first.head_pose, second.head_pose)
    assert not np.array_equal(first.intensity, make_story(np.random.default_rng(6), Ranges(), 30, 0.1).intensity)


def test_ranges_are_obeyed():
    calm = Ranges(talking=0, blinks=0, stray=0, expressions=1, single=0, yaw=0, sway=0, gaze=0)
    for seed in range(10):
        story = make_story(np.random.default_rng(seed), calm, 40, 0.2)
        assert story.actions["AU45"].max() == 0
        assert (story.head_pose[:, 0] == 0).all()
        assert (story.gaze == 0).all()
        assert (story.expression != EXPRESSIONS.index("Other")).all()


def test_subtle_movements_have_no_expression_label_and_every_intensity():
    ranges = Ranges(subtle=1.0, expressions=0.0, single=0.0, talking=0, stray=0, peak=(0.12, 1.0))
    stories = [make_story(np.random.default_rng(seed), ranges, 40, 0.2) for seed in range(60)]
    movements = {name for group in SUBTLE for name in group}
    for story in stories:
        assert {name for name, level in story.actions.items() if level.max() > 0} <= {*movements, "AU45"}
        assert set(story.expression.tolist()) <= {-1, 0}
    smile = np.concatenate([story.actions["AU12"] for story in stories])
    assert ((smile > 0.1) & (smile < 0.35)).sum() > 20
    assert (smile > 0.7).sum() > 20
