"""Features of a frozen backbone, and heads trained on them."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from triaffect.cli.main import main
from triaffect.data.index import load_index
from triaffect.inference.predict import predict
from triaffect.io import InputError
from triaffect.metrics.scores import score
from triaffect.training import features as features_module
from triaffect.training import module
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FeatureDataset, FrameDataset
from triaffect.training.features import extract_features, load_features
from triaffect.training.loader import BatchLoader
from triaffect.training.model import AffectModel, load_model
from triaffect.training.sampling import EpochSampler
from triaffect.training.trainer import train, train_heads

CPU = {"workers": 0, "device": "cpu", "progress": False}
QUIET = {"progress": False}


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
        nested.setdefault(group, {})[name] = value
    return TrainConfig.load(nested)


def metrics(run):
    return pl.read_csv(run / "metrics.csv").drop("seconds", "images_per_second", "energy_joules", strict=False)


def test_features_are_the_backbones(frames, model, features):
    names, values = load_features(features)
    index = load_index(frames[0])
    assert values.dtype == np.float16
    assert names.to_list() == index["image"].to_list()
    batch = FrameDataset(index, frames[1], 32).__getitems__(list(range(10)))
    with torch.inference_mode():
        ours = load_model(model).features(batch["image"]).float()
    np.testing.assert_allclose(values[:10].astype(np.float32), ours.numpy(), rtol=0.05, atol=0.02)
    assert {path.name for path in features.iterdir()} == {"features.npy", "images.parquet", "state.json"}


def test_batches_of_features_are_the_rows_of_the_file_with_their_labels(frames, features):
    names, values = load_features(features)
    places = {name: place for place, name in enumerate(names)}
    rows = {row["image"]: row for row in load_index(frames[0], "train").iter_rows(named=True)}
    dataset, seen = FeatureDataset(load_index(frames[0], "train"), [str(features), str(features)], fps=10.0), []
    for batch in BatchLoader(dataset, 16, 0, EpochSampler(len(dataset), True, seed=3)):
        for i, row in enumerate(batch["row"].tolist()):
            seen.append(name := dataset.name(row))
            assert np.array_equal(batch["image"][i], np.tile(values[places[name]], 2))
            assert batch["va"][i].tolist() == pytest.approx([rows[name]["valence"], rows[name]["arousal"]], nan_ok=True)
            assert batch["expr"][i] == rows[name]["expression"]
            assert batch["time"][i] == pytest.approx(rows[name]["frame"] / 10)
    assert sorted(seen) == sorted(rows)
    assert seen != sorted(seen)


def test_a_stopped_extraction_continues_where_it_was(frames, model, features, tmp_path, monkeypatch):
    index, calls = load_index(frames[0]), []
    monkeypatch.setattr(features_module, "CHUNK", 16)
    real = features_module.read_batches

    def counted(images, names, *args):
        calls.append(names[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(images, names, *args)

    monkeypatch.setattr(features_module, "read_batches", counted)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, index, frames[1], tmp_path / "f", **CPU)
    with pytest.raises(InputError, match="no complete features"):
        load_features(tmp_path / "f")
    extract_features(model, index, frames[1], tmp_path / "f", **CPU)
    assert calls == [index["image"][i] for i in (0, 16, 32, 32, 48, 64)]
    extract_features(model, index, frames[1], tmp_path / "f", **CPU)  # finished: nothing to do
    assert len(calls) == 6
    np.testing.assert_allclose(load_features(tmp_path / "f")[1], load_features(features)[1], atol=0.02)


def test_shards_together_are_the_whole(frames, model, features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features_module, "CHUNK", 16)
    words = ["features", str(model), str(frames[0]), "--images", str(frames[1]), "--out", str(tmp_path / "f")]
    words += ["--workers", "0", "--device", "cpu", "--shard"]
    assert main([*words, "2/2"]) == 0
    assert "the call that finds all parts joins them" in capsys.readouterr().out
    assert len(list((tmp_path / "f" / "parts").iterdir())) == 2  # of five
    assert main([*words, "1/2"]) == 0
    assert "72 images, " in capsys.readouterr().out
    names, values = load_features(tmp_path / "f")
    assert names.to_list() == load_index(frames[0])["image"].to_list()
    np.testing.assert_allclose(values, load_features(features)[1], atol=0.02)
    assert not (tmp_path / "f" / "parts").exists()
    assert main([*words, "3/2"]) == 2
    assert "--shard 3/2: give the number" in capsys.readouterr().err


def test_features_of_several_encoders_are_those_of_one_model_of_both(frames, model, features, tmp_path):
    torch.manual_seed(3)
    other = AffectModel("test_convnext", size=32, grey=True)
    other.normalise_by({"mean": [0.3] * 3, "std": [0.4] * 3})
    other.save_pretrained(tmp_path / "other")
    index = load_index(frames[0])
    extract_features(tmp_path / "other", index, frames[1], tmp_path / "f", **CPU)
    both = {"data__features": [str(features), str(tmp_path / "f")]}
    pair = config(frames, model__pretrained=[str(model), str(tmp_path / "other")], model__size=112, **both)
    run = train(replace(pair, model=replace(pair.model, backbone="resnet50")), tmp_path / "run", **QUIET)
    joined = load_model(run)
    assert joined.settings["backbone"] == "test_resnet + test_convnext"
    batch = FrameDataset(index, frames[1], 32).__getitems__(list(range(10)))["image"]
    with torch.inference_mode():
        parts = [load_model(model).features(batch), load_model(tmp_path / "other").features(batch)]
        torch.testing.assert_close(joined.features(batch), torch.cat(parts, 1))
    best = json.loads((run / "summary.json").read_text())["best"]
    rows = load_index(frames[0], "val")
    for task, value in score(predict(run, rows, frames[1], **CPU), rows, resamples=0).tasks.items():
        assert value == pytest.approx(best[f"val/{task}"], abs=0.06)
    with pytest.raises(InputError, match=r"data\.features needs its backbone"):
        config(frames, model__pretrained=[str(model)], **both)
    AffectModel("test_resnet", size=64).save_pretrained(tmp_path / "large")
    other_size = config(frames, model__pretrained=[str(model), str(tmp_path / "large")], **both)
    with pytest.raises(InputError, match="need one size of input"):
        train(other_size, tmp_path / "none", **QUIET)


def on_features(frames, model, features, **changes):
    nested = {"model__pretrained": str(model), "data__features": str(features), **changes}
    return config(frames, **nested)


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
    run = train(on_features((path, frames[1]), model, tmp_path / "f", training__epochs=1), tmp_path / "r", **QUIET)
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


def test_the_verb_and_features_of_one_split_alone(frames, model, tmp_path, capsys):
    words = ["features", str(model), str(frames[0]), "--images", str(frames[1]), "--split", "val"]
    assert main([*words, "--out", str(tmp_path / "f"), "--workers", "0", "--device", "cpu"]) == 0
    assert "24 images" in capsys.readouterr().out
    with pytest.raises(InputError, match="lacks 48 of 48 images of train"):
        train(on_features(frames, model, tmp_path / "f"), tmp_path / "run", **QUIET)


@pytest.mark.parametrize("joint", [False, True])
def test_heads_become_a_model_that_scores_what_the_run_says(frames, model, features, tmp_path, joint):
    settings = on_features(frames, model, features, model__head="mlp", model__hidden=32, training__epochs=20)
    run = train_heads(settings, tmp_path / "run", joint, progress=False)
    files = {"config.yaml", "environment.json", "metrics.csv", "curves.png", "summary.json", "model"}
    assert {path.name for path in run.iterdir()} == files | ({"last.ckpt", "tensorboard"} if joint else {"heads"})
    best = json.loads((run / "summary.json").read_text())["best"]
    rows = load_index(frames[0], "val")
    scores = score(predict(run, rows, frames[1], **CPU), rows, resamples=0)
    for task, value in scores.tasks.items():  # features are float16 and bfloat16 on the way
        assert value == pytest.approx(best[f"val/{task}"], abs=0.06)
    assert scores.tasks["expr"] > 0.3  # colours show the expression; a trivial prediction has 0.036
    trained, source = load_model(run), load_model(model)
    assert trained.settings["head"] == "mlp"
    assert all(torch.equal(v, trained.backbone.state_dict()[k]) for k, v in source.backbone.state_dict().items())
    parameters = json.loads((run / "summary.json").read_text())["parameters"]
    assert parameters == sum(p.numel() for p in trained.parameters())


def test_separate_heads_are_each_at_their_own_best_epoch(frames, model, features, tmp_path):
    settings = on_features(frames, model, features, training__early_stop=2, training__epochs=40)
    run = train_heads(settings, tmp_path / "separate", progress=False)
    best = json.loads((run / "summary.json").read_text())["best"]
    epochs = []
    for task in ("va", "expr", "au"):
        single = metrics(run / "heads" / task)
        assert best[f"val/{task}"] == single[f"val/{task}"].max()
        epochs.append(len(single))
    assert len(metrics(run)) == max(epochs)
    assert best["val/total"] == pytest.approx(sum(best[f"val/{task}"] for task in ("va", "expr", "au")))
    again = train_heads(settings, tmp_path / "again", progress=False)
    assert metrics(run).equals(metrics(again))
    train_heads(settings, tmp_path / "again", progress=False)  # finished: left as it is
    with pytest.raises(InputError, match=r"training\.lr"):
        train_heads(replace(settings, training=replace(settings.training, lr=1.0)), tmp_path / "again", progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"training__ema": 0.9},
        {"training__schedule": "cosine"},
        {"training__warmup": 0.3},
        {"training__clip": 0.01},
        {"training__accumulate": 2},
        {"training__optimizer": "sgd"},
        {"balancing__method": "uncertainty"},
        {"balancing__method": "dwa"},
        {"coupling__matching": 0.5, "coupling__table": "literature"},
        {"data__mixup": 0.4},
        {"data__balance": "class"},
        {"data__stride": 2},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_option_of_the_loop_has_its_effect_on_cached_features(frames, model, features, tmp_path, changes):
    short = {"training__epochs": 4}
    plain = train(on_features(frames, model, features, **short), tmp_path / "plain", **QUIET)
    changed = train(on_features(frames, model, features, **short, **changes), tmp_path / "changed", **QUIET)
    if "training__schedule" in changes:
        assert metrics(plain)["lr"].to_list() != metrics(changed)["lr"].to_list()
    weights = [load_model(run).heads.state_dict() for run in (plain, changed)]
    same = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not same


def test_co_annotation_fills_missing_labels_on_cached_features(frames, model, features, tmp_path):
    table = pl.read_parquet(frames[0])
    holes = [pl.when(pl.col("split") == "val").then(pl.col(name)).alias(name) for name in ("valence", "arousal")]
    table.with_columns(holes).write_parquet(tmp_path / "index.parquet")
    data = (tmp_path / "index.parquet", frames[1])
    coupled = {"coupling__co_annotation": 0.5, "coupling__table": "literature"}
    runs = [
        train(on_features(data, model, features, training__epochs=2, **changes), tmp_path / name, **QUIET)
        for name, changes in (("plain", {}), ("coupled", coupled))
    ]
    losses = [metrics(run)["train/loss_va"].to_list() for run in runs]
    assert losses[0] == [0, 0]
    assert min(losses[1]) > 0


def test_a_plateau_divides_the_rate_on_cached_features(frames, model, features, tmp_path, monkeypatch):
    zero = lambda prediction, target: {"va": 0.0, "expr": 0.0, "au": 0.0}  # noqa: E731
    monkeypatch.setattr(module, "TASK_SCORES", dict.fromkeys(("va", "expr", "au"), zero))
    plateau = {"training__schedule": "plateau", "training__patience": 0, "training__epochs": 4}
    run = train(on_features(frames, model, features, **plateau), tmp_path / "run", **QUIET)
    assert metrics(run)["lr"].to_list() == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


def test_the_kept_epoch_of_cached_features_is_the_one_that_select_asks_for(frames, model, features, tmp_path):
    for select in ("total", "va", "expr", "au"):
        run = train(on_features(frames, model, features, training__select=select), tmp_path / select, **QUIET)
        best = json.loads((run / "summary.json").read_text())["best"]
        assert best[f"val/{select}"] == metrics(run)[f"val/{select}"].max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balancing__method": "imtlg"}, "balancing.method has no effect on a frozen backbone"),
        ({"balancing__conflict": True}, "balancing.conflict has no effect on a frozen backbone"),
        ({"data__jitter": 0.2}, "data.jitter has no effect on data.features"),
        ({"data__erase": 0.2}, "data.erase has no effect on data.features"),
        ({"data__flip": 0.3}, "data.flip has no effect on data.features"),
        ({"data__rotation": 20.0}, "data.rotation has no effect on data.features"),
        ({"model__frozen": True}, "model.frozen has no effect on data.features"),
        ({"coupling__table": "literature"}, "coupling.table has no effect without"),
        ({"balancing__method": "dwa", "model__tasks": ["va"]}, "balancing.method has no effect with a single task"),
        ({"data__cache": "ram"}, "data.cache has no effect on data.features"),
        ({"model__temporal": 0.5, "data__mixup": 0.2}, "data.mixup has no effect on windows"),
        ({"model__temporal": 0.5, "data__balance": "class"}, "data.balance has no effect on windows"),
        ({"model__causal": True}, "model.causal has no effect without model.temporal"),
        ({"model__pretrained": False}, "data.features needs its backbone"),
    ],
)
def test_options_without_effect_on_cached_features_are_refused(frames, model, features, changes, message):
    with pytest.raises(InputError, match=message):
        on_features(frames, model, features, **changes)


def test_features_of_another_backbone_than_the_config_names_are_refused(frames, model, features, tmp_path):
    with pytest.raises(InputError, match=r"model\.backbone is test_convnext, but data.features are of test_resnet"):
        train(on_features(frames, model, features, model__backbone="test_convnext"), tmp_path / "run", **QUIET)


@pytest.mark.parametrize(
    "changes",
    [{"training__select": "va"}, {"balancing__method": "dwa"}, {"coupling__matching": 0.5}],
    ids=lambda changes: next(iter(changes)),
)
def test_options_that_need_all_heads_are_refused_for_separate_ones(frames, model, features, tmp_path, changes):
    with pytest.raises(InputError, match="has no effect on heads that are trained one by one"):
        train_heads(on_features(frames, model, features, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_heads_on_a_temporal_model_keep_what_it_learned(frames, model, features, tmp_path):
    settings = on_features(frames, model, features, model__temporal=0.5, training__epochs=3)
    run = train_heads(settings, tmp_path / "run", progress=False)
    assert all(spans[0].outward[1].weight.abs().sum() > 0 for spans in load_model(run).temporal.tasks.values())


def test_cached_features_do_not_need_the_images(frames, model, features, tmp_path):
    settings = on_features(frames, model, features, data__images=str(tmp_path / "deleted"), training__epochs=1)
    assert load_model(train(settings, tmp_path / "run", progress=False)).tasks == ("va", "expr", "au")


def test_processes_compute_what_one_computes(frames, tmp_path, monkeypatch):
    monkeypatch.setattr("triaffect.training.features.CHUNK", 24)
    model = AffectModel("test_resnet", size=32, pretrained=False)
    model.save_pretrained(tmp_path / "model")
    index = load_index(frames[0])
    for name, options in (("one", {}), ("two", {"jobs": 2})):
        extract_features(
            tmp_path / "model",
            index,
            frames[1],
            tmp_path / name,
            workers=0,
            device="cpu",
            batch=8,
            progress=False,
            **options,
        )
    (names, values), (others, ours) = load_features(tmp_path / "one"), load_features(tmp_path / "two")
    assert names.equals(others)
    np.testing.assert_allclose(values, ours, rtol=1e-2, atol=1e-3)
