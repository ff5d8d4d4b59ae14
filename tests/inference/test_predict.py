"""Predictions of an index: each image once, filled only on request, the same through the command line."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from triaffect.cli.main import main
from triaffect.data.index import load_index, provenance
from triaffect.data.predictions import fill_gaps, load_predictions
from triaffect.images import read_image, resize
from triaffect.inference.predict import _slices, open_predictor, predict
from triaffect.io import InputError
from triaffect.labels import PREDICTION_COLUMNS
from triaffect.training.features import extract_features, load_features
from triaffect.training.model import AffectModel, load_model, probabilities


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model")
    AffectModel("test_resnet", ("va", "au"), size=32).eval().save_pretrained(path)
    return path


def test_predictions_are_the_models_outputs_image_by_image(frames, folder):
    rows = load_index(frames[0], "val").sample(fraction=1, shuffle=True, seed=1)
    table = predict(folder, rows, frames[1], batch=7, workers=0, half=False, progress=False)
    assert table.columns == ["image", *PREDICTION_COLUMNS["va"], *PREDICTION_COLUMNS["au"]]
    assert table["image"].to_list() == rows["image"].to_list()
    model = load_model(folder)
    for row in table.head(3).iter_rows(named=True):
        pixels = torch.from_numpy(resize(read_image(frames[1] / row["image"]), 32).copy()).permute(2, 0, 1)[None]
        expected = probabilities(model(pixels))
        assert row["arousal"] == pytest.approx(expected["va"][0, 1].item(), abs=1e-5)
        assert row["AU26"] == pytest.approx(expected["au"][0, 11].item(), abs=1e-5)


def test_duplicate_rows_are_predicted_once(frames, folder):
    rows = load_index(frames[0], "val")
    table = predict(folder, pl.concat([rows, rows]), frames[1], workers=0, progress=False)
    assert len(table) == len(rows)


def test_missing_crops_are_filled_from_the_nearest_frame_on_request(frames, folder):
    rows = load_index(frames[0], "val")
    lost = (pl.col("video") == "v08") & pl.col("frame").is_in([1, 2, 4])
    missing_video = pl.col("video") == "v09"
    rows = rows.with_columns(exists=~(lost | missing_video))
    plain = predict(folder, rows, frames[1], workers=0, progress=False)
    assert len(plain) == len(rows) - 3 - 6
    assert "filled" not in plain.columns
    filled = predict(folder, rows, frames[1], workers=0, progress=False, fill="nearest")
    assert filled["image"].to_list() == rows["image"].to_list()
    joined = rows.select("video", "frame", "image").join(filled, on="image")
    by_frame = {row["frame"]: row for row in joined.filter(pl.col("video") == "v08").iter_rows(named=True)}
    assert by_frame[1]["valence"] == by_frame[2]["valence"] == by_frame[3]["valence"]
    assert by_frame[4]["AU1"] in (by_frame[3]["AU1"], by_frame[5]["AU1"])
    assert [by_frame[f]["filled"] for f in range(1, 7)] == [True, True, False, True, False, False]
    assert joined.filter(missing_video)["valence"].n_unique() == 1
    assert joined.filter(missing_video)["valence"][0] == pytest.approx(plain["valence"].mean())


def test_nothing_to_fill_from_is_an_error(frames):
    with pytest.raises(InputError, match="nothing to fill from"):
        fill_gaps(pl.DataFrame({"image": [], "valence": []}), load_index(frames[0]))


def test_images_that_cannot_be_read_are_named_once(frames, folder, tmp_path):
    with pytest.warns(UserWarning, match="skipped 24 images that cannot be read"):
        table = predict(folder, load_index(frames[0], "val"), tmp_path, workers=0, progress=False)
    assert table.is_empty()
    assert "AU26" in table.columns


def test_features_give_the_predictions_back(frames, folder, tmp_path):
    rows = load_index(frames[0], "val")
    extract_features(folder, rows, frames[1], tmp_path / "features", workers=0, progress=False)
    names, values = load_features(tmp_path / "features")
    assert names.to_list() == rows["image"].to_list()
    again = probabilities(load_model(folder).predict_from_features(torch.from_numpy(values.astype(np.float32))))
    table = predict(folder, rows, frames[1], workers=0, progress=False)
    assert table["valence"].to_list() == pytest.approx(again["va"][:, 0].tolist(), abs=2e-2)  # float16 and bfloat16


def test_the_verb_writes_a_file_with_its_provenance(frames, folder, tmp_path, capsys):
    out = tmp_path / "p.parquet"
    words = ["predict", str(folder), str(frames[0]), "--split", "val", "--images", str(frames[1]), "--out", str(out)]
    assert main([*words, "--workers", "0"]) == 0
    assert "24 images" in capsys.readouterr().out
    assert len(load_predictions(out)) == 24
    assert provenance(out)["split"] == "val"


def test_no_model_is_one_line(frames, tmp_path, capsys):
    assert main(["predict", str(tmp_path), str(frames[0]), "--images", str(frames[1])]) == 2
    error = capsys.readouterr().err
    assert "holds no model" in error
    assert error.count("\n") == 1


def test_the_bundled_model_predicts_without_torch(frames, tmp_path):
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from triaffect.cli.main import main
words = ["predict", "triaffect-base", {str(frames[0])!r}, "--images", {str(frames[1])!r}]
sys.exit(main([*words, "--out", {str(tmp_path / "p.parquet")!r}]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert len(load_predictions(tmp_path / "p.parquet")) == 72


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_every_backend_gets_batches_of_the_size_asked_for(frames, backend, monkeypatch):
    sizes = []
    opened = open_predictor("triaffect-base", backend)
    run = opened.run
    opened.run = lambda crops: sizes.append(len(crops)) or run(crops)
    predict(opened, load_index(frames[0]), frames[1], batch=50, workers=0, progress=False)
    assert sizes == [50, 22]


def test_options_without_effect_are_refused(frames, capsys):
    words = ["predict", "triaffect-base", str(frames[0]), "--images", str(frames[1])]
    assert main([*words, "--backend", "onnx", "--device", "cuda"]) == 2
    assert "the backend onnx computes on the CPU" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot be chosen for it"):
        open_predictor(open_predictor("triaffect-base", "onnx"), "torch")


def test_processes_predict_what_one_predicts(frames, tmp_path, monkeypatch):
    monkeypatch.setattr("triaffect.inference.predict.SLICE", 8)
    index = pl.read_parquet(frames[0])
    (tmp_path / "images").symlink_to(frames[1])
    index[3, "image"] = "v00/missing.jpg"
    with pytest.warns(UserWarning, match="skipped 1 image"):
        alone = predict("triaffect-base", index, tmp_path / "images", batch=8, backend="onnx", progress=False)
    with pytest.warns(UserWarning, match="skipped 1 image"):
        both = predict("triaffect-base", index, tmp_path / "images", batch=8, backend="onnx", progress=False, jobs=2)
    assert both["image"].to_list() == alone["image"].to_list()
    assert np.allclose(both.drop("image"), alone.drop("image"), atol=1e-5)


def test_slices_of_a_temporal_model_are_whole_videos(monkeypatch):
    monkeypatch.setattr("triaffect.inference.predict.SLICE", 4)
    videos = pl.DataFrame({"video": ["a"] * 6 + ["b", "c", "a", None, "b"]})
    assert [part.tolist() for part in _slices(videos, 2, False)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    parts = _slices(videos, 2, True)
    assert sorted(row for part in parts for row in part) == list(range(11))
    for part in parts:
        here = set(videos["video"][part].fill_null(""))
        assert here.isdisjoint(set(videos["video"].fill_null("")[[r for r in range(11) if r not in part]]))
