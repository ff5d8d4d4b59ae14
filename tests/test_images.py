"""One decoder: every part of the package sees the same pixels of every format."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triaffect.data.image_store import pack, read_batches
from triaffect.images import is_image, read_image, resize
from triaffect.inference.analyzer import read_photo

ORIENTATION = 0x0112
SIZE = 24


def gradient(mode="RGB"):
    rows, columns = np.mgrid[0:20, 0:32]
    image = Image.fromarray(np.stack([rows * 12, columns * 7, rows + columns], -1).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((columns * 8).clip(0, 255).astype(np.uint8)))
        return image
    return image.convert(mode)


# Name -> mode, format, options.
FORMATS = {
    "colour.jpg": ("RGB", "JPEG", {"quality": 95}),
    "grey.jpg": ("L", "JPEG", {"quality": 95}),
    "print.jpg": ("CMYK", "JPEG", {"quality": 95}),
    "deep.png": ("I;16", "PNG", {}),
    "alpha.png": ("RGBA", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "a.webp": ("RGB", "WEBP", {"lossless": True}),
    "a.avif": ("RGB", "AVIF", {"quality": 100}),
    "a.jp2": ("RGB", "JPEG2000", {}),
    "a.ppm": ("RGB", "PPM", {}),
    "a.bmp": ("RGB", "BMP", {}),
    "a.gif": ("RGB", "GIF", {}),
    "a.tif": ("RGB", "TIFF", {}),
    "a.ico": ("RGB", "ICO", {"sizes": [(16, 16)]}),
}
LOSSLESS = ("a.webp", "a.ppm", "a.bmp", "a.tif", "a.jp2")


@pytest.fixture
def folder(tmp_path):
    """One image per format, and rotated ones of those formats that have EXIF."""
    for name, (mode, kind, options) in FORMATS.items():
        gradient(mode).save(tmp_path / name, kind, **options)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for name in ("colour.jpg", "print.jpg", "alpha.png", "a.webp", "a.avif", "a.tif"):
        mode, kind, options = FORMATS[name]
        tag = {"tiffinfo": {ORIENTATION: 6}} if kind == "TIFF" else {"exif": exif}
        gradient(mode).save(tmp_path / f"rotated-{name}", kind, **tag, **options)
    return tmp_path


def test_training_prediction_and_cropped_analysis_see_the_same_pixels(folder):
    names = pl.Series("image", sorted(path.name for path in folder.iterdir()))
    packed = folder.parent / "images.safetensors"
    pack(names.to_frame(), folder, packed, progress=False)
    expected = np.stack([resize(read_image(folder / name), SIZE) for name in names])
    photos = [resize(read_photo(folder / name), SIZE) for name in names]
    np.testing.assert_array_equal(photos, expected)
    for images in (folder, packed):
        (batch,) = read_batches(images, names, SIZE, workers=0)
        assert batch.unreadable == []
        np.testing.assert_array_equal(batch.pixels, expected)

    torch = pytest.importorskip("torch")
    from triaffect.data.index import build_index
    from triaffect.training.dataset import FrameDataset

    table = folder.parent / "index.csv"
    names.to_frame().with_columns(expression=pl.lit(0)).write_csv(table)
    batch = FrameDataset(build_index(table), packed, SIZE).__getitems__(list(range(len(names))))
    pixels = batch["image"]
    assert batch["bad"] == []
    assert torch.equal(pixels if pixels.shape[-1] == 3 else pixels.permute(0, 2, 3, 1), torch.from_numpy(expected))


def test_every_format_is_an_image_and_reads_from_bytes(folder):
    for path in folder.iterdir():
        assert is_image(path), path.name
        np.testing.assert_array_equal(read_image(path.read_bytes()), read_image(path))


def test_an_orientation_is_applied_once(folder):
    for path in folder.glob("rotated-*"):
        plain = read_image(folder / path.name.removeprefix("rotated-"))
        pixels, expected = read_image(path), np.rot90(plain, -1)
        assert pixels.shape == expected.shape, path.name
        difference = np.abs(pixels.astype(int) - expected)
        assert difference.max() <= 8, path.name


def test_values_of_each_format(folder):
    for name in LOSSLESS:
        np.testing.assert_allclose(read_image(folder / name), np.asarray(gradient()), atol=2, err_msg=name)
    np.testing.assert_allclose(read_image(folder / "deep.png")[:, :, 0], np.asarray(gradient("L")), atol=1)
    assert (read_image(folder / "alpha.png")[:, 0] == 255).all()  # transparent parts are white
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 640, dtype=np.float32).reshape(20, 32)).save(stream, "TIFF")
    assert read_image(stream.getvalue()).max() == 255
