"""One decoder: every part of the package sees the same pixels of every format."""

import io
import re

import cv2
import numpy as np
import pillow_heif
import polars as pl
import pytest
from PIL import Image

from triaffect.data.image_store import pack, read_batches
from triaffect.images import is_animation, is_image, read_animation, read_image, resize
from triaffect.inference.inputs import read_photo

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
    "a.heic": ("RGB", "HEIF", {"quality": -1, "chroma": 444}),
    "a.qoi": ("RGB", "QOI", {}),
    "a.tga": ("RGB", "TGA", {}),
    "stereo.jpg": ("RGB", "MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (32, 20))]}),
}
LOSSLESS = ("a.webp", "a.ppm", "a.bmp", "a.tif", "a.jp2", "a.qoi", "a.tga", "a.heic")
pillow_heif.register_heif_opener()


@pytest.fixture
def folder(tmp_path):
    """One image per format, and rotated ones of those formats that have EXIF."""
    for name, (mode, kind, options) in FORMATS.items():
        gradient(mode).save(tmp_path / name, kind, **options)
    for name in ("colour.jpg", "print.jpg", "alpha.png", "a.webp", "a.avif", "a.tif", "a.heic"):
        exif = Image.Exif()  # Pillow takes the tag out of it for AVIF
        exif[ORIENTATION] = 6
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


def photo(size=(96, 128)):
    """Smooth colours, none of them the decoder's grey of 128."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    return np.stack([y % 100 + 10, x % 90 + 150, (x + y) % 100], -1).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_pixels_are_scaled_by_their_depth(tmp_path, bits, ending, channels):
    expected = photo()
    expected[0, 0] = 255
    deep = np.round(expected * ((2**bits - 1) / 255)).astype(np.uint16)[:, :, ::-1]
    opacity = np.full((*deep.shape[:2], 1), 2**bits - 1, np.uint16)
    opacity[1:5] = 0
    stored = {1: deep[:, :, 2], 3: deep, 4: np.dstack([deep, opacity])}[channels]
    cv2.imwrite(str(tmp_path / f"deep{ending}"), stored)
    pixels = read_image(tmp_path / f"deep{ending}").astype(int)
    if channels == 4:
        expected[1:5] = 255
    expected = expected[:, :, :1] if channels == 1 else expected
    assert np.abs(pixels - expected).max() <= 1


def test_numbers_with_a_fraction_are_from_0_to_1_or_to_255(tmp_path):
    expected = photo()[:, :, 0] // 2
    for name, top in (("unit.tif", 255), ("bytes.tif", 1)):
        Image.fromarray(expected.astype(np.float32) / top).save(tmp_path / name)
        assert np.abs(read_image(tmp_path / name)[:, :, 0].astype(int) - expected).max() <= 1


def test_numbers_with_a_fraction_in_colours_below_zero_or_missing(tmp_path):
    expected = photo()
    cv2.imwrite(str(tmp_path / "colour.tif"), expected[:, :, ::-1].astype(np.float32) / 255)
    assert np.abs(read_image(tmp_path / "colour.tif", strict=True).astype(int) - expected).max() <= 1
    grey = expected[:, :, 0].astype(np.float32)
    grey[0, 0], grey[0, 1] = 0, 255
    for name, values in (("below.tif", grey / 127.5 - 1), ("range.tif", grey - 300)):
        Image.fromarray(values).save(tmp_path / name)
        assert np.abs(read_image(tmp_path / name)[:, :, 0] - grey).max() <= 1
    values = grey / 255
    values[5, 5] = np.nan
    Image.fromarray(values).save(tmp_path / "gap.tif")
    pixels = read_image(tmp_path / "gap.tif")[:, :, 0]
    assert pixels[5, 5] == 0
    assert np.abs(pixels[6:] - grey[6:]).max() <= 1


def box(kind, *parts, full=None):
    """A box of an ISO base media file; `full` is its version and flags."""
    data = b"".join([b"" if full is None else full.to_bytes(4), *parts])
    return (8 + len(data)).to_bytes(4) + kind + data


def heic_grid(pixels, tile):
    """A HEIC whose picture is a grid of tiles, as iPhones write it (ISO/IEC 23008-12)."""
    coded, properties = [], b""
    for y in range(0, pixels.shape[0], tile):
        for x in range(0, pixels.shape[1], tile):
            stream = io.BytesIO()
            Image.fromarray(pixels[y : y + tile, x : x + tile]).save(stream, "HEIF", quality=-1, chroma=444)
            data = stream.getvalue()
            at = data.index(b"hvcC") - 4
            properties = data[at : at + int.from_bytes(data[at : at + 4])]
            coded.append(data[data.index(b"mdat") + 4 :])
    number, (height, width) = len(coded) + 1, pixels.shape[:2]
    u16 = lambda *values: b"".join(value.to_bytes(2) for value in values)  # noqa: E731
    coded.append(bytes([0, 0, height // tile - 1, width // tile - 1]) + u16(width, height))

    def items(offsets):
        extents = [u16(i, 0, 1) + at.to_bytes(4) + len(data).to_bytes(4) for i, (at, data) in enumerate(offsets, 1)]
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), full=0),
            box(b"pitm", u16(number), full=0),
            box(b"iloc", b"\x44\0", u16(number), *extents, full=0),
            box(b"iinf", u16(number), *(
                box(b"infe", u16(i, 0), b"grid" if i == number else b"hvc1", b"\0", full=0x2000000 | (i < number))
                for i in range(1, number + 1)
            ), full=0),
            box(b"iref", box(b"dimg", u16(number, number - 1, *range(1, number))), full=0),
            box(b"iprp",
                box(b"ipco", properties,
                    box(b"ispe", tile.to_bytes(4), tile.to_bytes(4), full=0),
                    box(b"ispe", width.to_bytes(4), height.to_bytes(4), full=0)),
                box(b"ipma", number.to_bytes(4), *(
                    u16(i) + (b"\1\3" if i == number else b"\2\x81\2") for i in range(1, number + 1)
                ), full=0)),
            full=0,
        )  # fmt: skip

    start = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    at, offsets = len(start) + len(items([(0, b"")] * number)) + 8, []
    for data in coded:
        offsets.append((at, data))
        at += len(data)
    return start + items(offsets) + box(b"mdat", *coded)


def test_the_tiles_of_a_heic_are_one_picture(tmp_path):
    pixels = photo((128, 192))
    (tmp_path / "IMG_1.HEIC").write_bytes(heic_grid(pixels, 64))
    assert is_image(tmp_path / "IMG_1.HEIC")
    assert np.abs(read_image(tmp_path / "IMG_1.HEIC").astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_is_a_sequence_over_white(tmp_path, kind):
    shades = (40, 90, 140, 190)
    frames = [Image.new("RGBA", (24, 16), (shade, shade, shade, 255)) for shade in shades]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (6, 0, 18, 16))
    path = tmp_path / "moving"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=200, disposal=2)
    assert is_animation(path)
    assert not is_image(path)
    times, pixels = zip(*read_animation(path), strict=True)
    assert np.allclose(times, [0, 0.2, 0.4, 0.6])
    np.testing.assert_allclose([p[8, 22].mean() for p in pixels], shades, atol=4)
    if kind != "AVIF":  # loses the border of the hole
        assert min(p[:, 8:16].min() for p in pixels) > 250
    notices = []
    np.testing.assert_array_equal(read_image(path, notices=notices), pixels[0])
    assert notices == ["the first of its 4 frames is read"]
    frames[1].save(path, kind)
    assert is_image(path)


def test_an_animation_without_its_end_is_still_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    frames = [Image.fromarray(pixels) for pixels in noise]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, lossless=True)
    path.write_bytes(path.read_bytes()[:-500])
    assert is_animation(path)
    sequence, times = read_animation(path), []
    with pytest.raises(ValueError, match="damaged"):
        times.extend(seconds for seconds, _ in sequence)
    assert times[:3] == [0, 0.2, 0.4]


def test_a_picture_for_programs_without_animations_is_no_frame(tmp_path):
    frames = [Image.new("RGB", (24, 16), (shade, shade, shade)) for shade in (250, 40, 90)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=200, default_image=True)
    assert [(seconds, int(p.mean())) for seconds, p in read_animation(tmp_path / "a.png")] == [(0, 40), (0.2, 90)]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_read_with_a_notice(tmp_path, progressive):
    path, stream = tmp_path / "a.jpg", io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (256, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90, progressive=progressive)
    content = stream.getvalue()
    path.write_bytes(content[:-2])
    notices = []
    np.testing.assert_array_equal(read_image(path, notices=notices), read_image(content))
    assert notices == ["damaged (Premature end of JPEG file), read"]
    path.write_bytes(content[: len(content) * 9 // 10])
    notices = []
    assert read_image(path, notices=notices).shape == (256, 64, 3)
    (notice,) = notices
    assert "damaged" in notice
    assert progressive or re.search(r"without its last \d+%", notice)
    with pytest.raises(ValueError, match="damaged JPEG"):
        read_image(path, strict=True)
    if not progressive:
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"the last 5.% are missing"):
            read_image(path)


LACKS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {}, "HEIF": {"quality": -1}}


@pytest.mark.parametrize("kind", LACKS)
def test_other_images_without_their_end_are_read_with_a_notice(tmp_path, kind):
    path, stream = tmp_path / "a", io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (160, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind, **LACKS[kind])
    content = stream.getvalue()
    whole = read_image(content).astype(int)
    path.write_bytes(content[: len(content) * 9 // 10])
    notices = []
    pixels = read_image(path, notices=notices)
    rows = slice(40, None) if kind == "BMP" else slice(0, 112)  # stored from below; HEIC has blocks of 64
    assert np.abs(pixels[rows] - whole[rows]).mean() < 1
    assert re.fullmatch(r"damaged, read without (9|1\d|2\d)% of it", notices[0])
    with pytest.raises(ValueError, match="damaged image"):
        read_image(path, strict=True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="% of it are missing"):
        read_image(path)


def test_what_follows_a_wrong_check_sum_in_a_png_is_missing():
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (400, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[len(content) * 9 // 10] ^= 1
    notices = []
    pixels = read_image(bytes(content), notices=notices)
    last = int((pixels == noise).all((1, 2)).argmin())
    assert last > 300
    assert (pixels[last:] == 128).all()
    assert len(notices) == 1


def test_a_jpeg_for_print_is_read_as_others_are():
    y, x = np.mgrid[0:96, 0:128]
    ink = np.stack([y * 2, x, 200 - y, y], -1).astype(np.uint8)
    in_ink = Image.merge("CMYK", [Image.fromarray(ink[..., i]) for i in range(4)])
    expected = np.asarray(in_ink.convert("RGB")).astype(int)
    stream = io.BytesIO()
    in_ink.save(stream, "JPEG", quality=95)
    assert np.abs(read_image(stream.getvalue()) - expected).max() <= 8
    # The same as brightness, two colours and black: the last byte of Adobe's marker is then 2.
    stream, brightness = io.BytesIO(), np.asarray(Image.fromarray(ink[:, :, :3]).convert("YCbCr"))
    parts = (*np.moveaxis(255 - brightness, 2, 0), ink[..., 3])
    Image.merge("CMYK", [Image.fromarray(part) for part in parts]).save(stream, "JPEG", quality=95)
    content = bytearray(stream.getvalue())
    content[content.index(b"Adobe") + 11] = 2
    assert np.abs(read_image(bytes(content)) - expected).max() <= 12
    notices = []
    assert read_image(bytes(content[:-300]), notices=notices).shape == (96, 128, 3)
    assert len(notices) == 1


def test_the_brand_of_a_container_may_be_a_general_one():
    for kind, brand in (("AVIF", b"mif1"), ("HEIF", b"mif1")):
        stream = io.BytesIO()
        gradient().save(stream, kind, quality=90)
        content = bytearray(stream.getvalue())
        content[8:12] = brand
        assert read_image(bytes(content)).shape == (20, 32, 3)


def test_an_orientation_in_xmp_counts_where_exif_has_none(tmp_path):
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for name in ("a.jpg", "a.webp"):
        gradient().save(tmp_path / name, xmp=xmp)
        assert read_image(tmp_path / name).shape == (32, 20, 3)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_very_large_jpeg_is_read_at_half_its_size(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("triaffect.images.MAX_PIXELS", 100 * 140)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo((180, 200))).convert(mode).save(tmp_path / "a.jpg", quality=95, exif=exif)
    notices = []
    assert read_image(tmp_path / "a.jpg", notices=notices).shape == (100, 90, 3)
    assert notices == ["200x180 pixels, read at half its size: boxes are in its 100x90 pixels"]
    Image.fromarray(photo((180, 200))).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="200x180 pixels, more than 14,000; shrink it, or save it as JPEG"):
        read_image(tmp_path / "a.png")


def test_metadata_after_a_long_profile_turns_the_photo(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.fromarray(photo()).save(tmp_path / "a.jpg", quality=95, exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    profile = b"\xff\xe3" + (65535).to_bytes(2) + bytes(65533)
    assert (read_image(data[:2] + profile * 2 + data[2:]) == read_image(data)).all()
    broken = data.replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    assert (read_image(broken) == read_image(data)[::-1, ::-1]).all()


def test_a_cameras_raw_file_is_not_its_preview(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.dng", "TIFF", tiffinfo={254: 1})
    for content in ((tmp_path / "a.dng").read_bytes(), b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"):
        with pytest.raises(ValueError, match="raw file, which cannot be developed"):
            read_image(content)
