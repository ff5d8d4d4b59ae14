"""Batches: decoding against Pillow, augmentation, order, subsets, and images that cannot be read."""

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from triaffect.data.index import image_root, load_index
from triaffect.data.predictions import save_predictions
from triaffect.images import read_image, resize
from triaffect.io import InputError
from triaffect.labels import PREDICTION_COLUMNS
from triaffect.training.augmentation import Augmentation
from triaffect.training.config import DataConfig, TrainConfig
from triaffect.training.dataset import FrameDataset, training_rows
from triaffect.training.loader import BatchLoader
from triaffect.training.sampling import EpochSampler

NONE = Augmentation(0, 0, 0, 0, 0)


def test_decoding_agrees_with_another_decoder(frames):
    path = next(frames[1].glob("*/*.jpg"))
    ours, pillows = read_image(path), np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(ours.astype(int) - pillows).max() <= 3  # codecs may round differently


@pytest.mark.parametrize("size", [(20, 20), (24, 20), (20, 24), (8, 8), (40, 40)])
def test_decoding_into_a_batch_is_decoding(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    batch = np.full((3, 20, 20, 3), 7, np.uint8)
    decoded = read_image(tmp_path / "x.jpg", batch[1])
    np.testing.assert_array_equal(decoded, read_image(tmp_path / "x.jpg"))
    assert np.shares_memory(decoded, batch) == (size == (20, 20))
    assert (batch[[0, 2]] == 7).all()


def test_png_and_grey_are_read_as_rgb(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 8, 3), (200, 10, 30), np.uint8)).save(tmp_path / "red.png")
    assert read_image(tmp_path / "grey.png").shape == (8, 8, 3)
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [200, 10, 30]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "empty"), (b"hello", "not an image"), (b"\xff\xd8\xff\xe0broken", "JPEG")],
)
def test_what_cannot_be_read_is_a_value_error(tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_image(path)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((70, 70, 3), np.uint8)).save(tmp_path / "big.jpg")
    monkeypatch.setattr("triaffect.images.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="70x70 pixels, more than 4,000"):
        read_image(tmp_path / "big.jpg")


def test_a_huge_png_is_refused_too(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(tmp_path / "big.png")
    monkeypatch.setattr("triaffect.images.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="60x60 pixels"):
        read_image(tmp_path / "big.png")


def test_fit_is_opencvs_area_resize_and_leaves_the_right_size_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert resize(pixels, 20).tolist() == cv2.resize(pixels, (20, 20), interpolation=cv2.INTER_AREA).tolist()
    square = pixels[:, :40]
    assert resize(square, 40) is square


def test_each_transform_does_what_it_says():
    rng, size = np.random.default_rng(0), 33
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    assert np.array_equal(NONE(pixels, rng), pixels)
    assert np.array_equal(Augmentation(1, 0, 0, 0, 0)(pixels, rng), pixels[:, ::-1])
    # A flip inside the affine warp is the same flip.
    still = Augmentation(1, 1e-9, 0, 0, 0)(pixels, rng)
    assert np.abs(still.astype(int) - pixels[:, ::-1]).max() <= 1
    spot = np.zeros((size, size, 3), np.uint8)
    spot[size // 2, size - 4] = 255
    turned = Augmentation(0, 90, 0, 0, 0)
    angle = np.random.default_rng(5).uniform(-1, 1, 4)[0] * 90
    y, x = np.argwhere(turned(spot, np.random.default_rng(5))[..., 0] > 40).mean(0) - size // 2
    assert np.degrees(np.arctan2(-y, x)) == pytest.approx(angle, abs=4)


def test_jitter_keeps_grey_grey_and_every_image_has_its_own_draw():
    grey = np.full((8, 8, 3), 100, np.uint8)
    jitter = Augmentation(0, 0, 0, 0, 0.4)
    drawn = [jitter(grey, np.random.default_rng(i))[0, 0] for i in range(8)]
    assert all(np.ptp(colour.astype(int)) <= 1 for colour in drawn)
    assert len({int(colour[0]) for colour in drawn}) > 4


def test_a_batch_holds_pictures_and_targets_with_their_holes(frames):
    index = load_index(frames[0]).with_columns(
        expression=pl.when(pl.col("frame") > 2).then("expression"), arousal=pl.lit(None, pl.Float64)
    )
    batch = FrameDataset(index, frames[1], 32).__getitems__([0, 2, 5])
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["expr"].tolist() == [-1, index["expression"][2], index["expression"][5]]
    assert torch.isnan(batch["va"]).tolist() == [[False, True]] * 3
    assert batch["row"].tolist() == [0, 2, 5]


def test_rows_without_a_crop_are_left_out(frames):
    index = load_index(frames[0]).with_columns(exists=pl.col("frame") != 1)
    assert len(FrameDataset(index, frames[1], 16)) == 60


def test_augmentation_follows_from_seed_and_epoch_alone(frames):
    dataset = FrameDataset(
        load_index(frames[0]), frames[1], 32, Augmentation(**DataConfig(rotation=20).augmentation), seed=1
    )
    first, again = dataset.__getitems__([3, 4, 5])["image"], dataset.__getitems__([5])["image"]
    assert torch.equal(first[2:], again)
    assert not torch.equal(first, dataset.__getitems__([k + len(dataset) for k in (3, 4, 5)])["image"])


def test_bad_images_are_named_and_left_out(frames, tmp_path):
    (tmp_path / "v00").mkdir()
    (tmp_path / "v00" / "00001.jpg").write_bytes(b"\xff\xd8 not really")
    (tmp_path / "v00" / "00002.jpg").write_bytes((frames[1] / "v00" / "00002.jpg").read_bytes())
    batch = FrameDataset(load_index(frames[0]), tmp_path, 16).__getitems__([0, 1, 2])
    assert batch["row"].tolist() == [1]
    assert [name for name, _ in batch["bad"]] == ["v00/00001.jpg", "v00/00003.jpg"]
    assert len(batch["image"]) == len(batch["au"]) == 1


def test_a_path_that_leaves_the_root_is_refused(frames):
    index = load_index(frames[0]).head(1).with_columns(image=pl.lit("../secret.jpg"))
    with pytest.raises(InputError, match="leaves the image root"):
        FrameDataset(index, frames[1], 16).__getitems__([0])


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 2), (11, 3), (2, 3)])
def test_shards_cover_everything_and_are_equally_long(length, world):
    evaluated = [list(EpochSampler(length, False, rank=r, world=world)) for r in range(world)]
    assert len({len(shard) for shard in evaluated}) == 1
    assert {row for shard in evaluated for row in shard} == set(range(length))
    samplers = [EpochSampler(length, True, 4, r, world) for r in range(world)]
    for sampler in samplers:
        sampler.set_epoch(3)
    trained = [[key - 3 * length for key in sampler] for sampler in samplers]
    flat = [row for shard in trained for row in shard]
    assert len(set(flat)) == len(flat) == length // world * world


def test_the_loader_shuffles_by_epoch_and_workers_change_nothing(frames):
    dataset = FrameDataset(load_index(frames[0]), frames[1], 16, Augmentation(0.5, 10, 0.1, 0.1, 0.1), seed=2)
    runs = []
    for workers in (0, 2):
        batches = BatchLoader(dataset, 16, workers, EpochSampler(len(dataset), True, 2), drop_last=True)
        batches.sampler.set_epoch(1)
        runs.append(list(batches))
    assert len(runs[0]) == 4  # 72 images; the last batch of 8 waits for the next epoch's order
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["row"], b["row"])
    assert runs[0][0]["row"].tolist() != sorted(runs[0][0]["row"].tolist())


def test_the_image_root_is_asked_for_where_it_is_not_known(frames, tmp_path):
    assert image_root(frames[0], frames[1]) == frames[1]
    with pytest.raises(InputError, match="--images"):
        image_root(frames[0], None)
    with pytest.raises(InputError, match="no such folder"):
        image_root(frames[0], tmp_path / "nowhere")


def test_a_worse_camera_and_a_covered_patch_leave_shape_and_follow_from_the_draw():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    worse = Augmentation(0, 0, 0, 0, 0, degrade=1.0, erase=1.0)
    twice = [worse(pixels, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert twice[0].shape == pixels.shape
    assert twice[0].dtype == np.uint8
    assert (twice[0] == twice[1]).all()
    assert (twice[0] != twice[2]).any()
    covered = Augmentation(0, 0, 0, 0, 0, erase=1.0)(pixels, np.random.default_rng(1))
    changed = (covered != pixels).any(2)
    assert 0.01 <= changed.mean() <= 0.26
    assert len(np.unique(covered[changed], axis=0)) == 1


def soft_files(folder, images):
    n = len(images)
    votes = np.full((n, 8), 0.125)
    expr = {name: votes[:, i] for i, name in enumerate(PREDICTION_COLUMNS["expr"])}
    save_predictions(pl.DataFrame({"image": images, **expr}), folder / "votes.parquet")
    au = {name: np.full(n, 0.25) for name in PREDICTION_COLUMNS["au"]}
    save_predictions(pl.DataFrame({"image": images, **au}), folder / "teacher.parquet")
    return [str(folder / "votes.parquet"), str(folder / "teacher.parquet")]


def test_soft_labels_stand_in_for_missing_ones_only(frames, tmp_path):
    index = load_index(frames[0])
    inside_train = index.filter((pl.col("split") == "train") & pl.col("exists"))
    softs = soft_files(tmp_path, inside_train["image"].unique(maintain_order=True))
    config = TrainConfig(DataConfig(str(frames[0]), str(frames[1]), soft=softs))
    train, val, images = training_rows(config)
    hard = FrameDataset(inside_train, images, 8)
    rows = inside_train.with_row_index("at").join(train.select("image"), on="image", how="semi")["at"].to_numpy()
    soft = FrameDataset(train, images, 8)
    assert len(soft) == len(inside_train)  # each has a label now
    for i, row in enumerate(rows):
        code = hard.targets["expr"][row]
        expected = np.full(8, 0.125) if code < 0 else np.eye(8)[code]
        np.testing.assert_allclose(soft.targets["expr"][i], expected)
    labelled = ~np.isnan(hard.targets["au"][rows])
    np.testing.assert_array_equal(soft.targets["au"][labelled], hard.targets["au"][rows][labelled])
    assert (soft.targets["au"][~labelled] == 0.25).all()
    assert FrameDataset(val, images, 8).targets["expr"].ndim == 1  # evaluated by labels alone


def test_two_soft_files_of_one_task_are_refused(frames, tmp_path):
    softs = soft_files(tmp_path, load_index(frames[0], "train")["image"].unique(maintain_order=True))
    with pytest.raises(InputError, match=r"votes.parquet: \w+ is also in another file"):
        training_rows(TrainConfig(DataConfig(str(frames[0]), str(frames[1]), soft=[softs[0], softs[0]])))
    foreign = str(tmp_path / "foreign.parquet")
    save_predictions(pl.DataFrame({"image": ["x.jpg"], "valence": [0.0], "arousal": [0.0]}), foreign)
    with pytest.raises(InputError, match="none of the images"):
        training_rows(TrainConfig(DataConfig(str(frames[0]), str(frames[1]), soft=[foreign])))


def test_an_index_in_several_pieces_is_one(frames):
    index = load_index(frames[0])
    pieces = pl.concat([index.head(5), index.slice(5, 30)], rechunk=False)
    single, parts = FrameDataset(index.head(35), frames[1], 8), FrameDataset(pieces, frames[1], 8)
    assert parts.index.n_chunks() > 1
    for task, target in single.targets.items():
        np.testing.assert_array_equal(target, parts.targets[task])
