"""A temporal model predicts the same in torch and in ONNX Runtime, whole videos at once and piece by piece."""

import subprocess
import sys

import numpy as np
import onnx
import polars as pl
import pytest
import torch

from triaffect.data.index import load_index
from triaffect.data.predictions import load_predictions
from triaffect.inference.analyzer import Analyzer
from triaffect.inference.backends import (
    TEMPORAL_INPUTS,
    TEMPORAL_SUFFIX,
    FaceHistory,
    TemporalModel,
    import_onnxruntime,
    open_backend,
)
from triaffect.inference.detect import Face
from triaffect.inference.export import export, temporal_graph
from triaffect.inference.predict import predict
from triaffect.inference.video import Frame
from triaffect.io import InputError
from triaffect.labels import TASKS
from triaffect.training.model import AffectModel, probabilities


def save(path, causal, kind="attention", temporal=0.5):
    torch.manual_seed(0)
    model = AffectModel("test_resnet", size=32, temporal=temporal, temporal_model=kind, causal=causal).eval()
    for spans in model.temporal.tasks.values():
        for span in spans:
            torch.nn.init.normal_(span.outward[1].weight)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("causal"), causal=True)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "video.onnx"
    assert export(folder, file).files == [file, file.with_suffix(TEMPORAL_SUFFIX)]
    return file


@pytest.fixture(scope="module")
def film():
    """Crops of two faces in turn, their times (an hour in, with a gap), and the faces."""
    rng = np.random.default_rng(0)
    time = 3600 + np.repeat(np.r_[0:20, 40:60] / 30, 2)
    return rng.integers(0, 256, (80, 32, 32, 3), np.uint8), time, np.tile([1, 2], 40)


def predict_at_once(folder, film):
    crops, time, face = film
    model = AffectModel.from_pretrained(folder)
    with torch.inference_mode():
        features = model.features(torch.from_numpy(crops).permute(0, 3, 1, 2))
        raw = model.predict_from_features(features, torch.from_numpy(time - 3600).float(), torch.from_numpy(face))
    return {task: value.numpy() for task, value in probabilities(raw).items()}


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("step", [1, 7])
def test_piece_by_piece_equals_the_whole(folder, exported, film, backend, step):
    network = open_backend(exported if backend == "onnx" else folder, backend)
    history = FaceHistory(network.temporal, network.tasks)
    parts = [history(*(part[i : i + step] for part in film)) for i in range(0, 80, step)]
    for task, expected in predict_at_once(folder, film).items():
        np.testing.assert_allclose(np.concatenate([part[task] for part in parts]), expected, atol=2e-3)
    assert len(history.time) < 50  # of 80: what is out of reach is dropped
    alone = network(film[0])
    assert max(abs(alone[task] - predict_at_once(folder, film)[task]).max() for task in TASKS) > 0.05


@pytest.mark.parametrize("kind", ["transformer", "tcn", "gru"])
def test_every_kind_is_the_same_in_onnx_and_piece_by_piece(kind, tmp_path):
    """As above for the other kinds: the temporal graph alone, which is what differs."""
    spans = {"va": [0.1, 0.3], "au": 0.3}
    torch.manual_seed(0)
    model = AffectModel("test_resnet", size=32, temporal=spans, temporal_model=kind, causal=True, fps=20).eval()
    for scales in model.temporal.tasks.values():
        for span in scales:
            torch.nn.init.normal_(span.outward[1].weight)
    onnx.save(temporal_graph(model), tmp_path / "t.onnx")
    session = import_onnxruntime().InferenceSession(tmp_path / "t.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, model.width)).astype(np.float32)
    time = 3600 + np.repeat(np.r_[0:20, 40:60] / 30 + rng.uniform(0, 0.005, 40), 2)
    face = np.tile([1, 2], 40)
    with torch.inference_mode():
        inputs = (torch.from_numpy(features), torch.from_numpy(time - 3600).float(), torch.from_numpy(face))
        expected = probabilities(model.predict_from_features(*inputs))
        alone = probabilities(model.predict_from_features(inputs[0]))
    for task in ("va", "au"):
        assert (expected[task] - alone[task]).abs().max() > 0.05
    torch.testing.assert_close(expected["expr"], alone["expr"])  # has no span

    def outputs(*x):
        return session.run(None, dict(zip(TEMPORAL_INPUTS, x, strict=True)))

    temporal = TemporalModel(model.temporal.seconds, True, 20, lambda rows: features[rows], outputs)
    for step in (80, 7, 1):
        history = FaceHistory(temporal, model.tasks)
        rows = [np.arange(i, min(i + step, 80)) for i in range(0, 80, step)]
        parts = [history(part, time[part], face[part]) for part in rows]
        for task in TASKS:
            np.testing.assert_allclose(np.concatenate([p[task] for p in parts]), expected[task], atol=2e-3)


def test_auto_chooses_the_backend_that_runs_temporal_models(exported):
    assert open_backend(exported).temporal.seconds == 0.5
    with pytest.raises(InputError, match="use the backend onnx or torch"):
        open_backend(exported, "openvino")


@pytest.mark.parametrize("causal", [False, True])
def test_predicting_an_index_without_torch_equals_torch(frames, tmp_path, causal):
    folder = save(tmp_path / "model", causal)
    export(folder, tmp_path / "video.onnx")
    index = load_index(frames[0])
    expected = predict(folder, index, frames[1], half=False, progress=False, workers=0)
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from triaffect.cli.main import main
words = ["predict", {str(tmp_path / "video.onnx")!r}, {str(frames[0])!r}, "--images", {str(frames[1])!r}]
sys.exit(main([*words, "--out", {str(tmp_path / "p.parquet")!r}]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    table = load_predictions(tmp_path / "p.parquet")
    assert table["image"].to_list() == expected["image"].to_list()
    columns = [name for name in expected.columns if name != "image"]
    np.testing.assert_allclose(table.select(columns).to_numpy(), expected.select(columns).to_numpy(), atol=1e-4)
    still = open_backend(folder, "torch")
    still.temporal = None
    alone = predict(still, index, frames[1], progress=False, workers=0)
    assert (alone["valence"] - expected["valence"]).abs().max() > 0.01


def test_videos_use_earlier_frames_and_photos_do_not(folder):
    rng = np.random.default_rng(1)
    face = rng.integers(60, 196, (64, 64, 3))
    # One face whose pixels change: in noise alone each frame would be another shot, with another person.
    images = (face + rng.integers(-60, 60, (12, 64, 64, 3))).astype(np.uint8)
    frames = [Frame(i, i / 30, image) for i, image in enumerate(images)]
    analyzer = Analyzer(folder, backend="torch", detector=lambda _: [Face((8.0, 8.0, 48.0, 48.0), None, 1.0)], batch=5)

    def values(frames, **options):
        return np.concatenate(
            [rows.select("valence", "AU12").to_numpy() for _, rows in analyzer.run(frames, **options)]
        )

    def one_by_one(**options):
        return np.concatenate([values([frame], **options) for frame in frames])

    over_time, alone = values(frames), one_by_one()
    np.testing.assert_allclose(over_time[0], alone[0], atol=1e-4)
    assert abs(over_time[1:] - alone[1:]).max() > 0.01
    np.testing.assert_allclose(values(frames, still=True), one_by_one(still=True), atol=1e-4)


def test_a_model_that_needs_later_frames_says_that_it_describes_each_alone(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    frames = [Frame(i, i / 30, image) for i, image in enumerate(images)]
    analyzer = Analyzer(
        save(tmp_path, causal=False), backend="torch", detector=lambda _: [Face((8.0, 8.0, 48.0, 48.0), None, 1.0)]
    )
    with pytest.warns(UserWarning, match="each frame is described alone"):
        over_time = [rows for _, rows in analyzer.run(frames)]
    with pytest.warns(UserWarning, match="described alone"):
        alone = [rows for frame in frames for _, rows in analyzer.run([frame])]
    np.testing.assert_allclose(pl.concat(over_time)["valence"], pl.concat(alone)["valence"], atol=1e-4)


def test_a_broken_temporal_graph_is_one_line(exported, tmp_path):
    file = tmp_path / "video.onnx"
    file.write_bytes(exported.read_bytes())
    with pytest.raises(InputError, match=r"video.temporal.onnx: missing"):
        open_backend(file, "onnx")
    file.with_suffix(TEMPORAL_SUFFIX).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"video.temporal.onnx: ONNX Runtime cannot load it"):
        open_backend(file)
    file.with_suffix(TEMPORAL_SUFFIX).write_bytes(exported.read_bytes())  # the still graph
    with pytest.raises(InputError, match=r"not the temporal graph of video.onnx; export the model again"):
        open_backend(file)


def test_a_still_model_replaces_the_older_temporal_graph(tmp_path):
    AffectModel("test_resnet", size=32).eval().save_pretrained(tmp_path / "still")
    file = tmp_path / "video.onnx"
    file.with_suffix(TEMPORAL_SUFFIX).write_bytes(b"of another model")
    assert export(tmp_path / "still", file).files == [file]
    assert open_backend(file, "onnx").temporal is None


def test_frames_out_of_order_and_of_one_video_alone_are_predicted_alike(frames, folder):
    index = load_index(frames[0])
    options = {"workers": 0, "progress": False, "device": "cpu", "half": False}
    table = predict(folder, index, frames[1], **options)
    shuffled = predict(folder, index.sample(len(index), shuffle=True, seed=1), frames[1], **options)
    again = table.select("image").join(shuffled, on="image", maintain_order="left")
    np.testing.assert_allclose(again["valence"], table["valence"], atol=1e-4)
    alone = predict(folder, index.filter(pl.col("video") == "v03"), frames[1], **options)
    within = table.filter(pl.col("image").str.starts_with("v03"))
    np.testing.assert_allclose(alone["valence"], within["valence"], atol=1e-4)
