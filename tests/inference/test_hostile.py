"""Damaged, foreign, empty and malicious inputs: one line each with the reason; the other inputs are processed."""

import io
import os
import re
import struct
import wave
import zipfile
import zlib

import numpy as np
import polars as pl
import pytest
import simplejpeg
from PIL import Image

from inference.test_analyze import run
from worlds import film, jpeg, plain, remux

noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
CASES = {}


def case(name, reason):
    def keep(make):
        CASES[make.__name__] = (name, reason, make)
        return make

    return keep


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(kind, **options):
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind, **options)
    return stream.getvalue()


def write(data):
    return lambda path: path.write_bytes(data)


@case("a.jpg", "no such file or folder")
def missing(path):
    pass


@case("*.nothing", "matches nothing")
def glob_without_match(path):
    pass


@case("a.mp4", "not a photo or video that can be read")
def text_named_mp4(path):
    path.write_text("not a video\n" * 500)


@case("a.jpg", "not a photo or video that can be read")
def text_named_jpg(path):
    path.write_text("not a picture\n" * 500)


@case("a.mp4", "is empty; copy it again")
def empty_video(path):
    path.write_bytes(b"")


@case("a.jpg", "is empty; copy it again")
def empty_photo(path):
    path.write_bytes(b"")


@case("a.png", "more than 64,000,000")
def huge_png(path):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9999))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@case("a.jpg", "more than 256,000,000; shrink it")
def huge_jpeg(path):
    data = bytearray(simplejpeg.encode_jpeg(noise))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 30000, 30000)
    path.write_bytes(data)


@case("a.y4m", "30000x30000, more than 64,000,000 pixels|not a photo")
def huge_video(path):
    path.write_bytes(b"YUV4MPEG2 W30000 H30000 F25:1\nFRAME\n" + bytes(5000))


@case("a.jpg", "Premature end of JPEG file")
def truncated_jpeg(path):
    path.write_bytes(simplejpeg.encode_jpeg(noise)[:1500])


@case("a.jpg", "damaged (image|JPEG)")
def jpeg_of_ten_bytes(path):
    path.write_bytes(simplejpeg.encode_jpeg(noise)[:10])


@case("a.png", "damaged (image|JPEG)")
def truncated_png(path):
    path.write_bytes(encoded("PNG")[:2000])


@case("a.png", "damaged (image|JPEG)|too large")
def png_with_a_bomb_of_text(path):
    data = encoded("PNG")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    path.write_bytes(data[:33] + bomb + data[33:])


@case("a.gif", "damaged image|not an image")
def truncated_gif(path):
    path.write_bytes(encoded("GIF")[:300])


@case("a.webp", "damaged image|not an image")
def truncated_webp(path):
    path.write_bytes(encoded("WEBP")[:200])


@case("a.tif", "damaged image|not an image")
def tiff_that_points_nowhere(path):
    path.write_bytes(b"II*\0" + struct.pack("<I", 0x7FFFFFF0) + bytes(100))


@case("a.tif", "damaged image|not an image")
def tiff_that_points_at_itself(path):
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8))


@case("a.bmp", "damaged image|not an image|more than 64,000,000")
def bmp_of_negative_size(path):
    path.write_bytes(
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -2147483648, -2147483648, 1, 24, 0, 0, 0, 0, 0, 0)
    )


@case("a.svg.png", "not a photo or video")
def svg_named_png(path):
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
    )


@case("a.png", "not a photo or video")
def zip_named_png(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "x" * 5000)


@case("a.mp4", "not a photo or video|no frame|no moving")
def numbers_named_mp4(path):
    with path.open("wb") as file:
        np.save(file, noise)


@case("a.mp4", "not a photo or video|no frame|no moving")
def random_bytes(path):
    path.write_bytes(np.random.default_rng(1).bytes(50_000))


@case("a.mp4", "its end is missing; copy it again")
def truncated_before_its_table(path):
    film(path, 30, pixels=lambda i: plain())
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") // 2])


@case("a.mp4", "its end is missing; copy it again")
def truncated_in_its_table(path):
    film(path, 30, pixels=lambda i: plain())
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") + 9])


@case("a.mp4", "its end is missing; copy it again")
def truncated_between_its_parts(path):
    film(path, 30, pixels=lambda i: plain())
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])


@case("a.mp4", r"damaged, .*frames that decode are in the result")
def truncated_after_its_table(path):
    rng = np.random.default_rng(0)
    film(path.with_name("whole"), 40, pixels=lambda i: rng.integers(60, 255, (48, 64, 3), dtype=np.uint8))
    remux(path.with_name("whole"), path, movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    path.with_name("whole").unlink()


@case("a.mp4", "no frame can be decoded|no moving images|not a photo or video")
def zero_frames(path):
    film(path.with_name("whole"), 3, pixels=lambda i: plain())
    remux(path.with_name("whole"), path, movflags="frag_keyframe+empty_moov")
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moof") - 4])
    path.with_name("whole").unlink()


@case("a.mp4", "holds no moving images")
def sound_only(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


@case("a.m3u8", "not a photo or video")
def playlist_of_other_files(path):
    secret = film(path.with_name("secret"), 5, pixels=lambda i: plain())
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n")


@case("a.mp4", "not a photo or video")
def list_to_join(path):
    path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")


@case("a.jpg", "no face found")
def no_face_in_a_photo(path):
    jpeg(path, plain(0, 0, 0))


@case("a.mp4", "no face found")
def no_face_in_a_video(path):
    film(path, 5, pixels=lambda i: plain(0, 0, 0))


@case("a.jpg", "holds no photo and no video")
def empty_folder_named_as_a_photo(path):
    path.mkdir()


@case("folder", "holds no photo and no video")
def folder_of_text(path):
    path.mkdir()
    (path / "readme.txt").write_text("nothing here")


@case("folder", "holds no photo and no video")
def folder_that_holds_itself(path):
    path.mkdir()
    (path / "loop").symlink_to(path)


@case("a.jpg", "No such file")
def link_to_nowhere(path):
    path.symlink_to(path.with_name("gone.jpg"))


@case("a.jpg", "[Ss]ymbolic links")
def link_to_itself(path):
    path.symlink_to(path)


@case("a.jpg", "not a file")
def pipe_that_never_speaks(path):
    os.mkfifo(path)


@case("line\nend\x1b[31m.jpg", "not a photo")
def name_that_writes_on_the_screen(path):
    path.write_text("text")


@case("a.jpg", "Permission denied")
def not_to_be_read(path):
    jpeg(path).chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")


@case("987654321", "camera 987654321: returns no image")
def camera_that_is_not_there(path):
    pass


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_the_other_inputs_are_processed(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    file, reason, make = CASES[name]
    make(tmp_path / file)
    good = [jpeg(tmp_path / "good" / "a.jpg"), jpeg(tmp_path / "good" / "z.jpg")]
    assert run([good[0], file, good[1]], tmp_path / "out", annotate=True, plot=True) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("failed: ")
    assert re.search(reason, lines[0]), lines[0]
    assert lines[0].isprintable()
    assert "Traceback" not in lines[0]
    files = pl.read_parquet(tmp_path / "out" / "faces.parquet")["file"].unique(maintain_order=True).to_list()
    assert [path for path in files if path != file] == [str(path) for path in good]
    assert (file in files) == ("in the result" in reason)
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]


def test_there_are_many_cases():
    assert len(CASES) >= 25
