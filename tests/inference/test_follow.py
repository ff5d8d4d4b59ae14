"""Following faces between searches: against the true movement, on pictures made here."""

import cv2
import numpy as np
import pytest
from matplotlib import cbook

from triaffect.inference.detect import YuNet
from triaffect.inference.follow import SEARCH_SECONDS, Follower
from triaffect.inference.frame import Frame


class Counting(YuNet):
    searches = 0

    def search(self, frame, size=None):
        self.searches += 1
        return super().search(frame, size)


@pytest.fixture(scope="module")
def portrait():
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.ascontiguousarray(cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def moved(portrait, shift, turn=0.0, scale=1.0):
    """The portrait in motion, and the matrix of its motion."""
    matrix = cv2.getRotationMatrix2D((260, 220), turn, scale)
    matrix[:, 2] += shift
    return cv2.warpAffine(portrait, matrix, (512, 600), borderMode=cv2.BORDER_REFLECT), matrix


def test_landmarks_follow_the_movement_with_few_searches(portrait):
    detector = Counting(320, threads=1)
    follower = Follower(detector)
    first = None
    for i in range(12):
        pixels, matrix = moved(portrait, (3 * i, i), 0.5 * i, 1 + 0.004 * i)
        faces = follower(Frame(i, i / 25, pixels))
        assert len(faces) == 1
        first = faces[0] if first is None else first
        expected = first.landmarks @ matrix[:, :2].T + matrix[:, 2]
        # What the detector itself varies by from frame to frame is included.
        assert np.linalg.norm(faces[0].landmarks - expected, axis=1).mean() < 0.03 * first.box[3]
    assert detector.searches <= 2 + 12 / 25 / SEARCH_SECONDS


def test_a_cut_and_a_face_that_leaves_are_searched_at_once(portrait):
    detector = Counting(320, threads=1)
    follower = Follower(detector)
    assert len(follower(Frame(0, 0.0, portrait))) == 1
    assert len(follower(Frame(1, 0.04, portrait))) == 1
    empty = np.full_like(portrait, 90)
    assert follower(Frame(2, 0.08, empty)) == []
    assert len(follower(Frame(3, 0.12, portrait))) == 1
    covered = portrait.copy()
    covered[80:380, 140:380] = np.random.default_rng(0).integers(0, 255, (300, 240, 3))
    assert follower(Frame(4, 0.16, covered)) == []
    assert detector.searches == 4 + 3  # the empty picture on its sides and upside down, too


def test_frames_far_apart_are_each_searched(portrait):
    detector = Counting(320, threads=1)
    follower = Follower(detector)
    for i in range(3):
        assert len(follower(Frame(i, i * 0.5, portrait))) == 1
    assert detector.searches == 3
