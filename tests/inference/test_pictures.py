"""Images of every kind, many at once, frames from anywhere, pickling, threads, a notebook."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from PIL import Image

import triaffect as ta
from triaffect.inference.pictures import to_pixels
from triaffect.io import InputError
from worlds import Model, analyzer, film, find, jpeg, plain

pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def test_every_kind_of_image_gives_the_same_pixels(tmp_path):
    content = png(Image.fromarray(pixels))
    (tmp_path / "a.png").write_bytes(content)
    for kind in (str(tmp_path / "a.png"), tmp_path / "a.png"):
        assert analyzer().image(kind).drop("file").equals(analyzer().image(pixels).drop("file"))
    kinds = [content, io.BytesIO(content), Image.fromarray(pixels), pixels]
    with (tmp_path / "a.png").open("rb") as file, Image.open(tmp_path / "a.png") as image:
        for kind in (*kinds, file, image):
            name, result = to_pixels(kind)
            assert np.array_equal(result, pixels), kind
            assert name in ("", str(tmp_path / "a.png"))


def test_arrays_follow_rules():
    grey, alpha = pixels[..., 0], np.full((30, 40, 1), 255, np.uint8)
    for image in (grey, grey[..., None]):
        assert np.array_equal(to_pixels(image)[1], np.dstack([grey] * 3))
    assert np.array_equal(to_pixels(pixels[..., ::-1], bgr=True)[1], pixels)
    assert np.array_equal(to_pixels(np.dstack([pixels, alpha]))[1], pixels)
    bgra = np.dstack([pixels[..., ::-1], alpha])
    assert np.array_equal(to_pixels(bgra, bgr=True)[1], pixels)
    assert (to_pixels(np.dstack([pixels, alpha * 0]))[1] == 255).all()
    for wrong in (pixels / 255, pixels.astype(np.uint16), pixels[..., :2], pixels[0, 0], pixels[:0], pixels > 9):
        with pytest.raises(InputError, match="is no image; give uint8"):
            to_pixels(wrong)
    for wrong, message in ((b"nonsense", "not an image"), (7, "int: not an image"), (io.StringIO("a"), "not an image")):
        with pytest.raises(InputError, match=message):
            to_pixels(wrong)


def test_pillow_images_follow_the_rules_of_files():
    """Orientation, 16 bits, transparency and CMYK, against the same image as a file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", exif=exif)
    assert np.array_equal(to_pixels(Image.open(data))[1], np.rot90(pixels, -1))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(to_pixels(deep)[1], to_pixels(png(deep))[1])
    clear = Image.fromarray(np.dstack([pixels, pixels[..., 0]]))
    assert np.array_equal(to_pixels(clear)[1], to_pixels(png(clear))[1])
    assert np.abs(to_pixels(Image.fromarray(pixels).convert("CMYK"))[1].astype(int) - pixels).max() <= 2


def test_pillow_images_of_numbers_are_scaled_as_files_are():
    grey = np.linspace(0, 255, 1200).round().reshape(30, 40)
    for values in (grey.astype(np.float32) / 255, grey.astype(np.int32) * 257):
        assert np.abs(to_pixels(Image.fromarray(values))[1][..., 0] - grey).max() <= 1


def test_many_images_share_batches_and_keep_their_names(tmp_path):
    used = analyzer(batch=4)
    path = jpeg(tmp_path / "a.jpg", plain(40, 200, 255, (100, 60)))
    table = used.images([path, plain(), plain(0, 0, 0), plain(200, 100, 100), path.read_bytes()])
    assert table["file"].to_list() == [str(path)] * 2 + ["1", "3", "4", "4"]
    assert table["face"].to_list() == [1, 2, 1, 1, 1, 2]
    assert table["frame"].unique().to_list() == [0]
    assert used.backend.batches == [8, 4]  # each face and its mirror image
    alone = used.image(path)
    assert table.head(2).equals(alone)
    assert used.images([]).schema == alone.schema
    with pytest.raises(InputError, match=r"b\.jpg"):
        used.images([path, tmp_path / "b.jpg"])


def test_frames_from_anywhere_are_a_video(tmp_path):
    path = film(tmp_path / "a.mp4", 12, pixels=lambda i: plain(100))
    expected = pl.concat(analyzer().video(path))
    frames = [plain(100) for _ in range(12)]
    rows = pl.concat(analyzer().stream(frames, name=str(path), fps=30))
    assert rows.select("frame", "face").equals(expected.select("frame", "face"))
    assert rows["time"].to_list() == pytest.approx(expected["time"].to_list(), abs=1e-3)
    rows = pl.concat(analyzer().stream((i * 2.0, frame) for i, frame in enumerate(frames)))
    assert rows["time"].to_list() == [i * 2.0 for i in range(12)]
    assert rows["file"].unique().to_list() == ["stream"]
    live = analyzer(batch=1).stream(iter(frames))
    assert next(live).height == 1
    assert 0 <= next(live)["time"][0] < 60


def test_an_analyzer_names_itself_and_can_be_pickled_and_shared_by_threads():
    real = ta.Analyzer(backend="onnx", max_faces=3)
    assert repr(real).startswith("Analyzer(triaffect-base (")
    copy = pickle.loads(pickle.dumps(real))
    assert (copy.max_faces, copy.backend.name, copy.tasks) == (3, real.backend.name, real.tasks)
    images = [np.full((80, 80, 3), shade, np.uint8) for shade in range(0, 250, 10)]
    expected = [real.image(image, cropped=True) for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: real.image(image, cropped=True), images))
    for alone, other in zip(expected, results, strict=True):
        assert alone.select("valence", "AU12").to_numpy() == pytest.approx(other.select("valence", "AU12").to_numpy())


def test_only_some_tasks():
    table = analyzer(tasks=["au"]).image(plain())
    assert "AU12" in table.columns
    assert not {"expression", "valence", "happiness"} & set(table.columns)
    with pytest.raises(InputError, match="has va, expr, au, not emotion"):
        ta.Analyzer(Model(), detector=find, tasks=["emotion"])


def test_a_notebook_displays_picture_and_table():
    picture = analyzer().show(plain(40, 200, 255, (100, 60)))
    assert repr(picture) == "Picture(100x60, faces=2)"
    html = picture._repr_html_()
    assert html.startswith('<img src="data:image/jpeg;base64,')
    assert "<table" in html
    assert not np.array_equal(picture.pixels, plain(40, 200, 255, (100, 60)))


def test_a_table_becomes_a_pandas_table():
    pandas = pytest.importorskip("pandas", reason="the extra pandas is not installed")
    table = analyzer().image(plain())
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == table.columns
    assert frame["expression"][0] == table["expression"][0]
