"""Features of a frozen backbone, and heads trained on them."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from triaffect.cli.main import main
from triaffect.data.index import load_index
from triaffect.inference.predict import load_model, predict
from triaffect.io import InputError
from triaffect.metrics.scores import score
from triaffect.training import features as features_module
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.features import extract_features, load_features
from triaffect.training.heads import train_heads
from triaffect.training.model import AffectModel

CPU = {"workers": 0, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model")
    AffectModel("test_resnet", size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def features(frames, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "both"
    return extract_features(model, load_index(frames[0]), frames[1], out, **CPU)


def config(frames, **changes):
    nested = {
        "data": {"index": str(frames[0]), "images": str(frames[1]), "workers": 0},
        "model": {"backbone": "test_resnet", "size": 32, "pretrained": False},
        "losses": {"expr": "ce", "au": "bce"},
        "training": {"epochs": 12, "batch": 16, "lr": 1e-2, "optimizer": "adam", "accelerator": "cpu"},
    }
    for key, value in changes.items():
        group, name = key.split("__")
        nested[group][name] = value
    return TrainConfig.load(nested)


def metrics(run):
    return pl.read_csv(run / "metrics.csv").drop("seconds", "images_per_second", "energy_joules", strict=False)


def test_features_are_the_backbones(frames, model, features):
    names, values = load_features(features)
    index = load_index(frames[0])
    assert values.dtype == np.float16
    assert names.to_list() == index["image"].to_list()
    batch = FrameDataset(index, frames[1], 32).__getitems__(list(range(10)))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ours = load_model(model).features(batch["image"]).float()
    np.testing.assert_allclose(values[:10].astype(np.float32), ours.numpy(), rtol=0.05, atol=0.02)
    assert {path.name for path in features.iterdir()} == {"features.npy", "images.parquet", "state.json"}


def test_a_stopped_extraction_goes_on_where_it_was(frames, model, features, tmp_path, monkeypatch):
    index, calls = load_index(frames[0]), []
    monkeypatch.setattr(features_module, "CHUNK", 16)
    real = features_module.features

    def counted(network, part, *given, **options):
        calls.append(part["image"][0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(network, part, *given, **options)

    monkeypatch.setattr(features_module, "features", counted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, index, frames[1], tmp_path / "f", **CPU)
    with pytest.raises(InputError, match="no whole features"):
        load_features(tmp_path / "f")
    extract_features(model, index, frames[1], tmp_path / "f", **CPU)
    assert calls == [index["image"][i] for i in (0, 16, 32, 32, 48, 64)]
    extract_features(model, index, frames[1], tmp_path / "f", **CPU)  # finished: nothing to do
    assert len(calls) == 6
    np.testing.assert_allclose(load_features(tmp_path / "f")[1], load_features(features)[1], atol=0.02)


def test_an_unreadable_image_has_no_features_and_no_part_in_training(frames, model, tmp_path):
    index = load_index(frames[0]).with_columns(
        image=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("v00/absent.jpg")).otherwise("image")
    )
    path = tmp_path / "index.parquet"
    index.write_parquet(path)
    with pytest.warns(UserWarning, match="skipped 1 images"):
        extract_features(model, index, frames[1], tmp_path / "f", **CPU)
    values = load_features(tmp_path / "f")[1]
    assert np.flatnonzero(np.isnan(values).any(1)).tolist() == [3]
    run = train_heads(tmp_path / "f", model, config((path, frames[1]), training__epochs=1), tmp_path / "run")
    assert np.isfinite(metrics(run).to_numpy()).all()


def test_features_of_another_model_or_index_are_refused(frames, model, features, tmp_path):
    index = load_index(frames[0])
    with pytest.raises(InputError, match="another model or index"):
        extract_features(model, index.head(10), frames[1], features, **CPU)
    torch.manual_seed(2)
    AffectModel("test_resnet", size=32).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="another model or index"):
        extract_features(tmp_path / "other", index, frames[1], features, **CPU)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else"):
        extract_features(model, index, frames[1], tmp_path / "taken", **CPU)


def test_the_verb(frames, model, tmp_path, capsys):
    words = ["features", str(model), str(frames[0]), "--images", str(frames[1]), "--split", "val"]
    assert main([*words, "--out", str(tmp_path / "f"), "--workers", "0", "--device", "cpu"]) == 0
    assert "24 images" in capsys.readouterr().out
    with pytest.raises(InputError, match="lacks 48 of 48 images of train"):
        train_heads(tmp_path / "f", model, config(frames), tmp_path / "run")


@pytest.mark.parametrize("joint", [False, True])
def test_heads_become_a_model_that_scores_what_the_run_says(frames, model, features, tmp_path, joint):
    settings = config(frames, model__head="mlp", model__hidden=32, training__epochs=20)
    run = train_heads(features, model, settings, tmp_path / "run", joint)
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "curves.png",
        "summary.json",
        "model",
    }
    best = json.loads((run / "summary.json").read_text())["best"]
    rows = load_index(frames[0], "val")
    found = score(predict(run, rows, frames[1], **CPU), rows, resamples=0)
    for task, value in found.tasks.items():  # features are float16 and bfloat16 on the way
        assert value == pytest.approx(best[f"val/{task}"], abs=0.06)
    assert found.tasks["expr"] > 0.3  # colours tell the expression; the floor is 0.036
    kept, source = load_model(run), load_model(model)
    assert kept.settings["head"] == "mlp"
    assert all(torch.equal(v, kept.backbone.state_dict()[k]) for k, v in source.backbone.state_dict().items())


def test_separate_heads_are_each_at_their_own_best(frames, model, features, tmp_path):
    joint = train_heads(features, model, config(frames), tmp_path / "joint", joint=True)
    separate = train_heads(features, model, config(frames), tmp_path / "separate")
    a, b = metrics(joint), metrics(separate)
    for task in ("va", "expr", "au"):  # linear heads share nothing but the choice of the epoch
        assert a[f"val/{task}"].to_list() == pytest.approx(b[f"val/{task}"].to_list(), abs=1e-4)
    one, each = (json.loads((run / "summary.json").read_text())["best"] for run in (joint, separate))
    assert one["val/total"] == a["val/total"].max()
    assert each["val/total"] == pytest.approx(sum(b[f"val/{t}"].max() for t in ("va", "expr", "au")))


def test_early_stop_keeps_a_head_at_its_best_and_the_seed_decides(frames, model, features, tmp_path):
    settings = config(frames, training__early_stop=2, training__epochs=40)
    first = train_heads(features, model, settings, tmp_path / "a")
    again = train_heads(features, model, settings, tmp_path / "b")
    assert metrics(first).equals(metrics(again))
    other = train_heads(features, model, config(frames, training__early_stop=2, training__seed=1), tmp_path / "c")
    assert not metrics(first).equals(metrics(other))
    table = metrics(first)
    best = json.loads((first / "summary.json").read_text())["best"]
    ended = [task for task in ("va", "expr", "au") if table[f"val/{task}"][-1] == best[f"val/{task}"]]
    assert len(ended) >= 2  # whoever ended before the last one stands at its best
    train_heads(features, model, settings, tmp_path / "a")  # finished: left as it is
    with pytest.raises(InputError, match=r"training\.lr"):
        train_heads(
            features, model, config(frames, training__early_stop=2, training__epochs=40, training__lr=1.0), first
        )
