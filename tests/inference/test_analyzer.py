"""Photos of every kind, rows and their numbers, batches, memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

import triaffect as ta
from triaffect.data.predictions import check_predictions
from triaffect.images import is_image, upright
from triaffect.inference import video
from triaffect.inference.analyzer import LANDMARK_COLUMNS
from triaffect.inference.detect import Face
from triaffect.inference.inputs import read_photo
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from worlds import Model, analyzer, film, find, jpeg, plain

COLUMNS = (
    ["file", "frame", "time", "face", "x", "y", "w", "h", "score"]
    + list(LANDMARK_COLUMNS)
    + ["size", "yaw", "roll", "blur", "brightness", "quality_flags", "expression", "valence", "arousal"]
    + [name.lower() for name in EXPRESSIONS]
    + list(ACTION_UNITS)
)
marked = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def test_a_photo_gives_one_row_per_face_from_left_to_right(tmp_path):
    pixels = plain(40, 200, 255, (100, 60))
    table = analyzer().image(pixels)
    assert table.columns == COLUMNS
    assert table["face"].to_list() == [1, 2]
    assert table["x"].to_list() == pytest.approx([5, 60])
    assert table["expression"].unique().to_list() == ["Happiness"]
    assert table["valence"].to_list() == pytest.approx([40 / 127.5 - 1] * 2, abs=0.01)
    assert table["AU12"].to_list() == pytest.approx([40 / 255] * 2, abs=0.01)
    assert table["right_eye_x"].null_count() == 2
    assert table["quality_flags"].null_count() == 0
    check_predictions(table.with_columns(image=pl.format("{}/{}", "file", "face")))


def test_a_photo_is_the_mean_of_its_faces_and_their_mirror_images_and_a_crop_is_not():
    class LeftHalf(Model):
        def __call__(self, images):
            return super().__call__(images[:, :, : images.shape[2] // 2])

    pixels = plain(40)
    pixels[:, pixels.shape[1] // 2 :] = 200
    left, right = (value / 127.5 - 1 for value in (40, 200))
    whole = Face((0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), None, 1.0)
    both = ta.Analyzer(LeftHalf(), detector=lambda pixels: [whole]).image(pixels)["valence"][0]
    assert both == pytest.approx((left + right) / 2, abs=0.02)
    assert ta.Analyzer(LeftHalf()).image(pixels, cropped=True)["valence"][0] == pytest.approx(left, abs=0.02)


def test_a_path_and_its_pixels_give_the_same(tmp_path):
    path = jpeg(tmp_path / "a.jpg")
    table = analyzer().image(path)
    assert table["file"].to_list() == [str(path)]
    assert table.drop("file").equals(analyzer().image(read_photo(path)).drop("file"))


def test_no_face_is_an_empty_table_of_the_same_columns():
    table = analyzer().image(plain(0, 0, 0))
    assert table.schema == analyzer().image(plain()).schema
    assert table.height == 0


def test_a_ready_crop_is_not_searched():
    def never(pixels):
        raise AssertionError("searched")

    table = ta.Analyzer(Model(), detector=never).image(plain(255, 0, 0, (48, 48)), cropped=True)
    assert table.select("x", "y", "w", "h", "score").row(0) == (0, 0, 48, 48, 1)
    assert table["valence"][0] == pytest.approx(1, abs=0.01)


def test_only_the_largest_faces_are_kept():
    table = analyzer(max_faces=1).image(plain(40, 200, 255, (100, 60)))
    assert table["x"].to_list() == pytest.approx([5])


def test_a_model_without_a_task_leaves_its_columns_out():
    class Units(Model):
        tasks = ("au",)

        def __call__(self, crops):
            return {"au": super().__call__(crops)["au"]}

    table = ta.Analyzer(Units(), detector=find).image(plain())
    assert table.columns == [c for c in COLUMNS if c.startswith("AU") or c in COLUMNS[: COLUMNS.index("expression")]]


def test_the_crop_follows_the_landmarks():
    """A red square in the corner, landmarks on it: the crop is red."""
    pixels = plain(0, 0, 100, (200, 200))
    pixels[100:180, 100:180] = (255, 0, 0)
    five = np.float32([(127, 130), (153, 130), (140, 145), (130, 160), (150, 160)])
    table = ta.Analyzer(Model(), detector=lambda p: [Face((110.0, 110.0, 60.0, 60.0), five, 0.8)]).image(pixels)
    assert table["valence"][0] > 0.7
    assert table.select(LANDMARK_COLUMNS).row(0) == pytest.approx(five.ravel().tolist())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path, orientation):
    """Against Pillow's own transposition."""
    image = Image.fromarray(marked)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(read_photo(tmp_path / "a.png"), expected)
    assert np.array_equal(upright(marked, orientation), expected)
    assert np.abs(read_photo(tmp_path / "a.jpg").astype(int) - expected).mean() < 6


def kinds(folder):
    image = Image.fromarray(marked)
    grey = image.convert("L")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95, subsampling=0)
    grey.save(folder / "grey.jpg", quality=95)
    image.save(folder / "a.webp", lossless=True)
    image.save(folder / "a.bmp")
    image.save(folder / "pages.tif", save_all=True, append_images=[ImageOps.invert(image)])
    image.save(folder / "plain.png")
    image.quantize(64).save(folder / "palette.png")
    image.convert("RGBA").save(folder / "opaque.png")
    deep = np.asarray(grey).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif")
    grey.save(folder / "grey.png")
    grey.convert("1").save(folder / "bits.png")
    (folder / "wrong-name.txt").write_bytes((folder / "a.bmp").read_bytes())
    shades = {"bits": grey.convert("1"), "deep": grey, "grey": grey}
    return {path: shades.get(path.stem, image) for path in sorted(folder.iterdir())}


def test_every_kind_of_image_is_read(tmp_path):
    images = kinds(tmp_path)
    assert len(images) == 13
    for path, image in images.items():
        assert is_image(path), path
        expected = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(read_photo(path, notices=[]) - expected).mean() < (
            12 if path.stem in ("cmyk", "palette") else 3
        ), path


def test_transparent_parts_are_white(tmp_path):
    clear = np.dstack([marked, np.zeros(marked.shape[:2], np.uint8)])
    clear[:8, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "a.png")
    pixels = read_photo(tmp_path / "a.png")
    assert np.array_equal(pixels[:8], marked[:8])
    assert (pixels[8:] == 255).all()


def test_an_animated_gif_is_a_video(tmp_path):
    shades = [Image.fromarray(plain(40 * i, 0, 100)) for i in range(5)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:], duration=100)
    shades[3].save(tmp_path / "b.gif")
    assert not is_image(tmp_path / "a.gif")
    assert is_image(tmp_path / "b.gif")
    rows = pl.concat(analyzer().video(tmp_path / "a.gif"))
    assert rows["time"].to_list() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.011)


def test_a_video_comes_in_batches_and_each_frame_keeps_its_description(tmp_path):
    used = analyzer(batch=4)
    parts = list(used.video(film(tmp_path / "a.mp4", 10, pixels=lambda i: plain(*[60 + 12 * i] * 3))))
    assert used.backend.batches == [4, 4, 2]
    rows = pl.concat(parts)
    assert rows["frame"].to_list() == list(range(10))
    assert rows["face"].unique().to_list() == [1]
    assert np.allclose(rows["time"], np.arange(10) / 30, atol=1e-3)
    assert np.allclose(rows["valence"], (60 + 12 * np.arange(10)) / 127.5 - 1, atol=0.05)


def test_frames_without_a_face_have_no_rows(tmp_path):
    rows = pl.concat(
        analyzer(batch=4).video(film(tmp_path / "a.mp4", 12, pixels=lambda i: plain(200 * (i % 3 == 0), 0, 0)))
    )
    assert rows["frame"].to_list() == [0, 3, 6, 9]


def test_a_damaged_video_gives_its_rows_first(tmp_path, monkeypatch):

    real = video.read_video

    def breaking(path, every, fps):
        for frame in real(path, every, fps):
            if frame.number == 5:
                raise InputError("a.mp4: damaged")
            yield frame

    monkeypatch.setattr(video, "read_video", breaking)
    rows = []
    with pytest.raises(InputError, match="damaged"):
        rows.extend(analyzer(batch=3).video(film(tmp_path / "a.mp4", 10)))
    assert pl.concat(rows).height + 3 >= 5  # the first frames of `film` are dark
    assert pl.concat(rows)["frame"].max() == 4


def test_a_long_video_takes_the_memory_of_a_short_one(tmp_path):
    """300 frames of 400x304 take 110 MB if they are all kept."""
    path = film(tmp_path / "a.mp4", 300, pixels=lambda i: plain(100, i % 200, 90, (400, 304)))
    code = f"""
import resource
from worlds import analyzer
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = 0
for i, part in enumerate(analyzer().video({str(path)!r})):
    rows += part.height
    if rows == 80: early = peak()
assert rows == 300, rows
print(peak() - early)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert float(done.stdout) < 40


def test_errors_name_the_reason(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture at all")
    with pytest.raises(InputError, match="not an image that can be read"):
        analyzer().image(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="No such file"):
        analyzer().image(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="not a file"):
        list(analyzer().video(tmp_path))
