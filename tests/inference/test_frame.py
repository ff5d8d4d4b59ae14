"""Frames of videos: against FFmpeg's own conversion, OpenCV's warp and `images.align` on the whole picture."""

from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from triaffect.images import TEMPLATE, align
from triaffect.inference.frame import DecodedFrame, Frame, orientation

SMOOTH = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8), (0, 0), 6)
SMOOTH = cv2.normalize(SMOOTH, None, 0, 255, cv2.NORM_MINMAX)
MATRICES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
]


def shown(pixels=SMOOTH, form="yuv420p", matrix=(1, 0, 0, 1), aspect=1.0, **others):
    """A frame as it is read from a video; PyAV cannot mark a frame as interlaced, so a stand-in is."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format=form)
    a, b, c, d = (value << 16 for value in matrix)
    stored = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()
    names = ("format", "planes", "color_range", "colorspace", "width", "height", "reformat", "to_ndarray")
    values = {name: getattr(frame, name) for name in names}
    marked = SimpleNamespace(**{**values, "interlaced_frame": False, **others})
    return DecodedFrame(0, 0.0, marked, orientation(stored), aspect)


@pytest.mark.parametrize(
    "form", ["yuv420p", "yuvj420p", "yuvj422p", "yuv422p10le", "yuv444p", "nv12", "gray", "gbrp", "bgra"]
)
def test_every_pixel_format_has_ffmpegs_colours(form):
    frame = av.VideoFrame.from_ndarray(SMOOTH, format="rgb24").reformat(format=form)
    expected = frame.to_ndarray(format="rgb24").astype(int)
    difference = DecodedFrame(0, 0.0, frame).pixels - expected
    assert np.abs(difference).mean() < 3
    assert np.abs(difference.mean((0, 1))).max() < 2


@pytest.mark.parametrize("space", [1, 5, 9])
def test_each_colour_space_is_undone(space):
    """White, grey and pure red, as the standard's formula (ITU-T H.273) stores them in limited range."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[space]
    yuv = [(235, 128, 128), (126, 128, 128), (16 + 219 * red, 128 - 112 * red / (1 - blue), 240)]
    for values, expected in zip(yuv, [(255, 255, 255), (128, 128, 128), (255, 0, 0)], strict=True):
        y, u, v = (round(value) for value in values)
        buffer = np.concatenate([np.full(64, y), np.full(16, u), np.full(16, v)]).astype(np.uint8).reshape(12, 8)
        frame = av.VideoFrame.from_ndarray(buffer, format="yuv420p")
        frame.colorspace = space
        assert np.abs(DecodedFrame(0, 0.0, frame).pixels[4, 4].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("aspect", [1.0, 64 / 45, 8 / 9])
def test_the_whole_display_matrix_and_the_pixel_aspect(matrix, aspect):
    """OpenCV's warp of the matrix itself, about the middle, is the reference."""
    frame = shown(form="gbrp", matrix=matrix, aspect=aspect)
    wide, high = round(160 * max(1, aspect)), round(90 / min(1, aspect))
    stored = cv2.resize(SMOOTH, (wide, high), interpolation=cv2.INTER_LINEAR)
    a, b, c, d = matrix
    size = (wide, high) if a else (high, wide)
    assert (frame.width, frame.height) == size
    turn = np.array([[a, c], [b, d]], np.float64)
    shift = (np.array(size) - 1) / 2 - turn @ ((np.array([wide, high]) - 1) / 2)
    expected = cv2.warpAffine(stored, np.c_[turn, shift], size).astype(int)
    assert np.abs(frame.pixels - expected).max() <= 2


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("form", ["yuv420p", "gbrp"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_a_region_is_that_part_of_the_frame(matrix, form, scale):
    frame = shown(form=form, matrix=matrix, aspect=4 / 3)
    all_pixels, rng = frame.pixels, np.random.default_rng(1)
    for _ in range(5):
        left, top = rng.uniform(-20, 60, 2)
        part, (x, y, w, h) = frame.region((left, top, left + 70, top + 50), scale)
        assert np.all((x, y) <= np.maximum(0.01, (left, top)))
        assert np.abs(np.array(part.shape[1::-1]) - (w * scale, h * scale)).max() < 1
        # Pixel centres of the part, in the frame.
        columns = x + (np.arange(part.shape[1]) + 0.5) * w / part.shape[1] - 0.5
        rows = y + (np.arange(part.shape[0]) + 0.5) * h / part.shape[0] - 0.5
        maps = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        expected = cv2.remap(all_pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(int)
        assert np.abs(part - expected).mean() < 3


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.8, 3.5])
def test_crops_are_those_of_the_whole_picture(factor):
    picture = cv2.resize(SMOOTH, (1600, 900), interpolation=cv2.INTER_CUBIC)
    frame = shown(picture, matrix=(0, 1, -1, 0))
    for middle, turn in (((400, 700), 0), ((450, 300), 30), ((20, 1590), -90)):
        matrix = cv2.getRotationMatrix2D((56, 56), turn, factor)
        landmarks = (TEMPLATE @ matrix[:, :2].T + matrix[:, 2] - 56 + middle).astype(np.float32)
        expected = align(frame.pixels, landmarks, 112).astype(int)
        assert np.abs(frame.align(landmarks, 112) - expected).mean() < 1.5
        alike = Frame(0, 0.0, frame.pixels)
        assert np.array_equal(alike.align(landmarks, 112), expected)


def test_one_field_of_an_interlaced_frame():
    """Two moments in alternate lines: the picture is that of the first one, at its full height."""
    moments = np.stack([SMOOTH, 255 - SMOOTH])
    woven = moments[np.arange(90) % 2, np.arange(90)]
    frame = shown(woven, "gbrp", interlaced_frame=True)
    assert frame.pixels.shape == SMOOTH.shape
    assert np.abs(frame.pixels.astype(int) - SMOOTH).mean() < 4


def test_a_nonsense_aspect_is_taken_as_square():
    for aspect in (0.0, 1e-9, 1e9, float("inf")):
        frame = shown(aspect=aspect)
        assert (frame.width, frame.height) == (160, 90)


def test_a_cut_is_another_shot_and_movement_is_not():
    first, moved, other, dim = (shown(p).thumbnail for p in (SMOOTH, np.roll(SMOOTH, 2, 1), SMOOTH[::-1], SMOOTH // 2))
    assert not first.is_another_shot(moved)
    assert not first.is_another_shot(first)
    assert first.is_another_shot(other)
    assert first.is_another_shot(dim)
    assert first.is_another_shot(shown(SMOOTH[:60]).thumbnail)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("form", "aspect"), [("yuv420p", 1.0), ("yuvj420p", 1.0), ("yuv420p", 2.0), ("gbrp", 1.0)])
def test_what_is_laid_over_a_frame_is_what_is_laid_over_its_pixels(matrix, form, aspect):
    """In whatever colours it is stored, at the edges and beyond, and smooth, since colours are stored by halves."""
    frame = shown(form=form, matrix=matrix, aspect=aspect)
    smooth = SMOOTH[20:61, 30:80]
    alpha = cv2.GaussianBlur(np.pad(np.full((29, 38), 220, np.uint8), 6), (0, 0), 3)
    places = [(11, 20), (-20, -7), (frame.width - 13, 30), (500, 500)]
    overlays = [(*place, np.dstack([smooth, alpha])) for place in places]
    expected = frame.pixels.astype(float)
    for x, y, rgba in overlays[:3]:
        for (i, j), share in np.ndenumerate(rgba[..., 3] / 255):
            if 0 <= y + i < frame.height and 0 <= x + j < frame.width:
                part = expected[y + i, x + j]
                part += share * (rgba[i, j, :3] - part)
    drawn = frame.with_overlays(overlays)
    assert isinstance(drawn, np.ndarray) == (form == "gbrp" or aspect != 1)
    pixels = drawn if isinstance(drawn, np.ndarray) else DecodedFrame(0, 0.0, drawn).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 2
    assert np.abs(pixels - expected).max() < 25


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "bgra"])
def test_brightness_is_that_of_the_crop(matrix, form):
    frame = shown(form=form, matrix=matrix)
    landmarks = TEMPLATE * 0.5 + (20, 15)
    grey = cv2.cvtColor(frame.align(landmarks, 64), cv2.COLOR_RGB2GRAY).astype(float)
    brightness = frame.align_brightness(landmarks, 64).astype(float)
    assert np.corrcoef(grey.ravel(), brightness.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("form", ["yuv420p", "bgra"])
def test_overlays_lie_on_the_resized_frame(matrix, form):
    frame = shown(form=form, matrix=matrix)
    patch = np.dstack([np.full((8, 12, 3), (200, 40, 40), np.uint8), np.full((8, 12), 255, np.uint8)])
    drawn = frame.with_overlays([(10, 6, patch)], 0.5)
    pixels = drawn if isinstance(drawn, np.ndarray) else drawn.to_ndarray(format="rgb24")
    expected = frame.whole(0.5).astype(int)
    assert pixels.shape == expected.shape
    expected[6:14, 10:22] = (200, 40, 40)
    assert np.abs(pixels - expected).mean() < 3
    assert np.abs(pixels[8:12, 12:20].astype(int) - (200, 40, 40)).max() <= 6
