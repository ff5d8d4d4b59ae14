"""Loading: threads change nothing, kept pictures are the decoded ones, a device augments as OpenCV does."""

import threading

import numpy as np
import polars as pl
import pytest
import torch

from training.test_trainer import config, numbers
from triaffect.data.index import load_index
from triaffect.io import InputError
from triaffect.training import trainer as training
from triaffect.training.augmentation import Augmentation, augment_batch
from triaffect.training.config import DataConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.loader import BatchLoader, DeviceImages
from triaffect.training.sampling import EpochSampler

KEYS = ("image", "row", "va", "expr", "au")


def same(first, other):
    return all(torch.equal(first[key], other[key]) for key in KEYS)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_batches_of_one_after_the_other(frames, workers):
    dataset = FrameDataset(load_index(frames[0]), frames[1], 24, Augmentation(0.5, 10, 0.1, 0.1, 0.1), seed=2)
    plain, ahead = (
        list(BatchLoader(dataset, 8, n, EpochSampler(len(dataset), True, 2), drop_last=True)) for n in (0, workers)
    )
    assert len(plain) == len(ahead) == 9
    assert all(same(a, b) for a, b in zip(plain, ahead, strict=True))


def test_a_loader_left_early_leaves_no_thread(frames):
    dataset = FrameDataset(load_index(frames[0]), frames[1], 16)
    batches = iter(BatchLoader(dataset, 8, 2))
    next(batches)
    assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_what_a_thread_raises_reaches_the_loop(frames, monkeypatch):
    dataset = FrameDataset(load_index(frames[0]), frames[1], 16)
    monkeypatch.setattr(dataset, "read", lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(BatchLoader(dataset, 8, 2))


def test_kept_pictures_are_the_decoded_ones(frames, monkeypatch):
    index, settings = load_index(frames[0]), Augmentation(**DataConfig(jitter=0.1, erase=0.5).augmentation)
    plain = FrameDataset(index, frames[1], 24, settings, seed=1)
    cached = FrameDataset(index, frames[1], 24, settings, seed=1, cache=True)
    keys = [3, 9, 70]
    assert same(cached.__getitems__(keys), plain.__getitems__(keys))
    monkeypatch.setattr(cached, "read", lambda row: 1 / 0)  # from here on memory alone
    later = [key + len(plain) for key in keys]
    assert same(cached.__getitems__(later), plain.__getitems__(later))


@pytest.mark.parametrize("size", [24, 33])
def test_a_device_augments_as_opencv_does(frames, size):
    settings = Augmentation(0.5, 25, 0.2, 0.15, 0.3)
    index = load_index(frames[0])
    plain = FrameDataset(index, frames[1], size, settings, seed=5)
    batches = FrameDataset(index, frames[1], size, settings, seed=5)
    on_device = DeviceImages(batches, torch.device("cpu"), 0)
    keys = list(range(72, 136))
    ours, theirs = on_device(batches.__getitems__(keys)), plain.__getitems__(keys)
    assert all(torch.equal(ours[key], theirs[key]) for key in KEYS[1:])
    assert ours["image"].is_contiguous(memory_format=torch.channels_last)
    away = (ours["image"].int() - theirs["image"].int()).abs().float()
    # OpenCV interpolates at 32 places between two pixels, and rounds between warp and colour.
    assert away.mean() < 1
    assert away.quantile(0.99) <= 8


def test_nothing_drawn_is_nothing_changed():
    pixels = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    warp, colour = Augmentation(0, 0, 0, 0, 0).draw(np.random.default_rng(0), 9)
    same_twice = [torch.from_numpy(np.stack([part, part]).astype(np.float32)) for part in (warp, colour)]
    assert torch.equal(augment_batch(pixels, *same_twice), pixels)


def test_resident_pictures_without_augmentation_are_exact_and_bad_ones_are_named(frames):
    index = pl.concat(
        [load_index(frames[0]).head(5), load_index(frames[0]).head(1).with_columns(image=pl.lit("x.jpg"))]
    )
    dataset = FrameDataset(index, frames[1], 20)
    plain = dataset.__getitems__([4, 1, 5])
    on_device = DeviceImages(dataset, torch.device("cpu"), 2)
    batch = on_device(dataset.__getitems__([4, 1, 5]))
    assert same(batch, plain)
    assert batch["bad"] == plain["bad"] == [("x.jpg", "No such file or directory")]


def test_a_device_that_is_too_small_is_told_with_the_mend(frames, monkeypatch):
    dataset = FrameDataset(load_index(frames[0]), frames[1], 20)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InputError, match=r"set data\.cache to ram"):
        DeviceImages(dataset, torch.device("cpu"), 0)


def test_a_run_is_the_same_with_any_cache_and_a_device_learns_too(frames, tmp_path, monkeypatch):
    runs = {
        cache: training.train(config(frames, data__cache=cache), tmp_path / cache, progress=False)
        for cache in ("none", "ram", "device")  # no device here, so it is ram
    }
    assert numbers(runs["none"]).equals(numbers(runs["ram"]))
    assert numbers(runs["none"]).equals(numbers(runs["device"]))

    monkeypatch.setattr(training.AffectTraining, "on_fit_start", lambda self: self._data.load_to_device(self.device))
    as_on_a_device = training.train(config(frames, data__cache="device"), tmp_path / "there", progress=False)
    ours, theirs = numbers(as_on_a_device), numbers(runs["none"])
    assert ours["train/loss"].to_list() == pytest.approx(theirs["train/loss"].to_list(), rel=0.05)
    with pytest.raises(InputError, match=r"no effect with data\.cache device"):
        config(frames, data__cache="device", data__erase=0.1)


def test_no_step_fetches_a_number(frames, tmp_path, monkeypatch):
    """A number that is fetched makes a GPU wait."""
    inside, fetched = [False], []
    step, item = training.AffectTraining.training_step, torch.Tensor.item

    def watched(self, batch, number):
        inside[0] = True
        try:
            return step(self, batch, number)
        finally:
            inside[0] = False

    monkeypatch.setattr(training.AffectTraining, "training_step", watched)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: fetched.append(inside[0]) or item(self))
    counts = []
    for batch in (8, 4):  # 6 steps, 12 steps
        fetched.clear()
        training.train(config(frames, training__epochs=1, training__batch=batch), tmp_path / f"{batch}", progress=False)
        assert not any(fetched)
        counts.append(len(fetched))
    assert counts[0] == counts[1]  # Lightning's bookkeeping after a step fetches nothing either
