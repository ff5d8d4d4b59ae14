import hashlib
import itertools
from importlib import resources

import cv2
import numpy as np
import pytest
from matplotlib import cbook

from triaffect.data.sample import sample
from triaffect.images import TEMPLATE, align, read_image
from triaffect.inference import detect as faces
from triaffect.inference.detect import Face, YuNet, open_detector
from triaffect.inference.follow import Follower
from triaffect.inference.frame import Frame
from triaffect.io import InputError


@pytest.fixture(scope="module")
def portrait():
    """Grace Hopper, 512 x 606, public domain, from matplotlib's wheel."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.ascontiguousarray(cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


@pytest.fixture(scope="module")
def yunet():
    return open_detector(size=320)


def weights():
    return resources.files("triaffect.inference").joinpath(faces.WEIGHTS)


def test_the_weights_are_the_published_ones():
    published = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
    assert hashlib.sha256(weights().read_bytes()).hexdigest() == published
    licence = weights().parent.joinpath("LICENSE.yunet.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "Shiqi Yu" in licence


def test_the_search_is_opencvs_own(portrait):
    picture = cv2.resize(portrait, (256, 288))
    theirs = cv2.FaceDetectorYN.create(str(weights()), "", (256, 288), 0.6).detect(picture[..., ::-1].copy())[1]
    ours = YuNet(320)(picture)
    assert len(ours) == len(theirs) == 1
    np.testing.assert_allclose(ours[0].box, theirs[0, :4], atol=0.05)
    candidates = YuNet()._candidates(picture)
    np.testing.assert_allclose(candidates[candidates[:, 14].argmax(), 4:14], theirs[0, 4:14], atol=0.05)


@pytest.mark.parametrize("roll", [-45, -20, 0, 20, 45])
def test_landmarks_follow_a_head_that_leans(yunet, portrait, roll):
    upright = yunet(portrait)[0]
    middle = upright.landmarks.mean(0)
    matrix = cv2.getRotationMatrix2D(tuple(map(float, middle)), roll, 1.0)
    rolled = cv2.warpAffine(portrait, matrix, portrait.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    face = min(yunet(rolled), key=lambda face: np.linalg.norm(face.landmarks.mean(0) - middle))
    expected = upright.landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.05 * upright.box[3]


def test_one_face_at_every_size(yunet, portrait):
    left, top, width, height = yunet(portrait)[0].box
    assert 120 < width < 220
    assert 180 < height < 240
    for scale in (0.15, 0.3, 0.6, 2.5):
        detected = yunet(cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        assert len(detected) == 1
        np.testing.assert_allclose(np.array(detected[0].box) / scale, (left, top, width, height), atol=14)
        assert 0.8 < detected[0].score <= 1


def test_a_thumbnail_is_enlarged_and_a_larger_picture_is_shrunk_to_its_smallest_faces(monkeypatch, tmp_path):
    detector, searched = open_detector(), []
    candidates = detector._candidates
    monkeypatch.setattr(detector, "_candidates", lambda pixels: searched.append(pixels.shape) or candidates(pixels))
    for side in (20, 48, 150, 400, 800):
        detector(np.full((side, side, 3), 90, np.uint8))
    assert [height for height, _, _ in searched] == [192, 192, 192, 300, 600]
    images = sample(tmp_path / "sample") / "cropped_aligned"
    for path in sorted(images.rglob("*.jpg"))[::99]:  # faces that fill a picture of 48 pixels
        thumbnail = cv2.resize(cv2.imread(str(path))[..., ::-1], (48, 48), interpolation=cv2.INTER_AREA)
        assert len(detector(thumbnail)) == 1


def test_a_larger_side_finds_a_small_face_without_losing_a_near_one(portrait):
    room = np.full((960, 1280, 3), 90, np.uint8)
    room[100:700, 50:562] = portrait
    small = cv2.resize(portrait, None, fx=0.115, fy=0.115, interpolation=cv2.INTER_AREA)
    room[700 : 700 + len(small), 1000 : 1000 + small.shape[1]] = small
    near, far = open_detector(size=320)(room), open_detector(size=1280)(room)
    assert len(near) == 1
    assert len(far) == 2
    width, height = far[1].box[2:]
    assert 14 < width < height < 34


def test_the_best_comes_first(yunet, portrait):
    blurred = cv2.GaussianBlur(portrait, (0, 0), 6)
    detected = yunet(np.hstack([blurred, portrait]))
    assert len(detected) == 2
    assert detected[0].score >= detected[1].score
    assert all(len(face.box) == 4 and face.landmarks.shape == (5, 2) for face in detected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 2), (31, 33), (32, 32), (5000, 4000)])
@pytest.mark.parametrize("side", [320, 640])
def test_odd_images_have_no_face(shape, side):
    assert open_detector(size=side)(np.full((*shape, 3), 127, np.uint8)) == []


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 4), (0, 9, 3), (9, 0, 3)])
def test_arrays_that_are_not_images_are_refused(yunet, shape):
    with pytest.raises(InputError, match="give uint8 RGB"):
        yunet(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=r"float64 \(9, 9, 3\)"):
        yunet(np.zeros((9, 9, 3)))


def test_an_unknown_detector_is_named():
    with pytest.raises(InputError, match=r"'haar'.*yunet"):
        open_detector("haar")


def test_grey_images_are_searched_like_others(yunet, portrait):
    grey = cv2.cvtColor(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert len(yunet(grey)) == 1


def test_crops_have_the_face_in_place(yunet, portrait):
    landmarks = yunet(align(portrait, yunet(portrait)[0].five, 224))[0].landmarks
    # She looks a little aside, so not every point can lie on the template; their middle and the eyes' line can.
    np.testing.assert_allclose(landmarks.mean(0), TEMPLATE.mean(0) * 2, atol=5)
    assert abs(landmarks[1, 1] - landmarks[0, 1]) < 8
    assert 60 < landmarks[1, 0] - landmarks[0, 0] < 90


def test_a_box_alone_gives_nearly_the_same_crop(yunet, portrait):
    face = yunet(portrait)[0]
    boxed = Face(face.box, None, face.score)
    np.testing.assert_allclose(boxed.five, face.landmarks, atol=0.08 * face.box[3])
    landmarks = yunet(align(portrait, boxed.five, 224))[0].landmarks
    np.testing.assert_allclose(landmarks.mean(0), TEMPLATE.mean(0) * 2, atol=16)


@pytest.mark.parametrize("turn", [45, 90, 135, 180, 225, 270])
def test_a_close_up_on_its_side_or_upside_down_is_read_upright(portrait, turn):
    """Or not found, but never read as an upright face, as the detector alone does."""
    upright = open_detector(size=320)(portrait)[0].landmarks
    middle = upright.mean(0)
    matrix = cv2.getRotationMatrix2D(tuple(map(float, middle)), turn, 0.9)
    matrix[:, 2] += 300 - middle
    turned = cv2.warpAffine(portrait, matrix, (600, 600), borderMode=cv2.BORDER_REFLECT)
    expected = upright @ matrix[:, :2].T + matrix[:, 2]
    for face in open_detector()(turned):
        if np.linalg.norm(face.landmarks.mean(0) - 300) < 60:
            assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 12


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A face of 80 pixels on grey, (200, 260)."""
    pixels = np.full((200, 260, 3), 128, np.uint8)
    folder = sample(tmp_path_factory.mktemp("sample"))
    pixels[50:162, 90:202] = read_image(folder / "cropped_aligned" / "face0000" / "00001.jpg")
    return pixels


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_small_face_on_its_side_is_found_where_it_is(small, turns):
    """The search misses it there; where it is upright is known."""
    yunet, upright = YuNet(), small
    (expected,) = yunet.find(Frame(0, 0.0, upright))
    turned = Frame(0, 0.0, np.ascontiguousarray(np.rot90(upright, turns)))
    assert bool(yunet.find(turned)) == (turns % 2 == 0)
    (face,) = yunet.find_any_way_up(turned)
    # The points of the picture are turned as its pixels are.
    places = np.zeros((200, 260), int)
    for number, (x, y) in enumerate(expected.five.round().astype(int), 1):
        places[y, x] = number
    places = np.rot90(places, turns)
    for number, point in enumerate(face.five, 1):
        (y,), (x,) = np.nonzero(places == number)
        assert np.hypot(*(point - (x, y))) < 5
    x, y, w, h = face.box
    assert ((x, y) < face.five.min(0)).all()
    assert (face.five.max(0) < (x + w, y + h)).all()


def test_a_video_that_lies_on_its_side_is_searched_any_way_up_once_a_second(small, monkeypatch):
    yunet, lying, searched = YuNet(), np.ascontiguousarray(np.rot90(small)), []
    real = yunet.find_any_way_up
    monkeypatch.setattr(yunet, "find_any_way_up", lambda *args: searched.append(args[0].number) or real(*args))
    follower = Follower(yunet)
    assert [len(follower(Frame(i, i / 25, lying))) for i in range(30)] == [1] * 30
    assert len(searched) == 2
    assert searched[1] >= 25


def test_a_crowd_in_a_large_picture_is_searched_in_tiles(portrait):
    """40 faces of 45 pixels in 8 megapixels, two of them where tiles meet; each is found once, where it is."""
    left, top, width, height = open_detector(size=320)(portrait)[0].box
    head = portrait[int(top - 40) : int(top + height + 50), int(left - 40) : int(left + width + 40)]
    scale = 45 / height
    small = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    crowd = np.full((2300, 3500, 3), 110, np.uint8)
    rng, middles = np.random.default_rng(0), []
    for i in range(40):
        x, y = 30 + 430 * (i % 8) + int(rng.integers(0, 300)), 40 + 440 * (i // 8) + int(rng.integers(0, 300))
        crowd[y : y + small.shape[0], x : x + small.shape[1]] = small
        middles.append((x + small.shape[1] / 2, y + small.shape[0] / 2))
    rows = YuNet(min_face=24).search(Frame(0, 0.0, crowd))
    middle = rows[:, :2] + rows[:, 2:4] / 2
    distances = np.linalg.norm(middle[:, None] - np.array(middles)[None], axis=2)
    assert len(rows) == 40
    assert np.sum(distances.min(0) < 12) >= 38


def test_tiles_cover_a_side_and_share_a_margin():
    for side, scale in ((1280, 1.0), (7008, 0.75), (2500, 1.0), (40_000, 0.3)):
        tiles = faces._tiles(side, scale)
        assert tiles[0][0] == 0
        assert tiles[-1][1] == pytest.approx(side)
        for (_, end), (start, _) in itertools.pairwise(tiles):
            assert (end - start) * scale >= faces._OVERLAP - 1


def test_a_part_of_a_face_and_what_a_close_up_does_not_confirm_are_left_out(yunet, portrait, monkeypatch):
    """Rows as searches in tiles return: the face, the half of it in the next tile, and a pattern of the uniform."""
    row = yunet.search(Frame(0, 0.0, portrait))[0]
    half, uniform, sure = row.copy(), row.copy(), row.copy()
    half[[0, 2]] += (60, -60)
    half[14] = 0.7
    uniform[:14] += np.tile([-40, 330], 7) * np.r_[1, 1, 0, 0, np.ones(10)]
    uniform[14] = 0.75
    sure[:14], sure[14] = uniform[:14], 0.85
    frame = Frame(0, 0.0, portrait)
    for rows, scores in (([row, half, uniform], [row[14]]), ([row, sure], [row[14], 0.85])):
        monkeypatch.setattr(yunet, "search", lambda *_, rows=rows: np.array(rows))
        result = yunet.find(frame)
        assert len(result) == len(scores)
        assert np.linalg.norm(result[0].landmarks.mean(0) - row[4:14].reshape(5, 2).mean(0)) < 20
        assert all(face.score >= score for face, score in zip(result, scores, strict=True))
    weak = row.copy()
    weak[14] = 0.5  # a small face scores less in the search than in its close-up
    monkeypatch.setattr(yunet, "search", lambda *_: np.array([weak]))
    assert yunet.find(frame)[0].score > 0.9
