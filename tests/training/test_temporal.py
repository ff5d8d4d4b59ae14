"""Frames that see their neighbours: reach, gaps, causality, pieces, the camera, and what it is worth."""

import numpy as np
import polars as pl
import pytest
import torch

from triaffect.cli.main import main
from triaffect.data.index import load_index
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, TASKS
from triaffect.training import trainer as training
from triaffect.training.config import TrainConfig
from triaffect.training.features import extract_features
from triaffect.training.model import AffectModel, load_model
from triaffect.training.temporal import in_videos

KINDS = ["attention", "transformer", "tcn", "gru"]


def model(seconds=1.0, causal=False, woken=True, kind="attention"):
    torch.manual_seed(0)
    net = AffectModel("test_resnet", size=32, temporal=seconds, temporal_model=kind, causal=causal).eval()
    for spans in net.temporal.tasks.values() if woken else ():
        for span in spans:
            torch.nn.init.normal_(span.outward[1].weight)
    return net


def made(n=300, videos=3, seed=0):
    rng = np.random.default_rng(seed)
    video = np.sort(rng.integers(0, videos, n))
    frame = np.concatenate([np.sort(rng.choice(1000, (video == v).sum(), replace=False)) for v in range(videos)])
    features = torch.from_numpy(rng.normal(size=(n, model().width)).astype(np.float32))
    return features, torch.from_numpy(frame / 30).float(), torch.from_numpy(video)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_still_model_and_a_still_is_a_video_of_one(kind):
    features, time, video = made(20)
    still = model(woken=False, kind=kind)
    plain = {task: head(features) for task, head in still.heads.items()}
    for raw in (still.predict_from_features(features), still.predict_from_features(features, time, video)):
        assert all(torch.equal(raw[task], plain[task]) for task in TASKS)
    woken = model(kind=kind)
    alone = woken.predict_from_features(features)["va"]
    torch.testing.assert_close(woken.predict_from_features(features, time * 1000, video)["va"], alone)
    assert not torch.allclose(woken.predict_from_features(features, time * 0, video)["va"], alone)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_only_frames_within_reach_matter(kind, causal):
    net = model(1.0, causal, kind=kind)
    features, time, video = made()
    before = net.predict_from_features(features, time, video)["va"]
    changed = features.clone()
    changed[150] *= -1
    after = net.predict_from_features(changed, time, video)["va"]
    away = time - time[150]
    near = (video == video[150]) & (away.abs() <= 1.0) & (away >= 0 if causal else True)
    moved = (before - after).abs().max(1).values > 1e-5
    assert moved[150]
    assert not (moved & ~near).any()
    if kind == "attention":  # looks at every frame; others read means around certain times
        assert torch.equal(moved, near)
    assert moved.sum() > near.sum() / 2
    assert 3 < near.sum() < 60


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_videos_are_equal_to_the_whole(kind, causal, monkeypatch):
    monkeypatch.setattr("triaffect.training.temporal.PIECE", 10)
    net = model([0.2, 0.7], causal, kind=kind)
    features, time, video = made()
    expected = net.predict_from_features(features, time, video)
    pieces = in_videos(net, features, time, video)
    for task in TASKS:
        torch.testing.assert_close(pieces[task], expected[task], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_is_no_frame(kind):
    """Frames after a gap longer than the reach are predicted as if the video began there."""
    net = model(0.5, kind=kind)
    features, _, video = made(60, videos=1)
    time = torch.arange(60) / 30 + (torch.arange(60) >= 30) * 1.0
    whole = net.predict_from_features(features, time, video)["va"]
    later = net.predict_from_features(features[30:], time[30:], video[30:])["va"]
    torch.testing.assert_close(whole[30:], later, atol=1e-5, rtol=1e-4)


def test_each_task_has_its_span():
    net = model({"va": [0.3, 1.0], "au": 0.3})
    assert {task: [span.over_time.seconds for span in spans] for task, spans in net.temporal.tasks.items()} == {
        "va": [0.3, 1.0],
        "expr": [],
        "au": [0.3],
    }
    features, time, video = made()
    before = net.predict_from_features(features, time, video)
    features[150] *= -1
    after = net.predict_from_features(features, time, video)
    away = (time - time[150]).abs() + 99 * (video != video[150])
    for task, reach in (("va", 1.0), ("expr", 0.0), ("au", 0.3)):
        assert torch.equal((before[task] - after[task]).abs().max(1).values > 1e-5, away <= reach), task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal": [0.5, -1.0]}, "a span must be between 0 and 3600"),
        ({"temporal": {"expr": 1.0}}, "names expr, which the model does not have"),
        ({"temporal": 5.0}, "training.batch is 128, but model.temporal sees 150 frames"),
        ({"temporal_model": "gru"}, "model.temporal_model has no effect without model.temporal"),
        ({"temporal": 0.0, "causal": True}, "model.causal has no effect without model.temporal"),
        ({"weights": "a.pth"}, "model.weights has no effect with a model"),
    ],
)
def test_spans_that_make_no_sense_are_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        settings(tmp_path, **changes)


def noisy_videos(tmp_path, net):
    """Features that tell a slow valence, each frame badly."""
    rng = np.random.default_rng(0)
    rows, features = [], []
    direction = rng.normal(size=net.width)
    for v in range(24):
        phase = rng.uniform(0, 6, 3)
        for f in range(1, 81):
            slow = np.sin(f / np.array([9, 13, 21]) + phase).sum() / 3
            features.append(direction * (slow + rng.normal(0, 1.0)) + rng.normal(0, 0.1, net.width))
            key = {"image": f"v{v}/{f:05d}.jpg", "video": f"v{v:02d}", "frame": f, "exists": True}
            rows.append({**key, "split": "train" if v < 16 else "val", "valence": slow, "arousal": slow})
    empty = [pl.lit(None, pl.Int8).alias(name) for name in ("expression", *ACTION_UNITS)]
    index = pl.DataFrame(rows).with_columns(empty)
    index.write_parquet(tmp_path / "index.parquet")
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "features.npy", np.array(features, np.float16))
    index.select("image").write_parquet(tmp_path / "features" / "images.parquet")
    (tmp_path / "images").mkdir()
    net.save_pretrained(tmp_path / "model")


def settings(tmp_path, **changes):
    return TrainConfig.load(
        {
            "data": {
                "index": str(tmp_path / "index.parquet"),
                "images": str(tmp_path / "images"),
                "features": str(tmp_path / "features"),
            },
            "model": {"tasks": ["va"], "pretrained": str(tmp_path / "model"), **changes},
            "training": {"epochs": 12, "batch": 128, "lr": 3e-3, "accelerator": "cpu"},
        }
    )


def test_it_learns_to_look_around_where_one_frame_says_little(tmp_path):
    noisy_videos(tmp_path, AffectModel("test_resnet", size=32))
    scores = {}
    variants = {"still": {}, **{kind: {"temporal": 0.5, "temporal_model": kind} for kind in KINDS}}
    variants["camera"] = {"temporal": [0.2, 0.5], "causal": True}
    for name, changes in variants.items():
        run = training.train(settings(tmp_path, **changes), tmp_path / name, progress=False)
        scores[name] = pl.read_csv(run / "metrics.csv")["val/va"].max()
    assert min(scores[kind] for kind in KINDS) > scores["still"] + 0.1, scores
    assert scores["camera"] > scores["still"] + 0.05
    best = load_model(tmp_path / "camera")
    assert best.temporal.causal
    assert best.temporal.seconds == 0.5


def test_train_on_features_through_the_command_line(frames, tmp_path, capsys):
    AffectModel("test_resnet", size=32).save_pretrained(tmp_path / "model")
    quick = {"workers": 0, "device": "cpu", "progress": False}
    extract_features(tmp_path / "model", load_index(frames[0]), frames[1], tmp_path / "features", **quick)
    words = ["train", "--data.index", str(frames[0]), "--data.images", str(frames[1]), "--training.epochs", "1"]
    words += ["--data.features", str(tmp_path / "features"), "--out", str(tmp_path / "run"), "--model.temporal", "0.2"]
    assert main(words) == 2
    assert "model.pretrained" in capsys.readouterr().err
    words += ["--model.pretrained", str(tmp_path / "model"), "--training.accelerator", "cpu"]
    assert main(words) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert main(words) == 2  # the folder is taken
    assert "resume" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"data\.features"):
        TrainConfig.load({"model": {"temporal": 1.0}})
