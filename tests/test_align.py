"""Aligning a face by five points."""

import cv2
import numpy as np
import pytest

from triaffect.images import TEMPLATE, align, similarity


def test_similarity_recovers_a_known_motion():
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    turn, scale, shift = 0.3, 1.7, np.array([5.0, -3.0])
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert similarity(points, points @ rotation.T + shift) == pytest.approx(np.c_[rotation, shift], abs=1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 9.0])
def test_landmarks_land_on_the_template(scale):
    side = int(160 * scale)
    picture = np.zeros((side, side, 3), np.uint8)
    landmarks = (TEMPLATE + 20) * scale
    for x, y in landmarks:
        cv2.circle(picture, (round(float(x)), round(float(y))), max(1, round(3 * scale)), (255, 255, 255), -1)
    crop = align(picture, landmarks, 112)
    assert crop.shape == (112, 112, 3)
    for x, y in TEMPLATE:
        spot = crop[int(y) - 6 : int(y) + 8, int(x) - 6 : int(x) + 8, 0].astype(float)
        rows, columns = np.mgrid[int(y) - 6 : int(y) + 8, int(x) - 6 : int(x) + 8]
        assert (columns * spot).sum() / spot.sum() == pytest.approx(x, abs=0.8)
        assert (rows * spot).sum() / spot.sum() == pytest.approx(y, abs=0.8)


def test_a_face_beyond_the_border_still_gives_a_crop():
    picture = np.full((40, 60, 3), 7, np.uint8)
    assert (align(picture, TEMPLATE * 4 - 300, 112) == 7).all()
    assert (align(picture, TEMPLATE * 4 + 300, 112) == 7).all()
