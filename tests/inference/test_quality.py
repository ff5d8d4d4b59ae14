import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from triaffect.inference.detect import Face
from triaffect.inference.quality import BLURRED, HEAD, SMALL, TURNED, UNSURE, blur, pose, quality


def project(yaw=0.0, pitch=0.0, roll=0.0, size=40.0):
    """Five landmarks of the mean head, seen from far away; the rotation is scipy's."""
    turned = Rotation.from_euler("xyz", [pitch, yaw, roll], degrees=True).apply(HEAD)
    return (turned[:, :2] * size + (200, 150)).astype(np.float32)


def texture(seed=0, side=448):
    """A picture with as much energy in every octave as a photograph has."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2))
    frequency[0, 0] = 1
    grey = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / frequency).real
    grey = 128 + 40 * (grey - grey.mean()) / grey.std()
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def face(five, score=0.9):
    low, high = five.min(0), five.max(0)
    return Face((*map(float, low), *map(float, high - low)), five, score)


@pytest.mark.parametrize("roll", [-70, 0, 25])
@pytest.mark.parametrize("pitch", [-30, 0, 20])
@pytest.mark.parametrize("yaw", [-80, -30, 0, 45])
def test_size_and_yaw_are_those_of_the_head(yaw, pitch, roll):
    size, turn, _ = pose(project(yaw, pitch, roll))
    assert size == pytest.approx(40, rel=1e-3)
    assert turn == pytest.approx(yaw, abs=0.5)


@pytest.mark.parametrize("roll", [-100, -20, 0, 60])
def test_roll_is_positive_to_the_pictures_right(roll):
    assert pose(project(roll=roll))[2] == pytest.approx(roll, abs=0.5)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.5, 4.0])
@pytest.mark.parametrize("side", [112, 224, 448])
def test_blur_is_in_pixels_of_a_112_px_crop(sigma, side):
    sharp = cv2.resize(texture(), (side, side), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(sharp, (0, 0), sigma * side / 112)
    assert blur(soft) == pytest.approx(sigma, rel=0.35)


def test_blur_ignores_contrast_and_accepts_flat_images():
    soft = cv2.GaussianBlur(texture(side=112), (0, 0), 2).astype(np.float32)
    assert blur((64 + soft / 3).astype(np.uint8)) == pytest.approx(blur(soft.astype(np.uint8)), rel=0.2)
    assert np.isfinite(blur(np.zeros((112, 112, 3), np.uint8)))
    assert np.isfinite(blur(np.zeros((1, 1, 3), np.uint8)))


def test_a_clear_face_has_no_flags():
    values = quality(face(project(yaw=TURNED - 8)), texture(side=112))
    assert list(values) == ["size", "yaw", "roll", "blur", "brightness", "quality_flags"]
    assert values["quality_flags"] == ""


@pytest.mark.parametrize(
    ("word", "five", "score", "sigma"),
    [
        ("small", project(size=SMALL - 1), 0.9, 0),
        ("turned", project(yaw=TURNED + 2), 0.9, 0),
        ("turned", project(yaw=-TURNED - 2), 0.9, 0),
        ("blurred", project(), 0.9, BLURRED * 2),
        ("unsure", project(), UNSURE - 0.01, 0),
    ],
)
def test_each_flag(word, five, score, sigma):
    crop = texture(side=112)
    crop = cv2.GaussianBlur(crop, (0, 0), sigma) if sigma else crop
    assert quality(face(five, score), crop)["quality_flags"] == word


@pytest.mark.parametrize(("gain", "flags"), [(1.0, ""), (0.5, ""), (1 / 16, "dark"), (6.0, "overexposed")])
def test_dark_and_overexposed_faces_are_flagged(gain, flags):
    crop = np.clip(texture(side=112) * gain, 0, 255)
    values = quality(face(project()), crop.astype(np.uint8))
    assert values["brightness"] == pytest.approx(crop[16:96, 16:96].mean() / 255, abs=0.01)
    assert values["quality_flags"] == flags


def test_flags_add_up_and_a_box_without_landmarks_has_no_yaw():
    values = quality(Face((5.0, 5.0, 20.0, 26.0), None, 0.6), texture(side=112))
    assert values["quality_flags"] == "small,unsure"
    assert values["yaw"] is None
    assert values["roll"] is None
    assert values["size"] == pytest.approx(0.38 * 20, rel=0.3)
