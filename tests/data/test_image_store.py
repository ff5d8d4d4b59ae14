"""Packed files: the same bytes and batches as the folder, readable by others, whole or not there at all."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from triaffect.cli.main import main
from triaffect.data.image_store import open_images, pack, read_batches
from triaffect.data.index import load_index
from triaffect.images import read_image, resize
from triaffect.io import InputError


@pytest.fixture
def packed(frames, tmp_path):
    out = tmp_path / "crops.safetensors"
    assert main(["pack", str(frames[0]), "--images", str(frames[1]), "--out", str(out)]) == 0
    return out


def test_another_reader_finds_every_file_as_it_was(frames, packed):
    arrays = pytest.importorskip("safetensors.numpy").load_file(packed)
    names = arrays["names"].tobytes().decode().split("\n")
    assert names == load_index(frames[0])["image"].to_list()
    for i, name in enumerate(names):
        start, end = arrays["offsets"][i : i + 2]
        assert arrays["bytes"][start:end].tobytes() == (frames[1] / name).read_bytes()


def test_batches_are_those_of_the_folder(frames, packed):
    index = load_index(frames[0]).sample(fraction=1, shuffle=True, seed=3)  # not the order of the file
    both = [
        list(read_batches(images, index["image"], 24, 16, workers)) for images, workers in ((frames[1], 0), (packed, 2))
    ]
    for loose, blob in zip(*both, strict=True):
        np.testing.assert_array_equal(loose.pixels, blob.pixels)
        np.testing.assert_array_equal(loose.rows, blob.rows)


def test_unreadable_images_are_left_out_and_reported(frames, tmp_path, capsys):
    index = load_index(frames[0]).head(3)
    index = pl.concat([index, index.head(1).with_columns(image=pl.lit("v00/gone.jpg"))])
    index.write_parquet(tmp_path / "index.parquet")
    out = tmp_path / "a.safetensors"
    assert main(["pack", str(tmp_path / "index.parquet"), "--images", str(frames[1]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "v00/gone.jpg cannot be read" in printed
    assert "3 images" in printed
    (batch,) = read_batches(out, index["image"], 16)
    assert batch.rows.tolist() == [0, 1, 2]
    assert batch.unreadable == [("v00/gone.jpg", "not in a.safetensors")]


def test_a_stopped_packing_leaves_nothing(frames, tmp_path, monkeypatch):
    def broken(images, names):
        read = open_images(images, names)
        return lambda row: read(row) if row < 5 else (_ for _ in ()).throw(KeyboardInterrupt)

    monkeypatch.setattr("triaffect.data.image_store.open_images", broken)
    with pytest.raises(KeyboardInterrupt):
        pack(load_index(frames[0]), frames[1], tmp_path / "a.safetensors", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "offsets", "names", "header"])
def test_a_damaged_file_is_refused_in_one_line(frames, packed, damage):
    data = bytearray(packed.read_bytes())
    if damage == "cut":
        data = data[:-200]
    elif damage in ("empty", "text"):
        data = bytearray(b"" if damage == "empty" else b"hello, world " * 100)
    elif damage == "header":
        data[:8] = (2**62).to_bytes(8, "little")
    else:
        arrays = pytest.importorskip("safetensors.numpy").load_file(packed)
        size = arrays["names"].nbytes + (arrays["offsets"].nbytes if damage == "offsets" else 0)
        at = len(data) - size
        data[at : at + 8] = np.int64(2**40).tobytes() if damage == "offsets" else b"\n" * 8
    packed.write_bytes(data)
    with pytest.raises(InputError, match="not a whole packed file") as caught:
        open_images(packed, load_index(frames[0])["image"])
    assert "\n" not in str(caught.value)


def test_wrong_requests_are_refused(frames, tmp_path, capsys):
    assert main(["pack", str(frames[0]), "--images", str(frames[1]), "--out", "a.zip"]) == 2
    assert "safetensors" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds none of the index's 72 images"):
        pack(load_index(frames[0]), tmp_path / "none", tmp_path / "b.safetensors", progress=False)
    for name, message in (("../x.jpg", "leaves the image root"), ("a\nb.jpg", "line break")):
        with pytest.raises(InputError, match=message):
            pack(pl.DataFrame({"image": [name]}), frames[1], tmp_path / "c.safetensors", progress=False)


def test_names_in_any_script_are_read_from_a_folder_and_from_a_packed_file(frames, tmp_path):
    names = pl.Series("image", ["köln/a.jpg", "東京/é.jpg", "Київ/1.jpg"])
    for name, source in zip(names, sorted(frames[1].rglob("*.jpg")), strict=False):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(source.read_bytes())
    pack(names.to_frame(), tmp_path / "images", tmp_path / "a.safetensors", progress=False)
    loose, packed = open_images(tmp_path / "images", names), open_images(tmp_path / "a.safetensors", names)
    for row, name in enumerate(names):
        assert loose(row) == packed(row) == (tmp_path / "images" / name).read_bytes()


def test_reading_works_on_a_system_without_pread(frames, packed, monkeypatch):
    names = load_index(frames[0])["image"]
    expected = [open_images(frames[1], names)(row) for row in range(5)]
    monkeypatch.delattr("os.pread")
    for images in (frames[1], packed):
        read = open_images(images, names)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, [0, 1, 2, 3, 4] * 20)) == expected * 20


def test_batches_keep_their_order_and_report_what_cannot_be_read(frames):
    names = load_index(frames[0])["image"].head(10)
    names = pl.concat([names.head(4), pl.Series("image", ["v00/gone.jpg"]), names.tail(6)])
    batches = list(read_batches(frames[1], names, 24, batch=3, workers=2))
    assert [row for batch in batches for row in batch.rows] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert [name for batch in batches for name, _ in batch.unreadable] == ["v00/gone.jpg"]
    for batch in batches:
        for row, pixels in zip(batch.rows, batch.pixels, strict=True):
            np.testing.assert_array_equal(pixels, resize(read_image(frames[1] / names[int(row)]), 24))
