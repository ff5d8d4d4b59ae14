"""Even classes and videos, every n-th frame, mixed batches."""

import numpy as np
import polars as pl
import pytest
import torch

from training.test_gradient_balancing import batch, model
from training.test_trainer import config, numbers
from triaffect.data.index import load_index
from triaffect.labels import TASKS
from triaffect.training import trainer as training
from triaffect.training.losses import TaskLosses
from triaffect.training.module import AffectTraining
from triaffect.training.sampling import Draw, EpochSampler


def rows(videos=(60, 30, 10), missing=0.2):
    rng = np.random.default_rng(0)
    video = np.repeat(np.arange(len(videos)), videos)
    code = rng.choice(8, len(video), p=[0.5, 0.3, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02])
    key = {"video": [f"v{v}" for v in video], "frame": np.concatenate([np.arange(n) for n in videos])}
    labelled = rng.random(len(video)) > missing
    return pl.DataFrame({**key, "expression": [int(c) if k else None for c, k in zip(code, labelled, strict=True)]})


@pytest.mark.parametrize(("balance", "column"), [("class", "expression"), ("video", "video")])
def test_drawn_groups_are_even(balance, column):
    index = rows()
    draw = Draw(index, balance)
    drawn = index[np.concatenate([draw(epoch) for epoch in range(200)])][column].drop_nulls()
    counts = drawn.value_counts()["count"].to_numpy()
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()


def test_every_frame_comes_once_in_as_many_epochs_as_the_stride():
    index = rows((61, 30, 9))
    draw = Draw(index, stride=4, seed=3)
    epochs = [draw(epoch) for epoch in range(4)]
    assert {len(epoch) for epoch in epochs} == {25}
    for epoch in epochs:
        near = index[np.unique(epoch)].group_by("video").agg(pl.col("frame").sort().diff().drop_nulls().min())
        assert near["frame"].drop_nulls().min() >= 4  # no neighbours
    rows_of_epochs = set(np.concatenate(epochs).tolist())
    assert len(rows_of_epochs) >= 0.95 * len(index)  # an epoch's length is fixed; a few may fall off its end


def test_a_row_that_is_drawn_twice_is_augmented_twice_and_no_epoch_is_another():
    index = rows()
    draw = Draw(index, "class")
    sampler = EpochSampler(len(index), True, 0, draw=draw)
    keys = list(sampler)
    sampler.set_epoch(1)
    keys += list(sampler)
    assert len(set(keys)) == len(keys) == 2 * len(index)
    assert len({key % len(index) for key in keys}) < len(index)
    parts = [list(EpochSampler(len(index), True, 0, rank, 2, draw)) for rank in (0, 1)]
    assert not set(parts[0]) & set(parts[1])


def test_mixed_batches_count_beside_the_real_ones(frames):
    index = load_index(frames[0])
    data = batch()
    plain = config(frames)
    losses = TaskLosses(TASKS, index, **vars(plain.losses))
    mixed = config(frames, data__mixup=0.4)
    net = model().eval()  # batch norm would see both halves
    total = AffectTraining(net, mixed, index).batch_loss(data, (7,))[0]
    rng = np.random.default_rng((7,))
    share, order = float(rng.beta(0.4, 0.4)), torch.from_numpy(rng.permutation(8))
    images = (share * data["image"].float() + (1 - share) * data["image"][order]).round().to(torch.uint8)
    real = losses.total(losses(net(data["image"]), data))
    first = losses.total(losses(net(images), data))
    second = losses.total(losses(net(images), {t: data[t][order] for t in TASKS}))
    torch.testing.assert_close(total, real + share * first + (1 - share) * second)


def test_runs_with_all_of_it_are_reproducible(frames, tmp_path):
    changes = {"data__mixup": 0.2, "data__balance": "class", "data__stride": 2, "training__epochs": 2}
    losses = {"losses__expr": "adjusted_ce", "losses__au": "asymmetric"}
    runs = [training.train(config(frames, **changes, **losses), tmp_path / name, progress=False) for name in "ab"]
    assert numbers(runs[0]).equals(numbers(runs[1]))
