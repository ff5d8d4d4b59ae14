"""Backends: torch, ONNX Runtime and OpenVINO agree on the bundled model."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from triaffect.images import read_image, resize
from triaffect.inference.backends import (
    BFLOAT16_TOLERANCE,
    _open_openvino,
    largest_difference,
    open_backend,
    synthetic_crops,
)
from triaffect.inference.predict import predict
from triaffect.io import BASE, InputError, model_folder
from triaffect.labels import OUTPUTS, TASKS
from triaffect.training.model import load_model

GRAPH = model_folder(BASE) / "model.onnx"


@pytest.fixture(scope="module")
def onnx():
    return open_backend(backend="onnx")


def test_torch_onnx_runtime_and_openvino_agree(onnx):
    crops = synthetic_crops(6, onnx.size)
    assert largest_difference(onnx, open_backend(backend="torch"), crops) < 1e-4
    assert largest_difference(onnx, _open_openvino(GRAPH, 1, "f32"), crops) < 1e-4
    assert largest_difference(onnx, open_backend(backend="openvino"), crops) < BFLOAT16_TOLERANCE


def test_predictions_are_in_range_and_differ_with_the_crop(onnx):
    outputs = onnx(synthetic_crops(5, onnx.size))
    assert {task: value.shape for task, value in outputs.items()} == {task: (5, OUTPUTS[task]) for task in TASKS}
    assert abs(outputs["va"]).max() <= 1
    assert outputs["expr"].sum(1) == pytest.approx(1, abs=1e-5)
    assert 0 <= outputs["au"].min() <= outputs["au"].max() <= 1
    assert outputs["expr"].std(0).max() > 0


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_any_number_of_crops_in_any_micro_batch(backend):
    network = open_backend(backend=backend)
    crops = synthetic_crops(5, network.size)
    expected = network(crops)
    network.batch = 2
    for task, value in network(crops).items():
        assert value == pytest.approx(expected[task], abs=BFLOAT16_TOLERANCE)
        assert value.dtype == np.float32
    assert network(crops[::-1])["va"] == pytest.approx(expected["va"][::-1], abs=BFLOAT16_TOLERANCE)  # not contiguous
    assert {task: value.shape for task, value in network(crops[:0]).items()} == {t: (0, OUTPUTS[t]) for t in TASKS}
    with pytest.raises(ValueError, match="expected"):
        network(crops.astype(np.float32))


def test_the_bundle_is_small_and_its_graph_holds_no_weights_of_its_own(tmp_path, onnx):
    files = {path.name: path.stat().st_size for path in model_folder(BASE).iterdir()}
    assert sum(files.values()) < 15e6
    assert files["model.onnx"] < 1e5
    copy = shutil.copytree(model_folder(BASE), tmp_path / "copy")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:start])["heads.va.1.weight"]["data_offsets"]
    data[start + first : start + end] = bytes(end - first)
    weights.write_bytes(data)
    changed = open_backend(copy, "onnx")
    crops = synthetic_crops(3, onnx.size)
    assert np.ptp(changed(crops)["va"], axis=0).max() == 0
    assert changed(crops)["au"] == pytest.approx(onnx(crops)["au"])
    assert largest_difference(changed, open_backend(copy, "torch"), crops) < 1e-4


def test_float16_weights_become_a_float32_model():
    model = load_model(BASE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_onnx_needs_no_torch_and_any_working_folder_will_do(tmp_path):
    code = "import sys; from triaffect.inference.backends import *; e = open_backend(backend='onnx')"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}; e(synthetic_crops(1, e.size)); print(e.name, {{'torch', 'openvino'}} & {{*sys.modules}})",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "triaffect-base (onnx, 1 thread) set()"


def foreign(path):
    """A graph of somebody else."""
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("triaffect-base", "tensorrt", "choose from auto, onnx"),
        ("nowhere.onnx", "auto", "no such file"),
        ("nowhere", "auto", "holds no model"),
        ("empty.onnx", "auto", "cannot load it"),
        ("text.onnx", "openvino", "OpenVINO cannot load it"),
        ("text.xml", "auto", "OpenVINO cannot load it"),
        ("text.xml", "onnx", "use the backend openvino"),
        ("foreign.onnx", "onnx", "not a model of triaffect"),
        ("foreign.onnx", "torch", "torch reads model folders"),
        ("plain", "onnx", "holds no model.onnx; write one: triaffect export"),
    ],
)
def test_errors_are_one_line_that_helps(tmp_path, monkeypatch, name, backend, message):
    (tmp_path / "empty.onnx").touch()
    for ending in ("onnx", "xml"):
        (tmp_path / f"text.{ending}").write_text("not a model\n")
    foreign(tmp_path / "foreign.onnx")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_backend(name, backend)
    assert "\n" not in str(caught.value)


def test_an_index_is_predicted_without_torch(frames, onnx):
    import polars as pl

    rows = pl.read_parquet(frames[0]).head(70)
    rows = pl.concat([rows, rows.head(1)]).with_columns(exists=pl.int_range(pl.len()) != 1)
    table = predict(onnx, rows, frames[1], progress=False)
    assert table["image"].to_list() == [name for i, name in enumerate(rows["image"][:70]) if i != 1]
    outputs = onnx(resize(read_image(frames[1] / table["image"][40]), onnx.size)[None])
    assert table["valence"][40] == pytest.approx(outputs["va"][0, 0], abs=1e-5)
    filled = predict(onnx, rows, frames[1], fill="nearest", progress=False)
    assert filled["filled"].to_list() == [i == 1 for i in range(70)]


def test_images_that_cannot_be_read_are_named_once(frames, onnx, tmp_path):
    import polars as pl

    with pytest.warns(UserWarning, match="skipped 2 images"):
        assert predict(onnx, pl.read_parquet(frames[0]).head(2), tmp_path, progress=False).is_empty()
